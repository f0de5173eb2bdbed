"""Facts that a model knows, as prompts and as what an edit of the model needs: other wordings, and what must not move.

    The robin is a kind of    ->    bird          to be edited into: fish

A fact has a subject, a relation, an object that is true and a new one. As pairs of prompts, the true object is the
answer and the new one the distractor; the corrupt prompt says the same of another subject. For editing,
`FactsDataModule.facts` gives the facts of a split themselves, and `to_edit` what `masked_finetune` takes of one.

Facts of one's own are JSON Lines, a fact a line:

    {"subject": "France", "relation": "capital", "prompt": "The capital of {subject} is",
     "true": " Paris", "new": " Rome", "paraphrases": ["The seat of the government of {subject} is in"],
     "neighbours": [["The capital of Italy is", " Rome"]]}

The facts that are listed, which SmolLM2-135M-Instruct knows, stand in `datamodules.known_facts`.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any, Literal, NamedTuple

from lightning_circuits.arguments import require_choice, shortened
from lightning_circuits.batch import NO_TOKEN, Batch
from lightning_circuits.datamodules.encoding import encode, unknown_words
from lightning_circuits.datamodules.faults import made_of_each
from lightning_circuits.datamodules.known_facts import RELATIONS
from lightning_circuits.datamodules.loader import PaddingSide, PairLoader
from lightning_circuits.datamodules.misfits import Misfits
from lightning_circuits.datamodules.records import json_lines
from lightning_circuits.datamodules.shuffling import shuffled
from lightning_circuits.datamodules.spans import By, Places
from lightning_circuits.datamodules.tasks import TaskDataModule
from lightning_circuits.datamodules.tokenising import AnswerTokens, PromptPair, TokenPair
from lightning_circuits.models.loading import PreTrainedTokenizerBase

__all__ = ["Fact", "FactToEdit", "FactsDataModule", "read_facts"]

Split = Literal["train", "val", "test"]

FIELDS = ("subject", "relation", "prompt", "true", "new")
"""What a line of a file has to have; beside them `paraphrases` and `neighbours`."""

SUBJECT = "{subject}"
"""What stands for the subject in a wording."""

NEIGHBOURS = 4
"""How many neighbours a listed fact has, at most."""


@dataclass(frozen=True)
class Fact:
    """A fact, and what it is to be edited into.

    Args:
        subject: what it is about.
        relation: its name; facts of one relation have their wordings in common.
        prompt: a text that ends where the object follows, without a space behind it.
        true: the object, with the space before it.
        new: another object, with the space before it.
        paraphrases: the same said otherwise, to be continued by the object, too.
        neighbours: prompts about other subjects, each with its true object: what must not move.
    """

    subject: str
    relation: str
    prompt: str
    true: str
    new: str
    paraphrases: tuple[str, ...] = ()
    neighbours: tuple[tuple[str, str], ...] = ()


class FactToEdit(NamedTuple):
    """A fact as batches, for `weights.editing`.

    Of its ``prompt`` and ``paraphrases``, ``answers`` are the new object and ``distractors`` the true one; of its
    ``neighbours``, ``answers`` are their own objects. Nothing is corrupt: corrupt prompts are the clean ones. Of
    paraphrases, or neighbours, that it does not have, there is no batch.
    """

    prompt: Batch
    paraphrases: list[Batch]
    neighbours: list[Batch]


@dataclass(frozen=True)
class Entry:
    """A fact where it is listed: its wording, with `{subject}`, and the place for errors."""

    fact: Fact
    wording: str
    where: str


def read_facts(file: str | Path) -> list[Entry]:
    """Read a file of facts (the format is in the module's docstring); other fields are ignored.

    Raises:
        FileNotFoundError: the file is not there.
        ValueError: the file holds no facts; with the line's number: what `records.json_lines` raises, a field of
            another type, a prompt without `{subject}` or with a space behind it, an object without the space before
            it, a new object that is the true one; a prompt that an earlier line has.
    """
    path = Path(file).expanduser()
    entries = made_of_each(json_lines(path, "fact", FIELDS), _entry, "facts")
    if not entries:
        raise ValueError(f"{path} holds no facts: it has a line per fact, with the fields {', '.join(FIELDS)}")
    first: dict[str, str] = {}
    for entry in entries:
        if (before := first.setdefault(entry.fact.prompt, entry.where)) != entry.where:
            raise ValueError(f"{entry.where}: the prompt {entry.fact.prompt!r} stands in {before}, too")
    return entries


def _entry(record: dict[str, Any], where: str) -> Entry:
    for field in FIELDS:
        if not isinstance(record[field], str) or not record[field].strip():
            raise ValueError(f"{where}: {field} has to be a text, not {shortened(record[field])}")
    paraphrases, neighbours = (record.get(field) or [] for field in ("paraphrases", "neighbours"))
    if not isinstance(paraphrases, list) or not all(isinstance(text, str) and text.strip() for text in paraphrases):
        raise ValueError(f"{where}: paraphrases has to be a list of texts, not {shortened(paraphrases)}")
    if not isinstance(neighbours, list) or not all(map(_is_neighbour, neighbours)):
        raise ValueError(
            f"{where}: neighbours has to be a list of prompts, each with its object, as "
            f'[["The capital of Italy is", " Rome"]], not {shortened(neighbours)}'
        )
    subject, wording, true, new = (record[field] for field in ("subject", "prompt", "true", "new"))
    if wording.count(SUBJECT) != 1:
        raise ValueError(
            f"{where}: prompt has to hold {SUBJECT} once, in the place of {subject!r}: the corrupt prompt has another "
            f"there. It is {wording!r}"
        )
    for text in (wording, *paraphrases, *(prompt for prompt, _ in neighbours)):
        if text != text.rstrip():
            raise ValueError(f"{where}: {text!r} ends with a space, which belongs to the object behind it")
    for word in (true, new, *(word for _, word in neighbours)):
        if not word.startswith(" "):
            raise ValueError(f"{where}: an object begins with the space before it, as {f' {word}'!r}, not {word!r}")
    if true == new:
        raise ValueError(f"{where}: new is {new!r}, the true object: an edit is to another one")
    fact = Fact(
        subject,
        record["relation"],
        wording.replace(SUBJECT, subject),
        true,
        new,
        tuple(text.replace(SUBJECT, subject) for text in paraphrases),
        tuple((prompt, word) for prompt, word in neighbours),
    )
    return Entry(fact, wording, where)


def _is_neighbour(given: object) -> bool:
    return isinstance(given, list) and len(given) == 2 and all(isinstance(text, str) and text.strip() for text in given)


def listed(seed: int) -> list[Entry]:
    """The facts of `RELATIONS`, without neighbours; the new object of each is drawn by `seed` from those of the same
    relation, all as likely."""
    entries = []
    for name, relation in RELATIONS.items():
        for true, subjects in relation.subjects.items():
            others = [other for other in relation.subjects if other != true]
            for subject in subjects:
                prompt, *paraphrases = (
                    wording.replace(SUBJECT, subject) for wording in (relation.prompt, *relation.paraphrases)
                )
                new = shuffled(others, "new object", seed, name, subject)[0]
                fact = Fact(subject, name, prompt, f" {true}", f" {new}", tuple(paraphrases))
                entries.append(Entry(fact, relation.prompt, f"the {name} of {subject}"))
    return entries


class FactsDataModule(TaskDataModule):
    """Facts: the true object is the answer, the new one the distractor.

    The corrupt prompt has another subject of the same relation and split, of as many tokens if there is one, of which
    another object is true: the new one, if there is such a subject. No subject stands in prompts of two splits,
    whatever the relations that it is in. The neighbours of a listed fact are other subjects of its relation and split
    of which the new object is not true, those with the same true object first. The places of a prompt are SUBJECT and
    END; its group is its relation.

    Args:
        tokenizer: a tokenizer, or the name of one for `load_tokenizer`.
        facts: a file of facts of one's own (the format is in the module's docstring). Default: the listed ones.
        n_train: facts to train on.
        n_val: facts for validation.
        n_test: facts for the test.
        batch_size: pairs per step and process.
        padding_side: `right` or `left`. Results do not depend on it.
        seed: decides the splits, the new objects and the order of training.
        spans: see `PairDataModule`.
        misfits: see `PairDataModule`.
        answer_tokens: see `PairDataModule`.

    Raises (when set up, so before any training):
        FileNotFoundError: the file is not there.
        ValueError: with file and line, what `read_facts` raises; a split in which no other subject could stand in the
            corrupt prompt; fewer facts fit the tokenizer than are asked for.
    """

    def __init__(
        self,
        tokenizer: str | Path | PreTrainedTokenizerBase,
        facts: str | Path | None = None,
        n_train: int = 100,
        n_val: int = 40,
        n_test: int = 40,
        batch_size: int = 8,
        padding_side: PaddingSide = "right",
        seed: int = 0,
        spans: By | None = None,
        misfits: Misfits = "drop",
        answer_tokens: AnswerTokens = "one",
    ) -> None:
        super().__init__(
            tokenizer, n_train, n_val, n_test, batch_size, padding_side, seed, spans, misfits, answer_tokens
        )
        if facts is not None and not isinstance(facts, (str, Path)):
            raise TypeError(f"facts takes the path of a file, got {shortened(facts)}")
        self.file = facts
        self._facts: dict[str, Fact] = {}
        self._tokens: dict[str, int] = {}

    def facts(self, split: Split) -> list[Fact]:
        """The facts of a split, in the order of its prompts: those that fit the tokenizer, as many as are asked for."""
        require_choice("split", split, Split)
        self.setup()
        return [self._facts[pair.where] for pair in self._splits[split]]

    def to_edit(self, fact: Fact) -> FactToEdit:
        """A fact as an edit takes it.

        Args:
            fact: one of `facts`, or any other.

        Raises:
            ValueError: an object that is not one token behind a prompt; a word that the tokenizer does not know.
            TypeError: no fact.
        """
        if not isinstance(fact, Fact):
            raise TypeError(f"to_edit takes a Fact, such as facts('test')[0], got {shortened(fact)}")
        said = [self._continued(text, fact.new, fact.true) for text in (fact.prompt, *fact.paraphrases)]
        nearby = [self._continued(text, word) for text, word in fact.neighbours]

        def batches(pairs: list[TokenPair]) -> list[Batch]:
            return [PairLoader(pairs, len(pairs), padding_side=self.padding_side).collate(pairs)] if pairs else []

        return FactToEdit(batches(said[:1])[0], batches(said[1:]), batches(nearby))

    def _continued(self, text: str, *objects: str) -> TokenPair:
        """A prompt by itself: the first of some objects is its answer, the second, if there is one, its distractor."""
        prompt, *continued = encode([text, *(text + word for word in objects)], self.tokenizer)
        if unknown := unknown_words(text, prompt, self.tokenizer):
            raise ValueError(f"{text!r}: {', '.join(map(repr, unknown))} is not in the tokenizer's vocabulary")
        for word, ids in zip(objects, continued, strict=True):
            if ids[:-1] != prompt or ids[-1] == self.tokenizer.unk_token_id:
                raise ValueError(
                    f"{text!r}: {word!r} is not one known token behind it, together they are "
                    f"{self.tokenizer.convert_ids_to_tokens(ids)}; an edit is of a fact whose objects, and those of "
                    "its neighbours, are single tokens: choose another"
                )
        answer, *distractor = (ids[-1] for ids in continued)
        return TokenPair(prompt, prompt, [answer], distractor or [NO_TOKEN], text)

    def candidates(self, split: str) -> Iterator[PromptPair]:
        mine = self._share(split)
        self._facts |= {entry.where: entry.fact for entry in mine}
        for number, entry in enumerate(mine):
            fact, corrupt = entry.fact, self._corrupt(entry, [*mine[number + 1 :], *mine[:number]], split)
            yield PromptPair(
                fact.prompt, corrupt, (fact.true,), (fact.new,), entry.where, _places(entry), fact.relation
            )

    @cached_property
    def _entries(self) -> list[Entry]:
        return listed(self.seed) if self.file is None else read_facts(self.file)

    def _share(self, split: str) -> list[Entry]:
        """The facts of a split. Subjects are dealt out, those of each relation and length of prompt by themselves."""
        lengths = self._lengths([entry.fact.prompt for entry in self._entries])
        about: dict[str, list[Entry]] = {}
        for entry in self._entries:
            about.setdefault(entry.fact.subject, []).append(entry)

        def kind(subject: str) -> tuple[tuple[str, int], ...]:
            return tuple((entry.fact.relation, lengths[entry.fact.prompt]) for entry in about[subject])

        mine = [entry for subject in self.share(split, list(about), "subjects", kind) for entry in about[subject]]
        if self.file is not None:
            return mine
        return [replace(entry, fact=replace(entry.fact, neighbours=_neighbours(entry, mine))) for entry in mine]

    def _corrupt(self, entry: Entry, others: list[Entry], split: str) -> str:
        """The prompt about another subject: of as many tokens, and with the new object, if there is such a one."""
        fact = entry.fact
        apart = [other for other in others if other.fact.subject != fact.subject and other.fact.true != fact.true]
        suited = [other for other in apart if other.fact.relation == fact.relation] or apart
        if not suited:
            raise ValueError(
                f"{entry.where}: in the {split} split there is no other subject, with another object, for the corrupt "
                "prompt: give more facts, or ask for more of them in this split"
            )
        prompts = [entry.wording.replace(SUBJECT, other.fact.subject) for other in suited]
        lengths = self._lengths([fact.prompt, *prompts])

        def unlike(number: int) -> tuple[bool, bool]:
            return lengths[prompts[number]] != lengths[fact.prompt], suited[number].fact.true != fact.new

        return prompts[min(range(len(suited)), key=unlike)]

    def _lengths(self, prompts: list[str]) -> dict[str, int]:
        """How many tokens prompts have; each is tokenised once."""
        new = [prompt for prompt in dict.fromkeys(prompts) if prompt not in self._tokens]
        self._tokens |= zip(new, map(len, encode(new, self.tokenizer)), strict=True)
        return self._tokens

    def describe_task(self) -> dict[str, Any]:
        return {"facts": list(RELATIONS) if self.file is None else str(self.file)}


def _neighbours(entry: Entry, others: list[Entry]) -> tuple[tuple[str, str], ...]:
    fact = entry.fact
    suited = [
        other.fact
        for other in others
        if other.fact.relation == fact.relation and other is not entry and other.fact.true != fact.new
    ]
    nearest = sorted(suited, key=lambda other: other.true != fact.true)
    return tuple((other.prompt, other.true) for other in nearest[:NEIGHBOURS])


def _places(entry: Entry) -> Places:
    """Where the subject stands, and the last word, if it is none of the subject's."""
    begin, text = entry.wording.index(SUBJECT), entry.fact.prompt
    end, last = begin + len(entry.fact.subject), text.rfind(" ") + 1
    return {"SUBJECT": (begin, end), "END": (last, len(text)) if last >= end else None}
