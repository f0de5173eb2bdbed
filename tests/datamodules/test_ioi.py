"""Indirect object identification: what prompts are made of, that splits share nothing, that seeds fix everything."""

from __future__ import annotations

import re
from collections import Counter
from itertools import combinations
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tokenizers import Regex, Tokenizer, models, pre_tokenizers
from transformers import PreTrainedTokenizerBase, PreTrainedTokenizerFast

from lightning_circuits.datamodules import IOIDataModule, PromptPair
from lightning_circuits.datamodules.ioi import CLAUSES, NAMES, OBJECTS, PLACES, TEMPLATES
from lightning_circuits.models.loading import load_tokenizer

TOKENIZER = load_tokenizer("tiny-ioi")
NAME = re.compile(rf"\b({'|'.join(NAMES)})\b")
WORD = re.compile(rf"\b({'|'.join([*NAMES, *PLACES, *OBJECTS])})\b")
CORRUPTIONS = ["third-name", "s2-io-flip", "abc"]


def tokenizer_that_knows(names: list[str]) -> PreTrainedTokenizerBase:
    """One token for each of `names` after a space; everything else is spelled letter by letter."""
    words = [f" {name}" for name in names]
    vocabulary = {token: number for number, token in enumerate([*map(chr, range(32, 127)), *words])}
    tokenizer = Tokenizer(models.WordLevel(vocabulary, unk_token="~"))
    tokenizer.pre_tokenizer = pre_tokenizers.Split(Regex(f" ({'|'.join(names)})\\b|."), "isolated")
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer)


def names_in(text: str) -> list[str]:
    return NAME.findall(text)


def splits_of(data: IOIDataModule) -> dict[str, list[PromptPair]]:
    return {split: list(pairs) for split, pairs in data.make_splits().items()}


def pairs_of(data: IOIDataModule) -> list[PromptPair]:
    return [pair for pairs in splits_of(data).values() for pair in pairs]


@settings(max_examples=20, deadline=None)
@given(
    corruption=st.sampled_from(CORRUPTIONS),
    seed=st.integers(0, 10**9),
    sizes=st.tuples(*[st.integers(1, 40)] * 3),
    held_out=st.integers(0, len(TEMPLATES) - 1),
)
def test_every_prompt_is_what_it_should_be(
    corruption: str, seed: int, sizes: tuple[int, int, int], held_out: int
) -> None:
    data = IOIDataModule(TOKENIZER, *sizes, corruption=corruption, seed=seed, held_out_templates=held_out)
    splits = splits_of(data)
    assert tuple(map(len, splits.values())) == sizes
    for pair in pairs_of(data):
        first, second, subject = names_in(pair.clean)
        assert first != second and subject in (first, second)
        [io] = {first, second} - {subject}
        assert (pair.answers, pair.distractors) == ((f" {io}",), (f" {subject}",))
        a, b, c = names_in(pair.corrupt)
        if corruption == "abc":
            assert len({a, b, c, first, second}) == 5
        else:
            assert (a, b) == (first, second)
            assert c == io if corruption == "s2-io-flip" else c not in (io, subject)
        # Nothing but names differs, and the sentence stops right before the answer.
        assert NAME.sub("X", pair.clean) == NAME.sub("X", pair.corrupt)
        assert pair.clean.endswith(" to")
        assert len(TOKENIZER(pair.clean)["input_ids"]) == len(TOKENIZER(pair.corrupt)["input_ids"])


@pytest.mark.parametrize("corruption", CORRUPTIONS)
def test_no_two_prompts_share_a_triple(corruption: str) -> None:
    """Read from the texts, over all splits. Under s2-io-flip only two names are seen."""
    data = IOIDataModule(TOKENIZER, 400, 200, 200, corruption=corruption)
    seen: Counter[frozenset[str]] = Counter()
    for pair in pairs_of(data):
        if corruption == "abc":
            seen[frozenset(names_in(pair.corrupt))] += 1
        else:
            seen[frozenset(names_in(pair.clean) + names_in(pair.corrupt))] += 1
    if corruption == "s2-io-flip":
        reference = IOIDataModule(TOKENIZER, 400, 200, 200)
        assert [pair.clean for pair in pairs_of(data)] == [pair.clean for pair in pairs_of(reference)]
    else:
        assert set(seen.values()) == {1} and all(len(triple) == 3 for triple in seen)


def test_few_names_are_used_up_to_the_last_triple() -> None:
    names = ["Mary", "John", "Tom", "Ruth", "Sam"]
    data = IOIDataModule(tokenizer_that_knows(names), 5, 3, 2)
    used = [frozenset(names_in(pair.clean) + names_in(pair.corrupt)) for pair in pairs_of(data)]
    assert sorted(map(sorted, used)) == sorted(map(sorted, combinations(names, 3)))


def test_too_few_names_are_counted() -> None:
    tokenizer = tokenizer_that_knows(["Mary", "John", "Tom", "Ruth", "Sam"])
    with pytest.raises(ValueError, match=rf"5 of {len(NAMES)} names .* 11 prompts .* at least 6 names"):
        IOIDataModule(tokenizer, 6, 3, 2).setup()
    with pytest.raises(ValueError, match=r"5 of .* 3 prompts .*'abc' need 6 different triples .* at least 6 names"):
        IOIDataModule(tokenizer, 1, 1, 1, corruption="abc").setup()


def test_names_of_several_tokens_are_left_out() -> None:
    known = [name for name in NAMES if len(name) == 4]
    data = IOIDataModule(tokenizer_that_knows(known), 20, 5, 5)
    data.setup()
    assert {name for pair in pairs_of(data) for name in names_in(pair.clean + pair.corrupt)} <= set(known)


def test_templates_orders_and_words_are_used_equally() -> None:
    data = IOIDataModule(TOKENIZER, 30 * len(TEMPLATES), 2 * len(TEMPLATES), 1)
    splits = splits_of(data)
    for split in ("train", "val"):
        pairs = splits[split]
        shapes = Counter()
        for pair in pairs:
            first, _, subject = names_in(pair.clean)
            shape = WORD.sub("_", pair.clean)
            shapes[shape, "BABA" if first == subject else "ABBA"] += 1
        assert len(shapes) == 2 * len(TEMPLATES)
        assert set(shapes.values()) == {len(pairs) // len(shapes)}
    for words in (PLACES, OBJECTS):
        counts = Counter(word for pair in splits["train"] for word in re.findall(r"\w+", pair.clean) if word in words)
        assert set(counts) == set(words) and max(counts.values()) - min(counts.values()) <= 1
    roles = [
        Counter(pair.answers[0] for pair in splits["train"]),
        Counter(pair.distractors[0] for pair in splits["train"]),
    ]
    assert all(len(role) > 0.9 * len(NAMES) and max(role.values()) < 20 for role in roles)


def test_held_out_templates_are_never_trained_on() -> None:
    splits = splits_of(IOIDataModule(TOKENIZER, 60, 60, 60, held_out_templates=4))
    shapes = {split: {WORD.sub("_", pair.clean) for pair in pairs} for split, pairs in splits.items()}
    assert len(shapes["train"]) == len(TEMPLATES) - 4
    assert shapes["val"] == shapes["test"] and len(shapes["val"]) == 4
    assert not shapes["train"] & shapes["val"]


def test_seeds_fix_everything() -> None:
    def texts(**options: object) -> list[str]:
        return [pair.clean for pair in pairs_of(IOIDataModule(TOKENIZER, **options))]

    assert texts(seed=3) == texts(seed=3) != texts(seed=4)
    assert texts(seed=3) == texts(seed=3, corruption="abc") == texts(seed=3, corruption="s2-io-flip")
    # Written down once: the same on every machine and Python.
    assert texts(seed=0)[:2] == [
        "Yesterday Michael and Carol met near the hotel, and Carol sold a book to",
        "At the garden, Karen and Matthew sat down together. Then Matthew offered a drink to",
    ]


@settings(max_examples=20, deadline=None)
@given(
    corruption=st.sampled_from(CORRUPTIONS),
    extra=st.integers(0, 2),
    order=st.sampled_from(["both", "io-first", "s-first"]),
    seed=st.integers(0, 10**6),
)
def test_variants_name_io_more_often_and_nothing_else_changes(
    corruption: str, extra: int, order: str, seed: int
) -> None:
    options: dict[str, Any] = {"corruption": corruption, "order": order, "seed": seed}
    base, variant = (pairs_of(IOIDataModule(TOKENIZER, 20, 4, 4, **options, extra_io=n)) for n in (0, extra))
    for plain, pair in zip(base, variant, strict=True):
        io, subject = (words[0].strip() for words in (pair.answers, pair.distractors))
        assert Counter(names_in(pair.clean)) == {io: 1 + extra, subject: 2}
        first, second, *again, last = names_in(pair.clean)
        assert last == subject and again == [io] * extra
        if order != "both":
            assert (first == io) == (order == "io-first")
        # Without its clauses, each to its full stop or comma, it is the prompt that it was.
        clauses = [re.compile(rf"\b{io} (?:{'|'.join(CLAUSES)})(?:\. |{comma})") for comma in (", ", ", and ")]
        assert plain.clean in {clause.sub("", pair.clean) for clause in clauses}
        assert {name: pair.clean[slice(*at)] for name, at in pair.spans.items()} == {
            "IO": io, "S1": subject, "S1+1": plain.clean[slice(*plain.spans["S1+1"])],
            **{f"IO{n}": io for n in range(2, 2 + extra)}, "S2": subject, "END": plain.clean.split()[-1],
        }  # fmt: skip
        corrupt = names_in(pair.corrupt)
        assert NAME.sub("_", pair.corrupt) == NAME.sub("_", pair.clean) and len(corrupt) == 3 + extra
        if corruption == "abc":
            assert len(set(corrupt)) == 3 + extra and not set(corrupt) & {io, subject}
        else:
            assert corrupt[:-1] == [first, second, *again] and corrupt[-1] != subject
            assert (corrupt[-1] == io) == (corruption == "s2-io-flip")


def test_a_group_is_a_template_in_one_order() -> None:
    pairs = pairs_of(IOIDataModule(TOKENIZER, 4 * len(TEMPLATES), 1, 1, extra_io=1))
    shapes = {}
    for pair in pairs:
        first = names_in(pair.clean)[0] == pair.answers[0].strip()
        shape = re.sub("|".join(CLAUSES), "~", WORD.sub("_", pair.clean))
        assert shapes.setdefault(pair.group, (shape, first)) == (shape, first)
    assert len(shapes) == len(set(shapes.values())) == 2 * len(TEMPLATES)


def test_clauses_can_be_read_by_the_embedded_tokenizer() -> None:
    data = IOIDataModule(TOKENIZER, 60, 4, 4, extra_io=2)
    data.setup()
    assert TOKENIZER.unk_token_id not in {token for pair in data._splits["train"] for token in pair.clean}


def test_names_and_words_are_different() -> None:
    assert all(len(set(words)) == len(words) for words in (NAMES, PLACES, OBJECTS, TEMPLATES))
    # A name in another role would make a prompt ambiguous.
    others = set(re.findall(r"\w+", " ".join([*TEMPLATES, *CLAUSES, *PLACES, *OBJECTS])))
    assert not others & set(NAMES)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"n_val": 0}, "n_val is 0, so the val split would be empty"),
        ({"corruption": "none"}, "corruption is one of 'third-name', 's2-io-flip', 'abc', got 'none'"),
        ({"held_out_templates": len(TEMPLATES)}, "held_out_templates is"),
        ({"extra_io": 3}, "extra_io is 3: IO can be named 0 to 2 times more"),
        ({"order": "abba"}, "order is one of 'both', 'io-first', 's-first', got 'abba'"),
    ],
)
def test_bad_options_are_refused(options: dict[str, object], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        IOIDataModule(TOKENIZER, **options)


def test_describes_itself() -> None:
    assert IOIDataModule("tiny-ioi", 3, 2, 1, seed=7).describe() == {
        "data": "IOIDataModule",
        "tokenizer": "tiny-ioi",
        "corruption": "third-name",
        "held_out_templates": 0,
        "extra_io": 0,
        "order": "both",
        "pairs": {"train": 3, "val": 2, "test": 1},
        "seed": 7,
    }
