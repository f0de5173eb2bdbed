"""Greater-than: years read back from the texts and compared as numbers, under tokenizers that cut them otherwise."""

from __future__ import annotations

import re
from collections import Counter
from functools import cache
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from lightning_circuits.datamodules import GreaterThanDataModule, PromptPair
from lightning_circuits.datamodules.greater_than import NOUNS
from tests.support.task_tokenizers import tokenizer_of

READS = {"units": "words, digits one by one", "tens": "words, digits one by one", "two-digit": "words, two digits"}
"""A tokenizer for each, that has tokens for what is asked for."""


@cache
def tokenizer(cut: str) -> Any:
    return tokenizer_of(cut)


def made(digit: Any, **options: Any) -> GreaterThanDataModule:
    sizes = {"n_train": 96, "n_val": 32, "n_test": 32}
    return GreaterThanDataModule(tokenizer(READS[digit]), **{**sizes, "digit": digit, "spans": "roles", **options})


def some_pairs(data: GreaterThanDataModule, n: int = 300) -> dict[str, list[PromptPair]]:
    return {
        split: [pair for pair, _ in zip(pairs, range(n), strict=False)] for split, pairs in data.make_splits().items()
    }


def read(text: str) -> tuple[int, str]:
    """The year of the start, and what there is of the other."""
    start, end = re.findall(r"\d+", text)
    return int(start), end


def texts(words: Any, digit: str) -> list[str]:
    return [word if isinstance(word, str) else tokenizer(READS[digit]).convert_ids_to_tokens(word) for word in words]


@pytest.mark.parametrize("digit", READS)
@settings(max_examples=5, deadline=None)
@given(seed=st.integers(0, 10**6))
def test_answers_are_later_and_distractors_are_not(digit: str, seed: int) -> None:
    for pairs in some_pairs(made(digit, seed=seed)).values():
        for pair in pairs:
            start, stem = read(pair.clean)
            blank, stem_again = read(pair.corrupt)
            assert stem == stem_again and len(str(start)) == len(str(blank)) == 4 and str(start).startswith(stem)
            later, earlier = (texts(words, digit) for words in (pair.answers, pair.distractors))
            assert later and earlier and not {*later} & {*earlier}
            if digit == "tens":  # decades: every year of one is later, or none is
                assert all(int(f"{stem}{tens}0") > start for tens in later)
                assert all(int(f"{stem}{tens}9") < start for tens in earlier)
                assert {*later, *earlier} == {*"0123456789"} - {str(start)[2]}
                assert (start - blank) % 10 == 0 and str(blank)[2] == "0"
            else:
                assert all(int(stem + end) > start for end in later)
                assert all(int(stem + end) <= start for end in earlier)
                assert len(later) + len(earlier) == (10 if digit == "units" else 99)
                assert blank < start and all(int(stem + end) >= blank for end in (*later, *earlier))


@pytest.mark.parametrize("digit", READS)
def test_nothing_but_the_start_differs_and_no_prompt_comes_twice(digit: str) -> None:
    for pairs in some_pairs(made(digit), 3000).values():
        assert len({pair.clean for pair in pairs}) == len(pairs) > 100
        for pair in pairs:
            begin, end = pair.spans["YEAR"]  # type: ignore[misc]
            assert pair.clean[:begin] == pair.corrupt[:begin] and pair.clean[end:] == pair.corrupt[end:]
            assert pair.clean[begin:end] != pair.corrupt[begin:end]
            first = re.search(r"\d{4}", pair.clean)
            assert first is not None and first.start() < begin < end <= first.end()


@pytest.mark.parametrize("digit", READS)
def test_places_are_where_the_tokens_differ_and_where_the_answer_is_read(digit: str) -> None:
    data = made(digit)
    for batch in (*data.train_dataloader(), *data.val_dataloader(), *data.test_dataloader()):
        names = batch["span_names"]
        for row, real in enumerate(batch["attention_mask"].bool()):
            spans = [names[span] for span in batch["spans"][row][real].tolist()]
            clean, corrupt = (batch[key][row][real].tolist() for key in ("clean_ids", "corrupt_ids"))
            assert [name for name, a, b in zip(spans, clean, corrupt, strict=True) if a != b] == ["YEAR"]
            assert spans.count("YEAR") == 1 and spans[-1] == "END"
            tokens = tokenizer(READS[digit]).convert_ids_to_tokens(clean)
            end = "".join(token for token, span in zip(tokens, spans, strict=True) if span == "END")
            assert end.strip() == "".join(tokens).split(" ")[-1]


@pytest.mark.parametrize("digit", READS)
def test_starts_come_equally_often(digit: str) -> None:
    data = made(digit, n_train=194, n_val=97, n_test=97)
    data.setup()
    assert data.fitting["train"].to_dict() == {
        "drawn": 194, "misaligned": 0, "several_token": 0, "unknown": 0, "kept": 194
    }  # fmt: skip
    for split in data._splits.values():
        starts = Counter(len(pair.answers) for pair in split)
        assert max(starts.values()) - min(starts.values()) <= 1
        assert len(starts) == (97 if digit == "two-digit" else 8)


@pytest.mark.parametrize("digit", READS)
def test_no_two_splits_share_a_noun(digit: str) -> None:
    nouns = {
        split: {word for pair in pairs for word in re.findall(r"\w+", pair.clean) if word in NOUNS}
        for split, pairs in some_pairs(made(digit)).items()
    }
    assert not nouns["train"] & nouns["val"] and not nouns["train"] & nouns["test"] and not nouns["val"] & nouns["test"]
    assert sum(map(len, nouns.values())) == len(NOUNS) == len({*NOUNS})


def test_years_that_are_one_token_are_left_out_and_counted() -> None:
    """As GPT-2's tokenizer has them: of the years from 1900 on each is a token, so that nothing comes behind "19"."""
    cut = r" 19\d\d| ?[A-Za-z]+| ?1[1-9]|\d\d|\d| |[^\w ]"
    mixed = tokenizer_of(cut)
    pieces = mixed.convert_ids_to_tokens(mixed(" year 1943 or 1843")["input_ids"])
    assert pieces == [" year", " 1943", "~", " 18", "43"]
    data = GreaterThanDataModule(mixed, n_train=90, n_val=30, n_test=30, digit="two-digit", spans="roles")
    data.setup()
    for split, number in data.fitting.items():
        drawn = [pair for pair, _ in zip(data.make_splits()[split], range(number.drawn), strict=False)]
        assert number.several_token == sum(read(pair.clean)[1] == "19" for pair in drawn) > 0
        assert number.misaligned == 0 and number.kept == data.sizes[split]


@pytest.mark.parametrize(
    ("digit", "cut"),
    [
        ("two-digit", "words, digits one by one"),
        ("tens", "words, two digits"),
        ("units", "words, two digits"),
        ("units", "words, years whole"),
    ],
)
def test_a_tokenizer_without_such_tokens_is_told_what_it_makes_of_a_year(digit: str, cut: str) -> None:
    with pytest.raises(ValueError, match=rf"digit is '{digit}', and '\d+' is no token .* of 'the year 1743' it makes"):
        GreaterThanDataModule(tokenizer(cut), digit=digit).setup()  # type: ignore[arg-type]


@pytest.mark.parametrize("digit", READS)
def test_seeds_fix_everything_and_all_is_described(digit: str) -> None:
    first, again, other = (some_pairs(made(digit, seed=seed), 60) for seed in (3, 3, 4))
    assert first == again and first != other
    assert made(digit).describe()["digit"] == digit
    assert made(digit, misfits="refuse").describe() == {
        "data": "GreaterThanDataModule",
        "tokenizer": "",
        "digit": digit,
        "pairs": {"train": 96, "val": 32, "test": 32},
        "seed": 0,
    }


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"digit": "hundreds"}, "digit is one of 'units', 'tens', 'two-digit', got 'hundreds'"),
        ({"n_test": 0}, "n_test is 0, so the test split would be empty"),
    ],
)
def test_bad_options_are_refused(options: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        GreaterThanDataModule(tokenizer("words, digits one by one"), **options)
