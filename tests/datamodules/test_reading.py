"""Pairs of one's own in every form: what is given comes out the same; a file of another kind is called what it is."""

from __future__ import annotations

import csv
import gzip
import io
import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from lightning_circuits.datamodules import PromptPair, PromptPairDataModule, read_pairs
from lightning_circuits.models.loading import load_tokenizer
from tests.datamodules.test_jsonl import record

TOKENIZER = load_tokenizer("tiny-ioi")

# Whatever JSON and CSV can hold: quotes, commas, line ends, letters of all alphabets; half a character they cannot.
texts = st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\0"), min_size=1, max_size=12)
answers = st.lists(texts | st.integers(0, 10**6), min_size=1, max_size=3, unique=True)
rows = st.lists(
    st.fixed_dictionaries(
        {"clean": texts.map(lambda text: "w" + text), "corrupt": texts, "answers": answers},
        optional={
            "distractors": answers,
            "group": texts,
            "spans": st.just({"S": [0, 1], "END": None}),
        },
    ),
    min_size=1,
    max_size=4,
)


class Frame:
    """What a frame of pandas is to us: iterated, it gives the names of its columns; what a row lacks is NaN."""

    def __init__(self, records: list[dict[str, Any]]) -> None:
        self.records = records
        self.columns = list(dict.fromkeys(name for row in records for name in row))

    def __iter__(self) -> Iterator[str]:
        return iter(self.columns)

    def __len__(self) -> int:
        return len(self.records)

    def iterrows(self) -> None: ...

    def to_dict(self, orient: str) -> list[dict[str, Any]]:
        assert orient == "records"
        return [{name: row.get(name, float("nan")) for name in self.columns} for row in self.records]


class Dataset:
    """What a `datasets.Dataset` is to us: iterated, it gives dicts; what a row lacks is None. `to_dict` means another
    thing."""

    def __init__(self, records: list[dict[str, Any]]) -> None:
        self.records = records

    def __iter__(self) -> Iterator[dict[str, Any]]:
        names = dict.fromkeys(name for row in self.records for name in row)
        return iter([{name: row.get(name) for name in names} for row in self.records])

    def __len__(self) -> int:
        return len(self.records)

    def to_dict(self, batch_size: int | None = None) -> dict[str, list[Any]]:
        raise AssertionError("columns, not rows")


class Stream:
    """What a `datasets.IterableDataset` is to us: it does not say how many there are."""

    def __init__(self, records: list[dict[str, Any]]) -> None:
        self.records = records

    def __iter__(self) -> Iterator[dict[str, Any]]:
        return iter(self.records)


def in_csv(records: list[dict[str, Any]], delimiter: str = ",", lists: Callable[[Any], str] = json.dumps) -> str:
    out = io.StringIO(newline="")
    writer = csv.DictWriter(
        out,
        ["clean", "corrupt", "answers", "distractors", "group", "spans"],
        delimiter=delimiter,
        lineterminator="\r\n",
    )
    writer.writeheader()
    for row in records:
        cells = {name: value if isinstance(value, str) else lists(value) for name, value in row.items()}
        writer.writerow(cells | ({"spans": json.dumps(row["spans"])} if "spans" in row else {}))
    return out.getvalue()


FORMS: dict[str, Callable[[list[dict[str, Any]]], Any]] = {
    "list": list,
    "iterator": iter,
    "frame": Frame,
    "dataset": Dataset,
    "json list": lambda records: json.dumps(records, indent=2),
    "json in letters": lambda records: json.dumps(records, ensure_ascii=False),
    "csv": in_csv,
    "csv of pandas": lambda records: in_csv(records, lists=str),
    "semicolons": lambda records: in_csv(records, ";"),
    "tabs": lambda records: in_csv(records, "\t"),
}
ENCODINGS = ("utf-8", "utf-8-sig", "utf-16", "utf-16-le", "utf-16-be")


def bare(pairs: list[PromptPair]) -> list[tuple[Any, ...]]:
    return [(p.clean, p.corrupt, p.answers, p.distractors, p.group, dict(p.spans)) for p in pairs]


@pytest.mark.parametrize("form", FORMS)
@given(records=rows, encoding=st.sampled_from(ENCODINGS))
@settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_pairs_are_the_same_whichever_way_they_are_given(
    form: str, records: list[dict[str, Any]], encoding: str, tmp_path: Path
) -> None:
    lines = tmp_path / "lines"
    lines.write_text("".join(json.dumps(row) + "\n" for row in records))
    other = FORMS[form](records)
    if isinstance(other, str):
        (tmp_path / "other").write_bytes(other.encode(encoding))
        other = tmp_path / "other"
    expected = [
        (
            row["clean"],
            row["corrupt"],
            tuple(row["answers"]),
            tuple(row.get("distractors", ())),
            row.get("group", ""),
            row.get("spans", {}),
        )
        for row in records
    ]
    assert bare(read_pairs(lines)) == bare(read_pairs(other)) == expected


def test_a_single_answer_needs_no_list(tmp_path: Path) -> None:
    file = tmp_path / "pairs.csv"
    file.write_text('clean,corrupt,answers,distractors\n"Paris, is in",Rome is in, France,\n,,,\n')
    assert bare(read_pairs(file)) == [("Paris, is in", "Rome is in", (" France",), (), "", {})]
    one = {"clean": "Paris is in", "corrupt": "Rome is in", "answers": " France"}
    assert bare(read_pairs([one])) == [("Paris is in", "Rome is in", (" France",), (), "", {})]


def test_arrays_do_for_lists() -> None:
    """Of numpy, as frames of Parquet have them, or of torch, as datasets may be set to give."""
    import numpy as np

    row = record(answers=np.array([" Mary", " Ann"], dtype=object), distractors=torch.tensor([3, 4]))
    assert bare(read_pairs([row]))[0][2:4] == ((" Mary", " Ann"), (3, 4))


def test_pairs_stay_what_they_are() -> None:
    pairs = read_pairs([record(0), record(1)])
    assert read_pairs(pairs) == pairs and [pair.where for pair in pairs] == ["pairs[0]", "pairs[1]"]


def test_a_data_module_takes_them_all(tmp_path: Path) -> None:
    records = [record(n) for n in range(30)]
    file = tmp_path / "pairs.jsonl"
    file.write_text("\n".join(map(json.dumps, records)))
    (tmp_path / "pairs.csv").write_text(in_csv(records))
    expected = PromptPairDataModule(TOKENIZER, file, batch_size=4)
    in_memory = records, iter(records), Stream(records), Frame(records), Dataset(records)
    for source in (*in_memory, tmp_path / "pairs.csv"):
        data = PromptPairDataModule(TOKENIZER, source, batch_size=4)
        for one, other in zip(expected.train_dataloader(), data.train_dataloader(), strict=True):
            assert all(torch.equal(one[name], other[name]) for name in one)
        json.dumps(data.describe())
    split = PromptPairDataModule(TOKENIZER, records[:10], val=Frame(records[10:20]), test=Dataset(records[20:]))
    assert split.describe()["files"] == {
        "train": "10 rows of a list",
        "val": "10 rows of a Frame",
        "test": "10 rows of a Dataset",
    }


# ---- what is none ----------------------------------------------------------------------------------------------------

ONE = json.dumps(record())


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (gzip.compress(ONE.encode()), r"is compressed \(gzip\): unpack it. It should be JSON or CSV, in UTF-8"),
        (b"PK\x03\x04", r"is compressed \(zip\), or a spreadsheet: unpack it, or save it as CSV"),
        (b"PAR1", "is in Parquet: read it with pandas or datasets, and give what they read"),
        (ONE.encode("utf-16-le") + b"\0", "begins as UTF-16, and is none at byte"),
        (json.dumps(record(), indent=2).encode(), "is one JSON object over several lines, with 'clean', 'corrupt'"),
        (json.dumps({"train": [record()]}, indent=1).encode(), "is one JSON object over several lines, with 'train'"),
        (f"[{ONE}\n{ONE}]".encode(), r"begins as a JSON list, and is none: .*line 2, column 1"),
        (f"[{ONE[:-1]}, {ONE[1:]}]".encode(), "is a JSON list, and not one of pairs: 'clean' stands in it twice"),
        (f"[{ONE}, 5]".encode(), "object 2: a pair is a JSON object with fields by name, not 5"),
        (b"Paris is in,Rome is in, France\n", "is neither JSON.* nor CSV with the names of the columns .*'Paris is in"),
        (b"clean,corrupted,answers\na,b,c\n", "is CSV, and in its first line: corrupt missing; is 'corrupted' meant"),
        (b"clean, corrupt, answers\na, b, c\n", "corrupt, answers missing; is ' corrupt' meant for corrupt?"),
        (
            b"clean,corrupted,correct_idx,incorrect_idx\na,b,1,2\n",
            "another format, .*: read it by format='eap",
        ),
        (b'{"prompt": "a", "random_counterfactual": null}', "fields of another format, .*: read it by format='mib'"),
        (b"clean,clean,corrupt,answers\na,b,c,d\n", "is CSV with two columns 'clean'"),
        (b"clean,corrupt,answers\nParis, is in,b,c\n", "line 2: more values than there are columns .*quotation marks"),
        (b"clean,corrupt,answers\na,b\n", "line 2: fewer values than there are columns"),
        (
            b"clean,corrupt,answers\na,b,13\n",
            r'line 2: answers is 13: as a text that is \["13"\]',
        ),
        (b"clean,corrupt,answers\na,b,[' Mary' ' Ann']\n", "line 2: answers is .*should be a list"),
        (b'clean,corrupt,answers\na,b,"c\n', "behind line 1: not CSV: unexpected end of data"),
    ],
)
def test_a_file_that_is_none_is_called_what_it_is(content: bytes, said: str, tmp_path: Path) -> None:
    (tmp_path / "p").write_bytes(content)
    with pytest.raises(ValueError, match=rf"(?s)p\b.*{said}"):
        read_pairs(tmp_path / "p")


@pytest.mark.parametrize(
    ("source", "error", "said"),
    [
        ({"train": [record()]}, TypeError, "train is a dict of 'train', .*if these are splits, give each by itself"),
        (5, TypeError, "train takes the path of a file, a list of dicts, a dataset or a frame of pandas, got 5"),
        ([ONE], ValueError, r"train\[0\]: a pair is a dict, of its fields by name, not '"),
        (Frame([record(), record(clean=5)]), ValueError, r"train.iloc\[1\]: clean has to be a text, not 5"),
    ],
)
def test_what_is_in_memory_and_will_not_do_is_said(source: Any, error: type[Exception], said: str) -> None:
    with pytest.raises(error, match=said):
        PromptPairDataModule(TOKENIZER, source).setup()


def test_a_form_that_is_asked_for_is_kept_to(tmp_path: Path) -> None:
    (tmp_path / "p").write_text(json.dumps([record()]))
    assert len(read_pairs(tmp_path / "p", "json")) == 1
    with pytest.raises(ValueError, match="line 1: a pair is a JSON object"):
        read_pairs(tmp_path / "p", "jsonl")
    with pytest.raises(ValueError, match="format 'csv' is one of files, and pairs is in memory"):
        read_pairs([record()], "csv")
