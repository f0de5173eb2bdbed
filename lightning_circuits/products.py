"""The three products of gates and stacks, which is what a masked run adds to a model's own layers.

With ``M`` the gates ``[writers, readers]`` of a block, ``stack`` the differences of writers and ``dx`` the gradients at
readers, all tokens and dimensions side by side:

    mix      x      = M^T @ stack        what readers see
    dot      dM     = stack @ dx^T       the gradient of the gates
    push     dstack += M @ dx            the gradient of the writers

Where edges are told apart by spans of tokens, each is one product for every span (`Places`).

On a CPU a matrix that is mostly zeros goes as a sparse one: a product then costs what its open gates cost. On a GPU the
dense product is the faster one.

    >>> with counted() as traffic:
    ...     x = mix(torch.ones(1, 5, 2), torch.ones(5, 6, 4), Places.in_order(torch.zeros(2, dtype=torch.int64), 3))
    >>> traffic
    Traffic(read=5, written=0, multiply_adds=240)
"""

from __future__ import annotations

import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import torch
from torch import Tensor

from lightning_circuits.places import Places

SPARSE_BELOW = 0.2
"""The share of open gates in a matrix under which the CPU multiplies with a sparse one."""

AT_ONCE = 256
"""Writers whose inner products a GPU takes at once. Of more, each with millions of terms, it is half as fast again."""

with warnings.catch_warnings():  # PyTorch says once a process that sparse matrices are in beta: let it say so to nobody
    warnings.simplefilter("ignore", UserWarning)
    torch.zeros(1, 1).to_sparse_csr()


def mix(gates: Tensor, stack: Tensor, places: Places) -> Tensor:
    """Gates ``[n_spans, writers, readers]`` and ``[writers, N, d]`` to ``[readers, N, d]``."""
    x = stack.new_empty(gates.shape[2], *stack.shape[1:])
    for of_span, part in zip(gates, places.slices, strict=True):
        _count(gates, stack[:, part], read=len(stack))
        torch.mm(_fast(of_span.mT), stack[:, part].flatten(1), out=x[:, part].flatten(1))
    return x


def add_mix(x: Tensor, gates: Tensor, stack: Tensor, places: Places) -> None:
    """``x += mix(gates, stack, places)``, in place: ``x`` is ``[readers, N, d]``."""
    for of_span, part in zip(gates, places.slices, strict=True):
        _count(gates, stack[:, part], read=len(stack))
        _add_product(x[:, part], of_span.mT, stack[:, part])


def push(dstack: Tensor, gates: Tensor, dx: Tensor, places: Places) -> None:
    """``dstack += gates @ dx``, in place: ``[writers, N, d]``, ``[n_spans, writers, readers]``, ``[readers, N, d]``."""
    for of_span, part in zip(gates, places.slices, strict=True):
        _count(gates, dstack[:, part], read=len(dstack), written=len(dstack))
        _add_product(dstack[:, part], of_span, dx[:, part])


def dot(out: Tensor, stack: Tensor, dx: Tensor, places: Places, only: Tensor | None = None) -> None:
    """Into ``out`` ``[n_spans, writers, readers]`` the inner products of writers and readers.

    With ``only``, of the same shape, they may be left out where that is 0.
    """
    for span, part in enumerate(places.slices):
        _count(out, stack[:, part], read=len(stack))
        a, b = stack[:, part].flatten(1), dx[:, part].flatten(1)
        pattern = None if only is None else _fast(only[span].mT)
        if pattern is not None and pattern.is_sparse_csr:
            out[span].copy_(torch.sparse.sampled_addmm(pattern, b, a.mT, beta=0.0).to_dense().mT)
        elif a.is_cuda:
            for rows, into in zip(a.split(AT_ONCE), out[span].split(AT_ONCE), strict=True):
                into.copy_(_inner(rows, b))
        else:
            out[span].copy_(a @ b.mT)


def _inner(a: Tensor, b: Tensor) -> Tensor:
    """``a @ b^T`` in float32 at least: sums over all tokens are not to be rounded on the way."""
    if torch.finfo(a.dtype).bits < 32:
        return torch.mm(a, b.mT, out_dtype=torch.float32)
    return a @ b.mT


def _add_product(total: Tensor, gates: Tensor, stack: Tensor) -> None:
    flat = total.flatten(1)
    torch.addmm(flat, _fast(gates), stack.flatten(1), out=flat)


def _fast(gates: Tensor) -> Tensor:
    """A matrix itself, or as a sparse one where that multiplies faster."""
    if gates.is_cuda or gates.dtype not in (torch.float32, torch.float64):
        return gates
    return gates.to_sparse_csr() if gates.count_nonzero() < SPARSE_BELOW * gates.numel() else gates


# ---- what they cost, without a clock -------------------------------------------------------------------------------


@dataclass
class Traffic:
    """Of products: rows ``[N, d]`` of stacks that are read and written, and multiplications with an addition."""

    read: int = 0
    written: int = 0
    multiply_adds: int = 0


_counters: list[Traffic] = []


@contextmanager
def counted() -> Iterator[Traffic]:
    """While open, the products are counted."""
    _counters.append(Traffic())
    try:
        yield _counters[-1]
    finally:
        _counters.pop()


def _count(gates: Tensor, stack: Tensor, read: int, written: int = 0) -> None:
    for traffic in _counters:
        traffic.read += read
        traffic.written += written
        traffic.multiply_adds += gates.shape[1] * gates.shape[2] * stack[0].numel()
