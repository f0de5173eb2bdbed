"""Prompts of one's own, from files or from memory: a pair a row.

    {"clean": "Paris is in", "corrupt": "Rome is in", "answers": [" France"], "distractors": [" Italy"]}

    data = PromptPairDataModule("gpt2", train="capitals.jsonl", batch_size=8)      # JSON Lines, a JSON list or CSV
    data = PromptPairDataModule("gpt2", train=[{"clean": ...}, ...])               # or a dataset, or a frame of pandas

An answer is a text, or the id of a token, `"answers": [4881]`; distractors may be left out of all pairs. Places of the
clean prompt may have names, by the characters where they begin and behind which they end: `"spans": {"CITY": [0, 5],
"END": [9, 11]}`; null stands for a place that a prompt does not have. Prompts made from one template may say so:
`"group": "X is in"`. What is read, and how answers stand in a cell: `datamodules.reading`.

Splits that have no rows of their own are cut out of those to train on.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

from lightning_circuits.arguments import require_choice, require_numbers
from lightning_circuits.datamodules.base import PairDataModule
from lightning_circuits.datamodules.faults import BadRows, together
from lightning_circuits.datamodules.loader import PaddingSide
from lightning_circuits.datamodules.misfits import Misfits
from lightning_circuits.datamodules.reading import PairFormat, Source, read_pairs, require_distractors_alike
from lightning_circuits.datamodules.records import count_of, require_source
from lightning_circuits.datamodules.shuffling import shuffled
from lightning_circuits.datamodules.spans import By
from lightning_circuits.datamodules.tokenising import AnswerTokens, PromptPair
from lightning_circuits.models.loading import PreTrainedTokenizerBase


class PromptPairDataModule(PairDataModule):
    """Pairs of one's own (the fields are in the module's docstring), or such as others publish.

    A source is the path of a file, a list of dicts, a dataset of `datasets` or a frame of pandas. A split without one
    is cut out of `train`, by `seed`. Rows with the same clean prompt stay together, so that nothing trained on is
    validated on; for the same reason, a source for validation or test that shares clean prompts with the training split
    is refused.

    Args:
        tokenizer: a tokenizer, or the name of one for `load_tokenizer`.
        train: the source to train on.
        val: one of its own for validation.
        test: one of its own for the test.
        batch_size: pairs per step and process.
        padding_side: `right` or `left`. Results do not depend on it.
        seed: decides the splits and the order of training.
        spans: see `PairDataModule`.
        misfits: see `PairDataModule`.
        answer_tokens: see `PairDataModule`.
        val_fraction: how much of `train` to cut off where there is no `val`.
        test_fraction: how much of `train` to cut off where there is no `test`.
        format: ``auto`` for JSON Lines, a JSON list or CSV, as a file begins; ``jsonl``, ``json`` or ``csv`` where it
            has to be that; ``eap-ig`` or ``mib`` (see `datamodules.reading`).

    Raises (when set up, so before any training):
        FileNotFoundError: a file is not there.
        TypeError: a source of another kind.
        ValueError: all at once, with file and line: rows that are no pairs, or pairs that cannot be used (see
            `tokenising.attempts`); distractors in some rows alone; a split is empty; clean prompts shared between
            splits.
    """

    def __init__(
        self,
        tokenizer: str | Path | PreTrainedTokenizerBase,
        train: Source,
        val: Source | None = None,
        test: Source | None = None,
        batch_size: int = 8,
        val_fraction: float = 0.1,
        test_fraction: float = 0.1,
        padding_side: PaddingSide = "right",
        seed: int = 0,
        spans: By | None = None,
        misfits: Misfits = "refuse",
        format: PairFormat = "auto",
        answer_tokens: AnswerTokens = "one",
    ) -> None:
        super().__init__(tokenizer, batch_size, padding_side, seed, spans, misfits, answer_tokens)
        require_choice("format", format, PairFormat)
        require_numbers(val_fraction=val_fraction, test_fraction=test_fraction)
        if val_fraction <= 0 or test_fraction <= 0 or val_fraction + test_fraction >= 1:
            raise ValueError(
                f"val_fraction {val_fraction} and test_fraction {test_fraction} have to be above 0, and below 1 "
                "together"
            )
        sources = {"train": train, "val": val, "test": test}
        # What can be gone through only once is kept as a list.
        self.sources = {
            name: list(source) if isinstance(source, Iterator) else source for name, source in sources.items()
        }
        for name, source in self.sources.items():
            if source is not None or name == "train":
                require_source(name, source)
        self.format: PairFormat = format
        self.fractions = {"val": val_fraction, "test": test_fraction}

    def make_splits(self) -> dict[str, list[PromptPair]]:
        splits = self._read()
        pairs = [pair for split in splits.values() for pair in split]
        words = [word for pair in pairs for word in (*pair.answers, *pair.distractors)]
        self.answers_are = " and ".join(sorted({"texts" if isinstance(word, str) else "token ids" for word in words}))
        require_distractors_alike(pairs)
        prompts = shuffled(sorted({pair.clean for pair in splits["train"]}), "split", self.seed)
        total = len(prompts)
        for name, fraction in self.fractions.items():
            if self.sources[name] is None:
                count = round(fraction * total)
                if not 0 < count < len(prompts):
                    raise ValueError(
                        f"the {name} split would be empty, or leave nothing to train on: {fraction:g} of the {total} "
                        f"different clean prompts in {self.called['train']}. Give more pairs, another {name}_fraction, "
                        f"or a source of its own ({name}=...)"
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

    @property
    def called(self) -> dict[str, str | None]:
        """What each source is, in words: of a file its path."""
        return {
            name: None if source is None else str(source) if isinstance(source, (str, Path)) else count_of(source)
            for name, source in self.sources.items()
        }

    def _read(self) -> dict[str, list[PromptPair]]:
        """The pairs of every source; those that cannot be read are refused together."""
        splits: dict[str, list[PromptPair]] = {}
        bad: list[BadRows] = []
        for name, source in self.sources.items():
            if source is not None:
                try:
                    splits[name] = read_pairs(source, self.format, self.tokenizer, name)
                except BadRows as of_source:
                    bad.append(of_source)
        if bad:
            raise together(bad, sum(map(len, splits.values())))
        for name, pairs in splits.items():
            if not pairs:
                raise ValueError(f"{self.called[name]} holds no pairs, so the {name} split would be empty")
        return splits

    def describe(self) -> dict[str, Any]:
        self.setup()
        return {
            "data": type(self).__name__,
            "tokenizer": self.tokenizer_name,
            "files": self.called,
            **({} if self.format == "auto" else {"format": self.format}),
            "fractions": dict(self.fractions),
            "answers": self.answers_are,
            "pairs": {name: len(pairs) for name, pairs in self._splits.items()},
            **self.describe_fitting(),
            "seed": self.seed,
        }
