"""Pairs from files and from memory: our own, and those that others publish.

    >>> read_pairs("ioi/gpt2.csv", format="eap-ig")                                                # doctest: +SKIP
    [PromptPair(clean='Then, ...', corrupt='Then, ...', answers=(5335,), distractors=(1757,), ...), ...]

| format                 | what it is                                                                             |
|------------------------|----------------------------------------------------------------------------------------|
| `auto`                 | `clean`, `corrupt`, `answers` and `distractors` as JSON Lines, a JSON list or CSV      |
| `jsonl`, `json`, `csv` | the same, of which the file has to be that                                             |
| `eap-ig`               | the CSV of a task of EAP-IG, `clean`, `corrupted` and columns of token ids             |
| `mib`                  | rows of a MIB data set, as JSON too: `prompt` and `..._counterfactual`                 |

How the rows of the two last are read stands in `datamodules.published`; what is read of files at all, in
`datamodules.records`.

**Answers in a cell.** JSON has lists; a cell of CSV has none. A cell is one answer, as it stands with its spaces,
unless it begins with a bracket: then it is a list, as JSON or as Python (and pandas) write it, `[" Mary", " Ann"]`. A
token's id stands in a list, `[4881]`. Of a cell `13` nobody could say which of the two is meant, so it is refused.
"""

from __future__ import annotations

import ast
import json
import math
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from itertools import chain
from pathlib import Path
from typing import Any, Literal, TypeAlias

from lightning_circuits.arguments import require_choice, shortened
from lightning_circuits.datamodules.faults import Row, made_of_each
from lightning_circuits.datamodules.published import pair_of_eap_ig, pair_of_mib
from lightning_circuits.datamodules.records import (
    FORMS,
    missing_fields,
    rows_in_memory,
    rows_of_file,
    table_of,
    text_of,
)
from lightning_circuits.datamodules.tokenising import PromptPair
from lightning_circuits.models.loading import PreTrainedTokenizerBase

PairFormat = Literal["auto", "jsonl", "json", "csv", "eap-ig", "mib"]

Source: TypeAlias = str | Path | Iterable[Any]
"""The path of a file; or what gives dicts one by one, as a list or a dataset does; or a frame of pandas."""

FIELDS = ("clean", "corrupt", "answers", "distractors")
"""What a pair of ours has; beside them `spans` and `group`."""
NEEDED = FIELDS[:3]


def read_pairs(
    source: Source,
    format: PairFormat = "auto",
    tokenizer: PreTrainedTokenizerBase | None = None,
    name: str = "pairs",
) -> list[PromptPair]:
    """Read pairs; blank lines are passed over, other fields are ignored.

    Args:
        source: the path of a file; or a list of dicts, a dataset of `datasets`, a frame of pandas. What is a
            `PromptPair` already stays as it is.
        format: see the module.
        tokenizer: for files that give a number in the place of tokens, the years of EAP-IG's greater-than; others need
            none.
        name: what errors call a source that is no file.

    Raises:
        FileNotFoundError: the file is not there.
        TypeError: a source of another kind.
        ValueError: another format; the file is compressed, in another encoding, or in another form; with each of the
            rows (`faults.BadRows`): it cannot be read, or a field is missing, given twice or of another type.
    """
    require_choice("format", format, PairFormat)
    if not isinstance(source, (str, Path)):
        if format not in ("auto", "mib"):
            raise ValueError(f"format {format!r} is one of files, and {name} is in memory: {shortened(source)}")
        rows = rows_in_memory(source, name, "pair")
    else:
        path = Path(source).expanduser()
        if format == "eap-ig":
            rows = table_of(text_of(path, "CSV, a row per pair"), path, ("clean", "corrupted"))
            return made_of_each(rows, lambda row, where: pair_of_eap_ig(row, where, tokenizer), "pairs")
        fields, check = (("prompt",), None) if format == "mib" else (FIELDS, _require_columns)
        rows = rows_of_file(path, format if format in FORMS else "auto", "pair", fields, check)  # type: ignore[arg-type]
    if format == "mib":
        return [pair for pair in made_of_each(rows, _pair_of_mib, "pairs") if pair is not None]
    return made_of_each(_of_ours(rows), _pair_of_ours, "pairs")


def require_distractors_alike(pairs: Sequence[PromptPair]) -> None:
    """ValueError if some pairs have distractors and others none; they may be of several sources."""
    without = [pair for pair in pairs if not pair.distractors]
    if 0 < len(without) < len(pairs):
        raise ValueError(
            f"{len(without)} of {len(pairs)} pairs have no distractors, so that means over all would mix logits "
            f"with their differences: give distractors to all or to none. The first without: {without[0].where}"
        )


def _of_ours(rows: Iterator[Row]) -> Iterator[Row]:
    """The same rows; ValueError if the first shows that they are of another format."""
    for where, row in rows:
        if isinstance(row, Mapping):
            _refuse_others(list(map(str, row)), where)
        return chain([(where, row)], rows)
    return rows


def _refuse_others(names: Sequence[str], where: str) -> None:
    """ValueError if these are the fields of another format, which it names."""
    kind = "mib" if "prompt" in names and any("counterfactual" in name for name in names) else None
    kind = "eap-ig" if "corrupted" in names and any(name.endswith("_idx") for name in names) else kind
    if kind and not set(NEEDED) <= set(names):
        raise ValueError(f"{where}: these are fields of another format, {', '.join(names)}: read it by format={kind!r}")


def _require_columns(names: Sequence[str], where: str) -> None:
    _refuse_others(names, where)
    if fault := missing_fields(dict.fromkeys(names), where, "pair", NEEDED, FIELDS):
        raise fault


def _pair_of_mib(record: Any, where: str) -> PromptPair | None:
    return record if isinstance(record, PromptPair) else pair_of_mib(record, where)


def _pair_of_ours(record: Any, where: str) -> PromptPair:
    if isinstance(record, PromptPair):
        return record
    if fault := missing_fields(record, where, "pair", NEEDED, FIELDS):
        raise fault
    answers = _words(record["answers"], "answers", where)
    if not answers:
        raise _no_list("answers", where, record["answers"])
    distractors = _words(record.get("distractors"), "distractors", where)
    spans = record.get("spans")
    if isinstance(spans, str) and spans.startswith("{"):  # in a cell
        spans = _of_cell(spans, "spans", where)
    group = "" if _absent(record.get("group")) else record["group"]
    return PromptPair(
        record["clean"], record["corrupt"], answers, distractors, where, {} if _absent(spans) else spans, group
    )


def _words(given: Any, field: str, where: str) -> tuple[Any, ...]:
    """Answers or distractors, none where nothing is given: a list, or a single text (see the module)."""
    if hasattr(given, "tolist"):  # an array, in a frame or a dataset
        given = given.tolist()
    if _absent(given):
        return ()
    if isinstance(given, str):
        if re.fullmatch(r"-?\d+", given):
            raise ValueError(
                f'{where}: {field} is {given}: as a text that is ["{given}"], as the id of a token [{given}]'
            )
        given = _of_cell(given, field, where) if given.startswith("[") else [given]
    if not isinstance(given, (list, tuple)):
        raise _no_list(field, where, given)
    return tuple(each.tolist() if hasattr(each, "tolist") else each for each in given)


def _no_list(field: str, where: str, given: Any) -> ValueError:
    return ValueError(f"{where}: {field} has to be a list of at least one text or token id, not {shortened(given)}")


def _of_cell(cell: str, field: str, where: str) -> Any:
    """What stands in a cell as JSON or, exactly as Python writes it, as a list of Python."""
    try:
        return json.loads(cell)
    except (ValueError, RecursionError):
        pass
    try:
        value = ast.literal_eval(cell)
    except (ValueError, SyntaxError, RecursionError, MemoryError):
        value = None
    # What numpy writes, [' Mary' ' Ann'], Python would read as one text.
    if value is None or repr(value) != cell:
        way_out = 'a list, such as [" Mary", " Ann"]. (An answer that begins with a bracket stands in a list, too)'
        raise ValueError(
            f"{where}: {field} is {shortened(cell)}, and should be "
            + (way_out if field != "spans" else 'JSON, such as {"S2": [39, 43]}')
        )
    return value


def _absent(given: Any) -> bool:
    """Whether nothing is given: None, an empty text, or what frames have in its place."""
    if isinstance(given, float):
        return math.isnan(given)
    return given is None or type(given).__name__ == "NAType" or given == ""
