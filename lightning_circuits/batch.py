"""The batch contract: what every data module yields, and all that anything here knows of prompts and of loaders.

Clean and corrupt prompts of a pair are equally long, so one mask and one position serve both. Padding may stand on
either side and changes no result.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sized
from copy import copy
from typing import Any, Protocol, TypedDict, cast, runtime_checkable

import torch
from torch import Tensor

from lightning_circuits.arguments import require_span_names, shortened


class Spans(TypedDict, total=False):
    """Where in the prompts tokens stand, of prompts whose places have names.

    ``spans``: int64 ``[B, T]``, in which of the ``span_names`` each token stands; -1 at padding. ``span_names``: those
    that prompts of this kind may have; of these prompts, none need have some.
    """

    spans: Tensor
    span_names: tuple[str, ...]


class Groups(TypedDict, total=False):
    """Which prompts are made alike, of prompts that say so.

    ``groups``: int64 ``[B]``, of which of the ``group_names`` each prompt is; -1 of none. Without the names, as where a
    loader of one's own kept the tensors alone, they say nothing.
    """

    groups: Tensor
    group_names: tuple[str, ...]


class Batch(Spans, Groups):
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


FIELDS = tuple(name for name in Batch.__annotations__ if name in Batch.__required_keys__)
NO_TOKEN = -100
"""What fills up short rows of answers and distractors."""


def require_batch(batch: Any, vocabulary: int) -> None:
    """See that a batch keeps the contract, before a model is run on it.

    Args:
        batch: what a loader has yielded. What stands in its tensors is looked at on the CPU alone, where it is free.
        vocabulary: how many tokens the model knows.

    Raises:
        TypeError: not tensors by name, or tensors of another kind of number.
        ValueError: a tensor is missing or of another shape; a position without a token; a token that the model does
            not have.
    """
    if not isinstance(batch, Mapping):
        raise TypeError(f"a batch is a dict of the tensors {', '.join(FIELDS)}, got {shortened(batch)}")
    if missing := [name for name in FIELDS if name not in batch]:
        raise ValueError(f"a batch lacks {', '.join(missing)}; it has {', '.join(map(str, batch))}")
    for name in FIELDS:
        if not isinstance(batch[name], Tensor):
            raise TypeError(f"{name} of a batch have to be a tensor, got {shortened(batch[name])}")
    shape = batch["clean_ids"].shape
    if len(shape) != 2 or 0 in shape:
        raise ValueError(f"clean_ids of a batch are [prompts, tokens], at least one of each, got {list(shape)}")
    n = shape[0]
    for name in FIELDS:
        tensor, short = batch[name], name in ("answers", "distractors")
        wanted = (n, tensor.shape[-1]) if short and tensor.ndim else (n,) if name == "positions" else shape
        if tensor.shape != wanted:
            expected = f"[{n}, candidates]" if short else list(wanted)
            raise ValueError(f"{name} of a batch have the shape {list(tensor.shape)}, expected {expected}")
        if tensor.is_floating_point() or tensor.is_complex():
            raise TypeError(f"{name} of a batch are {tensor.dtype}, expected whole numbers (int64)")
    if "spans" in batch or "span_names" in batch:
        _require_spans(batch)
    if "group_names" in batch:
        _require_groups(batch)
    if batch["clean_ids"].device.type == "cpu":
        _require_values(cast(Batch, batch), vocabulary)


def _require_spans(batch: Mapping[str, Any]) -> None:
    if missing := [name for name in ("spans", "span_names") if name not in batch]:
        raise ValueError(f"a batch lacks {missing[0]}: spans say in which of the span_names each token stands")
    names = require_span_names(batch["span_names"])
    _require_ids(batch["spans"], "spans", batch["clean_ids"].shape, "span_names", len(names))


def _require_groups(batch: Mapping[str, Any]) -> None:
    if "groups" not in batch:
        raise ValueError("a batch lacks groups: they say of which of the group_names each prompt is")
    names = batch["group_names"]
    if not isinstance(names, (tuple, list)) or not all(isinstance(name, str) for name in names):
        raise TypeError(f"group_names of a batch are a tuple of texts, got {shortened(names)}")
    if len(set(names)) < len(names):
        raise ValueError(f"group_names of a batch have to differ, got {shortened(names)}")
    _require_ids(batch["groups"], "groups", batch["clean_ids"].shape[:1], "group_names", len(names))


def _require_ids(ids: Any, what: str, shape: torch.Size, names: str, number: int) -> None:
    """Whole numbers of this shape, each the place of one of so many names, or -1."""
    if not isinstance(ids, Tensor):
        raise TypeError(f"{what} of a batch have to be a tensor, got {shortened(ids)}")
    if ids.shape != shape:
        raise ValueError(f"{what} of a batch have the shape {list(ids.shape)}, expected {list(shape)}")
    if ids.is_floating_point() or ids.is_complex() or ids.dtype == torch.bool:
        raise TypeError(f"{what} of a batch are {ids.dtype}, expected whole numbers (int64)")
    if ids.device.type == "cpu" and (outside := (ids < -1) | (ids >= number)).any():
        row = int(outside.nonzero()[0, 0])
        raise ValueError(f"prompt {row} of a batch has {what} that are none of its {number} {names}, and not -1 (none)")


def _require_values(batch: Batch, vocabulary: int) -> None:
    def refuse(rows: Tensor, fault: str) -> None:
        """Where a row of ``[B, ...]`` is true."""
        if rows.any():
            raise ValueError(f"prompt {int(rows.flatten(1).any(1).nonzero()[0])} of a batch {fault}")

    mask, positions = batch["attention_mask"], batch["positions"][:, None]
    refuse((mask != 0) & (mask != 1), "has an attention mask of other numbers than 0 and 1")
    refuse(
        (positions < 0) | (positions >= mask.shape[1]), f"has its answer read outside of its {mask.shape[1]} columns"
    )
    refuse(mask.gather(1, positions.long()) == 0, "has its answer read at padding: positions say where, the mask what")
    for name in ("clean_ids", "corrupt_ids"):
        ids = batch[name]
        refuse((ids < 0) | (ids >= vocabulary), f"has {name} that are none of the model's {vocabulary} tokens")
    for name in ("answers", "distractors"):
        ids = batch[name]  # type: ignore[literal-required]
        outside = (ids != NO_TOKEN) & ((ids < 0) | (ids >= vocabulary))
        refuse(outside, f"has {name} that are none of the model's {vocabulary} tokens, and not {NO_TOKEN} (none)")


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


class PromptSource:
    """What prompts come from, for whoever takes some of his own: every `datamodules.PairDataModule` is one."""

    def describe(self) -> dict[str, Any]:
        """What the prompts are, in plain JSON values."""
        raise NotImplementedError

    def require_fit(self, model: Any) -> None:
        """See that a `CircuitModel` can read the prompts; ValueError for one that it cannot."""
        raise NotImplementedError

    def train_dataloader(self) -> Iterable[Batch]:
        """A loader over all that may be learned from."""
        raise NotImplementedError

    def to_dict(self) -> dict[str, Any]:
        """How records tell it from another (see `arguments.as_data`)."""
        return self.describe()


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
