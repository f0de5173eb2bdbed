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
from collections.abc import Callable, Iterable, Iterator, Sequence
from itertools import count
from math import lcm
from operator import ne
from pathlib import Path
from string import Formatter
from typing import Any, TypeVar

from lightning_circuits.arguments import require_whole_numbers
from lightning_circuits.datamodules.base import SPLITS, PairDataModule
from lightning_circuits.datamodules.encoding import encode
from lightning_circuits.datamodules.loader import PaddingSide
from lightning_circuits.datamodules.misfits import Misfits
from lightning_circuits.datamodules.shuffling import shuffled
from lightning_circuits.datamodules.spans import By
from lightning_circuits.datamodules.tokenising import AnswerTokens, PromptPair
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
        answer_tokens: see `PairDataModule`.

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
        answer_tokens: AnswerTokens = "one",
    ) -> None:
        super().__init__(tokenizer, batch_size, padding_side, seed, spans, misfits, answer_tokens)
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
            **self.describe_fitting(),
            "seed": self.seed,
        }

    def describe_task(self) -> dict[str, Any]:
        """The options of a task's own, in plain JSON values."""
        return {}

    def share(
        self, split: str, words: Sequence[Item], key: str = "words", kind: Callable[[Item], object] | None = None
    ) -> list[Item]:
        """The words of a split: a list dealt out by `seed`, to each split in proportion to its prompts, at least two
        to each if there are six. With ``kind`` those of each kind are dealt out by themselves, so that every split
        has some of each."""
        if kind is not None:
            kinds: dict[object, list[Item]] = {}
            for word in words:
                kinds.setdefault(kind(word), []).append(word)
            of_each = [self.share(split, some, f"{key} {name}") for name, some in kinds.items()]
            return shuffled([word for some in of_each for word in some], key, split, self.seed)
        pile, least = shuffled(words, key, self.seed), min(2, len(words) // 3)
        of_prompt = len(words) / sum(self.sizes.values())
        val = min(max(round(self.sizes["val"] * of_prompt), least), len(words) - 2 * least)
        test = min(max(round(self.sizes["test"] * of_prompt), least), len(words) - val - least)
        return {"val": pile[:val], "test": pile[val : val + test], "train": pile[val + test :]}[split]

    def token_counts(self, words: Iterable[str], prompt: str) -> dict[str, int]:
        """How many tokens each of some words is where it follows a prompt, after a space; 0 for one that the tokenizer
        does not know."""
        words = list(words)
        before, *after = encode([prompt, *(f"{prompt} {word}" for word in words)], self.tokenizer)
        unknown = self.tokenizer.unk_token_id
        return {
            word: len(ids) - len(before) if ids[: len(before)] == before and unknown not in ids[len(before) :] else 0
            for word, ids in zip(words, after, strict=True)
        }

    def possible_answers(self, words: Sequence[str], prompt: str) -> list[str]:
        """Those of some words that may be answers where they follow a prompt, after a space: of one known token, or of
        any number."""
        counts = self.token_counts(words, prompt)
        return [word for word, tokens in counts.items() if tokens == 1 or (tokens and self.answer_tokens == "any")]


def filled(template: str, **words: str) -> tuple[str, dict[str, tuple[int, int]]]:
    """A template with words in its braces, and where in the text they stand whose names are in capital letters; END is
    the last word.

    >>> filled("The {PERSON} {did} it because", PERSON="nurse", did="knew")
    ('The nurse knew it because', {'PERSON': (4, 9), 'END': (18, 25)})
    """
    text, places = "", {}
    for before, name, _, _ in Formatter().parse(template):
        text += before
        if name:
            begin, text = len(text), text + words[name]
            if name.isupper():
                places[name] = (begin, len(text))
    return text, places | {"END": (text.rindex(" ") + 1, len(text))}


def partner(
    items: Sequence[Item],
    number: int,
    alike: Callable[[Item], object],
    apart: Callable[[Item, Item], bool] = ne,
) -> Item:
    """What the corrupt prompt has in place of an item: of those that are ``apart`` from it one that is ``alike``, in
    its tokens for one, if there is any.

    Args:
        items: of a split.
        number: of the pair in a `sweep` of the items: in each round the next of those that would do, so that all come
            about equally often.
        alike: what should be the same of both.
        apart: whether one item may stand in for another.
    """
    round_number, place = divmod(number, len(items))
    item = items[place]
    others = [other for other in (*items[place + 1 :], *items[:place]) if apart(item, other)]
    suited = [other for other in others if alike(other) == alike(item)] or others
    return suited[round_number % len(suited)]


def in_turn(*kinds: Iterable[tuple[PromptPair, bool]]) -> Iterator[PromptPair]:
    """Pairs of several kinds, so that of those that fit the tokenizer all kinds have equally many: of each kind in turn
    the next that fits, and those before it that do not; nothing more when a kind is used up.

    Args:
        kinds: of each its pairs, and whether they fit.
    """
    sources = [iter(kind) for kind in kinds]
    while True:
        for source in sources:
            for pair, fits in source:
                yield pair
                if fits:
                    break
            else:
                return


def sweep(templates: Sequence[Item], items: Sequence[Other]) -> Iterator[tuple[Item, Other]]:
    """Every template with every item, once: in each round all items, with templates in turn throughout, and one on
    where the two would meet again."""
    period = lcm(len(templates), len(items))
    for number in range(len(templates) * len(items)):
        yield templates[(number + number // period) % len(templates)], items[number % len(items)]


def dealt(words: Sequence[Item], *key: str | int) -> Iterator[Item]:
    """Words without end, from decks shuffled anew each time they run out, so that all come equally often."""
    for deck in count():
        yield from shuffled(words, *key, deck)
