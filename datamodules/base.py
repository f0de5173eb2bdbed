"""What all tasks share. A new one is a subclass of `PairDataModule` that says which pairs each split holds.

Every data module yields the same batches, `lightning_circuits.batch.Batch`.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterable, Iterator, Mapping, Sequence
from itertools import combinations, islice
from pathlib import Path
from typing import Any

from lightning_circuits.arguments import require_choice, require_seed, require_whole_numbers, shortened
from lightning_circuits.batch import PromptSource
from lightning_circuits.datamodules.encoding import WithTokenizer
from lightning_circuits.datamodules.faults import BadRows, together
from lightning_circuits.datamodules.fitting import require_fit
from lightning_circuits.datamodules.loader import PaddingSide, PairLoader
from lightning_circuits.datamodules.misfits import Fitting, Misfits, fitting
from lightning_circuits.datamodules.spans import By, in_order, one_span_a_token
from lightning_circuits.datamodules.tokenising import AnswerTokens, PromptPair, TokenPair, in_spans, longest
from lightning_circuits.models import CircuitModel
from lightning_circuits.models.loading import PreTrainedTokenizerBase
from lightning_circuits.namespace import pl

SPLITS = ("train", "val", "test")


class PairDataModule(pl.LightningDataModule, WithTokenizer, PromptSource, ABC):
    """What all tasks share: tokenising, checking, and loaders. A subclass says which pairs each split holds.

    Loaders can be asked for without a `Trainer`; `setup` then runs by itself. Training is shuffled and shared out among
    processes. Validation and test come in a fixed order and are *not* shared out: every process gets the whole split,
    since Lightning's way would repeat prompts to even out the ranks, and so bias every mean. Whoever evaluates takes
    every `world_size`-th batch.

    Args:
        tokenizer: a tokenizer, or the name of one for `load_tokenizer`.
        batch_size: pairs per step and process.
        padding_side: `right` or `left`. Results do not depend on it.
        seed: decides the splits and the order of training.
        spans: what batches say of where tokens stand, for circuits in spans: in which of the places that pairs name,
            ``roles``, or each ``token`` by itself. Default: nothing.
        misfits: what becomes of pairs that do not fit the tokenizer, such as those of which clean and corrupt have
            different numbers of tokens: ``refuse`` them, or ``drop`` them. How many were dropped is said when the
            data are set up, and stands in `describe`.
        answer_tokens: how many tokens an answer may have: ``one``, or ``any`` number, which then counts by its joint
            log-probability (see `measures`). Batches have a row more for each beginning of an answer.

    Raises:
        TypeError: an argument of a wrong type.
        ValueError: a batch size below 1, another side or kind of spans, something else to do with misfits.
    """

    def __init__(
        self,
        tokenizer: str | Path | PreTrainedTokenizerBase,
        batch_size: int = 8,
        padding_side: PaddingSide = "right",
        seed: int = 0,
        spans: By | None = None,
        misfits: Misfits = "refuse",
        answer_tokens: AnswerTokens = "one",
    ) -> None:
        super().__init__()
        self.read_by(tokenizer)
        require_whole_numbers(batch_size=batch_size)
        require_seed(seed)
        if batch_size < 1:
            raise ValueError(f"batch_size is {batch_size}: it has to be at least 1")
        require_choice("padding_side", padding_side, PaddingSide)
        if spans is not None:
            require_choice("spans", spans, By)
        require_choice("misfits", misfits, Misfits)
        require_choice("answer_tokens", answer_tokens, AnswerTokens)
        self.batch_size = batch_size
        self.padding_side = padding_side
        self.seed = seed
        self.spans = spans
        self.misfits = misfits
        self.answer_tokens: AnswerTokens = answer_tokens
        self.fitting: dict[str, Fitting] = {}
        self._splits: dict[str, list[TokenPair]] = {}
        self._span_names: tuple[str, ...] = ()
        self._of_spans: dict[str, Any] = {}

    @abstractmethod
    def make_splits(self) -> Mapping[str, Iterable[PromptPair]]:
        """The pairs of `train`, `val` and `test`, a function of the arguments and the tokenizer alone."""

    def wanted(self, split: str) -> int | None:
        """How many pairs of those that `make_splits` gives a split takes; None for all of them."""
        return None

    @abstractmethod
    def describe(self) -> dict[str, Any]:
        """What the data are, in plain JSON values, for the files a run leaves behind."""

    def setup(self, stage: str | None = None) -> None:
        """Make, check and tokenise all splits, once; ValueError for bad pairs (see `tokenising.attempts`), an empty
        split or one of fewer pairs than wanted, or for prompts of different lengths where each token is to be a span.
        """
        if self._splits:
            return
        made: Any = self.make_splits()
        if not isinstance(made, dict) or not all(name in made for name in SPLITS):
            raise ValueError(
                f"make_splits of {type(self).__name__} has to give a dict with the pairs of {', '.join(SPLITS)}, got "
                f"{shortened(made)}"
            )
        fitted: dict[str, tuple[list[PromptPair], list[TokenPair]]] = {}
        bad: list[BadRows] = []
        for name in SPLITS:
            try:
                fitted[name] = self._fitting(name, made[name])
            except BadRows as of_split:
                bad.append(of_split)
        if bad:
            raise together(bad, sum(len(texts) for texts, _ in fitted.values()))
        # Of all splits together: they have the same places, though none of the prompts of one may have some of them.
        texts = [pair for of_split, _ in fitted.values() for pair in of_split]
        placed = iter(self._placed(texts, [pair for _, of_split in fitted.values() for pair in of_split]))
        splits = {name: list(islice(placed, len(tokens))) for name, (_, tokens) in fitted.items()}
        self._span_names = in_order([row.spans for pair in splits["train"] for row in pair.rows])
        self._splits = splits
        if self.misfits == "drop":
            for name, number in self.fitting.items():
                pl.utilities.rank_zero_info(f"{type(self).__name__}, pairs of the {name} split: {number}")

    def _fitting(self, name: str, pairs: Iterable[PromptPair]) -> tuple[list[PromptPair], list[TokenPair]]:
        wanted = self.wanted(name)
        texts, tokens, number = fitting(
            self._checked(name, pairs), self.tokenizer, self.misfits, wanted, self.answer_tokens
        )
        if not number.drawn:
            raise ValueError(f"the {name} split of {type(self).__name__} is empty: it needs at least one pair")
        if number.kept < (1 if wanted is None else wanted):
            raise ValueError(
                f"the {name} split of {type(self).__name__} is to have {wanted or 'some'} pairs, and those that there "
                f"are for the tokenizer {self.tokenizer_name!r} are fewer: {number}. Ask for fewer prompts, or take "
                "PromptPairDataModule with pairs that fit"
            )
        self.fitting[name] = number
        return texts, tokens

    def _placed(self, texts: Sequence[PromptPair], tokens: Sequence[TokenPair]) -> Sequence[TokenPair]:
        if self.spans == "roles":
            return in_spans(tokens, texts, self.tokenizer)
        if self.spans == "token":
            names = one_span_a_token([len(pair.clean) for pair in tokens], [pair.where for pair in tokens])
            of_answers = [f"t{len(names) + token}" for token in range(max(map(longest, tokens)))]
            return [pair.with_spans([*names, *of_answers]) for pair in tokens]
        return tokens

    def _checked(self, split: str, pairs: Iterable[PromptPair]) -> Iterator[PromptPair]:
        for number, pair in enumerate(pairs):
            if not isinstance(pair, PromptPair):
                raise TypeError(
                    f"{split} prompt {number} of {type(self).__name__} has to be a PromptPair, got {shortened(pair)}"
                )
            yield pair

    def describe_fitting(self) -> dict[str, Any]:
        """How many pairs of each split were drawn and did not fit, and why, if they are dropped; how many tokens an
        answer may have, if that is not one."""
        several = {} if self.answer_tokens == "one" else {"answer_tokens": self.answer_tokens}
        if self.misfits == "refuse":
            return several
        self.setup()
        return {**several, "misfits": {name: number.to_dict() for name, number in self.fitting.items()}}

    def describe_spans(self) -> dict[str, Any]:
        """What pictures of circuits in spans show of the training prompts, in plain JSON values.

        ``example``: the text of a prompt in pieces, by the name of the span that each is in, in the order of the
        prompt; of all prompts the first that has the most spans. ``swapped``, if there are any: pairs of spans that
        stand in the one order as a rule, and in the other in some prompts.
        """
        if self._of_spans:  # every circuit that a search describes says it
            return self._of_spans
        self.setup()
        train = self._splits["train"]
        found = {tuple(dict.fromkeys(pair.spans)) for pair in train}
        before = {pair for order in found for pair in combinations(order, 2)}
        swapped = [[a, b] for a, b in combinations(self._span_names, 2) if (b, a) in before]
        self._of_spans = {"example": self._example(train), **({"swapped": swapped} if swapped else {})}
        return self._of_spans

    def _example(self, pairs: Sequence[TokenPair]) -> dict[str, str]:
        pair = max(pairs, key=lambda pair: len(set(pair.spans)))
        pieces: dict[str, str] = {}
        before = ""
        for name, end in {name: token + 1 for token, name in enumerate(pair.spans)}.items():
            # A token by itself may be read otherwise: some tokenizers leave out the space before the first.
            text = self.tokenizer.decode(pair.clean[:end], clean_up_tokenization_spaces=False)
            pieces[name], before = text[len(before) :], text
        return pieces

    def require_fit(self, model: CircuitModel) -> None:
        """See that a model can read the prompts of all splits; ValueError for pairs that it cannot."""
        self.setup()
        require_fit([pair for name in SPLITS for pair in self._splits[name]], model)

    def train_dataloader(self) -> PairLoader:
        trainer = self.trainer
        share = (trainer.distributed_sampler_kwargs if trainer is not None else None) or {"num_replicas": 1, "rank": 0}
        # Trainer(overfit_batches=...) asks for the same few batches every epoch.
        seed = None if getattr(trainer, "overfit_batches", 0) else self.seed
        return self._loader("train", seed=seed, replicas=share["num_replicas"], rank=share["rank"])

    def val_dataloader(self) -> PairLoader:
        return self._loader("val")

    def test_dataloader(self) -> PairLoader:
        return self._loader("test")

    def check_batches(self) -> PairLoader:
        """The training pairs in the order of the first epoch, whole on every process: to be looked at beforehand."""
        return self._loader("train", seed=self.seed)

    @property
    def pair_counts(self) -> dict[str, int]:
        """How many pairs each split has."""
        self.setup()
        return {name: len(self._splits[name]) for name in SPLITS}

    def _loader(self, split: str, **order: Any) -> PairLoader:
        self.setup()
        # Padding is masked. Any id will do that every model has; the tokenizer's may lie beyond its vocabulary.
        return PairLoader(
            self._splits[split],
            self.batch_size,
            0,
            self.padding_side,
            span_names=self._span_names,
            continued=self.answer_tokens == "any",
            **order,
        )
