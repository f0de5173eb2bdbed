"""The batch contract: what every data module yields, and all that anything here knows of prompts and of loaders.

Clean and corrupt prompts of a pair are equally long, so one mask and one position serve both. Padding may stand on
either side and changes no result.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sized
from copy import copy
from typing import Any, Protocol, TypedDict, cast, runtime_checkable

import torch
from torch import Tensor


class Spans(TypedDict, total=False):
    """Where in the prompts tokens stand, of prompts whose places have names.

    ``spans``: int64 ``[B, T]``, in which of the ``span_names`` each token stands; -1 at padding.
    """

    spans: Tensor
    span_names: tuple[str, ...]


class Batch(Spans):
    """B pairs of prompts, padded to T tokens, with at most K answers each; all int64.

    ``clean_ids``, ``corrupt_ids``, ``attention_mask``: ``[B, T]``. ``positions``: ``[B]``, the column at which the
    answer is read. ``answers``, ``distractors``: token ids ``[B, K]``, padded with -100.
    """

    clean_ids: Tensor
    corrupt_ids: Tensor
    attention_mask: Tensor
    positions: Tensor
    answers: Tensor
    distractors: Tensor


def on_device(batch: Batch, device: torch.device) -> Batch:
    """The same prompts, every tensor on a device."""
    return _each(batch, lambda tensor: tensor.to(device))


def first_rows(batch: Batch, n: int) -> Batch:
    """The first n prompts."""
    return _each(batch, lambda tensor: tensor[:n])


def repeated(batch: Batch, times: int) -> Batch:
    """All prompts, then all again: every tensor ``[B, ...]`` becomes ``[times * B, ...]``."""
    return _each(batch, lambda tensor: torch.cat([tensor] * times))


def copied(batch: Batch) -> Batch:
    """The same prompts in tensors of their own."""
    return _each(batch, torch.clone)


def _each(batch: Batch, change: Callable[[Tensor], Tensor]) -> Batch:
    changed = {key: change(value) if isinstance(value, Tensor) else value for key, value in batch.items()}
    return cast(Batch, changed)


@runtime_checkable
class SharedLoader(Protocol):
    """A loader that shares its prompts out among processes by itself, as `datamodules.PairLoader` does for training.

    ``pairs``: all prompts of the split. ``replicas``, ``rank``: this process is given every ``replicas``-th of them,
    from number ``rank`` on; where they do not divide evenly, the first ones come once more. To give the whole split to
    every process, they are set to 1 and 0.
    """

    replicas: int
    rank: int

    @property
    def pairs(self) -> Sized: ...

    def __iter__(self) -> Iterator[Batch]: ...


def unshared(loader: Any) -> Any:
    """A loader over all prompts of its split on every process: the one given, or a copy of one that shares them out.

    The copy is iterated without the other's noticing, which may be in the middle of an epoch.
    """
    if isinstance(loader, SharedLoader):
        loader = copy(loader)
        loader.replicas, loader.rank = 1, 0
    return loader
