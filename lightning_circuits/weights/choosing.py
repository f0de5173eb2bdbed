"""The n largest of very many numbers that stand in many tensors, without a copy of them.

A hundred million logits are too many to sort or to put side by side. So the smallest of the n largest is found by
bisection: float32 has 2^32 values, in an order, and each of at most 32 passes over the numbers halves what it may be.

    >>> largest({"a": torch.tensor([3.0, 1.0]), "b": torch.tensor([2.0, 2.0])}, 2)
    {'a': tensor([ True, False]), 'b': tensor([ True, False])}
"""

from __future__ import annotations

import struct
from collections.abc import Mapping

import torch
from torch import Tensor


def largest(values: Mapping[str, Tensor], n: int) -> dict[str, Tensor]:
    """Where the n largest numbers stand; of equal ones the first, in the order of the tensors.

    Args:
        values: float32 ``[...]`` by name; not NaN.
        n: from 0 to as many as there are.

    Returns:
        bool tensors of the same shapes.

    Raises:
        ValueError: a number that is NaN; another n.
    """
    total = sum(tensor.numel() for tensor in values.values())
    if not 0 <= n <= total:
        raise ValueError(f"{n:,} of {total:,} weights cannot be chosen")
    for name, tensor in values.items():
        if tensor.isnan().any():
            raise ValueError(f"{name} holds NaN, which has no rank")
    if n == 0:
        return {name: torch.zeros_like(tensor, dtype=torch.bool) for name, tensor in values.items()}
    low, high = _rank(-float("inf")), _rank(float("inf"))  # that of the smallest chosen is from low to high
    while low < high:
        middle = (low + high + 1) // 2
        if _count(values, _number(middle)) >= n:
            low = middle
        else:
            high = middle - 1
    least = _number(low)
    spare = n - sum(int((tensor > least).sum()) for tensor in values.values())  # so many of those equal to it
    chosen = {}
    for name, tensor in values.items():
        mask, equal = tensor > least, tensor == least
        first = equal & (equal.flatten().cumsum(0) <= spare).view_as(equal)
        spare -= int(first.sum())
        chosen[name] = mask | first
    return chosen


def _count(values: Mapping[str, Tensor], least: float) -> int:
    return sum(int((tensor >= least).sum()) for tensor in values.values())


def _rank(number: float) -> int:
    """The place of a float32 among all, in their order."""
    (bits,) = struct.unpack("<i", struct.pack("<f", number))
    return bits if bits >= 0 else -(bits & 0x7FFFFFFF)


def _number(rank: int) -> float:
    """The float32 of a place."""
    (number,) = struct.unpack("<f", struct.pack("<i", rank if rank >= 0 else -rank - 2**31))
    return number
