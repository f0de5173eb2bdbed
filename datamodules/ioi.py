"""Indirect object identification: who is given the drink?

    When Mary and John went to the store, John gave a drink to    ->    Mary

Of two people, one (the subject S, " John") is named twice; a language model completes the sentence with the other (the
indirect object IO, " Mary"). It is the best-studied behaviour of small language models, so a circuit for it can be held
against a literature. Each prompt is made of a template, a place, an object, two names, and an order in which they come:

    ABBA    When {IO} and {S} went to the store, {S} gave a drink to
    BABA    When {S} and {IO} went to the store, {S} gave a drink to

and its corrupt twin is the same sentence with other names in the same places (the choices of `corruption`):

    third-name     ... {IO} and {S} ..., {C} gave a drink to      a third name instead of the second S: nobody is named
                                                                  twice, and either name would do. The default.
    s2-io-flip     ... {IO} and {S} ..., {IO} gave a drink to     the second S becomes IO: now S is the right answer.
    abc            ... {D} and {E} ..., {F} gave a drink to       all three mentions become three other names.

`answers` is always IO, `distractors` always S: the logit difference asks which of the two the model prefers.

    data = IOIDataModule("gpt2", n_train=300, n_val=100, n_test=100, batch_size=8)

The texts are our own, in the manner of the set of Wang et al. (2022), "Interpretability in the Wild".
"""

from __future__ import annotations

import random
import re
from collections.abc import Collection
from itertools import count
from math import comb
from pathlib import Path
from typing import Any, Literal

from lightning_circuits.arguments import require_choice, require_whole_numbers
from lightning_circuits.datamodules.base import PairDataModule
from lightning_circuits.datamodules.encoding import encode
from lightning_circuits.datamodules.loader import PaddingSide
from lightning_circuits.datamodules.shuffling import shuffled
from lightning_circuits.datamodules.spans import By
from lightning_circuits.datamodules.tokenising import PromptPair
from lightning_circuits.models.loading import PreTrainedTokenizerBase

__all__ = ["NAMES", "OBJECTS", "PLACES", "TEMPLATES", "IOIDataModule"]

# {A} and {B} are the two people in the order in which they are introduced; {S} is the one who acts. No template
# begins with a name, because many tokenizers spell a word differently without a space before it.
TEMPLATES = (
    "When {A} and {B} went to the {place}, {S} gave a {object} to",
    "When {A} and {B} got a {object} at the {place}, {S} decided to give it to",
    "After {A} and {B} left the {place}, {S} gave a {object} to",
    "While {A} and {B} were waiting at the {place}, {S} passed a {object} to",
    "Yesterday {A} and {B} met near the {place}, and {S} sold a {object} to",
    "Because {A} and {B} were late for the {place}, {S} lent a {object} to",
    "At the {place}, {A} and {B} sat down together. Then {S} offered a {object} to",
    "On the way to the {place}, {A} and {B} found a {object}, so {S} gave it to",
    "Last summer {A} and {B} worked together at the {place}. One day {S} gave a {object} to",
    "The friends {A} and {B} had lunch in the {place}, where {S} showed a {object} to",
    "Once {A} and {B} found a {object} in the {place}, and {S} wanted to give it to",
    "Since {A} and {B} were both tired of the {place}, {S} decided to give a {object} to",
    "Early in the morning {A} and {B} arrived at the {place}. Soon {S} gave a {object} to",
    "Outside the {place} stood {A} and {B}. With a smile, {S} gave a {object} to",
    "Before {A} and {B} said goodbye at the {place}, {S} wanted to give a {object} to",
)

NAMES = tuple(
    """
    Adam Alan Albert Alex Alice Amanda Amy Andrea Andrew Angela Anna Anthony Barbara Ben Bob Brian Bruce Carl Carol
    Charles
    Charlie Chris Claire Dan Daniel David Dennis Diana Donald Edward Elizabeth Emily Emma Eric Frank Fred Gary
    George Graham Grace Harry Helen Henry Howard Ian Jack Jacob James Jane Jason Jean Jeff Jennifer Jessica Jim Joe John
    Jonathan Joseph Julia Julie Karen Kate Keith Kelly Kevin Larry Laura Linda Lisa Louis Lucy Maria Mark Martin Mary
    Matthew Michael Michelle Mike Nancy Nick Oliver Patrick Paul Peter Philip Rachel Ralph Rebecca Richard Robert
    Roger Ruth Ryan Sam Sarah Scott Simon Sophie Steve Susan Thomas Tim Tom Tony Victoria Walter William
    """.split()
)

PLACES = tuple(
    """
    airport bakery bank beach bridge castle church cinema farm garden gym hospital hotel library market museum office
    park
    restaurant school shop stadium station store theater
    """.split()
)

OBJECTS = tuple(
    """
    ball basket book bottle camera coat coin drink flower gift guitar hat jacket key lamp letter map newspaper pen phone
    photo ring sandwich ticket watch
    """.split()
)

Corruption = Literal["third-name", "s2-io-flip", "abc"]


class IOIDataModule(PairDataModule):
    """Prompts for indirect object identification, made to measure for a tokenizer.

    Of `NAMES`, those are used that are one token each after a space, found by asking the tokenizer. Every prompt
    belongs to a triple of names {IO, S, C} that no other prompt in any split has, in any order (C appears only under
    `third-name`). The same seed gives the same clean prompts under every corruption. Templates and the two orders are
    used equally often in each split (as far as its size allows); names, places and objects come off shuffled decks,
    hence equally often.

    Args:
        tokenizer: a tokenizer, or the name of one for `load_tokenizer`.
        n_train: prompts to train on.
        n_val: prompts for validation.
        n_test: prompts for the test.
        batch_size: pairs per step and process.
        padding_side: `right` or `left`. Results do not depend on it.
        seed: decides every prompt, and the order of training.
        corruption: `third-name`, `s2-io-flip` or `abc` (see the module's docstring). The three names that `abc` puts
            in are none of the prompt's own, and as a triple are used nowhere else.
        held_out_templates: so many templates, chosen by `seed`, are kept for validation and test, which then use no
            others.
        spans: see `PairDataModule`. The places of a prompt are IO, S1, S1+1, S2 and END.

    Raises:
        ValueError: unknown corruption; a split without prompts; held-out templates that leave none to train on. When
            set up: too few names are one token each (says how many there are, and how many it takes).
    """

    def __init__(
        self,
        tokenizer: str | Path | PreTrainedTokenizerBase,
        n_train: int = 300,
        n_val: int = 100,
        n_test: int = 100,
        batch_size: int = 8,
        corruption: Corruption = "third-name",
        held_out_templates: int = 0,
        padding_side: PaddingSide = "right",
        seed: int = 0,
        spans: By | None = None,
    ) -> None:
        super().__init__(tokenizer, batch_size, padding_side, seed, spans)
        require_whole_numbers(n_train=n_train, n_val=n_val, n_test=n_test, held_out_templates=held_out_templates)
        self.sizes = {"train": n_train, "val": n_val, "test": n_test}
        for split, size in self.sizes.items():
            if size < 1:
                raise ValueError(
                    f"n_{split} is {size}, so the {split} split would be empty: it needs at least one prompt"
                )
        require_choice("corruption", corruption, Corruption)
        if not 0 <= held_out_templates < len(TEMPLATES):
            raise ValueError(
                f"held_out_templates is {held_out_templates}: of {len(TEMPLATES)} templates, 0 to "
                f"{len(TEMPLATES) - 1} can be kept from training"
            )
        self.corruption = corruption
        self.held_out_templates = held_out_templates

    def make_splits(self) -> dict[str, list[PromptPair]]:
        total = sum(self.sizes.values())
        names = self._single_token_names(triples=2 * total if self.corruption == "abc" else total)
        deck = _TripleDeck(names, self.seed)
        triples = [deck.draw() for _ in range(total)]
        # Drawn after all the others, so that the clean prompts are the same under every corruption.
        others = [deck.draw(avoid=triple) for triple in triples] if self.corruption == "abc" else triples

        templates = shuffled(TEMPLATES, "templates", self.seed)
        held_out, trained = templates[: self.held_out_templates], templates[self.held_out_templates :]
        splits = {}
        start = 0
        for split, size in self.sizes.items():
            rows = range(start, start + size)
            used = held_out if held_out and split != "train" else trained
            places = _deal(PLACES, size, f"places {split}", self.seed)
            objects = _deal(OBJECTS, size, f"objects {split}", self.seed)
            splits[split] = [
                self._pair(used, row - start, triples[row], others[row], place, thing, f"{split} prompt {row - start}")
                for row, place, thing in zip(rows, places, objects, strict=True)
            ]
            start += size
        return splits

    def describe(self) -> dict[str, Any]:
        return {
            "data": type(self).__name__,
            "tokenizer": self.tokenizer_name,
            "corruption": self.corruption,
            "held_out_templates": self.held_out_templates,
            "pairs": dict(self.sizes),
            "seed": self.seed,
        }

    def _pair(
        self,
        templates: list[str],
        number: int,
        triple: tuple[str, str, str],
        others: tuple[str, str, str],
        place: str,
        thing: str,
        where: str,
    ) -> PromptPair:
        """Prompt `number` of a split: templates in turn, the order (ABBA or BABA) changing after each round of them."""
        io, subject, third = triple
        round_number, which = divmod(number, len(templates))
        first, second = (io, subject) if round_number % 2 == 0 else (subject, io)
        corrupt = {
            "third-name": (first, second, third),
            "s2-io-flip": (first, second, io),
            "abc": others,
        }[self.corruption]

        def fill(a: str, b: str, s: str) -> str:
            return templates[which].format(A=a, B=b, S=s, place=place, object=thing)

        clean = fill(first, second, subject)
        return PromptPair(clean, fill(*corrupt), (f" {io}",), (f" {subject}",), where, _places(clean, io, subject))

    def _single_token_names(self, triples: int) -> list[str]:
        """The names that are one known token in the place of an answer; enough of them for so many triples."""
        prompt = "gave it to"
        before, *after = encode([prompt, *(f"{prompt} {name}" for name in NAMES)], self.tokenizer)
        names = [
            name
            for name, ids in zip(NAMES, after, strict=True)
            if ids[:-1] == before and ids[-1] != self.tokenizer.unk_token_id
        ]
        # `abc` draws a triple that shares no name with another: it takes 6.
        needed = next(n for n in count(6 if self.corruption == "abc" else 3) if comb(n, 3) >= triples)
        if len(names) < needed:
            raise ValueError(
                f"{len(names)} of {len(NAMES)} names are a single token for the tokenizer {self.tokenizer_name!r}, but "
                f"{sum(self.sizes.values())} prompts with the corruption {self.corruption!r} need {triples} different "
                f"triples of names, so at least {needed} names: ask for fewer prompts, or take "
                "PromptPairDataModule with names that fit"
            )
        return names


def _places(clean: str, io: str, subject: str) -> dict[str, tuple[int, int]]:
    """Where in a prompt the names stand, the word or mark after the first S, and the end."""
    (io_at,), (s1, s2) = ([match.span() for match in re.finditer(rf"\b{name}\b", clean)] for name in (io, subject))
    after = next(re.compile(r"\w+|[^\w\s]").finditer(clean, s1[1]))
    end = clean.rindex(" ") + 1
    return {"IO": io_at, "S1": s1, "S1+1": after.span(), "S2": s2, "END": (end, len(clean))}


class _TripleDeck:
    """Ordered triples of names, none twice (in whatever order), every name about equally often."""

    def __init__(self, names: list[str], seed: int) -> None:
        self._names = names
        self._rng = random.Random(f"triples {seed}")
        self._deck: list[str] = []
        self._drawn: set[frozenset[str]] = set()

    def draw(self, avoid: Collection[str] = ()) -> tuple[str, str, str]:
        while True:
            if len(self._deck) < 3:
                self._deck = sorted(self._names, key=lambda _: self._rng.random())
            a, b, c = (self._deck.pop() for _ in range(3))
            triple = frozenset((a, b, c))
            if triple not in self._drawn and triple.isdisjoint(avoid):
                self._drawn.add(triple)
                return a, b, c


def _deal(words: tuple[str, ...], size: int, key: str, seed: int) -> list[str]:
    """`size` words, from decks shuffled anew each time they run out."""
    dealt: list[str] = []
    for deck in count():
        if len(dealt) >= size:
            break
        dealt += shuffled(words, key, seed, deck)
    return dealt[:size]
