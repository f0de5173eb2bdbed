"""From tokens to batches: padded, and in an order that a killed run can take up again."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterator, Sequence
from typing import Any, ClassVar, Generic, Literal, TypeVar

import torch
from torch import Tensor

from lightning_circuits.batch import Batch, Continuations, Groups, Spans
from lightning_circuits.datamodules.shuffling import shuffled
from lightning_circuits.datamodules.spans import in_order
from lightning_circuits.datamodules.tokenising import TokenPair

PaddingSide = Literal["right", "left"]

Row = TypeVar("Row")
OfRows = TypeVar("OfRows")


class OrderedLoader(ABC, Generic[Row, OfRows]):
    """Batches of one split, shuffled by (seed, epoch) alone; a run killed inside an epoch can go on where it was.

    Lightning takes any iterable for a loader, and this is deliberately not a `torch.utils.data.DataLoader`, which draws
    from the global random generator each time it is iterated, and into which Lightning puts samplers of its own.

    - *Resuming*: Lightning saves `state_dict()` in every checkpoint and hands it back to `load_state_dict()`. The next
      iteration of that epoch then begins after the batches seen. (The iterator is made before Lightning sets the
      epoch, so `__iter__` is a generator: it looks at the epoch when the first batch is asked for.)
    - *Several processes*: each process is given every `replicas`-th row of the shuffled order, so that one step sees
      the same pairs as one process with a batch `replicas` times as large. All get equally many; where the split does
      not divide evenly, the order's first rows are used once more.

    A subclass says what batches are made of rows.

    Args:
        rows: the split.
        batch_size: rows per batch (the last one of an epoch may be smaller).
        seed: of the order; None keeps the order of `rows`, every epoch.
        replicas: number of processes (see `batch.SharedLoader`).
        rank: which of them this is.
    """

    #: What rows are called, in checkpoints and errors.
    things: ClassVar[str]

    def __init__(
        self, rows: Sequence[Row], batch_size: int, seed: int | None = None, replicas: int = 1, rank: int = 0
    ) -> None:
        self.rows = rows
        self.batch_size = batch_size
        self.seed = seed
        self.replicas = replicas
        self.rank = rank
        self.epoch = 0
        self._seen = (0, 0)  # epoch, and batches handed out in it
        self._resume_after: tuple[int, int] | None = None

    @abstractmethod
    def collate(self, rows: Sequence[Row]) -> OfRows:
        """The batch of some rows."""

    #: Lightning calls `loader.sampler.set_epoch`, and asks evaluation loaders for `batch_sampler`.
    batch_sampler = None

    @property
    def sampler(self) -> OrderedLoader[Row, OfRows]:
        return self

    def set_epoch(self, epoch: int) -> None:
        self.epoch = epoch

    def __len__(self) -> int:
        rows = -(-len(self.rows) // self.replicas)
        return -(-rows // self.batch_size)

    def __iter__(self) -> Iterator[OfRows]:
        epoch, first = self.epoch, 0
        if self._resume_after is not None:
            if self._resume_after[0] == epoch:
                first = self._resume_after[1]
            self._resume_after = None
        rows = self._rows(epoch)
        for batch in range(first, len(self)):
            self._seen = (epoch, batch + 1)
            yield self.collate(rows[batch * self.batch_size : (batch + 1) * self.batch_size])

    def state_dict(self) -> dict[str, Any]:
        """How far the current epoch is, and what decides the order: plain numbers, the same on every rank."""
        return {"epoch": self._seen[0], "batches": self._seen[1], "order": self._order_key()}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Begin the next iteration of the epoch in `state` where it stood.

        Raises:
            ValueError: the epoch had begun, not ended, and this loader would go on in another order.
        """
        then = -(-state["order"][self.things] // state["order"]["global batch"])  # batches of an epoch
        if 0 < state["batches"] < max(then, len(self)) and state["order"] != self._order_key():
            changed = [f"{k}: {v} then, {self._order_key()[k]} now" for k, v in state["order"].items()]
            raise ValueError(
                "the checkpoint was written in the middle of an epoch over other data, or in another order "
                f"({'; '.join(changed)}): resume with the same settings, or from the end of an epoch"
            )
        self._seen = self._resume_after = (state["epoch"], state["batches"])

    def _order_key(self) -> dict[str, Any]:
        return {self.things: len(self.rows), "seed": self.seed, "global batch": self.batch_size * self.replicas}

    def _rows(self, epoch: int) -> list[Row]:
        """This rank's share of the epoch, in order."""
        order = list(self.rows) if self.seed is None else shuffled(self.rows, "order", self.seed, epoch)
        share = -(-len(order) // self.replicas)
        return [order[row % len(order)] for row in range(self.rank, share * self.replicas, self.replicas)]


def padded(rows: list[list[int]], width: int, fill: int, left: bool) -> Tensor:
    """Rows of numbers of several lengths, `[rows, width]`: filled up on the left or on the right."""
    gaps = [[fill] * (width - len(row)) for row in rows]
    return torch.tensor([gap + row if left else row + gap for gap, row in zip(gaps, rows, strict=True)])


class PairLoader(OrderedLoader[TokenPair, Batch]):
    """Pairs as batches, in the order and with the resuming of `OrderedLoader`.

    Args:
        pairs: the split.
        batch_size: pairs per batch (the last one of an epoch may be smaller).
        pad_id: what fills up short rows (masked, so any valid id will do).
        padding_side: `right` or `left`.
        seed: of the order; None keeps the order of `pairs`, every epoch.
        replicas: number of processes (see `batch.SharedLoader`).
        rank: which of them this is.
        span_names: names of spans that other pairs have, in their order; of these pairs, none need have them.
        continued: whether batches say which rows read on in an answer (`batch.Continuations`), even if none does.
    """

    things = "pairs"

    def __init__(
        self,
        pairs: Sequence[TokenPair],
        batch_size: int,
        pad_id: int = 0,
        padding_side: PaddingSide = "right",
        seed: int | None = None,
        replicas: int = 1,
        rank: int = 0,
        span_names: Sequence[str] = (),
        continued: bool = False,
    ) -> None:
        super().__init__(pairs, batch_size, seed, replicas, rank)
        self.pairs = pairs
        self.pad_id = pad_id
        self.padding_side = padding_side
        self.span_names = tuple(
            dict.fromkeys([*span_names, *in_order([row.spans for pair in pairs for row in pair.rows])])
        )
        self.continued = continued or any(pair.continued for pair in pairs)
        self.group_names = tuple(sorted({pair.group for pair in pairs} - {""}))

    def collate(self, rows: Sequence[TokenPair]) -> Batch:
        pairs = [row for prompt in rows for row in prompt.rows]
        lengths = [len(pair.clean) for pair in pairs]
        longest = max(lengths)
        left = self.padding_side == "left"
        spans: Spans = {}
        if self.span_names:
            ids = [[self.span_names.index(name) for name in pair.spans] for pair in pairs]
            spans = {"spans": padded(ids, longest, -1, left), "span_names": self.span_names}
        groups: Groups = {}
        if self.group_names:
            of = {name: number for number, name in enumerate(self.group_names)}
            groups = {
                "groups": torch.tensor([of.get(pair.group, -1) for pair in pairs]),
                "group_names": self.group_names,
            }
        continuations: Continuations = {}
        if self.continued:
            continuations = {"continues": torch.tensor([pair.back for pair in pairs])}
        width = max(len(words) for pair in pairs for words in (pair.answers, pair.distractors))
        return {
            **spans,
            **groups,
            **continuations,
            "clean_ids": padded([pair.clean for pair in pairs], longest, self.pad_id, left),
            "corrupt_ids": padded([pair.corrupt for pair in pairs], longest, self.pad_id, left),
            "attention_mask": padded([[1] * length for length in lengths], longest, 0, left),
            "positions": torch.tensor([longest - 1 if left else length - 1 for length in lengths]),
            "answers": padded([pair.answers for pair in pairs], width, -100, left=False),
            "distractors": padded([pair.distractors for pair in pairs], width, -100, left=False),
        }
