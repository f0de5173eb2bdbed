"""Facts: read back from the texts and tokens, without what made them; files of one's own, and how they can be wrong."""

from __future__ import annotations

import json
from dataclasses import replace
from functools import cache
from itertools import combinations
from pathlib import Path
from typing import Any

import pytest
import torch

from lightning_circuits.batch import Batch, require_batch
from lightning_circuits.datamodules import Fact, FactsDataModule, PromptPair
from lightning_circuits.datamodules.known_facts import RELATIONS
from tests.support.task_tokenizers import tokenizer_of

SPLITS = ("train", "val", "test")
KNOWN = {
    "sparrow": "bird", "salmon": "fish", "tulip": "flower", "violin": "instrument", "oak": "tree", "cheddar": "cheese",
    "Oslo": "Norway", "Tokyo": "Japan", "Cairo": "Egypt", "Buenos Aires": "Argentina", "Lima": "Peru",
    "Brazil": "Portuguese", "Austria": "German", "Chile": "Spanish", "Iraq": "Arabic", "the Netherlands": "Dutch",
    "Milan": "Italy", "Munich": "Germany", "Osaka": "Japan", "Calgary": "Canada", "Rio de Janeiro": "Brazil",
}  # fmt: skip


@cache
def made(cut: str = "words, digits one by one", seed: int = 0) -> FactsDataModule:
    data = FactsDataModule(tokenizer_of(cut), seed=seed, spans="roles")
    data.setup()
    return data


def kept(data: FactsDataModule, split: str) -> list[PromptPair]:
    """The pairs of a split that fit, found by their prompts."""
    texts = {fact.prompt for fact in data.facts(split)}  # type: ignore[arg-type]
    return [pair for pair in data.make_splits()[split] if pair.clean in texts]


def test_the_lists_are_long_enough_and_true() -> None:
    listed = [
        (name, subject, true)
        for name, relation in RELATIONS.items()
        for true, subjects in relation.subjects.items()
        for subject in subjects
    ]
    assert len(listed) >= 150 and len(RELATIONS) >= 3
    assert len({subject for _, subject, _ in listed}) == len(listed)
    true_of = {subject: true for _, subject, true in listed}
    assert {subject: true_of[subject] for subject in KNOWN} == KNOWN
    for relation in RELATIONS.values():
        assert len(relation.paraphrases) >= 2 and len(relation.subjects) > 10
        assert all(text.count("{subject}") == 1 for text in (relation.prompt, *relation.paraphrases))
        assert all(true.isalpha() for true in relation.subjects)


@pytest.mark.parametrize("cut", ["words, digits one by one", "pieces of seven letters"])
def test_the_corrupt_prompt_says_the_same_of_another_subject(cut: str) -> None:
    data = made(cut)
    true_of = {
        (name, subject): f" {true}"
        for name, relation in RELATIONS.items()
        for true, subjects in relation.subjects.items()
        for subject in subjects
    }
    with_the_new_object = 0
    for split in SPLITS:
        for fact, pair in zip(data.facts(split), kept(data, split), strict=True):  # type: ignore[arg-type]
            relation = RELATIONS[fact.relation]
            before, behind = relation.prompt.split("{subject}")
            assert pair.clean == fact.prompt == before + fact.subject + behind
            other = pair.corrupt.removeprefix(before).removesuffix(behind)
            assert fact.true == true_of[fact.relation, fact.subject] != true_of[fact.relation, other]
            assert (pair.answers, pair.distractors, pair.group) == ((fact.true,), (fact.new,), fact.relation)
            assert fact.new != fact.true and fact.new.strip() in relation.subjects
            begin, end = pair.spans["SUBJECT"]  # type: ignore[misc]
            assert pair.clean[begin:end] == fact.subject
            with_the_new_object += true_of[fact.relation, other] == fact.new
    assert with_the_new_object > 10


def test_places_are_where_the_tokens_differ_and_where_the_answer_is_read() -> None:
    for batch in made().val_dataloader():
        names = batch["span_names"]
        for row, real in enumerate(batch["attention_mask"].bool()):
            spans = [names[span] for span in batch["spans"][row][real].tolist()]
            differ = (batch["clean_ids"][row] != batch["corrupt_ids"][row])[real]
            assert {span for span, other in zip(spans, differ, strict=True) if other} == {"SUBJECT"}
            assert spans[-1] == "END"


@pytest.mark.parametrize("seed", [0, 1])
def test_no_subject_is_in_prompts_of_two_splits(seed: int) -> None:
    data = made(seed=seed)
    prompts = {
        split: {
            text
            for fact, pair in zip(data.facts(split), kept(data, split), strict=True)  # type: ignore[arg-type]
            for text in (pair.clean, pair.corrupt, *(prompt for prompt, _ in fact.neighbours))
        }
        for split in SPLITS
    }
    # One wording a relation, so that prompts are the same where subjects are.
    assert all(prompts[a].isdisjoint(prompts[b]) for a, b in combinations(SPLITS, 2))
    assert [len(data.facts(split)) for split in SPLITS] == [100, 40, 40]  # type: ignore[arg-type]
    assert all({fact.relation for fact in data.facts(split)} == {*RELATIONS} for split in SPLITS)  # type: ignore[arg-type]


def test_a_fact_has_what_an_edit_needs() -> None:
    data = made()
    for split in SPLITS:
        for fact in data.facts(split):  # type: ignore[arg-type]
            texts = (fact.prompt, *fact.paraphrases)
            assert len({*texts}) == len(texts) >= 3
            assert all(fact.subject in text and text == text.strip() for text in texts)
            assert 1 <= len(fact.neighbours) <= 4
            relation, wording = RELATIONS[fact.relation], RELATIONS[fact.relation].prompt
            for prompt, word in fact.neighbours:
                of_word = relation.subjects[word.removeprefix(" ")]
                assert prompt in [wording.replace("{subject}", subject) for subject in of_word]
                assert prompt != fact.prompt and word != fact.new
            alike = [word == fact.true for _, word in fact.neighbours]
            assert alike == sorted(alike, reverse=True)


def test_the_seed_fixes_everything_and_new_objects_are_those_of_every_tokenizer() -> None:
    again = FactsDataModule(tokenizer_of("words, digits one by one"), spans="roles")
    assert [again.facts(split) for split in SPLITS] == [made().facts(split) for split in SPLITS]  # type: ignore[arg-type]
    assert made().facts("train") != made(seed=1).facts("train")

    def new_of(data: FactsDataModule) -> dict[str, str]:
        return {fact.prompt: fact.new for split in SPLITS for fact in data.facts(split)}  # type: ignore[arg-type]

    words, pieces = new_of(made()), new_of(made("pieces of seven letters"))
    both = {*words} & {*pieces}
    assert len(both) > 50 and all(words[prompt] == pieces[prompt] for prompt in both)


def test_all_is_described() -> None:
    said = made().describe()
    assert said["facts"] == list(RELATIONS) and said["pairs"] == {"train": 100, "val": 40, "test": 40}
    json.dumps(said)


# ---- as an edit takes them -------------------------------------------------------------------------------------------


def ids_of(text: str) -> list[int]:
    return list(made().tokenizer(text)["input_ids"])


def rows(batch: Batch) -> list[list[int]]:
    """The tokens of each prompt, with its answer behind."""
    return [
        [*(int(token) for token in ids[mask.bool()]), int(answer)]
        for ids, mask, answer in zip(batch["clean_ids"], batch["attention_mask"], batch["answers"][:, 0], strict=True)
    ]


@pytest.mark.parametrize("side", ["right", "left"])
def test_an_edit_says_the_new_object_in_all_wordings(side: Any) -> None:
    data = FactsDataModule(tokenizer_of("words, digits one by one"), padding_side=side)
    for fact in data.facts("test"):
        edit = data.to_edit(fact)
        batches = [edit.prompt, *edit.paraphrases, *edit.neighbours]
        for batch in batches:
            require_batch(batch, len(data.tokenizer))
            assert torch.equal(batch["clean_ids"], batch["corrupt_ids"])
            ends = batch["attention_mask"].cumsum(1).argmax(1)  # the last token of each prompt
            assert torch.equal(batch["positions"], ends)
        assert rows(edit.prompt) == [ids_of(fact.prompt + fact.new)]
        assert [row for batch in edit.paraphrases for row in rows(batch)] == [
            ids_of(text + fact.new) for text in fact.paraphrases
        ]
        assert [row for batch in edit.neighbours for row in rows(batch)] == [
            ids_of(text + word) for text, word in fact.neighbours
        ]
        for batch in (edit.prompt, *edit.paraphrases):
            assert {ids_of(fact.prompt + fact.true)[-1]} == {*batch["distractors"].flatten().tolist()}


def test_a_fact_by_hand_needs_neither_paraphrases_nor_neighbours() -> None:
    edit = made().to_edit(Fact("crow", "kind", "The crow is a kind of", " bird", " fish"))
    assert rows(edit.prompt) == [ids_of("The crow is a kind of fish")] and not edit.paraphrases and not edit.neighbours


BIRD = Fact("crow", "kind", "The crow is a kind of", " bird", " fish")


@pytest.mark.parametrize(
    ("fact", "message"),
    [
        (replace(BIRD, new=" fish bird"), "' fish bird' is not one known token behind it, together .*single tokens"),
        (replace(BIRD, true=" Brrd"), "The crow is a kind of': ' Brrd' is not one known token behind it"),
        (
            replace(BIRD, paraphrases=("A crow is Brrd of",)),
            "'A crow is Brrd of': .*'Brrd'.* is not in the",
        ),
        (
            replace(BIRD, neighbours=(("The tuna is a kind of", " fi"),)),
            "'The tuna is a kind of': ' fi' is not one kno",
        ),
    ],
)
def test_what_cannot_be_edited_is_named(fact: Fact, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        made().to_edit(fact)


@pytest.mark.parametrize("given", ["crow", 3, None])
def test_what_is_no_fact_cannot_be_edited(given: Any) -> None:
    with pytest.raises(TypeError, match=r"to_edit takes a Fact, such as facts\('test'\)\[0\], got "):
        made().to_edit(given)


# ---- files -----------------------------------------------------------------------------------------------------------

COUNTRIES = {
    "France": "Paris", "Italy": "Rome", "Egypt": "Cairo", "Norway": "Oslo", "Japan": "Tokyo", "Peru": "Lima",
    "Iraq": "Baghdad", "Cuba": "Havana", "Austria": "Vienna", "Ghana": "Accra", "Spain": "Madrid", "Qatar": "Doha",
}  # fmt: skip
SIZES: dict[str, Any] = {"n_train": 4, "n_val": 2, "n_test": 2}


def record(country: str = "France", **changes: object) -> dict[str, object]:
    fact: dict[str, object] = {
        "subject": country,
        "relation": "seat",
        "prompt": "In {subject}, the capital is",
        "true": f" {COUNTRIES[country]}",
        "new": " London",
        "paraphrases": ["The official language of {subject} is that of", f"On the map of {country}, we found"],
        "neighbours": [["The city of Rome is in", " Italy"]],
    }
    return fact | changes


def written(path: Path, records: list[dict[str, object]]) -> FactsDataModule:
    path.write_text("\n\n".join(map(json.dumps, records)), encoding="utf-8")
    return FactsDataModule(tokenizer_of("words, digits one by one"), path, spans="roles", **SIZES)


def test_facts_of_ones_own(tmp_path: Path) -> None:
    data = written(tmp_path / "facts.jsonl", [record(country, note="ignored") for country in COUNTRIES])
    assert [len(data.facts(split)) for split in SPLITS] == [4, 2, 2]  # type: ignore[arg-type]
    fact = data.facts("val")[0]
    assert fact == Fact(
        subject=fact.subject,
        relation="seat",
        prompt=f"In {fact.subject}, the capital is",
        true=f" {COUNTRIES[fact.subject]}",
        new=" London",
        paraphrases=(f"The official language of {fact.subject} is that of", f"On the map of {fact.subject}, we found"),
        neighbours=(("The city of Rome is in", " Italy"),),
    )
    named = {
        split: {country for pair in kept(data, split) for country in COUNTRIES if country in pair.clean + pair.corrupt}
        for split in SPLITS
    }
    assert all(named[a].isdisjoint(named[b]) for a, b in combinations(SPLITS, 2))
    assert all(pair.clean != pair.corrupt for split in SPLITS for pair in kept(data, split))
    assert data.describe()["facts"] == str(tmp_path / "facts.jsonl")


def test_a_subject_of_two_relations_is_in_one_split(tmp_path: Path) -> None:
    other = {"relation": "place", "prompt": "On the map we found {subject}", "paraphrases": None, "neighbours": []}
    records = [record(country, **more) for country in COUNTRIES for more in ({}, other)]
    data = written(tmp_path / "facts.jsonl", records)
    subjects = {split: {fact.subject for fact in data.facts(split)} for split in SPLITS}  # type: ignore[arg-type]
    assert all(subjects[a].isdisjoint(subjects[b]) for a, b in combinations(SPLITS, 2))
    # The subject is the last word there, and no place is named twice.
    pairs = [pair for split in SPLITS for pair in kept(data, split)]
    assert {pair.spans["END"] is None for pair in pairs if pair.group == "place"} == {True}
    assert {pair.spans["END"] is None for pair in pairs if pair.group == "seat"} == {False}
    assert all(fact.paraphrases == fact.neighbours == () for fact in data.facts("train") if fact.relation == "place")


BAD = {
    '{"subject": "France"': "not JSON",
    "[1]": r"a fact is a JSON object with fields by name, not \[1\]",
    json.dumps({key: value for key, value in record().items() if key != "new"}): "new missing; a fact has the fields",
    json.dumps(record()).replace('"true"', '"True"'): "true missing; is 'True' meant for true",
    json.dumps(record())[:-1] + ', "new": " Rome"}': "no fact: 'new' stands in it twice",
    json.dumps(record(subject=3)): "subject has to be a text, not 3",
    json.dumps(record(relation=" ")): "relation has to be a text, not ' '",
    json.dumps(record(prompt="The capital of France is")): r"prompt has to hold \{subject\} once, in the place of 'Fr",
    json.dumps(record(prompt="The capital of {subject} is ")): "'The capital of {subject} is ' ends with a space",
    json.dumps(record(paraphrases=["It is "])): "'It is ' ends with a space, which belongs to the object",
    json.dumps(record(paraphrases="It is")): "paraphrases has to be a list of texts, not 'It is'",
    json.dumps(record(neighbours=["Rome is in"])): "neighbours has to be a list of prompts, each with its object",
    json.dumps(record(neighbours=[["Rome is in", "Italy"]])): "begins with the space before it, as ' Italy', not 'It",
    json.dumps(record(true="Paris")): "an object begins with the space before it, as ' Paris', not 'Paris'",
    json.dumps(record(new=" Paris")): "new is ' Paris', the true object: an edit is to another one",
    json.dumps(record("Italy")): "the prompt 'In Italy, the capital is' stands in .*, line 1, too",
}


@pytest.mark.parametrize("bad", BAD, ids=lambda line: BAD[line][:30])
def test_a_bad_line_is_named(bad: str, tmp_path: Path) -> None:
    file = tmp_path / "facts.jsonl"
    file.write_text(json.dumps(record("Italy")) + "\n" + bad + "\n", encoding="utf-8")
    with pytest.raises(ValueError, match=f"facts.jsonl, line 2: .*{BAD[bad]}"):
        FactsDataModule(tokenizer_of("words, digits one by one"), file).setup()


def test_files_that_are_none_are_one_error(tmp_path: Path) -> None:
    tokenizer = tokenizer_of("words, digits one by one")
    with pytest.raises(FileNotFoundError, match=r"no file .*none.jsonl \(JSON Lines, a line per fact with the fields"):
        FactsDataModule(tokenizer, tmp_path / "none.jsonl").setup()
    (tmp_path / "empty.jsonl").write_text("\n")
    with pytest.raises(ValueError, match=r"empty.jsonl holds no facts: it has a line per fact, with the fields subj"):
        FactsDataModule(tokenizer, tmp_path / "empty.jsonl").setup()
    with pytest.raises(TypeError, match="facts takes the path of a file, got 7"):
        FactsDataModule(tokenizer, facts=7)  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="split is one of 'train', 'val', 'test', got 'dev'"):
        made().facts("dev")  # type: ignore[arg-type]


def test_too_few_facts_for_three_splits_say_so(tmp_path: Path) -> None:
    few = written(tmp_path / "few.jsonl", [record(country) for country in ("France", "Italy", "Egypt")])
    with pytest.raises(ValueError, match=r"few.jsonl, line \d: in the \w+ split there is no other subject, with anoth"):
        few.setup()
