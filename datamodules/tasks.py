"""Tasks whose prompts are made from templates and lists of words, to measure for a tokenizer.

A task says which pairs there are, in the order in which they are to be taken; of those that fit the tokenizer, each
split takes as many as it is asked for:

    class Opposites(TaskDataModule):
        def candidates(self, split):
            for template, (word, opposite) in sweep(TEMPLATES, self.share(split, WORDS)):
                ...
                yield PromptPair(clean, corrupt, (f" {opposite}",), (f" {word}",), where, group=template)

Splits share no words where a task has enough of them: `share` deals a list out to the three.
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Iterator, Sequence
from itertools import count
from pathlib import Path
from typing import Any, TypeVar

from lightning_circuits.arguments import require_whole_numbers
from lightning_circuits.datamodules.base import SPLITS, PairDataModule
from lightning_circuits.datamodules.encoding import encode
from lightning_circuits.datamodules.loader import PaddingSide
from lightning_circuits.datamodules.misfits import Misfits
from lightning_circuits.datamodules.shuffling import shuffled
from lightning_circuits.datamodules.spans import By
from lightning_circuits.datamodules.tokenising import PromptPair
from lightning_circuits.models.loading import PreTrainedTokenizerBase

Item = TypeVar("Item")
Other = TypeVar("Other")


class TaskDataModule(PairDataModule):
    """What tasks made of templates share: the sizes of the splits, and words dealt out to them.

    Args:
        tokenizer: a tokenizer, or the name of one for `load_tokenizer`.
        n_train: prompts to train on.
        n_val: prompts for validation.
        n_test: prompts for the test.
        batch_size: pairs per step and process.
        padding_side: `right` or `left`. Results do not depend on it.
        seed: decides every prompt, and the order of training.
        spans: see `PairDataModule`.
        misfits: see `PairDataModule`.

    Raises:
        ValueError: a split without prompts. When set up: fewer pairs fit the tokenizer than are asked for (says how
            many there are, and why the others do not fit).
    """

    def __init__(
        self,
        tokenizer: str | Path | PreTrainedTokenizerBase,
        n_train: int = 300,
        n_val: int = 100,
        n_test: int = 100,
        batch_size: int = 8,
        padding_side: PaddingSide = "right",
        seed: int = 0,
        spans: By | None = None,
        misfits: Misfits = "drop",
    ) -> None:
        super().__init__(tokenizer, batch_size, padding_side, seed, spans, misfits)
        require_whole_numbers(n_train=n_train, n_val=n_val, n_test=n_test)
        self.sizes = {"train": n_train, "val": n_val, "test": n_test}
        for split, size in self.sizes.items():
            if size < 1:
                raise ValueError(
                    f"n_{split} is {size}, so the {split} split would be empty: it needs at least one prompt"
                )

    @abstractmethod
    def candidates(self, split: str) -> Iterator[PromptPair]:
        """All pairs that there are for a split, no clean prompt twice, in the order in which they are taken."""

    def make_splits(self) -> dict[str, Iterator[PromptPair]]:
        return {split: self.candidates(split) for split in SPLITS}

    def wanted(self, split: str) -> int:
        return self.sizes[split]

    def describe(self) -> dict[str, Any]:
        return {
            "data": type(self).__name__,
            "tokenizer": self.tokenizer_name,
            **self.describe_task(),
            "pairs": dict(self.sizes),
            **self.describe_misfits(),
            "seed": self.seed,
        }

    def describe_task(self) -> dict[str, Any]:
        """The options of a task's own, in plain JSON values."""
        return {}

    def share(self, split: str, words: Sequence[Item], key: str = "words") -> list[Item]:
        """The words of a split: a list dealt out by `seed`, to each split in proportion to its prompts, at least two
        to each if there are six."""
        pile, least = shuffled(words, key, self.seed), min(2, len(words) // 3)
        of_each = len(words) / sum(self.sizes.values())
        val = min(max(round(self.sizes["val"] * of_each), least), len(words) - 2 * least)
        test = min(max(round(self.sizes["test"] * of_each), least), len(words) - val - least)
        return {"val": pile[:val], "test": pile[val : val + test], "train": pile[val + test :]}[split]

    def single_tokens(self, words: Sequence[str], prompt: str) -> list[str]:
        """Those of some words that are one known token where they follow a prompt, after a space."""
        before, *after = encode([prompt, *(f"{prompt} {word}" for word in words)], self.tokenizer)
        return [
            word
            for word, ids in zip(words, after, strict=True)
            if ids[:-1] == before and ids[-1] != self.tokenizer.unk_token_id
        ]


def sweep(templates: Sequence[Item], items: Sequence[Other]) -> Iterator[tuple[Item, Other]]:
    """Every template with every item, once: in each round all items, with templates in turn, the next round one on."""
    for round_number in range(len(templates)):
        for number, item in enumerate(items):
            yield templates[(number + round_number) % len(templates)], item


def dealt(words: Sequence[Item], *key: str | int) -> Iterator[Item]:
    """Words without end, from decks shuffled anew each time they run out, so that all come equally often."""
    for deck in count():
        yield from shuffled(words, *key, deck)
