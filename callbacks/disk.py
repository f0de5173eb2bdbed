"""Files of a run: where they are, and that they are written once, by the first process, with all knowing how it went.

One process that stopped for a full disk would leave the others waiting for it, so what went wrong is told to all.
"""

from __future__ import annotations

import tempfile
from collections.abc import Callable
from pathlib import Path

from lightning_circuits.files.atomic import clear_leftovers
from lightning_circuits.namespace import pl


def once(trainer: pl.Trainer, write: Callable[[], object]) -> str | None:
    """Let the first process write while the others wait. Gives, to all, what the disk had against it, if anything."""
    trouble = None
    if trainer.is_global_zero:
        try:
            write()
        except OSError as error:
            trouble = str(error)
    return trainer.strategy.broadcast(trouble)


def writable_folder(trainer: pl.Trainer, dirpath: str | Path | None, what: str, callback: pl.Callback) -> Path:
    """The folder ``dirpath``, or that of the run, made and tried out; the same on every process.

    What a killed run was writing there is cleared away.

    Args:
        what: shall be written there, for the message: ``"circuits"``.
        callback: whose ``dirpath`` it is.

    Raises:
        ValueError: it cannot be made, or not be written to. All processes raise it.
    """
    folder = trainer.strategy.broadcast(run_folder(trainer) if dirpath is None else Path(dirpath))

    def try_out() -> None:
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=folder):
            pass
        clear_leftovers(folder)

    if trouble := once(trainer, try_out):
        raise ValueError(
            f"{what} cannot be written to {folder} ({trouble}): give {type(callback).__name__} another dirpath"
        )
    return folder


def run_folder(trainer: pl.Trainer) -> Path:
    """The folder of the first logger's run, as `ModelCheckpoint` finds it: ``save_dir/name/version``.

    Without a logger, the Trainer's ``default_root_dir``. Where only rank 0 has a version, only rank 0 knows the folder.
    """
    if not trainer.loggers:
        return Path(trainer.default_root_dir)
    logger = trainer.loggers[0]
    version = logger.version if isinstance(logger.version, str) else f"version_{logger.version}"
    return Path(logger.save_dir or trainer.default_root_dir) / str(logger.name) / version
