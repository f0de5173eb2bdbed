"""JSON as files here hold it: one meaning, UTF-8, and plain data only."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

MAX_DIGITS = 300
"""So many digits of a whole number fit a float."""


def read_json(content: bytes) -> Any:
    """What JSON says. Python's constants ``NaN`` and ``Infinity`` are read: where they may stand is not said here.

    Raises:
        ValueError: it is not UTF-8, not JSON, nested too deeply, or gives a key of an object twice.
    """
    try:
        return json.loads(content.decode("utf-8-sig"), object_pairs_hook=_each_key_once, parse_int=_whole)
    except UnicodeDecodeError as error:
        raise ValueError(f"it is not JSON in UTF-8: {error.reason} at byte {error.start:,}") from error
    except json.JSONDecodeError as error:
        raise ValueError(f"it is not JSON: {error}") from error
    except RecursionError:
        raise ValueError("it is nested too deeply") from None


def plain_data(metadata: Any) -> dict[str, Any]:
    """Metadata in the types of JSON: a tuple becomes a list, a key a text.

    Raises:
        ValueError: they are no object, or hold what JSON does not have: NaN, a tensor, one key twice.
    """
    if not isinstance(metadata, Mapping):
        raise ValueError(f"the metadata is not plain JSON data: it is no object but {type(metadata).__name__}")
    try:
        return read_json(json.dumps(dict(metadata), allow_nan=False).encode())
    except RecursionError:
        raise ValueError("the metadata is not plain JSON data: it is nested too deeply") from None
    except (TypeError, ValueError) as error:
        raise ValueError(f"the metadata is not plain JSON data: {error}") from error


def _whole(digits: str) -> int:
    if len(digits) > MAX_DIGITS:
        raise ValueError(f"it has a whole number of {len(digits):,} digits")
    return int(digits)


def _each_key_once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) < len(pairs):
        for key, _ in pairs:
            if key not in found:
                raise ValueError(f"the key {key!r} stands twice in one object")
            del found[key]
    return found
