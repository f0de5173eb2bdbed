"""Named places of prompts: which tokens they are, what lies between them, and what is refused."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from lightning_circuits.datamodules import IOIDataModule, PromptPairDataModule
from lightning_circuits.datamodules.misfits import fitting
from lightning_circuits.datamodules.spans import in_order, names_of_tokens
from lightning_circuits.datamodules.tokenising import PromptPair, in_spans
from lightning_circuits.models.loading import EMBEDDED, load_tokenizer

WORDS = "When Mary and John went to the store , John gave a drink to"


def words_of(text: str) -> list[tuple[int, int]]:
    return [match.span() for match in re.finditer(r"\S+", text)]


@given(st.data())
def test_every_token_is_in_the_place_of_its_characters_or_between_two(data: st.DataObject) -> None:
    """By another way: the places are chosen as runs of words, and each word is looked up in them."""
    offsets = words_of(WORDS)
    cuts = sorted(data.draw(st.sets(st.integers(0, len(offsets)), min_size=2, max_size=8)))
    runs = [(a, b) for a, b in zip(cuts[::2], cuts[1::2], strict=False)]
    places = {f"P{i}": (offsets[a][0], offsets[b - 1][1]) for i, (a, b) in enumerate(runs)}
    shuffled = dict(data.draw(st.permutations(list(places.items()))))
    expected = []
    for word in range(len(offsets)):
        inside = [f"P{i}" for i, (a, b) in enumerate(runs) if a <= word < b]
        before = [f"P{i}" for i, (_, b) in enumerate(runs) if b <= word][-1:]
        after = [f"P{i}" for i, (a, _) in enumerate(runs) if a > word][:1]
        expected.append(inside[0] if inside else f"{''.join(before)}..{''.join(after)}")
    assert names_of_tokens(shuffled, offsets, "row", WORDS) == expected


def test_a_token_may_begin_with_the_space_before_it_and_one_of_no_characters_is_in_a_gap() -> None:
    offsets = [(0, 0), (0, 4), (4, 9), (9, 13)]  # a beginning of sequence, then a word with its space each
    assert names_of_tokens({"IO": (5, 9)}, offsets, "row", "When Mary and") == ["..IO", "..IO", "IO", "IO.."]


@pytest.mark.parametrize(
    ("places", "message"),
    [
        ({"S": (0, 99)}, "row: the span S is from character 0 to 99, and the clean prompt has 59"),
        ({"S": (-4, 4)}, "from character -4 to 4"),
        ({"S": (5, 5)}, "from character 5 to 5"),
        ({"S": (9, 5)}, "from character 9 to 5"),
        ({"S": (5, 7)}, "row: the span S, 'Ma', goes through the token 'Mary'"),
        ({"S": (4, 5)}, "row: the span S, ' ', holds no token"),
        ({"S": (5, 9), "T": (5, 13)}, "row: the spans S and T overlap, at 'Mary and'"),
    ],
)
def test_what_is_no_place_is_refused(places: Any, message: str) -> None:
    with pytest.raises(ValueError, match=re.escape(message)):
        names_of_tokens(places, words_of(WORDS), "row", WORDS)


@pytest.mark.parametrize(
    "name", ["", "..", "a..b", "a@b", "a->b", "a\nb", "\x1b[31m", "\ud800", "x" * 999 + "@", 5, None]
)
@pytest.mark.parametrize("place", [(5, 9), None, "nowhere"])
def test_what_cannot_be_a_name_is_refused(name: Any, place: Any) -> None:
    with pytest.raises(ValueError, match=r"^row: .{1,250} cannot be the name of a span: names are printable") as caught:
        PromptPair(WORDS, WORDS, (" Mary",), (" John",), "row", {name: place})
    assert str(caught.value).isprintable()


def test_names_come_in_the_order_of_the_prompts() -> None:
    assert in_order([["a", "b", "c"], ["a", "a", "b", "c"], ["b", "c"]]) == ("a", "b", "c")
    assert in_order([[], []]) == ()


# ---- from files ----------------------------------------------------------------------------------------------------


def row(clean: str, corrupt: str, **more: Any) -> dict[str, Any]:
    return {"clean": clean, "corrupt": corrupt, "answers": [" Mary"], "distractors": [" John"], **more}


def module(tmp_path: Path, rows: list[dict[str, Any]], **options: Any) -> PromptPairDataModule:
    file = tmp_path / "pairs.jsonl"
    file.write_text("\n".join(map(json.dumps, rows)))
    return PromptPairDataModule(
        EMBEDDED, file, **{"val_fraction": 0.3, "test_fraction": 0.3, "spans": "roles", **options}
    )


CLEAN = ["When Mary and John went to the store, John gave a drink to", "When Mary and John met, John gave it to",
         "After Mary and John left the store, John gave a drink to"]  # fmt: skip


def corrupted(clean: str) -> str:
    return "Tim".join(clean.rsplit("John", 1))


def named(clean: str) -> dict[str, Any]:
    at = clean.rindex("John")
    return {"S2": [at, at + 4], "END": [len(clean) - 2, len(clean)]}


def test_an_example_is_a_training_prompt_in_pieces_and_as_many_spans_as_there_are(tmp_path: Path) -> None:
    def pair(clean: str, **spans: Any) -> str:
        corrupt = clean.replace("Mary", "Tom", 1)
        return json.dumps(
            {"clean": clean, "corrupt": corrupt, "answers": [" John"], "distractors": [" Tom"], "spans": spans}
        )

    text = "Then Mary met John at the store , and Mary gave a drink to"
    rows = [
        pair("Mary and John gave a book to", S=[0, 4], PLACE=None),
        pair(text, S=[5, 9], PLACE=[26, 31]),
        pair(text.replace("drink", "book"), S=[5, 9], PLACE=[26, 31]),
    ]
    (tmp_path / "pairs.jsonl").write_text("\n".join(rows))
    one = tmp_path / "pairs.jsonl"
    data = PromptPairDataModule(EMBEDDED, one, val=_other(tmp_path, pair), test=_other(tmp_path, pair), spans="roles")
    said = data.describe_spans()
    assert set(said) == {"example"} and data.describe_spans() is said  # every circuit of a search has it
    pieces = said["example"]
    assert list(pieces) == ["..S", "S", "S..PLACE", "PLACE", "PLACE.."]
    assert pieces["S"].split() == ["Mary"] and pieces["PLACE"].split() == ["store"]
    assert "".join(pieces.values()).split() == text.split()
    unasked = PromptPairDataModule(EMBEDDED, one, val=data.sources["val"], test=data.sources["test"])
    assert unasked.describe_spans() == {"example": {}}


def test_spans_that_stand_the_other_way_round_in_some_prompts_are_named() -> None:
    """ABBA and BABA: the IO and what stands at the first S change places, and nothing else does."""
    data = IOIDataModule(EMBEDDED, n_train=40, n_val=2, n_test=2, spans="roles")
    swapped = {frozenset(pair) for pair in data.describe_spans()["swapped"]}
    seen = set()
    for batch in data.train_dataloader():
        names = batch["span_names"]
        for ids in batch["spans"].tolist():
            place = {names[i]: token for token, i in enumerate(ids) if i >= 0}  # where it ends
            seen |= {(a, b) for a in place for b in place if place[a] < place[b]}
    assert swapped == {frozenset((a, b)) for a, b in seen if (b, a) in seen}
    assert frozenset(("IO", "S1")) in swapped and not any({"S2", "END"} & pair for pair in swapped)


def test_a_split_without_a_place_knows_its_name(tmp_path: Path) -> None:
    """It has to say, as any prompt has, that it does not have it: the place may have another name there."""
    train = [row(clean, corrupted(clean), spans=named(clean)) for clean in (CLEAN[0], CLEAN[2])]
    (tmp_path / "train.jsonl").write_text("\n".join(map(json.dumps, train)))
    end = {"END": named(CLEAN[1])["END"]}

    def of(spans: dict[str, Any]) -> PromptPairDataModule:
        other = tmp_path / "other.jsonl"
        other.write_text(json.dumps(row(CLEAN[1], corrupted(CLEAN[1]), spans=spans)))
        return PromptPairDataModule(EMBEDDED, tmp_path / "train.jsonl", other, other, spans="roles")

    data = of({"S2": None, **end})
    (batch,) = data.val_dataloader()
    names = data.train_dataloader().span_names
    assert names == ("..S2", "S2", "S2..END", "END") and batch["span_names"] == (*names, "..END")
    assert {batch["span_names"][i] for i in batch["spans"].flatten().tolist()} == {"..END", "END"}
    with pytest.raises(ValueError, match=r"train.jsonl, line 1: no span S1, which .*other.jsonl, line 1 has"):
        of({"S1": named(CLEAN[1])["S2"], **end}).setup()
    for other in (end, {}):
        with pytest.raises(ValueError, match=r"other.jsonl, line 1: no span S2, which .*train.jsonl, line 1 has.*null"):
            of(other).setup()


def _other(folder: Path, pair: Any) -> Path:
    path = folder / "other.jsonl"
    path.write_text(pair("Mary and John met , and Mary gave a drink to", S=[0, 4], PLACE=None))
    return path


@pytest.mark.parametrize("side", ["left", "right"])
def test_places_of_a_file_reach_the_batch(tmp_path: Path, side: Any) -> None:
    rows = [row(clean, corrupted(clean), spans=named(clean)) for clean in CLEAN]
    data = module(tmp_path, rows, padding_side=side, batch_size=3)
    tokenizer = load_tokenizer(EMBEDDED)
    for batch in (*data.train_dataloader(), *data.val_dataloader(), *data.test_dataloader()):
        assert batch["span_names"] == ("..S2", "S2", "S2..END", "END")
        for ids, corrupt, at, real in zip(
            batch["clean_ids"], batch["corrupt_ids"], batch["spans"], batch["attention_mask"], strict=True
        ):
            assert (
                tokenizer.decode(ids[at == 1]).strip() == "John" and tokenizer.decode(corrupt[at == 1]).strip() == "Tim"
            )
            assert tokenizer.decode(ids[at == 3]).strip() == "to"
            assert torch.equal(at == -1, real == 0)


def test_places_are_left_out_of_batches_unless_they_are_asked_for(tmp_path: Path) -> None:
    rows = [row(clean, corrupted(clean), spans=named(clean)) for clean in CLEAN]
    for batch in module(tmp_path, rows, spans=None).train_dataloader():
        assert all(isinstance(value, torch.Tensor) for value in batch.values()) and "spans" not in batch


def test_prompts_without_places_have_no_spans(tmp_path: Path) -> None:
    rows = [row(clean, corrupted(clean), spans=None) for clean in CLEAN]
    for batch in module(tmp_path, rows).train_dataloader():
        assert "spans" not in batch and "span_names" not in batch


def test_a_prompt_that_lacks_a_place_says_so_or_is_refused() -> None:
    rows = [row(clean, corrupted(clean), spans=named(clean)) for clean in CLEAN]
    del rows[1]["spans"]["S2"]
    with pytest.raises(ValueError, match=r"pairs.jsonl, line 2: no span S2, which .*line 1 has.*S2: null"):
        spans_of(rows)
    rows[1]["spans"]["S2"] = None
    assert set(spans_of(rows)[1]) == {"..END", "END"} and "S2" in spans_of(rows)[0]


def spans_of(rows: list[dict[str, Any]]) -> list[list[str]]:
    pairs = [
        PromptPair(r["clean"], r["corrupt"], (" Mary",), (" John",), f"pairs.jsonl, line {n + 1}", r["spans"])
        for n, r in enumerate(rows)
    ]
    tokenizer = load_tokenizer(EMBEDDED)
    _, tokens, _ = fitting(pairs, tokenizer, "refuse")
    return [pair.spans for pair in in_spans(tokens, pairs, tokenizer)]


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ([], "spans have to be an object"),
        ("S2", "spans have to be an object"),
        ({"S2": 5}, "line 1: the span S2 has to be two characters"),
        ({"S2": [5]}, "has to be two characters"),
        ({"S2": [5, 9.0]}, "has to be two characters"),
        ({"S2": [True, 9]}, "has to be two characters"),
        ({"S2": [5, 6, 7]}, "has to be two characters"),
        ({"S2": [5, 7]}, "line 1: the span S2, 'Ma', goes through the token 'Mary'"),
        ({"S2": [5, 10**30]}, "the clean prompt has"),
        ({"S2": [5, 9], "IO": [5, 9]}, "line 1: the spans S2 and IO overlap, at 'Mary'"),
        ({"S2": [5, 9], "IO": [0, 99]}, "line 1: the span IO is from character 0 to 99"),
        ({"a\nb": [5, 9]}, "line 1: 'a\\nb' cannot be the name"),
    ],
)
def test_places_of_a_file_that_are_none(tmp_path: Path, given: Any, message: str) -> None:
    rows = [row(clean, corrupted(clean), spans=given) for clean in CLEAN]
    with pytest.raises(ValueError, match=re.escape(message)):
        module(tmp_path, rows).setup()


def test_a_tokenizer_that_says_no_characters_is_refused_only_where_spans_are_asked_for(tmp_path: Path) -> None:
    class Slow(type(load_tokenizer(EMBEDDED))):  # type: ignore[misc]
        is_fast = False

    slow = load_tokenizer(EMBEDDED)
    slow.__class__ = Slow
    rows = [row(clean, corrupted(clean), spans=named(clean)) for clean in CLEAN]
    without, data = module(tmp_path, rows, spans=None), module(tmp_path, rows)
    without._tokenizer = data._tokenizer = slow
    without.setup()
    with pytest.raises(ValueError, match=r"line \d: .* Slow does not say which characters a token is of: take"):
        data.setup()


def test_a_place_that_is_named_twice_is_refused_with_its_line(tmp_path: Path) -> None:
    lines = [json.dumps(row(clean, corrupted(clean), spans=named(clean))) for clean in CLEAN]
    lines[1] = lines[1].replace('"END"', '"S2"')
    (tmp_path / "pairs.jsonl").write_text("\n".join(lines))
    with pytest.raises(ValueError, match="line 2: no pair: 'S2' stands in it twice"):
        PromptPairDataModule(EMBEDDED, tmp_path / "pairs.jsonl", spans="roles").setup()


def test_every_token_a_span_wants_prompts_of_one_length(tmp_path: Path) -> None:
    rows = [row(clean, corrupted(clean)) for clean in CLEAN]
    with pytest.raises(ValueError, match=r"needs prompts of one length: .* tokens and .* has"):
        module(tmp_path, rows, spans="token").setup()
    clean, corrupt = CLEAN[0], CLEAN[0].replace(", John", ", Tim")
    places = ("store", "park", "garden")
    same = [row(clean.replace("store", place), corrupt.replace("store", place)) for place in places]
    batch = next(iter(module(tmp_path, same, spans="token").train_dataloader()))
    assert batch["span_names"] == tuple(f"t{token}" for token in range(batch["clean_ids"].shape[1]))
    assert batch["spans"][0].tolist() == list(range(batch["clean_ids"].shape[1]))
    with pytest.raises(ValueError, match="spans"):
        module(tmp_path, rows, spans="words")


# ---- indirect object identification --------------------------------------------------------------------------------


@pytest.mark.parametrize("corruption", ["third-name", "s2-io-flip", "abc"])
def test_the_places_of_ioi(corruption: Any) -> None:
    data = IOIDataModule(
        EMBEDDED, n_train=60, n_val=20, n_test=20, corruption=corruption, batch_size=100, spans="roles"
    )
    (batch,) = data.train_dataloader()
    tokenizer, names = data.tokenizer, batch["span_names"]
    assert {"IO", "S1", "S1+1", "S2", "S2..END", "END"} <= set(names) and names[-1] == "END"

    def text(row: int, name: str) -> str:
        return tokenizer.decode(batch["clean_ids"][row][batch["spans"][row] == names.index(name)]).strip()

    for i, (answer, distractor) in enumerate(zip(batch["answers"], batch["distractors"], strict=True)):
        assert text(i, "IO") == tokenizer.decode(answer).strip()
        assert text(i, "S1") == text(i, "S2") == tokenizer.decode(distractor).strip()
        assert text(i, "END") == "to"
        at = [int((batch["spans"][i] == names.index(name)).nonzero()[0]) for name in ("S1", "S1+1", "S2")]
        assert at[0] + 1 == at[1] < at[2]
    if corruption == "third-name":  # nothing differs before S2
        first = (batch["clean_ids"] != batch["corrupt_ids"]).int().argmax(1)
        assert (batch["spans"][torch.arange(60), first] == names.index("S2")).all()
