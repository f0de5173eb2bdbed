"""Rows of files, and of what is in memory, as records: fields by name, and where each row stands.

| form    | what it is                                                                            |
|---------|---------------------------------------------------------------------------------------|
| `jsonl` | JSON Lines: an object a line; blank lines are passed over                             |
| `json`  | one JSON list of objects                                                              |
| `csv`   | a first line that names the columns, separated by commas, semicolons or tabs          |

Which of them a file is, its beginning says: a brace, a bracket, or names of columns. Files are UTF-8; a byte-order mark
is no part of the text, and UTF-16 is read where its beginning leaves no doubt.

In memory, records are whatever gives dicts one by one, as a list or a `datasets.Dataset` do, and frames of pandas.
"""

from __future__ import annotations

import codecs
import csv
import io
import json
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from difflib import get_close_matches
from pathlib import Path
from typing import Any, Literal, get_args

from lightning_circuits.arguments import shortened
from lightning_circuits.datamodules.faults import Row
from lightning_circuits.datamodules.tokenising import PromptPair

Form = Literal["jsonl", "json", "csv"]

_OTHER_FILES = {
    b"\x1f\x8b": "compressed (gzip): unpack it",
    b"PK\x03\x04": "compressed (zip), or a spreadsheet: unpack it, or save it as CSV",
    b"\x28\xb5\x2f\xfd": "compressed (zstd): unpack it",
    b"PAR1": "in Parquet: read it with pandas or datasets, and give what they read in its place",
}


# ---- files -----------------------------------------------------------------------------------------------------------


def text_of(path: Path, kind: str) -> str:
    """What is in a file, without a byte-order mark.

    Args:
        path: of the file.
        kind: what it should be, for errors: ``JSON Lines, a line per fact``.

    Raises:
        FileNotFoundError: the file is not there.
        ValueError: it is compressed, or neither in UTF-8 nor, as its beginning would say, in UTF-16.
    """
    if not path.is_file():
        raise FileNotFoundError(f"there is {'a folder and ' if path.is_dir() else ''}no file {path} ({kind})")
    content = path.read_bytes()
    for start, other in _OTHER_FILES.items():
        if content.startswith(start):
            raise ValueError(f"{path} is {other}. It should be {kind.partition(',')[0]}, in UTF-8")
    # By its mark; without one, by the zeros beside its first letters, of which UTF-8 has none.
    encoding = "utf-16" if content.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)) else "utf-8-sig"
    if b"\0" in content[:2] and len(content) > 1:
        encoding = "utf-16-be" if content[0] == 0 else "utf-16-le"
    try:
        return content.decode(encoding)
    except UnicodeDecodeError as error:
        if encoding != "utf-8-sig":
            raise ValueError(f"{path}: begins as UTF-16, and is none at byte {error.start + 1}") from None
        # Of what is decoded here the mark is no part.
        before = content.removeprefix(codecs.BOM_UTF8)[: error.start]
        line, column = before.count(b"\n") + 1, len(before) - (before.rfind(b"\n") + 1) + 1
        raise ValueError(
            f"{path}, line {line}: not UTF-8 (byte {column} of the line): save the file in UTF-8"
        ) from None


def form_of(text: str, path: Path, fields: Sequence[str]) -> Form:
    """Which form the text of a file has; ValueError, saying how it begins, if it is none.

    Args:
        text: of the file.
        path: of the file, for errors.
        fields: names of columns by which a table is known: one of them will do.
    """
    start = text.lstrip()[:1]
    if start in ("", "{"):
        return "jsonl"
    if start == "[":
        return "json"
    if _delimiter(text, fields) or path.suffix in (".csv", ".tsv"):
        return "csv"
    raise ValueError(
        f"{path} is neither JSON, a line for each object or one list of them, nor CSV with the names of the columns "
        f"({', '.join(fields)}) in its first line: it begins with {shortened(text.lstrip().partition(chr(10))[0], 60)}"
    )


def json_lines(path: Path, thing: str, fields: Sequence[str] = ()) -> Iterator[Row]:
    """The objects of a JSON Lines file.

    Args:
        path: of the file.
        thing: what a line holds, for errors: ``fact``.
        fields: what each has to have.

    Raises:
        FileNotFoundError: the file is not there.
        ValueError: what `text_of` raises. A row is one if it is not JSON, not an object, or if a field is missing or
            given twice.
    """
    named = f" with the fields {', '.join(fields)}" if fields else ""
    for where, record in lines_of(text_of(path, f"JSON Lines, a line per {thing}{named}"), path, thing):
        missing = None if isinstance(record, ValueError) else missing_fields(record, where, thing, fields, fields)
        yield where, missing or record


def lines_of(text: str, path: Path, thing: str) -> Iterator[Row]:
    """The rows of JSON Lines."""
    lines = text.split("\n")
    first = next((line for line in lines if line.strip()), "")
    if _as_json(first) is None and isinstance(whole := _as_json(text), dict):
        raise ValueError(
            f"{path} is one JSON object over several lines, with {', '.join(map(repr, whole))}: {thing}s are objects, "
            "each in a line of its own, or in one list"
        )
    for number, line in enumerate(lines, start=1):
        if line.strip():
            where = f"{path}, line {number}"
            yield where, _json_object(line, where, thing)


def list_of(text: str, path: Path, thing: str) -> Iterator[Row]:
    """The rows of one JSON list."""
    try:
        rows = json.loads(text, object_pairs_hook=_each_once)
    except json.JSONDecodeError as error:
        raise ValueError(
            f"{path} begins as a JSON list, and is none: {error.msg} (line {error.lineno}, column {error.colno})"
        ) from None
    except (ValueError, RecursionError) as error:
        raise ValueError(f"{path} is a JSON list, and not one of {thing}s: {error}") from None
    for number, row in enumerate(rows, start=1):
        where = f"{path}, object {number}"
        yield where, row if isinstance(row, dict) else _no_object(row, where, thing)


def table_of(
    text: str, path: Path, fields: Sequence[str], check: Callable[[Sequence[str], str], None] | None = None
) -> Iterator[Row]:
    """The rows of CSV, all texts; a row without any text is passed over.

    Args:
        text: of the file.
        path: of the file, for errors.
        fields: what columns are called by which the separator is known.
        check: given the names of all columns and where they stand, raises an error if they will not do.
    """
    rows = csv.DictReader(io.StringIO(text, newline=""), strict=True, delimiter=_delimiter(text, fields) or ",")
    try:
        names = list(rows.fieldnames or ())
        if twice := next((name for name in names if names.count(name) > 1), None):
            raise ValueError(f"{path} is CSV with two columns {twice!r}")
        if check is not None and names:
            check(names, f"{path} is CSV, and in its first line")
        for row in rows:
            where = f"{path}, line {rows.line_num}"
            if None in row or None in row.values():
                more = "more" if None in row else "fewer"
                yield (
                    where,
                    ValueError(
                        f"{where}: {more} values than there are columns ({', '.join(names)}); one with a comma in it "
                        "stands in quotation marks"
                    ),
                )
            elif any(row.values()):
                yield where, row
    except csv.Error as error:
        raise ValueError(f"{path}, behind line {rows.line_num}: not CSV: {error}") from None


def rows_of_file(
    path: Path,
    form: Form | Literal["auto"],
    thing: str,
    fields: Sequence[str],
    check: Callable[[Sequence[str], str], None] | None = None,
) -> Iterator[Row]:
    """The rows of a file of any form.

    Args:
        path: of the file.
        form: which one; ``auto``: as it begins (see `form_of`).
        thing: what a row holds, for errors.
        fields: what columns of CSV are called.
        check: see `table_of`.

    Raises:
        FileNotFoundError: the file is not there.
        ValueError: it is of none of the forms, or of another.
    """
    text = text_of(path, f"JSON or CSV, with the fields {', '.join(fields)}")
    if form == "auto":
        form = form_of(text, path, fields)
    readers: dict[str, Callable[[], Iterator[Row]]] = {
        "jsonl": lambda: lines_of(text, path, thing),
        "json": lambda: list_of(text, path, thing),
        "csv": lambda: table_of(text, path, fields, check),
    }
    return readers[form]()


FORMS: tuple[str, ...] = get_args(Form)


# ---- in memory -------------------------------------------------------------------------------------------------------


def require_source(name: str, source: Any, thing: str = "pair") -> None:
    """See that something is the path of a file, or may hold rows; TypeError, which calls it by a name, if not."""
    if isinstance(source, Mapping):
        raise TypeError(
            f"{name} is a dict of {', '.join(map(repr, list(source)[:5]))}, and should be a list of {thing}s: if these "
            "are splits, give each by itself"
        )
    if not isinstance(source, (str, Path, Iterable)):
        raise TypeError(
            f"{name} takes the path of a file, a list of dicts, a dataset or a frame of pandas, got {shortened(source)}"
        )


def rows_in_memory(source: Iterable[Any], name: str, thing: str) -> Iterator[Row]:
    """The rows of a list of dicts, of a `datasets.Dataset` or of a frame of pandas.

    Args:
        source: which.
        name: what it is called in errors: ``train``.
        thing: what a row holds.

    Raises:
        TypeError: it is none of them.
    """
    require_source(name, source, thing)
    rows: Any = source
    if callable(getattr(source, "iterrows", None)):  # iterated, a frame of pandas gives the names of its columns
        name, rows = f"{name}.iloc", source.to_dict("records")  # type: ignore[attr-defined]
    for number, row in enumerate(rows):
        where = f"{name}[{number}]"
        good = isinstance(row, (Mapping, PromptPair))
        yield (
            where,
            row if good else ValueError(f"{where}: a {thing} is a dict, of its fields by name, not {shortened(row)}"),
        )


def count_of(source: Any) -> str:
    """What is in memory, in words, for files that a run leaves behind: ``40 rows of a DataFrame``."""
    return f"{len(source):,} rows of a {type(source).__name__}"


# ---- single rows -----------------------------------------------------------------------------------------------------


def missing_fields(
    record: Mapping[str, Any], where: str, thing: str, needed: Sequence[str], known: Sequence[str]
) -> ValueError | None:
    """Why a record will not do that lacks a field, or has one that is called nearly like one that it has not; else
    None.

    Args:
        record: by its fields.
        where: it stands.
        thing: what it should be: ``pair``.
        needed: fields that each has to have.
        known: all the fields that there are.
    """
    names = [str(name) for name in record if name not in known]
    # Of a field that may be absent, another has to be called nearly the same.
    meant = {
        field: get_close_matches(field, names, 1, 0.6 if field in needed else 0.85)
        for field in known
        if field not in record
    }
    hints = "".join(f"; is {found[0]!r} meant for {field}?" for field, found in meant.items() if found)
    missing = [field for field in known if field in meant and (field in needed or meant[field])]
    if not missing:
        return None
    return ValueError(f"{where}: {', '.join(missing)} missing{hints}; a {thing} has the fields {', '.join(known)}")


def _delimiter(text: str, fields: Sequence[str]) -> str | None:
    """What separates the columns, one of which is called like a field; None if there is none."""
    header = text.lstrip().partition("\n")[0].rstrip("\r")
    split = {mark: [name.strip().strip('"').lower() for name in header.split(mark)] for mark in ",;\t"}
    return max(
        (mark for mark in split if set(fields) & set(split[mark])), key=lambda mark: len(split[mark]), default=None
    )


def _json_object(line: str, where: str, thing: str) -> dict[str, Any] | ValueError:
    try:
        record = json.loads(line, object_pairs_hook=_each_once)
    except json.JSONDecodeError as error:
        return ValueError(f"{where}: not JSON: {error.msg} (column {error.colno})")
    except (ValueError, RecursionError) as error:  # a field twice; a number of thousands of digits; lists in lists
        return ValueError(f"{where}: no {thing}: {error}")
    return record if isinstance(record, dict) else _no_object(record, where, thing)


def _no_object(row: Any, where: str, thing: str) -> ValueError:
    return ValueError(f"{where}: a {thing} is a JSON object with fields by name, not {shortened(row)}")


def _as_json(text: str) -> Any:
    """What a text stands for, None if it is no JSON."""
    try:
        return json.loads(text)
    except (ValueError, RecursionError):
        return None


def _each_once(fields: list[tuple[str, Any]]) -> dict[str, Any]:
    record = dict(fields)
    if len(record) < len(fields):
        names = [name for name, _ in fields]
        raise ValueError(f"{next(name for name in names if names.count(name) > 1)!r} stands in it twice")
    return record
