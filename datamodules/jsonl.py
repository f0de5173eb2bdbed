"""Prompts of one's own, from JSON Lines files: a pair a line.

    {"clean": "Paris is in", "corrupt": "Rome is in", "answers": [" France"], "distractors": [" Italy"]}

    data = PromptPairDataModule("gpt2", train="capitals.jsonl", batch_size=8)

An answer is a text, or the id of a token, `"answers": [4881]`. Places of the clean prompt may have names, by the
characters where they begin and behind which they end: `"spans": {"CITY": [0, 5], "END": [9, 11]}`; null stands for a
place that a prompt does not have. Prompts made from one template may say so: `"group": "X is in"`.

Splits that have no file of their own are cut out of the training file.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from lightning_circuits.arguments import require_choice, require_numbers
from lightning_circuits.datamodules.base import PairDataModule
from lightning_circuits.datamodules.loader import PaddingSide
from lightning_circuits.datamodules.misfits import Misfits
from lightning_circuits.datamodules.reading import PairFormat, read_pairs
from lightning_circuits.datamodules.shuffling import shuffled
from lightning_circuits.datamodules.spans import By
from lightning_circuits.datamodules.tokenising import AnswerTokens, PromptPair
from lightning_circuits.models.loading import PreTrainedTokenizerBase


class PromptPairDataModule(PairDataModule):
    """Pairs from files: JSON Lines (the format is in the module's docstring), or what others publish.

    A split without a file is cut out of `train`, by `seed`. Lines with the same clean prompt stay together, so that
    nothing trained on is validated on; for the same reason, a file for validation or test that shares clean prompts
    with the training split is refused.

    Args:
        tokenizer: a tokenizer, or the name of one for `load_tokenizer`.
        train: the file to train on.
        val: a file of its own for validation.
        test: a file of its own for the test.
        batch_size: pairs per step and process.
        padding_side: `right` or `left`. Results do not depend on it.
        seed: decides the splits and the order of training.
        spans: see `PairDataModule`.
        misfits: see `PairDataModule`.
        answer_tokens: see `PairDataModule`.
        val_fraction: how much of `train` to cut off where there is no `val`.
        test_fraction: how much of `train` to cut off where there is no `test`.
        format: of the files: ``jsonl``, ``eap-ig`` or ``mib`` (see `datamodules.reading`).

    Raises (when set up, so before any training):
        FileNotFoundError: a file is not there.
        ValueError: with file and line: not a pair in JSON, or a pair that cannot be used (see `tokenising.attempts`); a
            split is empty; clean prompts shared between splits.
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
        padding_side: PaddingSide = "right",
        seed: int = 0,
        spans: By | None = None,
        misfits: Misfits = "refuse",
        format: PairFormat = "jsonl",
        answer_tokens: AnswerTokens = "one",
    ) -> None:
        super().__init__(tokenizer, batch_size, padding_side, seed, spans, misfits, answer_tokens)
        require_choice("format", format, PairFormat)
        require_numbers(val_fraction=val_fraction, test_fraction=test_fraction)
        for name, file in (("train", train), ("val", val), ("test", test)):
            if not isinstance(file, (str, Path)) and (file is not None or name == "train"):
                raise TypeError(f"{name} takes the path of a file, got {file!r}")
        if val_fraction <= 0 or test_fraction <= 0 or val_fraction + test_fraction >= 1:
            raise ValueError(
                f"val_fraction {val_fraction} and test_fraction {test_fraction} have to be above 0, and below 1 "
                "together"
            )
        self.files = {"train": train, "val": val, "test": test}
        self.format: PairFormat = format
        self.fractions = {"val": val_fraction, "test": test_fraction}

    def make_splits(self) -> dict[str, list[PromptPair]]:
        given = {name: file for name, file in self.files.items() if file is not None}
        splits = {name: read_pairs(file, self.format, self.tokenizer) for name, file in given.items()}
        for name, pairs in splits.items():
            if not pairs:
                raise ValueError(f"{self.files[name]} holds no pairs, so the {name} split would be empty")
        words = [word for split in splits.values() for pair in split for word in (*pair.answers, *pair.distractors)]
        self.answers_are = " and ".join(sorted({"texts" if isinstance(word, str) else "token ids" for word in words}))
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
            **({} if self.format == "jsonl" else {"format": self.format}),
            "fractions": dict(self.fractions),
            "answers": self.answers_are,
            "pairs": {name: len(pairs) for name, pairs in self._splits.items()},
            **self.describe_fitting(),
            "seed": self.seed,
        }
