"""A pair as tokens; what is refused, and how that is said, stands in `test_jsonl`."""

from __future__ import annotations

import re

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from lightning_circuits.datamodules import PromptPair
from lightning_circuits.datamodules.ioi import NAMES
from lightning_circuits.datamodules.misfits import fitting
from lightning_circuits.datamodules.tokenising import Answer, Misfit, attempts
from lightning_circuits.models.loading import load_tokenizer

TOKENIZER = load_tokenizer("tiny-ioi")


@settings(max_examples=30, deadline=None)
@given(st.lists(st.tuples(*[st.sampled_from(NAMES)] * 3).filter(lambda t: len(set(t)) == 3), min_size=1, max_size=8))
def test_tokens_are_those_of_each_text_alone(triples: list[tuple[str, str, str]]) -> None:
    """Tokenised all at once, a pair is what it is when its texts are tokenised one by one."""
    pairs = [
        PromptPair(f"{a} gave {b} to", f"{c} gave {b} to", (f" {a}", f" {b}"), (f" {c}",), "row") for a, b, c in triples
    ]
    for pair, tokens in zip(pairs, fitting(pairs, TOKENIZER, "refuse")[1], strict=True):
        assert TOKENIZER.decode(tokens.clean) == pair.clean
        assert TOKENIZER.decode(tokens.corrupt) == pair.corrupt
        assert [f" {TOKENIZER.decode([token])}" for token in tokens.answers] == list(pair.answers)
        assert [f" {TOKENIZER.decode([token])}" for token in tokens.distractors] == list(pair.distractors)


# ---- answers of several tokens -----------------------------------------------------------------------------------


def pair(answers: list[Answer], distractors: list[Answer]) -> PromptPair:
    return PromptPair("Mary gave John to", "Mary gave Paul to", tuple(answers), tuple(distractors), "row")


def test_a_pair_has_a_row_for_each_beginning_of_an_answer() -> None:
    (found,) = attempts([pair([" Mary", " Paul and the"], [" Paul at", " John"])], TOKENIZER, "any")
    assert not isinstance(found, Misfit)
    clean, corrupt = (TOKENIZER(f"Mary gave {name} to")["input_ids"] for name in ("John", "Paul"))
    mary, paul, john, and_, the, at = TOKENIZER.convert_tokens_to_ids(["Mary", "Paul", "John", "and", "the", "at"])
    expected = [
        ([], [mary, paul], [paul, john], 0),
        ([paul], [-100, and_], [at, -100], 1),
        ([paul, and_], [-100, the], [-100, -100], 1),
    ]
    rows = [(row.clean, row.corrupt, row.answers, row.distractors, row.back) for row in found.rows]
    assert rows == [([*clean, *said], [*corrupt, *said], *rest) for said, *rest in expected]


def test_an_answer_that_another_begins_with_does_not_fit() -> None:
    (found,) = attempts([pair([" Mary"], [" Mary and"])], TOKENIZER, "any")
    assert isinstance(found, Misfit) and found.kind == "several-token"
    assert "['Mary', 'and'] begins with ['Mary']" in str(found)
    some = [pair([" Mary"], [" Mary and"]), pair([" Mary"], [" John and"])]
    _, kept, number = fitting(some, TOKENIZER, "drop", answer_tokens="any")
    assert len(kept) == 1 and number.several_token == 1


@pytest.mark.parametrize(
    ("answers", "distractors", "message"),
    [
        ([" Mary and"], [" Mary and"], r"\['Mary', 'and'\] is given as an answer and as a distractor"),
        ([" Mary and", " Mary and"], [], r"\['Mary', 'and'\] is given twice in answers"),
    ],
)
def test_an_answer_is_given_once(answers: list[Answer], distractors: list[Answer], message: str) -> None:
    (fault,) = attempts([pair(answers, distractors)], TOKENIZER, "any")
    assert isinstance(fault, ValueError) and not isinstance(fault, Misfit) and re.search(message, str(fault))


def test_ids_are_taken_as_texts_are() -> None:
    ids = TOKENIZER.convert_tokens_to_ids(["Mary", "and"])
    by_text, by_ids = attempts([pair([" Mary and"], [" John"]), pair([ids], [" John"])], TOKENIZER, "any")
    assert by_text == by_ids
