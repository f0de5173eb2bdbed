"""Arguments of what users make: checked where they are given, and read again from what was made.

A wrong type is one error that names the argument:

    >>> require_numbers(low=0.1, high="much")
    Traceback (most recent call last):
    TypeError: high takes a number, got 'much'

What range a number has to lie in is said by the class whose number it is.

What was given can be read again because it is kept: as in scikit-learn, every argument of a constructor stands in an
attribute of its own name. So checkpoints and files say of every object with which options it was made, whoever wrote
its class:

    >>> class Noise:
    ...     def __init__(self, scale: float = 0.1):
    ...         self.scale = scale
    >>> options_of(Noise(scale=0.5))
    {'scale': 0.5}
"""

from __future__ import annotations

import hashlib
import inspect
import sys
from collections.abc import Collection, Iterable, Mapping
from difflib import get_close_matches
from enum import Enum
from functools import partial
from numbers import Integral, Real
from pathlib import PurePath
from typing import Any, TypeVar, get_args

import numpy as np
import torch
from torch import Tensor

Instance = TypeVar("Instance")
UNKNOWN = "unknown"
"""What is recorded of an argument that cannot be read again; such a one is never taken for the same as another."""


def require_numbers(**given: Any) -> None:
    """Each is an int or a float.

    Raises:
        TypeError: something else, True and False too.
        ValueError: an int that no float holds.
    """
    for name, value in given.items():
        if isinstance(value, bool) or not isinstance(value, Real):
            raise TypeError(f"{name} takes a number, got {shortened(value)}")
        if isinstance(value, Integral) and abs(int(value)) > sys.float_info.max:
            raise ValueError(f"{name} takes a number that a float holds, got {shortened(value)}")


def require_whole_numbers(**given: Any) -> None:
    """Each is an int, of 64 bits at most.

    Raises:
        TypeError: something else, True and False too.
        ValueError: a larger one.
    """
    for name, value in given.items():
        if isinstance(value, bool) or not isinstance(value, Integral):
            raise TypeError(f"{name} takes a whole number, got {shortened(value)}")
        if abs(int(value)) >= 2**63:
            raise ValueError(f"{name} takes a whole number below 2**63, got {shortened(value)}")


def require_seed(seed: Any) -> None:
    """It can be the seed of random numbers: a whole number from 0 to 2**63 - 1.

    Raises:
        TypeError: something else.
        ValueError: a negative or larger one.
    """
    require_whole_numbers(seed=seed)
    if seed < 0:
        raise ValueError(f"seed takes a whole number from 0 up, got {seed}")


def require_flags(**given: Any) -> None:
    """Each is True or False.

    Raises:
        TypeError: something else.
    """
    for name, value in given.items():
        if not isinstance(value, bool):
            raise TypeError(f"{name} takes True or False, got {shortened(value)}")


def names_a_span(name: str) -> bool:
    """Whether a span of tokens may be called so: by printable letters that do not part the name of an edge."""
    return bool(name) and name.isprintable() and "@" not in name and "->" not in name


def require_span_names(names: Any) -> tuple[str, ...]:
    """The names of spans of tokens, as a tuple: different texts that the name of an edge, ``a0.h1->m2@END``, can hold.

    Raises:
        TypeError: no list of texts.
        ValueError: a name that is empty, not printable, there twice, or with ``@`` or ``->`` in it.
    """
    a_list = isinstance(names, Iterable) and not isinstance(names, str)
    given = tuple(names) if a_list else ()
    if not a_list or not all(isinstance(name, str) for name in given):
        raise TypeError(f"spans take a list of names, got {shortened(names)}")
    odd = [name for name in given if not names_a_span(name)]
    if odd or len(set(given)) < len(given):
        said = ", ".join(shortened(name) for name in odd or given)
        raise ValueError(f"spans need printable names of their own, without '@' and '->', got {said}")
    return given


def require_choice(what: str, given: Any, choices: Any) -> None:
    """It is one of the values of a `Literal` type.

    Raises:
        ValueError: another value.
    """
    if given not in get_args(choices):
        raise ValueError(f"{what} is one of {', '.join(map(repr, get_args(choices)))}, got {shortened(given)}")


def require_instance(what: str, given: Any, kind: type[Instance]) -> Instance:
    """``given`` itself, an object of a class.

    Raises:
        TypeError: something else.
    """
    if not isinstance(given, kind):
        raise TypeError(f"{what} takes an object of the class {kind.__name__}, got {shortened(given)}")
    return given


def shortened(value: object, most: int = 200) -> str:
    """How something that was given is shown in an error: in full, unless it is long.

    Args:
        value: what was given.
        most: characters that are shown of it.
    """
    if isinstance(value, int) and value.bit_length() > 10_000:  # of which Python shows no digits
        return f"a whole number of {value.bit_length():,} bits"
    shown = repr(value)
    return shown if len(shown) <= most else f"{shown[:most]}... ({len(shown)} characters)"


# ---- reading them again ----------------------------------------------------------------------------------------------


def require_options(kind: type, given: Collection[str]) -> None:
    """See that a class is made with such arguments, by name, its own or those of the classes above.

    Raises:
        TypeError: one that it does not have; all that it has are named, and one that is spelt almost so.
    """
    names = dict.fromkeys(name for each in _constructors(kind) for name in _arguments(each))
    for name in given:
        if name not in names:
            near = get_close_matches(name, names, n=1)
            meant = f" (did you mean {near[0]}?)" if near else ""
            raise TypeError(f"{kind.__name__} has no option {name!r}{meant}, but {', '.join(names)}")


def _constructors(kind: type) -> list[Any]:
    """Of the class and those above it, as far as they have some of their own."""
    return [vars(cls)["__init__"] for cls in kind.__mro__[:-1] if "__init__" in vars(cls)]


def options_of(thing: Any, leave_out: Collection[str] = ()) -> dict[str, Any]:
    """The arguments that an object was made with, by name, as plain JSON data; `UNKNOWN` where it does not keep one.

    Those of the classes above are among them, also where a subclass has settled what they are.

    Args:
        thing: the object.
        leave_out: names of arguments that are recorded in another way.
    """
    made_with: dict[str, Any] = {}
    constructors = _constructors(type(thing))
    for constructor in constructors:
        for name in _arguments(constructor):
            if name not in leave_out and (constructor is constructors[0] or hasattr(thing, name)):
                made_with.setdefault(name, getattr(thing, name, UNKNOWN))
    return {name: as_data(value) for name, value in made_with.items()}


def as_data(value: Any) -> Any:
    """A value as plain JSON data in which another one is told from it.

    An object is its class and what it says by a ``to_dict``, else the options that it was made with; a function its
    qualified name and what it is bound to; a tensor its shape and the hash of its numbers.
    """
    if value is None or isinstance(value, (bool, str)):
        return value
    if isinstance(value, (Integral, Real)):
        return int(value) if isinstance(value, Integral) else float(value)
    if isinstance(value, (PurePath, Enum, torch.dtype, torch.device)):
        return str(value)
    if isinstance(value, Mapping):
        return {str(key): as_data(each) for key, each in value.items()}
    if isinstance(value, (list, tuple)):
        return [as_data(each) for each in value]
    if isinstance(value, (set, frozenset)):
        return sorted((as_data(each) for each in value), key=repr)
    if isinstance(value, np.ndarray):
        value = torch.as_tensor(value)
    if isinstance(value, Tensor):
        return {"shape": list(value.shape), "hash": hash_of_numbers(value)}
    if isinstance(value, partial):
        return {"function": as_data(value.func), "arguments": as_data(value.args), **as_data(value.keywords)}
    if isinstance(value, type):
        return full_name(value)
    if inspect.isroutine(value):
        return _function_as_data(value)
    said = value.to_dict() if callable(getattr(value, "to_dict", None)) else options_of(value)
    return {"class": full_name(type(value)), **as_data(said)}


def hash_of_numbers(tensor: Tensor) -> str:
    """16 hex digits of the dtype and the numbers of a tensor of any shape, the same on every device.

    They are copied in parts of 16 MiB, and on a CPU not at all.
    """
    found = hashlib.sha256(str(tensor.dtype).encode())
    flat = tensor.detach().to_dense().reshape(-1)
    numbers = 2**24 // max(flat.element_size(), 1)
    for start in range(0, len(flat), numbers):
        found.update(flat[start : start + numbers].cpu().view(torch.uint8).numpy().data)
    return found.hexdigest()[:16]


def full_name(thing: Any) -> str:
    """A class or a function by its name, with its module if that is not of this package."""
    name, module = getattr(thing, "__qualname__", repr(thing)), getattr(thing, "__module__", None) or ""
    return name if module.partition(".")[0] == __name__.partition(".")[0] else f"{module}.{name}"


def called(thing: Any) -> str:
    """What an object or a function is called: its ``name`` if it says one, else that of its class or its own."""
    name = getattr(thing, "name", None)
    return name if isinstance(name, str) else getattr(thing, "__name__", type(thing).__name__)


def _arguments(constructor: Any) -> list[str]:
    """The names of those it takes, without the object itself, and without what it hands on."""
    try:
        _, *parameters = inspect.signature(constructor).parameters.values()
    except ValueError:  # one that is not written in Python
        return []
    return [each.name for each in parameters if each.kind not in (each.VAR_POSITIONAL, each.VAR_KEYWORD)]


def _function_as_data(function: Any) -> Any:
    name = full_name(function)
    if "<lambda>" in name:  # all of them are called that
        return UNKNOWN
    if inspect.ismethod(function):
        return {"function": name, "self": as_data(function.__self__)}
    bound = inspect.getclosurevars(function).nonlocals if inspect.isfunction(function) else {}
    return {"function": name, **as_data(bound)}
