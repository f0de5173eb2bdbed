"""Tasks made of templates and words: what fits is taken and what does not is counted, and splits share no words."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from lightning_circuits.datamodules import PromptPair, PromptPairDataModule
from lightning_circuits.datamodules.ioi import NAMES
from lightning_circuits.datamodules.tasks import TaskDataModule, dealt, filled, in_turn, partner, sweep
from lightning_circuits.models.loading import load_tokenizer

TOKENIZER = load_tokenizer("tiny-ioi")
TEMPLATES = ("{} gave it to", "Then {} gave it to")


class Givers(TaskDataModule):
    """Somebody gives. Of every three pairs one misaligns, and of every five one has an answer of two tokens."""

    def candidates(self, split: str) -> Iterator[PromptPair]:
        for number, (template, name) in enumerate(sweep(TEMPLATES, self.share(split, NAMES))):
            other = next(each for each in NAMES if each != name)
            corrupt = template.format(f"{other} and" if number % 3 == 0 else other)
            answer = f" {other} and" if number % 5 == 0 else f" {other}"
            yield PromptPair(
                template.format(name), corrupt, (answer,), (f" {name}",), f"{split} prompt {number}", group=template
            )


def made(**options: Any) -> Givers:
    sizes = {f"n_{name}": n for name, n in zip(("train", "val", "test"), (30, 10, 10), strict=True)}
    return Givers(TOKENIZER, **(sizes | options))


def test_what_does_not_fit_is_left_out_and_counted_by_why() -> None:
    data = made()
    data.setup()
    assert {name: len(pairs) for name, pairs in data._splits.items()} == data.sizes
    for name, number in data.fitting.items():
        # What misaligns is not looked at any further.
        looked_at = range(number.drawn)
        misaligned = sum(row % 3 == 0 for row in looked_at)
        several = sum(row % 3 != 0 and row % 5 == 0 for row in looked_at)
        assert (number.misaligned, number.several_token, number.unknown) == (misaligned, several, 0)
        assert number.kept == number.drawn - misaligned - several == data.sizes[name]
    assert data.describe()["misfits"]["train"]["kept"] == 30


def test_the_first_that_does_not_fit_is_refused_where_that_is_asked_for() -> None:
    with pytest.raises(ValueError, match="train prompt 0: clean has 4 tokens and corrupt 5"):
        made(misfits="refuse").setup()


def test_too_few_pairs_that_fit_say_how_many_there_are() -> None:
    with pytest.raises(ValueError, match=r"train split .* to have 30 pairs.*are fewer: \d+ drawn, \d+ misaligned"):
        made(n_val=500).setup()


@settings(max_examples=30, deadline=None)
@given(words=st.integers(6, 60), sizes=st.tuples(*[st.integers(1, 300)] * 3), seed=st.integers(0, 2**31))
def test_a_list_is_dealt_out_to_the_splits_without_a_word_in_two(
    words: int, sizes: tuple[int, int, int], seed: int
) -> None:
    data = made(seed=seed, **dict(zip(("n_train", "n_val", "n_test"), sizes, strict=True)))
    shares = [data.share(split, range(words)) for split in ("train", "val", "test")]
    assert Counter(word for share in shares for word in share) == Counter(range(words))
    assert min(map(len, shares)) >= 2


def test_a_sweep_has_everything_once_and_evenly_at_any_point() -> None:
    pairs = list(sweep("abc", range(7)))
    assert sorted(pairs) == sorted((a, b) for a in "abc" for b in range(7))
    for n in range(1, len(pairs)):
        templates, items = (Counter(column) for column in zip(*pairs[:n], strict=True))
        assert max(items.values()) - min(items[item] for item in range(7)) <= 1
        assert max(templates.values()) - min(templates[template] for template in "abc") <= 2


@settings(max_examples=50, deadline=None)
@given(templates=st.integers(1, 12), items=st.integers(1, 12))
def test_a_sweep_leaves_nothing_out_whatever_the_lengths(templates: int, items: int) -> None:
    pairs = list(sweep(range(templates), range(items)))
    assert Counter(pairs) == Counter((a, b) for a in range(templates) for b in range(items))


@settings(max_examples=50, deadline=None)
@given(kinds=st.lists(st.integers(0, 2), min_size=2, max_size=9), rounds=st.integers(1, 6))
def test_a_partner_is_another_one_and_alike_if_there_is_any(kinds: list[int], rounds: int) -> None:
    items = list(enumerate(kinds))
    partners: dict[int, list[int]] = {}
    for number in range(rounds * len(items)):
        item, other = items[number % len(items)], partner(items, number, alike=lambda item: item[1])
        assert other != item
        assert other[1] == item[1] or kinds.count(item[1]) == 1
        partners.setdefault(item[0], []).append(other[0])
    for place, kind in items:  # all that there are, before one comes again
        others = kinds.count(kind) - 1 or len(kinds) - 1
        assert len(set(partners[place])) == min(rounds, others)


def test_kinds_take_turns_by_what_fits() -> None:
    def pairs(kind: str, fits: str) -> list[tuple[PromptPair, bool]]:
        return [(PromptPair(f"{kind}{n}", "-", ("x",), (), "row"), fit == "1") for n, fit in enumerate(fits)]

    drawn = [pair.clean for pair in in_turn(pairs("a", "01011"), pairs("b", "10010"))]
    assert drawn == ["a0", "a1", "b0", "a2", "a3", "b1", "b2", "b3", "a4", "b4"]


def test_a_template_is_filled_and_its_places_found() -> None:
    text, places = filled("Then {WHO} gave {what} to {WHOM}, because", WHO="Ann", what="Annas", WHOM="Anna")
    assert text == "Then Ann gave Annas to Anna, because"
    assert {name: text[begin:end] for name, (begin, end) in places.items()} == {
        "WHO": "Ann", "WHOM": "Anna", "END": "because"
    }  # fmt: skip
    assert places["WHOM"] == (23, 27)


def test_tokens_are_counted_where_words_stand() -> None:
    assert made().token_counts(["Mary", "Mary and", "Zanzibar"], "gave it to") == {
        "Mary": 1, "Mary and": 2, "Zanzibar": 0
    }  # fmt: skip


def test_each_kind_is_dealt_out_by_itself() -> None:
    shares = {split: made().share(split, range(60), kind=lambda n: n % 3) for split in ("train", "val", "test")}
    assert sorted(word for share in shares.values() for word in share) == list(range(60))
    for split, share in shares.items():
        assert {*Counter(n % 3 for n in share).values()} == {12 if split == "train" else 4}


def test_words_without_end_come_equally_often() -> None:
    words = dealt("abcd", "key", 0)
    decks = [[next(words) for _ in range(4)] for _ in range(20)]
    assert all(sorted(deck) == list("abcd") for deck in decks)
    assert len({tuple(deck) for deck in decks}) > 5


def test_a_file_with_misfits_keeps_the_rest_and_its_groups(tmp_path: Path) -> None:
    lines = [
        f'{{"clean": "{a} gave it to", "corrupt": "{b} gave it to", "answers": [" {b}"], "distractors": [" {a}"], '
        f'"group": "{"odd" if number % 2 else "even"}"}}'
        for number, (a, b) in enumerate(pairwise(NAMES[:21]))
    ]
    lines[3] = lines[3].replace(" gave it to", " and gave it to", 1)
    (tmp_path / "pairs.jsonl").write_text("\n".join(lines))
    options: Any = {"train": tmp_path / "pairs.jsonl", "val_fraction": 0.2, "test_fraction": 0.2}
    with pytest.raises(ValueError, match="line 4: clean has"):
        PromptPairDataModule(TOKENIZER, **options).setup()
    data = PromptPairDataModule(TOKENIZER, **options, misfits="drop")
    data.setup()
    kept = {pair.where: pair.group for split in data._splits.values() for pair in split}
    assert kept == {
        f"{tmp_path / 'pairs.jsonl'}, line {n + 1}": "odd" if n % 2 else "even" for n in range(20) if n != 3
    }
    assert sum(number["misaligned"] for number in data.describe()["misfits"].values()) == 1


def test_a_group_is_a_text() -> None:
    with pytest.raises(ValueError, match="row: group has to be a text, not 3"):
        PromptPair("a", "b", ("c",), (), "row", group=3)  # type: ignore[arg-type]
