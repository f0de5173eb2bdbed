"""The batch contract: what every data module yields, and all that anything here knows of prompts and of loaders.

Clean and corrupt prompts of a pair are equally long, so one mask and one position serve both. Padding may stand on
either side and changes no result.

Answers of several tokens are read by teacher forcing, a row for each beginning of one. Of a prompt with the answer
"veinte y uno" and the distractor "veinte y dos", the rows are

| row | read behind            | answer   | distractor | continues                       |
|-----|------------------------|----------|------------|---------------------------------|
| 0   | the prompt             | " veinte"| " veinte"  | 0: a prompt of its own          |
| 1   | the prompt " veinte"   | " y"     | " y"       | 1: the row one before, by a token |
| 2   | the prompt " veinte y" | " uno"   | " dos"     | 1                               |

so every row is still a pair of prompts and one place where logits are read, for the model and for every circuit; only
who makes numbers of prompts (`measures`) puts the rows of each together.
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


class Continuations(TypedDict, total=False):
    """Which rows read on in an answer of several tokens, of prompts that may have such answers.

    ``continues``: int64 ``[B]``, how many rows before it stands the row that a row continues by one token, that at its
    position; 0 of a row that is a prompt of its own. ``answers`` and ``distractors`` then have a column for each
    candidate: the token by which it goes on at a row, -100 where it does not come by.
    """

    continues: Tensor


class Batch(Spans, Groups, Continuations):
    """B pairs of prompts, padded to T tokens, with at most K answers each; all int64.

    ``clean_ids``, ``corrupt_ids``, ``attention_mask``: ``[B, T]``. ``positions``: ``[B]``, the column at which the
    answer is read. ``answers``, ``distractors``: token ids ``[B, K]``, padded with -100. With `Continuations`, B counts
    rows, and `n_prompts` the prompts.
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
    if "continues" in batch:
        _require_continuations(batch)
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


def _require_continuations(batch: Mapping[str, Any]) -> None:
    continues, lengths = batch["continues"], batch["attention_mask"].sum(-1)
    _require_whole(continues, "continues", lengths.shape)
    if continues.device.type != "cpu":
        return
    rows = torch.arange(len(continues))
    first = rows.where(continues == 0, 0).cummax(0).values  # of the prompt that each row belongs to
    parents = rows - continues
    if (stray := (continues < 0) | (parents < first) | (continues[:1] != 0).any()).any():
        raise ValueError(f"row {int(stray.nonzero()[0])} of a batch continues none of the rows of its own prompt")
    if (wrong := (continues > 0) & (lengths != lengths[parents] + 1)).any():
        row = int(wrong.nonzero()[0])
        raise ValueError(
            f"row {row} of a batch continues row {int(parents[row])} by one token, and they have {int(lengths[row])} "
            f"and {int(lengths[parents[row]])}"
        )


def _require_ids(ids: Any, what: str, shape: torch.Size, names: str, number: int) -> None:
    """Whole numbers of this shape, each the place of one of so many names, or -1."""
    _require_whole(ids, what, shape)
    if ids.device.type == "cpu" and (outside := (ids < -1) | (ids >= number)).any():
        row = int(outside.nonzero()[0, 0])
        raise ValueError(f"prompt {row} of a batch has {what} that are none of its {number} {names}, and not -1 (none)")


def _require_whole(ids: Any, what: str, shape: torch.Size) -> None:
    """A tensor of whole numbers of this shape."""
    if not isinstance(ids, Tensor):
        raise TypeError(f"{what} of a batch have to be a tensor, got {shortened(ids)}")
    if ids.shape != shape:
        raise ValueError(f"{what} of a batch have the shape {list(ids.shape)}, expected {list(shape)}")
    if ids.is_floating_point() or ids.is_complex() or ids.dtype == torch.bool:
        raise TypeError(f"{what} of a batch are {ids.dtype}, expected whole numbers (int64)")


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


def n_prompts(batch: Batch) -> int:
    """How many prompts there are: the rows that continue none."""
    return len(batch["clean_ids"]) if "continues" not in batch else int((batch["continues"] == 0).sum())


def own_rows(batch: Batch) -> Tensor | slice:
    """Which rows are prompts of their own, to index them by: bool ``[B]``, or all."""
    return batch["continues"] == 0 if "continues" in batch else slice(None)


def prompts_of_rows(batch: Batch) -> Tensor:
    """int64 ``[B]``: of which prompt each row of a batch is, counted from 0."""
    if "continues" not in batch:
        return torch.arange(len(batch["clean_ids"]), device=batch["clean_ids"].device)
    return (batch["continues"] == 0).cumsum(0) - 1


def over_prompts(values: Tensor, batch: Batch) -> Tensor:
    """``[B, ...]`` to ``[n_prompts, ...]``: the sum over the rows of each prompt."""
    if "continues" not in batch:
        return values
    return values.new_zeros(n_prompts(batch), *values.shape[1:]).index_add(0, prompts_of_rows(batch), values)


def first_prompts(batch: Batch, n: int) -> Batch:
    """The first n prompts."""
    rows = n if "continues" not in batch else int((prompts_of_rows(batch) < n).sum())
    return _each(batch, lambda tensor: tensor[:rows])


def with_prompts(batches: Iterable[Batch], n: int) -> Iterator[Batch]:
    """As many of some batches, from the first on, as have n prompts or more; all if there are not so many."""
    seen = 0
    for batch in batches:
        yield batch
        seen += n_prompts(batch)
        if seen >= n:
            return


def prompts_alone(batch: Batch) -> Batch:
    """The prompts, without the rows that read on in their answers."""
    if "continues" not in batch:
        return batch
    own = own_rows(batch)
    alone = _each(batch, lambda tensor: tensor[own])
    del alone["continues"]
    return alone


def own_tokens(batch: Batch) -> Tensor:
    """bool ``[B, T]``: the tokens of all prompts and their answers, each once: of a row that continues another, the one
    by which it does."""
    real = batch["attention_mask"].bool()
    if "continues" not in batch:
        return real
    last = torch.arange(real.shape[1], device=real.device) == batch["positions"][:, None]
    return real & (last | (batch["continues"] == 0)[:, None])


def repeated(batch: Batch, times: int) -> Batch:
    """All rows, then all again: every tensor ``[B, ...]`` becomes ``[times * B, ...]``."""
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


class TextBatch(TypedDict):
    """B lines of ordinary text, padded on the right to T tokens.

    ``input_ids``, ``attention_mask``: int64 ``[B, T]``.
    """

    input_ids: Tensor
    attention_mask: Tensor


class TextSource:
    """Where ordinary text comes from, for whoever asks a model to go on speaking: `datamodules.TextLines` is one."""

    def describe(self) -> dict[str, Any]:
        """What the text is, in plain JSON values."""
        raise NotImplementedError

    def batch(self, number: int) -> TextBatch:
        """Lines to train on, without end: the same for a number, every time."""
        raise NotImplementedError

    def held_out(self, split: str) -> Iterable[TextBatch]:
        """The lines of ``val`` or ``test``, each once."""
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


def shared_out(batches: Iterable[Batch], rank: int, world_size: int) -> Iterator[tuple[Batch, bool]]:
    """The batches of one of several processes: every ``world_size``-th from number ``rank`` on, and whether it counts.

    Where they do not divide evenly, a process that is left without gets one of another's last, which does not count for
    it: if the weights of a model are shared out as well (`models.sharding`), all processes have to run equally often.

    Args:
        batches: all of them, on every process.
        rank: which process this is.
        world_size: how many there are.
    """
    together: list[Batch] = []
    for batch in batches:
        together.append(batch)
        if len(together) == world_size:
            yield together[rank], True
            together = []
    if together:
        yield together[rank % len(together)], rank < len(together)


def unshared(loader: Any) -> Any:
    """A loader over all prompts of its split on every process: the one given, or a copy of one that shares them out.

    The copy is iterated without the other's noticing, which may be in the middle of an epoch.
    """
    if isinstance(loader, SharedLoader):
        loader = copy(loader)
        loader.replicas, loader.rank = 1, 0
    return loader
