"""Arguments of what users make, checked where they are given: a wrong type is one error that names the argument.

    >>> require_numbers(low=0.1, high="much")
    Traceback (most recent call last):
    TypeError: high takes a number, got 'much'

What range a number has to lie in is said by the class whose number it is.
"""

from __future__ import annotations

from numbers import Integral, Real
from typing import Any, TypeVar, get_args

Instance = TypeVar("Instance")


def require_numbers(**given: Any) -> None:
    """Each is an int or a float.

    Raises:
        TypeError: something else, True and False too.
    """
    for name, value in given.items():
        if isinstance(value, bool) or not isinstance(value, Real):
            raise TypeError(f"{name} takes a number, got {value!r}")


def require_whole_numbers(**given: Any) -> None:
    """Each is an int.

    Raises:
        TypeError: something else, True and False too.
    """
    for name, value in given.items():
        if isinstance(value, bool) or not isinstance(value, Integral):
            raise TypeError(f"{name} takes a whole number, got {value!r}")


def require_flags(**given: Any) -> None:
    """Each is True or False.

    Raises:
        TypeError: something else.
    """
    for name, value in given.items():
        if not isinstance(value, bool):
            raise TypeError(f"{name} takes True or False, got {value!r}")


def require_choice(what: str, given: Any, choices: Any) -> None:
    """It is one of the values of a `Literal` type.

    Raises:
        ValueError: another value.
    """
    if given not in get_args(choices):
        raise ValueError(f"{what} is one of {', '.join(map(repr, get_args(choices)))}, got {given!r}")


def require_instance(what: str, given: Any, kind: type[Instance]) -> Instance:
    """``given`` itself, an object of a class.

    Raises:
        TypeError: something else.
    """
    if not isinstance(given, kind):
        raise TypeError(f"{what} takes an object of the class {kind.__name__}, got {given!r}")
    return given
