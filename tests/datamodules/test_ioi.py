"""Indirect object identification: what prompts are made of, that splits share nothing, that seeds fix everything."""

from __future__ import annotations

import re
from collections import Counter
from itertools import combinations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tokenizers import Regex, Tokenizer, models, pre_tokenizers
from transformers import PreTrainedTokenizerBase, PreTrainedTokenizerFast

from lightning_circuits.datamodules import IOIDataModule, PromptPair
from lightning_circuits.datamodules.ioi import NAMES, OBJECTS, PLACES, TEMPLATES
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


def pairs_of(data: IOIDataModule) -> list[PromptPair]:
    return [pair for pairs in data.make_splits().values() for pair in pairs]


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
    splits = data.make_splits()
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
    splits = data.make_splits()
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
    splits = IOIDataModule(TOKENIZER, 60, 60, 60, held_out_templates=4).make_splits()
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


def test_names_and_words_are_different() -> None:
    assert all(len(set(words)) == len(words) for words in (NAMES, PLACES, OBJECTS, TEMPLATES))
    # A name in another role would make a prompt ambiguous.
    others = set(re.findall(r"\w+", " ".join([*TEMPLATES, *PLACES, *OBJECTS])))
    assert not others & set(NAMES)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"n_val": 0}, "n_val is 0, so the val split would be empty"),
        ({"corruption": "none"}, "corruption is one of 'third-name', 's2-io-flip', 'abc', got 'none'"),
        ({"held_out_templates": len(TEMPLATES)}, "held_out_templates is"),
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
        "pairs": {"train": 3, "val": 2, "test": 1},
        "seed": 7,
    }
