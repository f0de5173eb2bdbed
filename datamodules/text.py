"""Ordinary text: what a model should still say of anything else, while a part of it is taken out or edited.

    >>> batch = next(iter(TextLines("gpt2").loader("train")))                                      # doctest: +SKIP
    >>> batch["input_ids"].shape, batch["attention_mask"].shape                                    # doctest: +SKIP
    (torch.Size([4, 27]), torch.Size([4, 27]))

The package has some of its own: English sentences on everyday, scientific and historical topics, stories and
instructions, a line each, written for it.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from functools import cached_property
from pathlib import Path
from typing import Any, Literal

from lightning_circuits.arguments import require_choice, require_seed, require_whole_numbers, shortened
from lightning_circuits.batch import TextBatch, TextSource
from lightning_circuits.datamodules.encoding import WithTokenizer, encode, unknown_words
from lightning_circuits.datamodules.loader import OrderedLoader, padded
from lightning_circuits.datamodules.records import text_of
from lightning_circuits.datamodules.shuffling import shuffled
from lightning_circuits.models.loading import PreTrainedTokenizerBase

__all__ = ["TextLines", "TextLoader"]

Split = Literal["train", "val", "test"]

OURS = Path(__file__).parent / "assets" / "ordinary_text.txt"

HELD_OUT = 0.2
"""How much of the lines validation has, and the test as much again."""


class TextLoader(OrderedLoader[list[int], TextBatch]):
    """Lines as batches, in the order and with the resuming of `OrderedLoader`; or the batch of a step by itself."""

    things = "lines"

    def collate(self, rows: Sequence[list[int]]) -> TextBatch:
        longest = max(map(len, rows))
        return {
            "input_ids": padded(list(rows), longest, 0, left=False),
            "attention_mask": padded([[1] * len(row) for row in rows], longest, 0, left=False),
        }

    def at(self, step: int) -> TextBatch:
        """The batch of a step, counted from 0, of a run that goes on epoch after epoch.

        Nothing has to be saved of the text: a run that goes on at a step goes on with the text of that step.
        """
        epoch, batch = divmod(step, len(self))
        return self.collate(self._rows(epoch)[batch * self.batch_size : (batch + 1) * self.batch_size])


class TextLines(WithTokenizer, TextSource):
    """Lines of text, dealt out to three splits, and each split in batches.

    Args:
        tokenizer: a tokenizer, or the name of one for `load_tokenizer`.
        lines: texts, or the path of a file with one a line. Default: those of the package. Blank ones and those that
            come again are passed over.
        max_tokens: of a longer line, the first so many.
        batch_size: lines per batch.
        seed: decides the splits and the order of training.

    Raises:
        TypeError: an argument of a wrong type.
        ValueError: fewer than one line a batch or two tokens a line. When the lines are read: fewer than three of them;
            with the place of it, one that is a single token, or has a word that the tokenizer does not know.
        FileNotFoundError: (when read) the file is not there.
    """

    def __init__(
        self,
        tokenizer: str | Path | PreTrainedTokenizerBase,
        lines: str | Path | Sequence[str] | None = None,
        max_tokens: int = 32,
        batch_size: int = 4,
        seed: int = 0,
    ) -> None:
        self.read_by(tokenizer)
        if isinstance(lines, (list, tuple)):
            of_other_types = [line for line in lines if not isinstance(line, str)]
        else:
            of_other_types = [] if lines is None or isinstance(lines, (str, Path)) else [lines]
        if of_other_types:
            raise TypeError(f"lines takes a list of texts, or the path of a file, got {shortened(of_other_types[0])}")
        require_whole_numbers(max_tokens=max_tokens, batch_size=batch_size)
        require_seed(seed)
        if batch_size < 1:
            raise ValueError(f"batch_size is {batch_size}: it has to be at least 1")
        if max_tokens < 2:
            raise ValueError(
                f"max_tokens is {max_tokens}: it has to be at least 2, a token and the one that follows it"
            )
        self.lines = lines
        self.max_tokens = max_tokens
        self.batch_size = batch_size
        self.seed = seed

    @cached_property
    def splits(self) -> dict[str, list[str]]:
        """The lines of `train`, `val` and `test`, none in two of them."""
        lines = shuffled(list(self._numbered), "text", self.seed)
        held_out = max(1, round(HELD_OUT * len(lines)))
        return {"val": lines[:held_out], "test": lines[held_out : 2 * held_out], "train": lines[2 * held_out :]}

    def loader(self, split: Split) -> TextLoader:
        """The batches of a split; those of training are shuffled anew every epoch (`set_epoch`), the others never."""
        require_choice("split", split, Split)
        rows = [self._tokens[line] for line in self.splits[split]]
        return TextLoader(rows, self.batch_size, self.seed if split == "train" else None)

    @property
    def called(self) -> str:
        """The name of the file, or that they are lines of no file."""
        given = OURS.name if self.lines is None else self.lines
        return str(given) if isinstance(given, (str, Path)) else "lines"

    def batch(self, number: int) -> TextBatch:
        """The lines to train on in a step, counted from 0, epoch after epoch."""
        return self._train.at(number)

    def held_out(self, split: str) -> TextLoader:
        """The lines of ``val`` or ``test``, each once."""
        require_choice("split", split, Literal["val", "test"])
        return self.loader(split)  # type: ignore[arg-type]

    def describe(self) -> dict[str, Any]:
        return {
            "text": self.called,
            "hash": hashlib.sha256("\n".join(self._numbered).encode()).hexdigest()[:16],
            "lines": {split: len(lines) for split, lines in self.splits.items()},
            "tokenizer": self.tokenizer_name,
            "max_tokens": self.max_tokens,
            "batch_size": self.batch_size,
            "seed": self.seed,
        }

    @cached_property
    def _train(self) -> TextLoader:
        return self.loader("train")

    @cached_property
    def _numbered(self) -> dict[str, str]:
        """Every line, and where it stands."""
        given = OURS if self.lines is None else self.lines
        if isinstance(given, (str, Path)):
            source, texts = str(given), _lines_of(Path(given).expanduser())
        else:
            source, texts = "lines", given
        lines: dict[str, str] = {}
        for number, text in enumerate(texts, start=1):
            if text.strip():
                lines.setdefault(text.strip(), f"{source}, line {number}")
        if len(lines) < 3:
            raise ValueError(
                f"{source}: {len(lines)} different lines of text, and there have to be at least 3, one for each split"
            )
        return lines

    @cached_property
    def _tokens(self) -> dict[str, list[int]]:
        result = dict(zip(self._numbered, encode(list(self._numbered), self.tokenizer), strict=True))
        for line, ids in result.items():
            if unknown := unknown_words(line, ids, self.tokenizer):
                raise ValueError(
                    f"{self._numbered[line]}: {', '.join(map(repr, unknown))} is not in the tokenizer's vocabulary: "
                    "give lines of known words (lines=...), or the tokenizer of the model"
                )
            if len(ids) < 2:
                raise ValueError(
                    f"{self._numbered[line]}: {line!r} is a single token, and nothing follows that could be foretold: "
                    "give longer lines"
                )
        return {line: ids[: self.max_tokens] for line, ids in result.items()}


def _lines_of(path: Path) -> Sequence[str]:
    return text_of(path, "plain text, a line each").split("\n")
