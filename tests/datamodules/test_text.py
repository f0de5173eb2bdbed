"""Lines of text: dealt out once, in an order that can be taken up again, and every way in which they can be wrong."""

from __future__ import annotations

import gzip
import json
from itertools import chain, islice
from pathlib import Path

import pytest
import torch

from lightning_circuits.batch import TextSource
from lightning_circuits.datamodules import TextLines, text
from lightning_circuits.models.loading import load_tokenizer
from tests.support.task_tokenizers import tokenizer_of

LETTERS = tokenizer_of("letters")
SOME = [f"{'a' * n} line of text" for n in range(1, 31)]


def test_the_package_has_text_of_its_own() -> None:
    lines = text.OURS.read_text(encoding="utf-8").splitlines()
    assert len(lines) == len({*lines}) >= 240
    assert all(15 <= len(line.split()) <= 40 and line[-1] in ".?" and line[0].isupper() for line in lines)
    splits = TextLines("tiny-ioi").splits
    assert sorted(chain(*splits.values())) == sorted(lines)
    assert min(map(len, splits.values())) > 40


def test_no_line_is_in_two_splits_whatever_the_seed() -> None:
    # A line that comes again, blank lines and spaces around one make no difference.
    given = [*SOME, "", SOME[3], f" {SOME[5]} ", "  "]
    splits = [TextLines(LETTERS, given, seed=seed).splits for seed in (0, 0, 1)]
    for of_seed in splits:
        assert sorted(chain(*of_seed.values())) == sorted(SOME)
        assert {name: len(lines) for name, lines in of_seed.items()} == {"train": 18, "val": 6, "test": 6}
    assert splits[0] == splits[1] != splits[2]
    smallest = TextLines(LETTERS, SOME[:3]).splits
    assert [len(lines) for lines in smallest.values()] == [1, 1, 1]


def test_batches_are_the_lines_filled_up_on_the_right(tmp_path: Path) -> None:
    file = tmp_path / "text.txt"
    file.write_bytes(b"\xef\xbb\xbf" + "\r\n".join(SOME).encode())
    data = TextLines(LETTERS, file, max_tokens=20, batch_size=4)
    for split, lines in data.splits.items():
        read = []
        for batch in data.loader(split):  # type: ignore[arg-type]
            ids, mask = batch["input_ids"], batch["attention_mask"]
            assert ids.dtype == mask.dtype == torch.int64 and ids.shape == mask.shape
            assert len(ids) <= 4 and ids.shape[1] == mask.sum(1).max() <= 20
            assert (mask.diff() <= 0).all() and (ids[mask == 0] == 0).all()
            read += [LETTERS.decode(row[: n.item()]).replace(" ", "") for row, n in zip(ids, mask.sum(1), strict=True)]
        assert sorted(read) == sorted(line[:20].replace(" ", "") for line in lines)
        assert len(read) == len(lines)


def rows(batches: object) -> list[list[list[int]]]:
    return [batch["input_ids"].tolist() for batch in batches]  # type: ignore[attr-defined]


def test_training_is_shuffled_by_seed_and_epoch_and_the_rest_never() -> None:
    train, again, other = (TextLines(LETTERS, SOME, seed=seed).loader("train") for seed in (0, 0, 1))
    first = rows(train)
    assert rows(again) == first != rows(other)
    train.set_epoch(1)
    assert rows(train) != first
    val = TextLines(LETTERS, SOME).loader("val")
    once = rows(val)
    val.set_epoch(1)
    assert rows(val) == once


def test_a_killed_run_goes_on_with_the_next_batch() -> None:
    whole, killed, resumed = (TextLines(LETTERS, SOME).loader("train") for _ in range(3))
    killed.set_epoch(2)
    begun = rows(islice(killed, 2))
    resumed.load_state_dict(killed.state_dict())
    resumed.set_epoch(2)
    whole.set_epoch(2)
    assert begun + rows(resumed) == rows(whole)
    with pytest.raises(ValueError, match=r"other data, or in another order \(lines: 18 then, 16 now"):
        TextLines(LETTERS, SOME[2:]).loader("train").load_state_dict(killed.state_dict())


def test_a_step_has_the_batch_that_epoch_after_epoch_comes_to() -> None:
    loader = TextLines(LETTERS, SOME).loader("train")
    in_turn = []
    for epoch in range(3):
        loader.set_epoch(epoch)
        in_turn += rows(loader)
    assert rows(map(loader.at, range(15))) == rows(map(TextLines(LETTERS, SOME).batch, range(15))) == in_turn


def test_it_is_a_source_of_text_for_searches_and_says_which() -> None:
    source = TextLines(LETTERS, SOME)
    assert isinstance(source, TextSource)
    for split in ("val", "test"):
        assert rows(source.held_out(split)) == rows(source.loader(split))  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="split is one of 'val', 'test', got 'train'"):
        source.held_out("train")
    said = source.describe()
    assert said["lines"] == {"train": 18, "val": 6, "test": 6} and said["text"] == "lines"
    assert said == TextLines(LETTERS, SOME).describe() == json.loads(json.dumps(said))
    others = [TextLines(LETTERS, SOME[:-1]), TextLines(LETTERS, [*SOME[:-1], "b"]), TextLines(LETTERS, SOME, seed=1)]
    assert all(other.describe() != said for other in others)
    assert TextLines(LETTERS).describe()["text"] == "ordinary_text.txt"


def test_what_cannot_be_read_is_one_error(tmp_path: Path) -> None:
    for name, content in {
        "zip": gzip.compress(b"text"),
        "latin": "café\n".encode("latin-1"),
        "two": b"a b\n\nc d\na b",
    }.items():
        (tmp_path / name).write_bytes(content)
    for name, error, message in [
        ("none", FileNotFoundError, r"there is no file .*none \(plain text, a line each\)"),
        ("zip", ValueError, r"zip is compressed \(gzip\): unpack it. It should be plain text, in UTF-8"),
        ("latin", ValueError, r"latin, line 1: not UTF-8 \(byte 4 of the line\)"),
        ("two", ValueError, r"two: 2 different lines of text, and there have to be at least 3"),
    ]:  # fmt: skip
        with pytest.raises(error, match=message):
            TextLines(LETTERS, tmp_path / name).loader("train")
    with pytest.raises(ValueError, match="lines: 0 different lines of text"):
        TextLines(LETTERS, ["", " "]).loader("val")


def test_lines_that_teach_nothing_are_refused_by_their_place(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="lines, line 3: 'a' is a single token, and nothing follows"):
        TextLines(LETTERS, ["one line", "another", "a", "a last one"]).loader("train")
    file = tmp_path / "text.txt"
    file.write_text("Mary went to the store\n\nJohn went to Rome by zeppelin\nMary gave it to John\n")
    with pytest.raises(ValueError, match=r"text.txt, line 3: .*'zeppelin'.* not in the tokenizer's vocabulary"):
        TextLines(load_tokenizer("tiny-ioi"), file).loader("train")


@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        ({"lines": 3}, TypeError, "lines takes a list of texts, or the path of a file, got 3"),
        ({"lines": ["a b", 7]}, TypeError, "lines takes a list of texts, or the path of a file, got 7"),
        ({"tokenizer": 5}, TypeError, "tokenizer takes a tokenizer of transformers, a name or a folder, got 5"),
        ({"batch_size": 0}, ValueError, "batch_size is 0: it has to be at least 1"),
        ({"max_tokens": 1}, ValueError, "max_tokens is 1: it has to be at least 2"),
        ({"seed": "x"}, TypeError, "seed"),
    ],
)
def test_bad_options_are_refused_before_anything_is_read(
    options: dict[str, object], error: type[Exception], message: str
) -> None:
    with pytest.raises(error, match=message):
        TextLines(**({"tokenizer": LETTERS} | options))  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="split is one of 'train', 'val', 'test', got 'dev'"):
        TextLines(LETTERS, SOME).loader("dev")  # type: ignore[arg-type]
