"""What an argument may be, seen where it is given: one line that names the argument, before anything is trained.

>>> whole_number(0, "batch_size", least=1)
Traceback (most recent call last):
ValueError: batch_size is 0: it has to be at least 1
>>> several("interchange", "ablations", (str,), "names of ablations")
['interchange']
"""

from __future__ import annotations

from collections.abc import Collection, Iterable
from typing import Any


def whole_number(given: Any, what: str, least: int | None = None) -> int:
    """A whole number, at least ``least``.

    Raises:
        TypeError: something else.
        ValueError: a smaller one.
    """
    if isinstance(given, bool) or not isinstance(given, int):
        raise TypeError(f"{what} is {given!r}: it has to be a whole number")
    if least is not None and given < least:
        raise ValueError(f"{what} is {given}: it has to be at least {least}")
    return given


def number(given: Any, what: str) -> float:
    """A number.

    Raises:
        TypeError: something else.
    """
    if isinstance(given, bool) or not isinstance(given, (int, float)):
        raise TypeError(f"{what} is {given!r}: it has to be a number")
    return given


def choice(given: Any, what: str, choices: Collection[str]) -> str:
    """One of several names.

    Raises:
        TypeError: no name.
        ValueError: another one.
    """
    if not isinstance(given, str):
        raise TypeError(f"{what} is {given!r}: it has to be one of {', '.join(choices)}")
    if given not in choices:
        raise ValueError(f"{what} is {given!r}: it has to be one of {', '.join(choices)}")
    return given


def several(given: Any, what: str, kinds: tuple[type, ...], said: str) -> list[Any]:
    """A lone value as a list of one, several as a list.

    Args:
        given: what the argument ``what`` was given.
        kinds: of a value.
        said: what may be given, for the message.

    Raises:
        TypeError: something of another kind.
    """
    values = [given] if isinstance(given, kinds) or not isinstance(given, Iterable) else list(given)
    if not all(isinstance(value, kinds) and not isinstance(value, bool) for value in values):
        raise TypeError(f"{what} is {given!r}: it has to be {said}, one or several")
    return values
