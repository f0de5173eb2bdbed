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
    abc            ... {D} and {E} ..., {F} gave a drink to       every mention becomes another name, each once.

`answers` is always IO, `distractors` always S: the logit difference asks which of the two the model prefers.

    data = IOIDataModule("gpt2", n_train=300, n_val=100, n_test=100, batch_size=8)

Variants name IO more often, in clauses of its own before S acts (`extra_io`, 1 for "DoubleIO", 2 for "TripleIO"):

    When Mary and John went to the store, Mary felt happy. John gave a drink to    ->    Mary

There the rule "find the name that stands there twice, drop it, say the other" has no answer, and with two such clauses
the wrong one. Corrupt prompts have the clauses too.

The texts are our own, in the manner of the set of Wang et al. (2022), "Interpretability in the Wild"; the variants are
those of "Adaptive Circuit Behavior and Generalization in Mechanistic Interpretability" (2024).
"""

from __future__ import annotations

import random
import re
from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass
from itertools import count, cycle, islice
from math import comb
from pathlib import Path
from typing import Any, Literal

from lightning_circuits.arguments import require_choice, require_whole_numbers
from lightning_circuits.datamodules.loader import PaddingSide
from lightning_circuits.datamodules.shuffling import shuffled
from lightning_circuits.datamodules.spans import By
from lightning_circuits.datamodules.tasks import TaskDataModule, dealt
from lightning_circuits.datamodules.tokenising import AnswerTokens, PromptPair
from lightning_circuits.models.loading import PreTrainedTokenizerBase

__all__ = ["CLAUSES", "NAMES", "OBJECTS", "PLACES", "TEMPLATES", "IOIDataModule"]

# {A} and {B} are the two people in the order in which they are introduced; {S} is the one who acts. Before that come
# clauses about IO, if any: {clauses:, } says that each ends with a comma. No template begins with a name, because many
# tokenizers spell a word differently without a space before it.
TEMPLATES = (
    "When {A} and {B} went to the {place}, {clauses:. }{S} gave a {object} to",
    "When {A} and {B} got a {object} at the {place}, {clauses:. }{S} decided to give it to",
    "After {A} and {B} left the {place}, {clauses:. }{S} gave a {object} to",
    "While {A} and {B} were waiting at the {place}, {clauses:. }{S} passed a {object} to",
    "Yesterday {A} and {B} met near the {place}, {clauses:, }and {S} sold a {object} to",
    "Because {A} and {B} were late for the {place}, {clauses:. }{S} lent a {object} to",
    "At the {place}, {A} and {B} sat down together. {clauses:. }Then {S} offered a {object} to",
    "On the way to the {place}, {A} and {B} found a {object}, {clauses:, }so {S} gave it to",
    "Last summer {A} and {B} worked together at the {place}. {clauses:. }One day {S} gave a {object} to",
    "The friends {A} and {B} had lunch in the {place}, where {clauses:, and }{S} showed a {object} to",
    "Once {A} and {B} found a {object} in the {place}, {clauses:, }and {S} wanted to give it to",
    "Since {A} and {B} were both tired of the {place}, {clauses:. }{S} decided to give a {object} to",
    "Early in the morning {A} and {B} arrived at the {place}. {clauses:. }Soon {S} gave a {object} to",
    "Outside the {place} stood {A} and {B}. {clauses:. }With a smile, {S} gave a {object} to",
    "Before {A} and {B} said goodbye at the {place}, {clauses:. }{S} wanted to give a {object} to",
)

CLAUSES = ("sat down", "had lunch", "arrived late", "worked late", "met friends", "stood waiting")

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
Order = Literal["both", "io-first", "s-first"]
MAX_EXTRA = 2


class IOIDataModule(TaskDataModule):
    """Prompts for indirect object identification, made to measure for a tokenizer.

    Of `NAMES`, those are used that are one token each after a space, found by asking the tokenizer; if answers may have
    several, all that it knows, in a prompt names of equally many tokens. Every prompt belongs to a triple of names {IO,
    S, C} that no other prompt in any split has, in any order (C appears only under `third-name`). The same seed gives
    the same clean prompts under every corruption. Templates and the two orders are used equally often in each split (as
    far as its size allows); names, places and objects come off shuffled decks, hence equally often. A prompt's group is
    its order and template.

    Args:
        tokenizer: a tokenizer, or the name of one for `load_tokenizer`.
        n_train: prompts to train on.
        n_val: prompts for validation.
        n_test: prompts for the test.
        batch_size: pairs per step and process.
        padding_side: `right` or `left`. Results do not depend on it.
        seed: decides every prompt, and the order of training.
        corruption: `third-name`, `s2-io-flip` or `abc` (see the module's docstring). The names that `abc` puts in are
            none of the prompt's own, and the first three as a triple are used nowhere else.
        held_out_templates: so many templates, chosen by `seed`, are kept for validation and test, which then use no
            others.
        extra_io: so many clauses name IO once more: 0, 1 ("DoubleIO") or 2 ("TripleIO").
        order: of the two people: `io-first` (ABBA), `s-first` (BABA), or `both`, half of each.
        spans: see `PairDataModule`. The places of a prompt are IO, S1, S1+1, IO2 and IO3 in the clauses, S2 and END.
        answer_tokens: see `PairDataModule`.

    Raises:
        ValueError: unknown corruption or order, more extra clauses than 2; a split without prompts; held-out templates
            that leave none to train on. When set up: too few names are one token each (says how many there are, and how
            many it takes).
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
        extra_io: int = 0,
        order: Order = "both",
        padding_side: PaddingSide = "right",
        seed: int = 0,
        spans: By | None = None,
        answer_tokens: AnswerTokens = "one",
    ) -> None:
        super().__init__(
            tokenizer, n_train, n_val, n_test, batch_size, padding_side, seed, spans, "refuse", answer_tokens
        )
        require_whole_numbers(held_out_templates=held_out_templates, extra_io=extra_io)
        require_choice("corruption", corruption, Corruption)
        require_choice("order", order, Order)
        if not 0 <= held_out_templates < len(TEMPLATES):
            raise ValueError(
                f"held_out_templates is {held_out_templates}: of {len(TEMPLATES)} templates, 0 to "
                f"{len(TEMPLATES) - 1} can be kept from training"
            )
        if not 0 <= extra_io <= MAX_EXTRA:
            raise ValueError(f"extra_io is {extra_io}: IO can be named 0 to {MAX_EXTRA} times more")
        self.corruption, self.held_out_templates = corruption, held_out_templates
        self.extra_io, self.order = extra_io, order

    def candidates(self, split: str) -> Iterator[PromptPair]:
        names, size = self._names_of_prompts()[split], self.sizes[split]
        templates = shuffled(TEMPLATES, "templates", self.seed)
        held_out, trained = templates[: self.held_out_templates], templates[self.held_out_templates :]
        used = held_out if held_out and split != "train" else trained
        places, objects = (
            dealt(words, f"{key} {split}", self.seed) for key, words in (("places", PLACES), ("objects", OBJECTS))
        )
        predicates = dealt(CLAUSES, f"clauses {split}", self.seed)
        for number in range(size):
            io, subject, *others = names[number]
            # Templates in turn, the order of the two changing after each round of them.
            round_number, which = divmod(number, len(used))
            io_first = self.order == "io-first" or (self.order == "both" and round_number % 2 == 0)
            first, second = (io, subject) if io_first else (subject, io)
            extra = [io] * self.extra_io
            corrupt, again = {
                "third-name": ((first, second, others[0]), extra),
                "s2-io-flip": ((first, second, io), extra),
                "abc": (tuple(others[1:4]), others[4:]),
            }[self.corruption]
            fill = _Filling(used[which], next(places), next(objects), [next(predicates) for _ in extra])
            clean = fill((first, second, subject), extra)
            yield PromptPair(
                clean,
                fill(corrupt, again),
                (f" {io}",),
                (f" {subject}",),
                f"{split} prompt {number}",
                _places(clean, io, subject),
                group=f"{'io-first' if io_first else 's-first'}: {used[which]}",
            )

    def describe_task(self) -> dict[str, Any]:
        return {
            "corruption": self.corruption,
            "held_out_templates": self.held_out_templates,
            "extra_io": self.extra_io,
            "order": self.order,
        }

    def _names_of_prompts(self) -> dict[str, list[tuple[str, ...]]]:
        """Of every prompt of each split: IO, S, C, and those that `abc` puts in."""
        total = sum(self.sizes.values())
        # A prompt draws one triple; under `abc` one more for the three mentions, and one more for the clauses.
        each = 1 if self.corruption != "abc" else 2 if not self.extra_io else 3
        # Those of a prompt stand in each other's places, so they have equally many tokens.
        decks = [_TripleDeck(names, self.seed) for names in self._names_alike(each * total, each)]
        of_prompts = [deck for deck, _ in zip(cycle(decks), range(total), strict=False)]
        drawn: list[tuple[str, ...]] = [deck.draw() for deck in of_prompts]
        # All others after them, so that the clean prompts are the same under every corruption.
        for _ in range(each - 1):
            drawn = [names + deck.draw(avoid=names) for names, deck in zip(drawn, of_prompts, strict=True)]
        names = iter(drawn)
        wanted = 3 * min(each, 2) + self.extra_io * (each == 3)
        return {split: [row[:wanted] for row in islice(names, size)] for split, size in self.sizes.items()}

    def _names_alike(self, triples: int, each: int) -> list[list[str]]:
        """The names that may be answers, apart by their number of tokens; enough of each for as many triples as all
        together need, of which each prompt takes some that share no name."""
        counts = self.token_counts(NAMES, "gave it to")
        usable = self.possible_answers(NAMES, "gave it to")
        needed = next(n for n in count(3 * each) if comb(n, 3) >= triples)
        kinds = [[name for name in usable if counts[name] == n] for n in sorted({counts[name] for name in usable})]
        if enough := [names for names in kinds if len(names) >= needed]:
            return enough
        asked = "a single token" if self.answer_tokens == "one" else "as many tokens as others"
        raise ValueError(
            f"{max(map(len, kinds), default=0)} of {len(NAMES)} names are {asked} for the tokenizer "
            f"{self.tokenizer_name!r}, but {sum(self.sizes.values())} prompts with the corruption {self.corruption!r} "
            f"need {triples} different triples of names, so at least {needed} names: ask for fewer prompts, or take "
            "PromptPairDataModule with names that fit"
        )


class _Clauses(tuple[str, ...]):
    """Clauses in a template, each followed by what stands there behind the colon: ``{clauses:, }``."""

    def __format__(self, end: str) -> str:
        return "".join(f"{clause}{end}" for clause in self)


@dataclass(frozen=True)
class _Filling:
    """A template with everything in it but the names."""

    template: str
    place: str
    thing: str
    predicates: list[str]

    def __call__(self, mentions: tuple[str, ...], extra: Sequence[str]) -> str:
        """The prompt that mentions three people in the sentence, and one more in each clause."""
        a, b, s = mentions
        clauses = _Clauses(f"{name} {does}" for name, does in zip(extra, self.predicates, strict=True))
        return self.template.format(A=a, B=b, S=s, place=self.place, object=self.thing, clauses=clauses)


def _places(clean: str, io: str, subject: str) -> dict[str, tuple[int, int]]:
    """Where in a prompt the names stand, the word or mark after the first S, and the end."""
    (first, *more), (s1, s2) = ([at.span() for at in re.finditer(rf"\b{name}\b", clean)] for name in (io, subject))
    after = next(re.compile(r"\w+|[^\w\s]").finditer(clean, s1[1]))
    again = {f"IO{number}": at for number, at in enumerate(more, start=2)}
    end = (clean.rindex(" ") + 1, len(clean))
    return {"IO": first, "S1": s1, "S1+1": after.span(), **again, "S2": s2, "END": end}


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
