"""What callbacks print at the end of a run."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from rich.console import Console

from lightning_circuits.drawing import text_tables
from lightning_circuits.namespace import pl
from lightning_circuits.printable import printable


def close_progress_bar(trainer: pl.Trainer, stage: str) -> None:
    """Let the bar end now, at the end of a run, so that what is printed next stands below it."""
    if trainer.progress_bar_callback is not None:
        trainer.progress_bar_callback.teardown(trainer, trainer.lightning_module, stage)


def console(trainer: pl.Trainer) -> Console:
    """The terminal of a run; with --quiet, it shows nothing."""
    return text_tables.console(getattr(trainer, "quiet", False))


def print_files(what: str, paths: Sequence[Path]) -> None:
    """Say where files are, on one line: the first of them, and how many there are beside it.

    Args:
        what: is in them: ``"Circuits"``.
        paths: that were written, the one to look at first; nothing is said of none.
    """
    if paths:
        print(f"{what}: {printable(paths[0])}{f' and {len(paths) - 1} more' if len(paths) > 1 else ''}")
