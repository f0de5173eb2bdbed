"""Pairs from files: our own JSON Lines, and the files that others publish.

    >>> read_pairs("ioi/gpt2.csv", format="eap-ig")                                                # doctest: +SKIP
    [PromptPair(clean='Then, ...', corrupt='Then, ...', answers=(5335,), distractors=(1757,), ...), ...]

| format   | what it is                                                                                      |
|----------|-------------------------------------------------------------------------------------------------|
| `jsonl`  | JSON Lines of `clean`, `corrupt`, `answers`, `distractors` (see `datamodules.jsonl`)            |
| `eap-ig` | the CSV of a task of EAP-IG, `clean`, `corrupted` and columns of token ids                      |
| `mib`    | rows of a MIB data set as JSON Lines, as `datasets` writes them: `prompt` and `..._counterfactual` |

How the rows of the two others are read stands in `datamodules.published`.
"""

from __future__ import annotations

import codecs
import csv
import io
import json
from collections.abc import Iterator, Sequence
from difflib import get_close_matches
from pathlib import Path
from typing import Any, Literal

from lightning_circuits.arguments import require_choice, shortened
from lightning_circuits.datamodules.published import pair_of_eap_ig, pair_of_mib
from lightning_circuits.datamodules.tokenising import PromptPair
from lightning_circuits.models.loading import PreTrainedTokenizerBase

PairFormat = Literal["jsonl", "eap-ig", "mib"]

FIELDS = ("clean", "corrupt", "answers", "distractors")
"""What a pair of ours has to have; beside them `spans` and `group`."""


def read_pairs(
    file: str | Path, format: PairFormat = "jsonl", tokenizer: PreTrainedTokenizerBase | None = None
) -> list[PromptPair]:
    """Read a file of pairs; blank lines are passed over, other fields are ignored.

    Args:
        file: its path.
        format: ``jsonl``, ``eap-ig`` or ``mib``.
        tokenizer: for files that give a number in the place of tokens, the years of EAP-IG's greater-than; others need
            none.

    Raises:
        FileNotFoundError: the file is not there.
        ValueError: another format; the file is compressed or not UTF-8; with the line's number: it is not JSON, not an
            object, or a field is missing, given twice or of another type.
    """
    require_choice("format", format, PairFormat)
    path = Path(file).expanduser()
    if format == "eap-ig":
        return _rows_of_eap_ig(content_of(path, "CSV, a row per pair", "pairs"), path, tokenizer)
    if format == "mib":
        read = [pair_of_mib(record, where) for where, record in json_lines(path, "pair")]
        return [pair for pair in read if pair is not None]
    return [_pair_of_ours(record, where) for where, record in json_lines(path, "pair", FIELDS)]


def json_lines(path: Path, thing: str, fields: Sequence[str] = ()) -> Iterator[tuple[str, dict[str, Any]]]:
    """The objects of a JSON Lines file, and where in it each stands; blank lines are passed over.

    Args:
        path: of the file.
        thing: what a line holds, for errors: ``pair``.
        fields: what each has to have; for files of others, which say it another way, none.

    Raises:
        FileNotFoundError: the file is not there.
        ValueError: the file is compressed or not UTF-8; with the line's number: it is not JSON, not an object, or a
            field is missing or given twice.
    """
    with_fields = f" with the fields {', '.join(fields)}" if fields else ""
    content = content_of(path, f"JSON Lines, a line per {thing}{with_fields}", f"{thing}s")
    for number, line in enumerate(content.split(b"\n"), start=1):
        if line.strip():
            where = f"{path}, line {number}"
            record = _json_object(line, where, thing)
            _require_fields(record, where, thing, fields)
            yield where, record


def content_of(path: Path, kind: str, things: str) -> bytes:
    """What is in a file, without a byte-order mark; FileNotFoundError or ValueError, which say what ``kind`` of file
    holds such ``things``, if it is not there or another.
    """
    if not path.is_file():
        raise FileNotFoundError(f"there is {'a folder and ' if path.is_dir() else ''}no file {path} ({kind})")
    content = path.read_bytes()
    for start, other in _OTHER_FILES.items():
        if content.startswith(start):
            raise ValueError(f"{path} is {other}: a file of {things} is {kind.partition(',')[0]}, in UTF-8")
    return content.removeprefix(codecs.BOM_UTF8)


_OTHER_FILES = {
    b"\x1f\x8b": "compressed (gzip)",
    b"PK\x03\x04": "compressed (zip)",
    b"\x28\xb5\x2f\xfd": "compressed (zstd)",
    b"PAR1": "in Parquet",
    codecs.BOM_UTF16_LE: "in UTF-16",
    codecs.BOM_UTF16_BE: "in UTF-16",
}


def _rows_of_eap_ig(content: bytes, path: Path, tokenizer: PreTrainedTokenizerBase | None) -> list[PromptPair]:
    try:
        text = content.decode("utf-8")
    except UnicodeDecodeError as error:
        raise ValueError(f"{path}: not UTF-8 (byte {error.start + 1})") from None
    rows = csv.DictReader(io.StringIO(text, newline=""), strict=True)
    pairs = []
    try:
        for row in rows:
            pairs.append(pair_of_eap_ig(row, f"{path}, line {rows.line_num}", tokenizer))
    except csv.Error as error:
        raise ValueError(f"{path}, behind line {rows.line_num}: not CSV: {error}") from None
    return pairs


def _json_object(line: bytes, where: str, thing: str) -> dict[str, Any]:
    try:
        record = json.loads(line.decode("utf-8"), object_pairs_hook=_each_once)
    except json.JSONDecodeError as error:
        raise ValueError(f"{where}: not JSON: {error.msg} (column {error.colno})") from None
    except UnicodeDecodeError as error:
        raise ValueError(f"{where}: not UTF-8 (byte {error.start + 1} of the line)") from None
    except (ValueError, RecursionError) as error:  # a field twice; a number of thousands of digits; lists in lists
        raise ValueError(f"{where}: no {thing}: {error}") from None
    if not isinstance(record, dict):
        raise ValueError(f"{where}: a {thing} is a JSON object with fields by name, not {shortened(record)}")
    return record


def _require_fields(record: dict[str, Any], where: str, thing: str, fields: Sequence[str]) -> None:
    if missing := [field for field in fields if field not in record]:
        meant = {field: get_close_matches(field, set(record) - set(fields), 1) for field in missing}
        hints = "".join(f"; is {names[0]!r} meant for {field}?" for field, names in meant.items() if names)
        raise ValueError(f"{where}: {', '.join(missing)} missing{hints}; a {thing} has the fields {', '.join(fields)}")


def _pair_of_ours(record: dict[str, Any], where: str) -> PromptPair:
    for field in FIELDS[2:]:
        if not isinstance(record[field], list) or not record[field]:
            raise ValueError(
                f"{where}: {field} has to be a list of at least one text or token id, not {shortened(record[field])}"
            )
    spans = {} if record.get("spans") is None else record["spans"]
    group = "" if record.get("group") is None else record["group"]
    answers, distractors = tuple(record["answers"]), tuple(record["distractors"])
    return PromptPair(record["clean"], record["corrupt"], answers, distractors, where, spans, group)


def _each_once(fields: list[tuple[str, Any]]) -> dict[str, Any]:
    record = dict(fields)
    if len(record) < len(fields):
        names = [name for name, _ in fields]
        raise ValueError(f"{next(name for name in names if names.count(name) > 1)!r} stands in it twice")
    return record
