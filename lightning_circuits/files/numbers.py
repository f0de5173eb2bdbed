"""Rows of numbers as files hold them: dataclasses, the objects that JSON has for them, and the lines of a table.

A number that does not exist is NaN in a dataclass, null in JSON, and empty in a table.
"""

from __future__ import annotations

import csv
import io
import math
from collections.abc import Mapping, Sequence
from dataclasses import MISSING, fields
from typing import Any, TypeVar

from lightning_circuits.printable import printable

Numbers = TypeVar("Numbers")

JSON_TYPES: dict[str, tuple[tuple[type, ...], str]] = {
    "str": ((str,), "a text"),
    "str | None": ((str, type(None)), "a text or null"),
    "bool": ((bool,), "true or false"),
    "int": ((int,), "a count"),
    "float": ((int, float, type(None)), "a number or null"),
}
"""Types of fields: what JSON has for them, and the same in words."""

LARGEST = 1e15
"""No number in a file is larger: beyond, floats no longer count, and figures cannot be drawn."""


def to_json(numbers: Mapping[str, Any]) -> dict[str, Any]:
    """The fields of a dataclass of numbers as JSON has them: NaN, which it does not know, becomes None."""
    return {name: None if isinstance(value, float) and math.isnan(value) else value for name, value in numbers.items()}


def from_json(kind: type[Numbers], numbers: Any) -> Numbers:
    """The dataclass that `to_json` was given the fields of: None is NaN again; fields that it does not have are left.

    Args:
        kind: a dataclass whose fields are of the types in `JSON_TYPES`.
        numbers: what stands in a file; anything.

    Raises:
        ValueError: it is no object, a field is missing or of another type, a count is negative or beyond all sizes, a
            number infinite. The field is named.
    """
    if not isinstance(numbers, Mapping):
        raise ValueError(f"it is no object but {type(numbers).__name__}")
    values: dict[str, Any] = {}
    for each in fields(kind):  # type: ignore[arg-type]
        types, words = JSON_TYPES[str(each.type)]
        if each.name not in numbers and each.default is MISSING:
            raise ValueError(f"missing {each.name!r}")
        value = numbers.get(each.name, each.default)
        wrong_number = type(value) in (int, float) and (abs(value) >= LARGEST or (each.type == "int" and value < 0))
        if type(value) not in types or wrong_number:
            raise ValueError(f"its {each.name!r} is {value!r}, not {words}")
        values[each.name] = math.nan if each.type == "float" and value is None else value
    return kind(**values)


def to_csv(rows: Sequence[Mapping[str, Any]]) -> str:
    """A line for each row under the names of the columns; a number that does not exist is left empty.

    Args:
        rows: at least one, all with the same keys. Texts are written as they can be shown (`printable`).
    """
    text = io.StringIO()
    writer = csv.DictWriter(text, fieldnames=list(rows[0]), lineterminator="\n")
    writer.writeheader()
    writer.writerows(
        {name: printable(value) if isinstance(value, str) else value for name, value in row.items()} for row in rows
    )
    return text.getvalue()
