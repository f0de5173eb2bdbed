"""What a run tells its loggers, and that a logger that fails costs no more than its entry.

A logger is at the mercy of a network, a login, a disk. What it was told is told again by the files of a run; what the
run was about to do next is not. So whatever is sent, is sent through `send`.

Numbers go to every logger. For the rest, two kinds are told apart by what they can do, for each has two classes, one
for either name of Lightning: that of Weights & Biases takes tables, TensorBoard's writes through a writer of figures
and texts. Those two make a curve of every key, and nobody looks at three hundred: they get the few that people watch,
and all numbers in a table.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any
from weakref import WeakSet

from torch import Tensor

from lightning_circuits.callbacks.monitors import monitored
from lightning_circuits.namespace import pl

if TYPE_CHECKING:
    from matplotlib.figure import Figure

_failed: WeakSet[Any] = WeakSet()


def send(trainer: pl.Trainer, tell: Callable[..., Any], *what: Any) -> None:
    """``tell(logger, *what)`` for every logger, by the first process.

    If that fails, training goes on; a warning says so, once for each logger.
    """
    if not trainer.is_global_zero:
        return
    for logger in trainer.loggers:
        try:
            tell(logger, *what)
        except Exception as error:
            if logger not in _failed:
                _failed.add(logger)
                warnings.warn(
                    f"{type(logger).__name__} failed ({type(error).__name__}: {error}): training goes on, the files "
                    "of this run are as they should be, but not everything is in that logger. Said once; later "
                    "failures are not repeated here",
                    stacklevel=2,
                )


def in_key(circuit: str) -> str:
    """A circuit's name as a part of a logger's key or of a file's name: ``1% random`` is ``1%-random``."""
    return circuit.replace(" ", "-")


# ---- for every logger ----------------------------------------------------------------------------------------------


def log_scalars(
    trainer: pl.Trainer,
    scalars: Mapping[str, float],
    step: int | None = None,
    watched: Callable[[str], bool] = lambda key: True,
) -> None:
    """Numbers, at the Trainer's step unless another one is given.

    Args:
        trainer: of the run.
        scalars: by key.
        step: of the numbers.
        watched: which of them are curves for loggers that have the others in a table, beside what callbacks monitor.

    `LightningModule.log_dict` would lose what does not fall on a multiple of ``log_every_n_steps``, and has no word
    after the last step.
    """
    step = trainer.global_step if step is None else step
    by_others = monitored(trainer)
    few = {key: value for key, value in scalars.items() if watched(key) or key in by_others}
    send(trainer, lambda to: to.log_metrics(few if _takes_tables(to) else dict(scalars), step=step))


def log_settings(trainer: pl.Trainer, settings: Mapping[str, Any]) -> None:
    """How a run was set up: the run's config in Weights & Biases, hyperparameters elsewhere."""
    send(trainer, lambda to: to.log_hyperparams(dict(settings)))


# ---- for loggers that can show it ----------------------------------------------------------------------------------


def log_table(trainer: pl.Trainer, key: str, rows: Sequence[Mapping[str, Any]]) -> None:
    """Rows of the same columns: a table for Weights & Biases, a text for TensorBoard."""
    columns = list(rows[0])

    def tell(logger: Any) -> None:
        if _is_wandb(logger):
            logger.log_table(key, columns=columns, data=[list(row.values()) for row in rows])
        elif _takes_tables(logger):
            lines = [columns, *([_cell(row[name]) for name in columns] for row in rows)]
            logger.experiment.add_text(key, _as_code(lines), global_step=trainer.global_step)

    send(trainer, tell)


def log_histogram(trainer: pl.Trainer, key: str, values: Tensor, step: int) -> None:
    """How values ``[n]`` are spread: Weights & Biases and TensorBoard."""

    def tell(logger: Any) -> None:
        if _is_wandb(logger):
            import wandb

            logger.log_metrics({key: wandb.Histogram(values.numpy())}, step)
        elif hasattr(logger.experiment, "add_histogram"):
            logger.experiment.add_histogram(key, values, global_step=step)

    send(trainer, tell)


def log_picture(
    trainer: pl.Trainer, key: str, png: Callable[[], Path], figure: Callable[[], Figure], step: int
) -> None:
    """A picture: as a file for Weights & Biases, as a figure for TensorBoard. Only what is taken is made."""

    def tell(logger: Any) -> None:
        if _is_wandb(logger):
            logger.log_image(key, [str(png())], step)
        elif hasattr(logger.experiment, "add_figure"):
            logger.experiment.add_figure(key, figure(), global_step=step)

    send(trainer, tell)


def log_page(trainer: pl.Trainer, key: str, html: Callable[[], Path], step: int) -> None:
    """An interactive page: Weights & Biases. It is made only if it is taken."""

    def tell(logger: Any) -> None:
        if _is_wandb(logger):
            import wandb

            logger.log_metrics({key: wandb.Html(str(html()))}, step)

    send(trainer, tell)


def log_files(trainer: pl.Trainer, paths: Sequence[Path]) -> None:
    """Files of the run: Weights & Biases."""

    def tell(logger: Any) -> None:
        if _is_wandb(logger):
            for path in paths:
                logger.experiment.save(str(path), base_path=str(path.parent), policy="now")

    send(trainer, tell)


def log_artifact(
    trainer: pl.Trainer, name: str, kind: str, paths: Sequence[Path], metadata: dict[str, Any], step: int
) -> None:
    """Files as a version of an artifact ``<name>-<run id>``, with the alias ``step-<step>``: Weights & Biases."""

    def tell(logger: Any) -> None:
        if _is_wandb(logger):
            import wandb

            artifact = wandb.Artifact(f"{name}-{logger.version}", type=kind, metadata=metadata)
            for path in paths:
                artifact.add_file(str(path))
            logger.experiment.log_artifact(artifact, aliases=["latest", f"step-{step}"])

    send(trainer, tell)


def _as_code(lines: Sequence[Sequence[str]]) -> str:
    """Markdown of aligned columns that nothing wraps: TensorBoard squeezes a table of many into the width of a page."""
    widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
    return "\n".join("    " + "  ".join(map(str.rjust, line, widths)) for line in lines)


def _cell(value: Any) -> str:
    return "" if value is None else f"{value:.4g}" if isinstance(value, float) else str(value)


def _takes_tables(logger: Any) -> bool:
    return _is_wandb(logger) or hasattr(logger.experiment, "add_text")


def _is_wandb(logger: Any) -> bool:
    return hasattr(type(logger), "log_table")  # of the class: Lightning's dummy logger has every attribute
