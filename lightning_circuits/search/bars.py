"""Whether a run shows how far long work has come: not where its user wants no bars."""

from __future__ import annotations

from contextlib import AbstractContextManager

from lightning_circuits.namespace import pl
from lightning_circuits.progress import shown


def bars_of(trainer: pl.Trainer) -> AbstractContextManager[None]:
    """While open, progress is shown if the run has a bar of its own (`Trainer(enable_progress_bar=False)` has none)."""
    return shown(trainer.progress_bar_callback is not None)
