"""What a run leaves with its loggers: where their files are, and that a logger that fails costs no more than its entry.

A logger is at the mercy of a network, a login, a disk. What it was told is told again by the files of a run; what the
run was about to do next is not. So what is sent, is sent through `send`.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any
from weakref import WeakSet

from lightning_circuits.namespace import pl

_failed: WeakSet[Any] = WeakSet()


def send(logger: Any, tell: Callable[..., Any], *what: Any) -> None:
    """``tell(logger, *what)``. If that fails, training goes on; a warning says so, once for each logger."""
    try:
        tell(logger, *what)
    except Exception as error:
        if logger not in _failed:
            _failed.add(logger)
            warnings.warn(
                f"{type(logger).__name__} failed ({type(error).__name__}: {error}): training goes on, the files of "
                "this run are as they should be, but not everything is in that logger. Said once; later failures are "
                "not repeated here",
                stacklevel=2,
            )


def log_scalars(trainer: pl.Trainer, scalars: Mapping[str, float], step: int | None = None) -> None:
    """Numbers for every logger, at the Trainer's step unless another one is given.

    `LightningModule.log_dict` would lose what does not fall on a multiple of ``log_every_n_steps``, and has no word
    after the last step.
    """
    step = trainer.global_step if step is None else step
    for logger in trainer.loggers:
        send(logger, lambda to: to.log_metrics(dict(scalars), step=step))


def log_table(trainer: pl.Trainer, key: str, rows: Sequence[Mapping[str, Any]]) -> None:
    """Rows of the same columns, for loggers that take tables (Weights & Biases)."""
    for logger in trainer.loggers:
        if hasattr(logger, "log_table") and trainer.is_global_zero:
            data = [list(row.values()) for row in rows]
            send(logger, lambda to, data=data: to.log_table(key, columns=list(rows[0]), data=data))


def run_folder(trainer: pl.Trainer) -> Path:
    """The folder of the first logger's run, as `ModelCheckpoint` finds it: ``save_dir/name/version``.

    Without a logger, the Trainer's ``default_root_dir``. Where only rank 0 has a version, only rank 0 knows the folder.
    """
    if not trainer.loggers:
        return Path(trainer.default_root_dir)
    logger = trainer.loggers[0]
    version = logger.version if isinstance(logger.version, str) else f"version_{logger.version}"
    return Path(logger.save_dir or trainer.default_root_dir) / str(logger.name) / version
