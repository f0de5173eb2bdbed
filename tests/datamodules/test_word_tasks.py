"""Capitals, kinds of things, stereotypes, agreement: read back from the texts and tokens, without what made them."""

from __future__ import annotations

import re
from collections import Counter
from functools import cache
from typing import Any

import pytest

from lightning_circuits.datamodules import (
    CountryCapitalDataModule,
    GenderBiasDataModule,
    HypernymyDataModule,
    PromptPair,
    SubjectVerbAgreementDataModule,
    TaskDataModule,
)
from lightning_circuits.datamodules.country_capital import CAPITALS
from lightning_circuits.datamodules.gender_bias import HERS, HIS
from lightning_circuits.datamodules.hypernymy import KINDS
from lightning_circuits.datamodules.subject_verb_agreement import SUBJECTS, VERBS
from tests.support.task_tokenizers import tokenizer_of

ROLE = {
    CountryCapitalDataModule: "CAPITAL",
    GenderBiasDataModule: "PERSON",
    HypernymyDataModule: "HYPONYM",
    SubjectVerbAgreementDataModule: "SUBJECT",
}
CUTS = {
    "words": ("words, digits one by one", None),
    "words after <s>": ("words, digits one by one", "<s>"),
    "pieces": ("pieces of seven letters", None),
}
TASKS = [pytest.param(task, id=task.__name__) for task in ROLE]
SIZES = {"n_train": 96, "n_val": 32, "n_test": 32}


@cache
def tokenizer(name: str) -> Any:
    return tokenizer_of(*CUTS[name])


def made(task: type[TaskDataModule], cut: str = "words", **options: Any) -> TaskDataModule:
    return task(tokenizer(cut), **{"spans": "roles", **SIZES, **options})


def all_pairs(data: TaskDataModule) -> dict[str, list[PromptPair]]:
    return {split: list(pairs) for split, pairs in data.make_splits().items()}


def differing(pair: PromptPair) -> tuple[str, str]:
    """The words that clean and corrupt do not have in common, found from both ends."""
    a, b = pair.clean.split(" "), pair.corrupt.split(" ")
    while a and b and a[0] == b[0]:
        a, b = a[1:], b[1:]
    while a and b and a[-1] == b[-1]:
        a, b = a[:-1], b[:-1]
    return " ".join(a).rstrip(","), " ".join(b).rstrip(",")


@pytest.mark.parametrize("task", TASKS)
def test_nothing_but_a_word_differs_and_no_prompt_comes_twice(task: type[TaskDataModule]) -> None:
    cleans: list[str] = []
    for pairs in all_pairs(made(task)).values():
        for pair in pairs:
            cleans.append(pair.clean)
            begin, end = pair.spans[ROLE[task]]  # type: ignore[misc]
            clean, corrupt = differing(pair)
            assert clean in pair.clean[begin:end] and clean and corrupt
            assert pair.clean[:begin] == pair.corrupt[:begin] and pair.corrupt.endswith(pair.clean[end:])
            assert pair.clean.startswith(pair.group.split("{")[0]) and "{" in pair.group
            assert re.match(r"[A-Z][a-z]* ", pair.clean) and begin > 0
    assert len(cleans) == len(set(cleans))


@pytest.mark.parametrize("task", TASKS)
@pytest.mark.parametrize("seed", [0, 1])
def test_no_two_splits_share_a_word(task: type[TaskDataModule], seed: int) -> None:
    pairs = all_pairs(made(task, seed=seed))
    common = set.intersection(*(set(re.findall(r"\w+", p.clean + " " + p.corrupt)) for p in pairs["train"][:200]))
    of_templates = {word for some in pairs.values() for p in some for word in re.findall(r"\w+", p.group)}
    kinds = {name: set() for name in pairs}  # type: dict[str, set[str]]
    for name, some in pairs.items():
        for pair in some:
            kinds[name] |= set(re.findall(r"\w+", f"{pair.clean} {pair.corrupt}")) - of_templates - common
    kinds = {name: words - {"man", "woman"} for name, words in kinds.items()}
    assert all(len(words) >= 4 for words in kinds.values())
    assert not kinds["train"] & kinds["val"] and not kinds["train"] & kinds["test"] and not kinds["val"] & kinds["test"]


@pytest.mark.parametrize("task", TASKS)
@pytest.mark.parametrize("cut", CUTS)
def test_places_are_where_the_tokens_differ_and_where_the_answer_is_read(task: type[TaskDataModule], cut: str) -> None:
    data = made(task, cut)
    read = tokenizer(cut)
    for batch in (*data.train_dataloader(), *data.val_dataloader(), *data.test_dataloader()):
        names = batch["span_names"]
        for row, real in enumerate(batch["attention_mask"].bool()):
            spans = [names[span] for span in batch["spans"][row][real].tolist()]
            clean, corrupt = (batch[key][row][real].tolist() for key in ("clean_ids", "corrupt_ids"))
            differ = {spans[token] for token in range(len(clean)) if clean[token] != corrupt[token]}
            assert differ == {ROLE[task]}
            assert spans[-1] == "END" and int(batch["positions"][row]) == len(clean) - 1
            last_word = "".join(
                read.convert_ids_to_tokens([t for t, s in zip(clean, spans, strict=True) if s == "END"])
            )
            assert f" {read.decode(clean).split(' ')[-1]}" == last_word or last_word.strip().isalpha()


@pytest.mark.parametrize("task", TASKS)
def test_what_does_not_line_up_is_counted(task: type[TaskDataModule]) -> None:
    whole_words, pieces = made(task), made(task, "pieces")
    for data in (whole_words, pieces):
        data.setup()
        for split, number in data.fitting.items():
            assert number.kept == data.sizes[split] == len(data._splits[split])
            assert number.drawn == number.kept + number.misaligned + number.several_token + number.unknown
    lost = [sum(number.drawn - number.kept for number in data.fitting.values()) / 160 for data in (whole_words, pieces)]
    assert lost[0] < 0.1 and lost[0] < lost[1]


@pytest.mark.parametrize("task", TASKS)
def test_a_tokenizer_that_spells_has_no_answers(task: type[TaskDataModule]) -> None:
    counted = r"train split .* are fewer: [1-9]\d* drawn, \d+ misaligned, .*, 0 kept"
    no_verb = "of no verb both forms are a single token for the tokenizer ''"
    with pytest.raises(ValueError, match=no_verb if task is SubjectVerbAgreementDataModule else counted):
        task(tokenizer_of("letters"), **SIZES).setup()


@pytest.mark.parametrize("task", TASKS)
def test_seeds_fix_everything(task: type[TaskDataModule]) -> None:
    first, again, other = (all_pairs(made(task, seed=seed)) for seed in (3, 3, 4))
    assert first == again
    assert [pair.clean for pair in first["train"][:40]] != [pair.clean for pair in other["train"][:40]]


@pytest.mark.parametrize("task", TASKS)
def test_bad_options_are_refused_and_all_is_described(task: type[TaskDataModule]) -> None:
    with pytest.raises(ValueError, match="n_val is 0, so the val split would be empty"):
        made(task, n_val=0)
    with pytest.raises(ValueError, match="misfits is one of 'refuse', 'drop', got 'mend'"):
        made(task, misfits="mend")
    said = made(task).describe()
    assert said["data"] == task.__name__ and said["pairs"] == {"train": 96, "val": 32, "test": 32}
    assert said["misfits"]["test"]["kept"] == 32


# ---- each by itself --------------------------------------------------------------------------------------------------

KNOWN = {
    "Paris": "France", "London": "England", "Berlin": "Germany", "Rome": "Italy", "Madrid": "Spain", "Tokyo": "Japan",
    "Cairo": "Egypt", "Ottawa": "Canada", "Canberra": "Australia", "Buenos Aires": "Argentina", "Nairobi": "Kenya",
    "Kuala Lumpur": "Malaysia", "Helsinki": "Finland", "Windhoek": "Namibia", "Astana": "Kazakhstan",
}  # fmt: skip


def test_a_capital_is_that_of_its_country() -> None:
    capitals = [capital for capital, _ in CAPITALS]
    assert len({*capitals}) == len({country for _, country in CAPITALS}) == len(CAPITALS)
    seen: Counter[str] = Counter()
    country_of: dict[str, set[str]] = {}
    for pairs in all_pairs(made(CountryCapitalDataModule)).values():
        for pair in pairs:
            for text, (country,) in ((pair.clean, pair.answers), (pair.corrupt, pair.distractors)):
                [capital] = [name for name in capitals if re.search(rf"\b{name}\b", text)]
                country_of.setdefault(capital, set()).add(country)  # type: ignore[arg-type]
                seen[capital] += KNOWN.get(capital, country[1:]) == country[1:]  # type: ignore[index]
                assert text.endswith(f"{capital}, the capital of")
    assert set(map(len, country_of.values())) == {1} and len(country_of) == len(CAPITALS)
    assert {capital: country_of[capital] for capital in KNOWN} == {a: {f" {b}"} for a, b in KNOWN.items()}


def test_countries_come_equally_often_on_either_side() -> None:
    data = made(CountryCapitalDataModule, n_train=300, n_val=100, n_test=100)
    data.setup()
    for split in data._splits.values():
        answers = Counter(pair.answers[0] for pair in split)
        distractors = Counter(pair.distractors[0] for pair in split)
        assert max(answers.values()) - min(answers.values()) <= 1
        assert max(distractors.values()) <= 3 * len(split) / len(distractors)


def test_a_pronoun_is_that_of_the_stereotype() -> None:
    assert not {*HERS} & {*HIS}
    data = made(GenderBiasDataModule, "pieces")
    for pairs in all_pairs(data).values():
        for pair in pairs:
            [person] = re.findall(rf"\b({'|'.join([*HERS, *HIS])})\b", pair.clean)
            hers = person in HERS
            assert (pair.answers, pair.distractors) == (((" she",), (" he",)) if hers else ((" he",), (" she",)))
            assert pair.corrupt == re.sub(rf"\b{person}\b", "man" if hers else "woman", pair.clean)
            assert pair.clean.endswith(" because")


@pytest.mark.parametrize("task", [GenderBiasDataModule, SubjectVerbAgreementDataModule])
@pytest.mark.parametrize("cut", CUTS)
def test_both_answers_come_equally_often(task: type[TaskDataModule], cut: str) -> None:
    data = made(task, cut)
    data.setup()
    for split, pairs in data._splits.items():
        [(_, once), (_, other)] = Counter(pair.answers[0] for pair in pairs).items()
        assert once == other == data.sizes[split] / 2


def test_a_thing_is_of_its_kind_and_not_of_the_other() -> None:
    everything = [thing for things in KINDS.values() for thing in things.split()]
    assert len(everything) == len({*everything})
    # Said another way: each thing once, by the word that one would use first.
    some = {"pears": "fruits", "swords": "weapons", "owls": "birds", "hammers": "tools", "uncles": "relatives"}
    seen = set()
    for pairs in all_pairs(made(HypernymyDataModule)).values():
        for pair in pairs:
            assert not {*pair.answers} & {*pair.distractors}
            thing, other = differing(pair)
            for name, words in ((thing, pair.answers), (other, pair.distractors)):
                if name in some:
                    seen.add(name)
                    assert words[0] == f" {some[name]}"
            assert pair.clean.endswith(f" {thing} and other")
            if thing in KINDS[("birds", "animals")].split():
                assert " animals" in pair.answers and " animals" not in pair.distractors
    assert seen == {*some}


def test_all_kinds_are_asked_for_in_all_splits() -> None:
    data = made(HypernymyDataModule, n_train=150, n_val=150, n_test=150)
    data.setup()
    for split in data._splits.values():
        kinds = Counter(pair.answers[0] for pair in split)
        assert len(kinds) == len(KINDS) and {*kinds.values()} == {10}


def test_of_the_words_for_a_kind_those_of_one_token_are_asked_for() -> None:
    data = made(HypernymyDataModule, "pieces")
    data.setup()
    words = {word for pair in all_pairs(data)["train"] for word in pair.answers}
    assert " bugs" in words and " gadgets" in words  # with the space before it, seven letters and no more
    assert " clothes" in words and " clothing" not in words and " electronics" not in words
    assert " instruments" in words  # the only one: such pairs do not fit, and are counted
    assert data.fitting["train"].several_token > 0


def test_verbs_agree_with_the_subject() -> None:
    singular, plural = ({f" {pair[number]}" for pair in VERBS} for number in (0, 1))
    assert not singular & plural and (" is" in singular) and (" are" in plural)
    subjects = {word: number for pair in SUBJECTS for number, word in enumerate(pair)}
    assert len(subjects) == 2 * len(SUBJECTS)
    for pairs in all_pairs(made(SubjectVerbAgreementDataModule)).values():
        for pair in pairs:
            subject, other = differing(pair)
            assert subjects[subject] != subjects[other]
            # An s at the end of the verb if and only if there is none at the end of the noun, irregular ones aside.
            regular = subject.endswith("s") != other.endswith("s")
            ending = {verb.endswith("s") for verb in pair.answers}  # type: ignore[union-attr]
            assert len(ending) == 1 and {verb.endswith("s") for verb in pair.distractors} == {not ending.pop()}  # type: ignore[union-attr]
            if regular and not subject.endswith("ess"):
                assert pair.answers[0].endswith("s") != subject.endswith("s")  # type: ignore[union-attr]
            assert {*pair.answers} <= (plural if subjects[subject] else singular)


def test_some_templates_put_a_phrase_between_and_some_do_not() -> None:
    gaps = Counter()
    for pair in all_pairs(made(SubjectVerbAgreementDataModule))["train"]:
        _, end = pair.spans["SUBJECT"]  # type: ignore[misc]
        gaps[len(pair.clean[end:].split()) > 1] += 1
    assert gaps[True] > 0.3 * gaps.total() < 3 * gaps[False]
    attractors = {"windows", "hats", "trees"}, {"door", "village", "picture", "hill"}
    groups = " ".join({pair.group for pair in all_pairs(made(SubjectVerbAgreementDataModule))["train"]})
    assert all(any(word in groups for word in words) for words in attractors)


def test_the_lexicon_is_of_verbs_whose_forms_are_both_one_token() -> None:
    data = made(SubjectVerbAgreementDataModule, "pieces")
    pair = all_pairs(data)["train"][0]
    assert len(pair.answers) == len(pair.distractors) < len(VERBS)
    assert all(len(word) <= 8 for word in (*pair.answers, *pair.distractors))  # type: ignore[arg-type]


@pytest.mark.parametrize("attractors", [1, 2])
def test_attractors_stand_between_and_are_in_the_other_number(attractors: int) -> None:
    number = {noun: i for pair in SUBJECTS for i, noun in enumerate(pair)}
    names = ("ATTRACTOR", "SECOND")[:attractors]
    nouns: dict[str, set[str]] = {}
    cleans = []
    for split, pairs in all_pairs(made(SubjectVerbAgreementDataModule, attractors=attractors)).items():
        for pair in pairs:
            cleans.append(pair.clean)
            assert list(pair.spans) == ["SUBJECT", *names, "END"]  # type: ignore[arg-type]
            subject, *others = (pair.clean[slice(*pair.spans[name])] for name in ("SUBJECT", *names))  # type: ignore[index]
            assert {number[other] for other in others} == {1 - number[subject]}
            assert len({SUBJECTS.index(pair) for pair in SUBJECTS for noun in (subject, *others) if noun in pair}) == (
                attractors + 1
            )
            clean, corrupt = differing(pair)
            assert (clean, number[clean]) == (subject, 1 - number[corrupt])
            nouns.setdefault(split, set()).update((subject, *others))
    assert len(cleans) == len(set(cleans)) >= 96
    assert not nouns["train"] & nouns["test"] and not nouns["train"] & nouns["val"]


def test_more_attractors_than_there_are_templates_for_are_refused() -> None:
    with pytest.raises(ValueError, match="0, 1 or 2 nouns between the subject and its verb, got 3"):
        made(SubjectVerbAgreementDataModule, attractors=3)
