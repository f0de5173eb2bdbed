"""Pairs of prompts as batches: checked, tokenised, padded, in an order that a killed run can take up again.

A circuit is always found *between* two prompts. The clean one shows the behaviour; the corrupt one is the same text,
token for token, except for what the behaviour depends on. What an edge carries on the corrupt prompt is what it
carries when it is cut. That only makes sense where token t of one prompt stands for token t of the other, so every
pair is checked before anything is trained, and one that does not fit is refused with the place it came from.

Prompts of one's own come from a JSON Lines file, one pair per line:

    {"clean": "Paris is in", "corrupt": "Rome is in", "answers": [" France"], "distractors": [" Italy"]}

    data = PromptPairDataModule("gpt2", train="capitals.jsonl", batch_size=8)

Every datamodule here yields the same batches, a dict of int64 tensors (B pairs, padded to T tokens, at most K answers):

    clean_ids, corrupt_ids, attention_mask    [B, T]    one mask for both: they are equally long
    positions                                 [B]       column of the prompt's last token, where the answer is read
    answers, distractors                      [B, K]    token ids, padded with -100

Prompts are tokenised with the tokenizer's own defaults: where it adds a beginning-of-sequence token by itself (Llama
does, GPT-2 and SmolLM2 do not), the prompts have one; nothing is added beyond that. An answer is one token *in its
place*: the tokens of prompt + answer have to be those of the prompt and one more. With most tokenizers it therefore
begins with a space.

A new task is a subclass of `PairDataModule` that answers one question, "which pairs does each split hold?"
(`make_splits`).
"""

from __future__ import annotations

import json
import random
from abc import ABC, abstractmethod
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import torch
from torch import Tensor

from lightning_circuits.models.loading import PreTrainedTokenizerBase, load_tokenizer
from lightning_circuits.namespace import pl
from lightning_circuits.pages import see_page

__all__ = ["PairDataModule", "PairLoader", "PromptPair", "PromptPairDataModule", "TokenPair", "shuffled", "tokenise"]

SPLITS = ("train", "val", "test")
FIELDS = ("clean", "corrupt", "answers", "distractors")


@dataclass(frozen=True)
class PromptPair:
    """Two prompts and what may follow them; `where` says in errors where the pair came from (file and line)."""

    clean: str
    corrupt: str
    answers: tuple[str, ...]
    distractors: tuple[str, ...]
    where: str


@dataclass(frozen=True)
class TokenPair:
    """A `PromptPair` as token ids: `clean` and `corrupt` are equally long, and differ."""

    clean: list[int]
    corrupt: list[int]
    answers: list[int]
    distractors: list[int]


def shuffled(items: Sequence[Any], *key: str | int) -> list[Any]:
    """`items` in an order that `key` alone decides, on every machine and Python version.

    Of the standard generator only `random()` is promised to stay as it is, hence no `shuffle`.
    """
    rng = random.Random(" ".join(map(str, key)))
    return sorted(items, key=lambda _: rng.random())


# ----------------------------------------------------------------------------------------------------------------------
# From text to tokens


def tokenise(pairs: Sequence[PromptPair], tokenizer: PreTrainedTokenizerBase) -> list[TokenPair]:
    """Tokenise pairs and check that they can be used.

    Raises:
        ValueError: (naming `pair.where`, the texts and their tokens) clean and corrupt have different numbers of
            tokens, or the same tokens; an answer or distractor is not exactly one known token; a token is both.
    """
    if not pairs:
        return []
    clean: list[list[int]] = tokenizer([pair.clean for pair in pairs])["input_ids"]
    corrupt: list[list[int]] = tokenizer([pair.corrupt for pair in pairs])["input_ids"]
    # One call for all answers of all pairs: a call per text would take most of the time.
    candidates = [[*pair.answers, *pair.distractors] for pair in pairs]
    texts = [pair.clean + word for pair, words in zip(pairs, candidates, strict=True) for word in words]
    continued = iter(tokenizer(texts)["input_ids"])

    result = []
    for pair, clean_ids, corrupt_ids, words in zip(pairs, clean, corrupt, candidates, strict=True):
        if len(clean_ids) != len(corrupt_ids):
            raise ValueError(
                f"{pair.where}: clean has {len(clean_ids)} tokens and corrupt {len(corrupt_ids)}, but the two have to "
                f"align token for token {see_page('own-task', 'Pairs that do not align')}."
                f"{_spelled_out(pair, clean_ids, corrupt_ids, tokenizer)}"
            )
        if clean_ids == corrupt_ids:
            raise ValueError(
                f"{pair.where}: clean and corrupt are the same for this tokenizer, so no edge could matter."
                f"{_spelled_out(pair, clean_ids, corrupt_ids, tokenizer)}"
            )
        ids = [_single_token(pair, word, clean_ids, next(continued), tokenizer) for word in words]
        answers, distractors = ids[: len(pair.answers)], ids[len(pair.answers) :]
        if both := set(answers) & set(distractors):
            shared = tokenizer.convert_ids_to_tokens(sorted(both))
            raise ValueError(
                f"{pair.where}: {shared} is given as an answer and as a distractor; it can be only one of them"
            )
        result.append(TokenPair(clean_ids, corrupt_ids, answers, distractors))
    return result


def _spelled_out(pair: PromptPair, clean: list[int], corrupt: list[int], tokenizer: PreTrainedTokenizerBase) -> str:
    return "".join(
        f"\n  {name:8s} {text!r}\n           {tokenizer.convert_ids_to_tokens(ids)}"
        for name, text, ids in (("clean:", pair.clean, clean), ("corrupt:", pair.corrupt, corrupt))
    )


def _single_token(
    pair: PromptPair, word: str, prompt: list[int], continued: list[int], tokenizer: PreTrainedTokenizerBase
) -> int:
    """The one token that `word` adds to the prompt."""
    role = "answer" if word in pair.answers else "distractor"
    if len(continued) != len(prompt) + 1 or continued[:-1] != prompt:
        alone = tokenizer.convert_ids_to_tokens(tokenizer(word, add_special_tokens=False)["input_ids"])
        raise ValueError(
            f"{pair.where}: the {role} {word!r} has to add exactly one token to the prompt, but by itself it is "
            f"{alone}, and prompt and {role} together are {tokenizer.convert_ids_to_tokens(continued)}. Most "
            f"tokenizers want the space before a word as part of it: {' ' + word.strip()!r} "
            f"{see_page('own-task', 'Pairs that do not align')}"
        )
    if continued[-1] == tokenizer.unk_token_id:
        raise ValueError(f"{pair.where}: the {role} {word!r} is not in the tokenizer's vocabulary")
    return continued[-1]


# ----------------------------------------------------------------------------------------------------------------------
# From tokens to batches


class PairLoader:
    """Batches of one split, shuffled by (seed, epoch) alone; a run killed inside an epoch can go on where it was.

    Lightning takes any iterable for a loader, and this is deliberately not a `torch.utils.data.DataLoader`, which draws
    from the global random generator each time it is iterated, and into which Lightning puts samplers of its own.

    - *Resuming*: Lightning saves `state_dict()` in every checkpoint and hands it back to `load_state_dict()`. The next
      iteration of that epoch then begins after the batches seen. (The iterator is made before Lightning sets the
      epoch, so `__iter__` is a generator: it looks at the epoch when the first batch is asked for.)
    - *Several processes*: each process is given every `replicas`-th row of the shuffled order, so that one step sees
      the same pairs as one process with a batch `replicas` times as large. All get equally many; where the split does
      not divide evenly, the order's first rows are used once more.

    Args:
        pairs: the split.
        batch_size: rows per batch (the last one of an epoch may be smaller).
        pad_id: what fills up short rows (masked, so any valid id will do).
        padding_side: `right` or `left`.
        seed: of the order; None keeps the order of `pairs`, every epoch.
        replicas, rank: number of processes, and which of them this is.
    """

    def __init__(
        self,
        pairs: Sequence[TokenPair],
        batch_size: int,
        pad_id: int = 0,
        padding_side: Literal["right", "left"] = "right",
        seed: int | None = None,
        replicas: int = 1,
        rank: int = 0,
    ) -> None:
        self.pairs = pairs
        self.batch_size = batch_size
        self.pad_id = pad_id
        self.padding_side = padding_side
        self.seed = seed
        self.replicas = replicas
        self.rank = rank
        self.epoch = 0
        self._seen = (0, 0)  # epoch, and batches handed out in it
        self._resume_after: tuple[int, int] | None = None

    #: Lightning calls `loader.sampler.set_epoch`, and asks evaluation loaders for `batch_sampler`.
    batch_sampler = None

    @property
    def sampler(self) -> PairLoader:
        return self

    def set_epoch(self, epoch: int) -> None:
        self.epoch = epoch

    def __len__(self) -> int:
        rows = -(-len(self.pairs) // self.replicas)
        return -(-rows // self.batch_size)

    def __iter__(self) -> Iterator[dict[str, Tensor]]:
        epoch, first = self.epoch, 0
        if self._resume_after is not None:
            if self._resume_after[0] == epoch:
                first = self._resume_after[1]
            self._resume_after = None
        rows = self._rows(epoch)
        for batch in range(first, len(self)):
            self._seen = (epoch, batch + 1)
            yield self._collate(rows[batch * self.batch_size : (batch + 1) * self.batch_size])

    def state_dict(self) -> dict[str, Any]:
        """How far the current epoch is, and what decides the order: plain numbers, the same on every rank."""
        return {"epoch": self._seen[0], "batches": self._seen[1], "order": self._order_key()}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Begin the next iteration of the epoch in `state` where it stood.

        Raises:
            ValueError: the epoch had begun, not ended, and this loader would go on in another order.
        """
        then = -(-state["order"]["pairs"] // state["order"]["global batch"])  # batches of an epoch
        if 0 < state["batches"] < max(then, len(self)) and state["order"] != self._order_key():
            changed = [f"{k}: {v} then, {self._order_key()[k]} now" for k, v in state["order"].items()]
            raise ValueError(
                "the checkpoint was written in the middle of an epoch over other data, or in another order "
                f"({'; '.join(changed)}): resume with the same settings, or from the end of an epoch"
            )
        self._seen = self._resume_after = (state["epoch"], state["batches"])

    def _order_key(self) -> dict[str, Any]:
        return {"pairs": len(self.pairs), "seed": self.seed, "global batch": self.batch_size * self.replicas}

    def _rows(self, epoch: int) -> list[TokenPair]:
        """This rank's share of the epoch, in order."""
        order = list(self.pairs) if self.seed is None else shuffled(self.pairs, "order", self.seed, epoch)
        share = -(-len(order) // self.replicas)
        return [order[row % len(order)] for row in range(self.rank, share * self.replicas, self.replicas)]

    def _collate(self, pairs: Sequence[TokenPair]) -> dict[str, Tensor]:
        """The batch of the module's docstring."""
        lengths = [len(pair.clean) for pair in pairs]
        longest = max(lengths)

        def padded(rows: list[list[int]], width: int, fill: int, left: bool) -> Tensor:
            gaps = [[fill] * (width - len(row)) for row in rows]
            return torch.tensor([gap + row if left else row + gap for gap, row in zip(gaps, rows, strict=True)])

        left = self.padding_side == "left"
        width = max(len(words) for pair in pairs for words in (pair.answers, pair.distractors))
        return {
            "clean_ids": padded([pair.clean for pair in pairs], longest, self.pad_id, left),
            "corrupt_ids": padded([pair.corrupt for pair in pairs], longest, self.pad_id, left),
            "attention_mask": padded([[1] * length for length in lengths], longest, 0, left),
            "positions": torch.tensor([longest - 1 if left else length - 1 for length in lengths]),
            "answers": padded([pair.answers for pair in pairs], width, -100, left=False),
            "distractors": padded([pair.distractors for pair in pairs], width, -100, left=False),
        }


class PairDataModule(pl.LightningDataModule, ABC):
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
    """

    def __init__(
        self,
        tokenizer: str | Path | PreTrainedTokenizerBase,
        batch_size: int = 8,
        padding_side: Literal["right", "left"] = "right",
        seed: int = 0,
    ) -> None:
        super().__init__()
        if batch_size < 1:
            raise ValueError(f"batch_size is {batch_size}: it has to be at least 1")
        if padding_side not in ("right", "left"):
            raise ValueError(f"padding_side is {padding_side!r}: it has to be 'right' or 'left'")
        self._tokenizer = tokenizer
        self.tokenizer_name = str(tokenizer) if isinstance(tokenizer, (str, Path)) else tokenizer.name_or_path
        self.batch_size = batch_size
        self.padding_side = padding_side
        self.seed = seed
        self._splits: dict[str, list[TokenPair]] = {}

    @abstractmethod
    def make_splits(self) -> dict[str, list[PromptPair]]:
        """The pairs of `train`, `val` and `test`, a function of the arguments and the tokenizer alone."""

    @abstractmethod
    def describe(self) -> dict[str, Any]:
        """What the data are, in plain JSON values, for the files a run leaves behind."""

    @property
    def tokenizer(self) -> PreTrainedTokenizerBase:
        """The tokenizer, loaded when it is first needed."""
        if isinstance(self._tokenizer, (str, Path)):
            self._tokenizer = load_tokenizer(self._tokenizer)
        return self._tokenizer

    def setup(self, stage: str | None = None) -> None:
        """Make, check and tokenise all splits, once; ValueError for a bad pair (see `tokenise`) or an empty split."""
        if self._splits:
            return
        splits = self.make_splits()
        for name in SPLITS:
            if not splits[name]:
                raise ValueError(f"the {name} split of {type(self).__name__} is empty: it needs at least one pair")
        self._splits = {name: tokenise(splits[name], self.tokenizer) for name in SPLITS}

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

    def _loader(self, split: str, **order: Any) -> PairLoader:
        self.setup()
        ids = (self.tokenizer.pad_token_id, self.tokenizer.eos_token_id, 0)
        pad_id = next(token for token in ids if token is not None)
        return PairLoader(self._splits[split], self.batch_size, pad_id, self.padding_side, **order)


# ----------------------------------------------------------------------------------------------------------------------
# Prompts of one's own


class PromptPairDataModule(PairDataModule):
    """Pairs from JSON Lines files (the format is in the module's docstring).

    A split without a file is cut out of `train`, by `seed`. Lines with the same clean prompt stay together, so that
    nothing trained on is validated on; for the same reason, a file for validation or test that shares clean prompts
    with the training split is refused.

    Args:
        tokenizer: a tokenizer, or the name of one for `load_tokenizer`.
        train: the file to train on.
        val, test: files of their own for validation and test.
        batch_size, padding_side, seed: see `PairDataModule`.
        val_fraction, test_fraction: how much of `train` to cut off where there is no `val` or `test`.

    Raises (when set up, so before any training):
        FileNotFoundError: a file is not there.
        ValueError: with file and line: not a pair in JSON, or a pair that cannot be used (see `tokenise`); a split is
            empty; clean prompts shared between splits.
    """

    def __init__(
        self,
        tokenizer: str | Path | PreTrainedTokenizerBase,
        train: str | Path,
        val: str | Path | None = None,
        test: str | Path | None = None,
        batch_size: int = 8,
        val_fraction: float = 0.1,
        test_fraction: float = 0.1,
        padding_side: Literal["right", "left"] = "right",
        seed: int = 0,
    ) -> None:
        super().__init__(tokenizer, batch_size, padding_side, seed)
        if val_fraction <= 0 or test_fraction <= 0 or val_fraction + test_fraction >= 1:
            raise ValueError(
                f"val_fraction {val_fraction} and test_fraction {test_fraction} have to be above 0, and below 1 "
                "together"
            )
        self.files = {"train": train, "val": val, "test": test}
        self.fractions = {"val": val_fraction, "test": test_fraction}

    def make_splits(self) -> dict[str, list[PromptPair]]:
        splits = {name: read_pairs(file) for name, file in self.files.items() if file is not None}
        for name, pairs in splits.items():
            if not pairs:
                raise ValueError(f"{self.files[name]} holds no pairs, so the {name} split would be empty")
        prompts = shuffled(sorted({pair.clean for pair in splits["train"]}), "split", self.seed)
        total = len(prompts)
        for name, fraction in self.fractions.items():
            if self.files[name] is None:
                count = round(fraction * total)
                if not 0 < count < len(prompts):
                    raise ValueError(
                        f"the {name} split would be empty, or leave nothing to train on: {fraction:g} of the {total} "
                        f"different clean prompts in {self.files['train']}. Give more pairs, another {name}_fraction, "
                        f"or a file of its own ({name}=...)"
                    )
                cut, prompts = set(prompts[:count]), prompts[count:]
                splits[name] = [pair for pair in splits["train"] if pair.clean in cut]
                splits["train"] = [pair for pair in splits["train"] if pair.clean not in cut]
        trained = {pair.clean: pair.where for pair in splits["train"]}
        for name in self.fractions:
            if shared := [pair for pair in splits[name] if pair.clean in trained]:
                raise ValueError(
                    f"{len(shared)} of the {name} prompts are trained on as well, so nothing measured on them would "
                    f"count. The first: {shared[0].clean!r} ({shared[0].where}, and {trained[shared[0].clean]})"
                )
        return splits

    def describe(self) -> dict[str, Any]:
        self.setup()
        return {
            "data": type(self).__name__,
            "tokenizer": self.tokenizer_name,
            "files": {name: None if file is None else str(file) for name, file in self.files.items()},
            "fractions": dict(self.fractions),
            "pairs": {name: len(pairs) for name, pairs in self._splits.items()},
            "seed": self.seed,
        }


def read_pairs(file: str | Path) -> list[PromptPair]:
    """Read a JSON Lines file of pairs; blank lines are passed over, fields other than the four are ignored.

    Raises:
        FileNotFoundError: the file is not there.
        ValueError: with the line's number: it is not JSON, not an object, or a field is missing or of another type.
    """
    path = Path(file).expanduser()
    if not path.is_file():
        raise FileNotFoundError(
            f"there is no file {path} (JSON Lines, a line per pair with the fields {', '.join(FIELDS)})"
        )
    pairs = []
    for number, line in enumerate(path.read_bytes().split(b"\n"), start=1):
        if line.strip():
            pairs.append(_parse_pair(line, f"{path}, line {number}"))
    return pairs


def _parse_pair(line: bytes, where: str) -> PromptPair:
    try:
        record = json.loads(line.decode("utf-8"))
    except json.JSONDecodeError as error:
        raise ValueError(f"{where}: not JSON: {error.msg} (column {error.colno})") from None
    except UnicodeDecodeError as error:
        raise ValueError(f"{where}: not UTF-8 (byte {error.start + 1} of the line)") from None
    if not isinstance(record, dict):
        raise ValueError(
            f"{where}: a pair is a JSON object with the fields {', '.join(FIELDS)}, not {line.decode().strip()}"
        )
    if missing := [field for field in FIELDS if field not in record]:
        raise ValueError(f"{where}: {', '.join(missing)} missing; a pair has the fields {', '.join(FIELDS)}")
    for field in FIELDS[:2]:
        if not isinstance(record[field], str) or not record[field]:
            raise ValueError(f"{where}: {field} has to be a text, not {record[field]!r}")
    for field in FIELDS[2:]:
        words = record[field]
        if not isinstance(words, list) or not words or not all(isinstance(word, str) and word for word in words):
            raise ValueError(f"{where}: {field} has to be a list of at least one text, not {words!r}")
    return PromptPair(record["clean"], record["corrupt"], tuple(record["answers"]), tuple(record["distractors"]), where)
