"""The prompts that circuits are judged on: the validation or the test split, never what is trained on.

Lightning's validation loop is not used: it would repeat prompts to even out the processes, and it cannot run between
two steps of an epoch without counting batches. The loader is asked for directly.
"""

from __future__ import annotations

from collections.abc import Iterator
from itertools import islice

import torch

from lightning_circuits.batch import Batch
from lightning_circuits.namespace import pl
from lightning_circuits.search.splits import whole_split


def held_out(trainer: pl.Trainer, split: str) -> Iterator[Batch]:
    """The split, or as much of it as `Trainer(limit_val_batches=...)` (`limit_test_batches`) leaves; the same on every
    process.

    Raises:
        ValueError: there is no such split, or it is not one loader (see `splits.whole_split`).
    """
    limit = trainer.limit_test_batches if split == "test" else trainer.limit_val_batches
    loader = whole_split(trainer, split)
    if isinstance(limit, float):  # a share; 1.0 is all, also of a loader that does not know its length
        return islice(loader, None if limit == 1.0 else int(limit * len(loader)))
    return islice(loader, limit)


def require_held_out(trainer: pl.Trainer, split: str) -> None:
    """For `setup`: see that there is something to measure on, before any training.

    Raises:
        ValueError: no batch in the split; what `held_out` raises.
    """
    with torch.random.fork_rng(devices=[]):
        if next(held_out(trainer, split), None) is None:
            raise ValueError(
                f"the {split} loader (with Trainer(limit_{split}_batches=...), if that was given) has no batch to "
                "measure circuits on"
            )
