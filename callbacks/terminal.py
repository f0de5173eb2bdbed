"""What callbacks print at the end of a run."""

from __future__ import annotations

from rich.console import Console

from lightning_circuits.namespace import pl


def close_progress_bar(trainer: pl.Trainer, stage: str) -> None:
    """Let the bar end now, at the end of a run, so that what is printed next stands below it."""
    if trainer.progress_bar_callback is not None:
        trainer.progress_bar_callback.teardown(trainer, trainer.lightning_module, stage)


def console(trainer: pl.Trainer) -> Console:
    """The terminal; where there is none, a page as wide as the tables; with --quiet, nothing."""
    quiet = getattr(trainer, "quiet", False)
    found = Console(quiet=quiet)
    return found if found.is_terminal else Console(quiet=quiet, width=100)
