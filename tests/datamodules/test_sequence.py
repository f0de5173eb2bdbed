"""Sequence continuation: what is shown, asked and corrupted, read back from the texts."""

from __future__ import annotations

import re
from collections import Counter
from itertools import chain, islice, pairwise
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tokenizers import Regex, Tokenizer, models, pre_tokenizers
from transformers import PreTrainedTokenizerBase, PreTrainedTokenizerFast

from lightning_circuits.datamodules import PromptPair, SequenceDataModule
from lightning_circuits.datamodules.ioi import NAMES
from lightning_circuits.datamodules.sequence import SEQUENCES

WORD = re.compile(r"\w+")


def tokenizer_by(pattern: str) -> PreTrainedTokenizerBase:
    """A token for every match of a pattern that the data make."""
    texts = [*chain.from_iterable(kind.members + kind.carriers for kind in SEQUENCES.values()), *NAMES]
    texts += [f"{name} {text}." for name in NAMES[:1] for text in ("chose", "likes", "asked for red green blue black")]
    pieces = {piece for text in texts for each in (text, f" {text}, ") for piece in re.findall(pattern, each)}
    vocabulary = {piece: number for number, piece in enumerate(["[UNK]", *sorted(pieces)])}
    tokenizer = Tokenizer(models.WordLevel(vocabulary, unk_token="[UNK]"))
    tokenizer.pre_tokenizer = pre_tokenizers.Split(Regex(pattern), "isolated")
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, unk_token="[UNK]")


TOKENIZERS = {
    "words": tokenizer_by(r" ?\w+|\W"),  # as GPT-2 has it: " 12" is one token
    "digits": tokenizer_by(r" ?[A-Za-z]+|\d|\W"),  # as SmolLM2 has it: " ", "1", "2"
}
FEW = {"n_train": 12, "n_val": 4, "n_test": 4}
SIZES = {"n_train": 40, "n_val": 12, "n_test": 12}


def made(tokenizer: str = "words", **options: Any) -> SequenceDataModule:
    return SequenceDataModule(TOKENIZERS[tokenizer], **{**SIZES, **options})


def members_in(text: str, data: SequenceDataModule) -> list[int]:
    """Where in the sequence the members of a prompt stand, read from its words."""
    members = list(data.kind.members)
    return [members.index(word) for word in WORD.findall(text) if word in members]


@settings(max_examples=30, deadline=None)
@given(
    members=st.sampled_from(list(SEQUENCES)),
    tokenizer=st.sampled_from(list(TOKENIZERS)),
    options=st.sampled_from([{}, {"step": 2, "shown": 3}, {"cyclic": True}, {"shown": 3}]),
    seed=st.integers(0, 10**6),
)
def test_every_prompt_shows_a_sequence_and_its_twin_shows_none(
    members: str, tokenizer: str, options: dict[str, Any], seed: int
) -> None:
    data = made(tokenizer, members=members, seed=seed, **options)
    n, step, shown = len(data.kind.members), data.step, data.shown
    for pair in islice(data.candidates("train"), 40):
        # What is asked is left out; it stands behind as many words of both.
        words = len(pair.clean[: pair.spans["END"][0]].split())
        clean, corrupt = (members_in(" ".join(text.split()[:words]), data) for text in (pair.clean, pair.corrupt))
        assert len(clean) == len(corrupt) == shown
        assert all((b - a) % n == step for a, b in pairwise(clean))
        assert data.cyclic or clean[-1] + step < n
        assert not any((b - a) % n in (1, step) or (a - b) % n in (1, step) for a, b in pairwise(corrupt))
        asked = (clean[-1] + step) % n
        assert corrupt[-1] not in (clean[-1], asked) and len(set(corrupt)) == shown
        # But for the members, the two are the same text.
        at = [pair.spans[f"M{k}"] for k in range(1, shown + 1)]
        assert [pair.clean[slice(*place)] for place in at] == [data.kind.members[each] for each in clean]
        assert pair.spans["END"][1] == len(pair.clean)
        any_member = "|".join(sorted(data.kind.members, key=len, reverse=True))
        blank = [re.sub(rf"\b(?:{any_member})\b", "_", text) for text in (pair.clean, pair.corrupt)]
        assert blank[0] == blank[1]


@pytest.mark.parametrize("tokenizer", TOKENIZERS)
@pytest.mark.parametrize(
    ("members", "options"),
    [(name, {}) for name in SEQUENCES]
    + [("numerals", {"step": 10}), (["red", "green", "blue", "black"], {"shown": 2})],
)
def test_what_is_asked_is_how_the_next_member_goes_on(tokenizer: str, members: Any, options: dict[str, Any]) -> None:
    """Prompt and answer, as text, are the prompt with the next member begun; so for the distractor and the last."""
    of = TOKENIZERS[tokenizer]
    data = made(tokenizer, members=members, spans="roles", **options)
    batches = list(data.train_dataloader())
    prompts = [pair for pair in data.candidates("train")]
    by_text = {pair.clean: pair for pair in prompts}
    seen = 0
    for batch in batches:
        for row, real in enumerate(batch["attention_mask"].bool()):
            text = "".join(of.convert_ids_to_tokens(batch["clean_ids"][row][real].tolist()))
            pair = by_text[text]
            shown = members_in(text[: pair.spans["END"][0]], data)
            for name, place in (("answers", shown[-1] + data.step), ("distractors", shown[-1])):
                token = of.convert_ids_to_tokens([int(batch[name][row, 0])])[0]
                whole = f"{text[: pair.spans['END'][1]]}{token}"
                begun = whole[len(whole.rstrip("0123456789")) :] if whole[-1].isdigit() else WORD.findall(whole)[-1]
                assert data.kind.members[place].startswith(begun)
            assert batch["span_names"][int(batch["spans"][row][batch["positions"][row]])] == "END"
            seen += 1
    assert seen == SIZES["n_train"]


@pytest.mark.parametrize(("tokenizer", "asked", "end"), [("words", " 43", "number"), ("digits", "4", "number ")])
def test_a_number_of_several_tokens_is_asked_for_from_the_first_that_differs(
    tokenizer: str, asked: str, end: str
) -> None:
    data = made(tokenizer, step=10, n_train=200)
    pair = next(each for each in data.candidates("train") if members_in(each.clean, data)[3:] == [32])
    [answer] = pair.answers
    text = answer if isinstance(answer, str) else TOKENIZERS[tokenizer].convert_ids_to_tokens(answer)
    assert text == asked and pair.clean.endswith(end if " number" in pair.clean else end[6:])


def test_starts_and_carriers_come_equally_often_and_names_stay_in_their_split() -> None:
    data = made(members="months", n_train=64, n_val=32, n_test=32)
    names: dict[str, set[str]] = {}
    for split, size in data.sizes.items():
        pairs = list(islice(data.candidates(split), size))
        assert len({pair.clean for pair in pairs}) == size
        starts = Counter(members_in(pair.clean, data)[0] for pair in pairs)
        groups = Counter(pair.group for pair in pairs)
        assert set(starts) == set(range(8)) and max(starts.values()) == min(starts.values())
        assert set(groups) == set(SEQUENCES["months"].carriers) and max(groups.values()) == min(groups.values())
        names[split] = {word for pair in pairs for word in WORD.findall(pair.clean) if word in NAMES}
    assert not any(names[a] & names[b] for a, b in (("train", "val"), ("train", "test"), ("val", "test")))


def test_a_list_without_carriers_has_few_prompts_and_shares_starts_out() -> None:
    data = made(step=10, carrier=False, n_train=20, n_val=8, n_test=8)
    data.setup()
    first = {split: {members_in(pair.clean, data)[0] for pair in data.candidates(split)} for split in data.sizes}
    assert not first["train"] & first["val"] and not first["val"] & first["test"]
    with pytest.raises(ValueError, match=r"train split of SequenceDataModule is to have 40 pairs.* fewer: \d+ drawn"):
        made(carrier=False).setup()


def test_words_of_several_tokens_are_misfits() -> None:
    data = made("digits", members=["red", "green", "blue", "black", "red2", "green2", "blue2"], shown=2, **FEW)
    data.setup()
    number = data.fitting["train"]
    assert number.several_token > 0 and number.kept == FEW["n_train"]


def test_seeds_fix_everything() -> None:
    def texts(seed: int) -> list[PromptPair]:
        return list(islice(made(seed=seed).candidates("train"), 10))

    assert texts(1) == texts(1) != texts(2)


@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        ({"members": "planets"}, ValueError, "members is one of 'numerals', .* got 'planets'"),
        ({"members": 3}, TypeError, "members is the name of a sequence or a list of texts, got 3"),
        ({"members": ["a", "b", "a"]}, ValueError, "members names 'a' twice"),
        ({"members": "weekdays", "step": 2}, ValueError, "4 members in steps of 2 .* sequence of 7"),
        ({"step": 0}, ValueError, "step is 0: it has to be at least 1"),
        ({"shown": 0}, ValueError, "shown is 0"),
        ({"cyclic": 1}, TypeError, "cyclic"),
    ],
)
def test_bad_options_are_refused(options: dict[str, Any], error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=message):
        made(**options)


def test_describes_itself() -> None:
    said = made(members="letters", shown=3).describe()
    assert said | {"misfits": None, "tokenizer": ""} == {
        "data": "SequenceDataModule",
        "tokenizer": "",
        "members": "letters",
        "step": 1,
        "shown": 3,
        "carrier": True,
        "cyclic": False,
        "pairs": {"train": 40, "val": 12, "test": 12},
        "misfits": None,
        "seed": 0,
    }
    assert said["misfits"]["train"]["kept"] == 40
