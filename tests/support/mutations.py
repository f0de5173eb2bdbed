"""Valid files with something wrong in them, and what may come of reading one: the same, or an error that names it."""

from __future__ import annotations

import copy
import json
import re
import time
from collections.abc import Callable, Iterator
from functools import reduce
from operator import getitem
from pathlib import Path
from typing import Any, TypeVar

import torch
from hypothesis import strategies as st
from torch import Tensor

Read = TypeVar("Read")
SECONDS = 5
MISTAKES = (ValueError, TypeError, OSError)
INTERNALS = re.compile(
    r"has no attribute|not subscriptable|'NoneType'|weights_only=|weights_only` |cannot unpack|codec can't|Traceback|"
    r"unhashable|not iterable|indices must be|out of range|size mismatch|unexpected keyword|c10|KeyError"
)
"""Words of Python's and torch's that are no help to whoever has the file."""

NUMBERS = [0, 1, -1, 2, 0.5, 1e7, 10_000_000, -1e14, 1e300, float("nan"), float("inf"), 10**30, 2**63]
WORDS = ["", "x", "gpt2", "[/red]", r"$\frac{", "\ud800", "\x1b[31m", "1", "NaN", "a" * 5000]
NESTED = [None, True, False, [], {}, [1], [[]], [None], {"a": 1}, {"": {}}, [[[[[]]]]], list(range(100))]
ANYTHING = st.sampled_from([*NUMBERS, *WORDS, *NESTED])
TENSORS = st.sampled_from(
    [
        torch.empty(0),
        torch.zeros(()),
        torch.ones(3, dtype=torch.bool),
        torch.full((4, 4), torch.nan),
        torch.zeros(2, 2, 2),
        torch.ones(5, dtype=torch.complex64),
        torch.zeros(7, dtype=torch.int64),
        torch.zeros(3).to_sparse(),
    ]
)


def places(part: Any, where: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:
    """The ways to all that stands in nested dicts and lists."""
    for key in part if isinstance(part, dict) else range(len(part)) if isinstance(part, list | tuple) else ():
        yield (*where, key)
        yield from places(part[key], (*where, key))


@st.composite
def changed(draw: st.DrawFn, content: Any, values: st.SearchStrategy[Any] = ANYTHING) -> Any:
    """Nested dicts and lists with one to three things in them replaced, taken out or doubled; seldom all of it."""
    content = copy.deepcopy(content)
    for _ in range(draw(st.integers(1, 3))):
        ways = sorted(places(content), key=len)
        if not ways or draw(st.integers(0, 30)) == 0:
            return copy.deepcopy(draw(values))
        # Few of the places are near the top, and those say the most.
        near = [way for way in ways if len(way) <= 2]
        *way, key = draw(st.sampled_from(near[:200]) | st.sampled_from(ways))
        holder = reduce(getitem, way, content)
        if isinstance(holder, tuple):
            continue
        old = holder[key]
        if isinstance(old, Tensor) and old.layout == torch.strided and draw(st.booleans()):
            holder[key] = draw(
                st.sampled_from([old.half(), old.int(), old.flatten()[:-1], old * torch.nan, old.tolist()])
            )
        elif draw(st.integers(0, 3)):
            holder[key] = copy.deepcopy(draw(values))  # which later changes may change
        else:
            del holder[key]
    return content


@st.composite
def damaged(draw: st.DrawFn, content: bytes) -> bytes:
    """Bytes of which some are flipped, cut off, put in or doubled."""
    bits = bytearray(content)
    for _ in range(draw(st.integers(1, 3))):
        at = draw(st.integers(0, max(0, len(bits) - 1)))
        match draw(st.sampled_from(["flip", "cut", "insert", "blank"])):
            case "flip" if bits:
                bits[at] ^= 1 << draw(st.integers(0, 7))
            case "cut":
                del bits[at:]
            case "insert":
                bits[at:at] = draw(st.binary(min_size=1, max_size=8))
            case _:
                bits[at : at + 16] = bytes(len(bits[at : at + 16]))
    return bytes(bits)


def as_json(content: Any) -> bytes:
    return json.dumps(content).encode()


def read_or_refused(read: Callable[[Path], Read], path: Path, names: str | None = None) -> Read | None:
    """What is read, or None where the file was refused as a file ought to be.

    Args:
        names: what the error must name. Default: the file.
    """
    start = time.monotonic()
    try:
        return read(path)
    except MISTAKES as error:
        said = str(error)
        assert (names or path.name) in said, said
        assert not INTERNALS.search(said), said
        assert len(said) < 3000, said
        return None
    finally:
        assert time.monotonic() - start < SECONDS
