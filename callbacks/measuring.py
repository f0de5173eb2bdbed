"""When circuits are measured in a run, and who hears of it.

Every so many steps and when training is done; by `trainer.validate` and `trainer.test`, on their own split; and by the
end of an epoch, if a callback of Lightning's watches one of the numbers and nothing has been measured by then
(`EarlyStopping(monitor="val/interchange/1%/kl")`). No step is measured twice.
"""

from __future__ import annotations

from typing import Any

import torch
from rich.console import RenderableType

from lightning_circuits.arguments import require_whole_numbers
from lightning_circuits.callbacks.launched import leave_room
from lightning_circuits.callbacks.loggers import log_scalars
from lightning_circuits.callbacks.monitors import let_monitor, monitored, monitored_each_step, refuse_unknown
from lightning_circuits.callbacks.terminal import close_progress_bar, console
from lightning_circuits.namespace import pl


class MeasuringCallback(pl.Callback):
    """What callbacks that measure circuits in a run have in common; by itself it measures nothing.

    Args:
        every_n_steps: optimizer steps between two measurements.

    Attributes:
        measured: the last measurement, which has a ``step``; None before the first.

    Raises:
        ValueError: a step count below 1. Before any training: a key monitored by a callback of Lightning's that nobody
            will log.
        TypeError: one that is no whole number.
    """

    def __init__(self, every_n_steps: int) -> None:
        require_whole_numbers(every_n_steps=every_n_steps)
        if every_n_steps < 1:
            raise ValueError(f"every_n_steps is {every_n_steps}: it has to be at least 1")
        self.every_n_steps = every_n_steps
        self.measured: Any = None
        self._complete = False  # whether that was with everything that circuits are held against

    # ---- what a subclass says ----------------------------------------------------------------------------------

    def _measure(self, trainer: pl.Trainer, pl_module: pl.LightningModule, split: str, last: bool) -> Any:
        """Measure the circuits as they stand; for the last time, with everything that they are to be held against."""
        raise NotImplementedError

    def _scalars(self) -> dict[str, float]:
        """The numbers of the last measurement, by the keys that loggers know."""
        raise NotImplementedError

    def _watched(self, key: str) -> bool:
        """Whether people look at the curve of a number."""
        return True

    def _table(self) -> RenderableType:
        """The last measurement as it is printed at the end of the run."""
        raise NotImplementedError

    def _tell(self, trainer: pl.Trainer, pl_module: pl.LightningModule, measured: Any) -> None:
        """Pass on what has been measured."""

    def _finish(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """What is due after the last measurement of a run alone."""

    def logged_keys(self, search: Any) -> list[str]:
        """What can be monitored."""
        raise NotImplementedError

    # ---- Lightning ---------------------------------------------------------------------------------------------

    def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        refuse_unknown(trainer, pl_module)

    def on_train_batch_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule, *_: Any) -> None:
        if trainer.global_step > 0 and trainer.global_step % self.every_n_steps == 0:
            self._measure_step(trainer, pl_module)
        elif monitored_each_step(trainer):
            self._measure_what_is_monitored(trainer, pl_module)

    def on_validation_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        if trainer.state.fn == "fit" and not trainer.sanity_checking:
            with torch.inference_mode(False), torch.no_grad():  # what ablations learn here is used in training
                self._measure_what_is_monitored(trainer, pl_module)

    def on_train_epoch_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        self._measure_what_is_monitored(trainer, pl_module)

    def on_train_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        self._measure_step(trainer, pl_module, last=True)
        self._finish(trainer, pl_module)

    def on_validation_epoch_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        if trainer.state.fn == "validate":  # within fit there are steps to go by
            self._measure_now(trainer, pl_module, "val")

    def on_test_epoch_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        self._measure_now(trainer, pl_module, "test")

    def teardown(self, trainer: pl.Trainer, pl_module: pl.LightningModule, stage: str) -> None:
        if self.measured is not None and trainer.is_global_zero:
            close_progress_bar(trainer, stage)
            console(trainer).print(self._table())
            leave_room(trainer, self._scalars())

    # ---- measuring ---------------------------------------------------------------------------------------------

    def _measure_what_is_monitored(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Lightning would end the run if a number were not there."""
        if self.measured is None and self._monitored(trainer, pl_module):
            self._measure_step(trainer, pl_module)

    def _monitored(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> set[str]:
        """The keys of ours that others watch."""
        return monitored(trainer) & set(self.logged_keys(pl_module))

    def _measure_step(self, trainer: pl.Trainer, pl_module: pl.LightningModule, last: bool = False) -> None:
        """Within fit. With gradients accumulated there are several batches to a step, and the last step may be due."""
        if self.measured is not None and self.measured.step == trainer.global_step and (self._complete or not last):
            return
        self._complete = last or trainer.global_step >= trainer.estimated_stepping_batches
        self.measured = self._measure(trainer, pl_module, "val", self._complete)
        self._log(trainer, self._scalars())
        self._tell(trainer, pl_module, self.measured)

    def _measure_now(self, trainer: pl.Trainer, pl_module: pl.LightningModule, split: str) -> None:
        """For `trainer.validate` and `trainer.test`, which return what is logged here."""
        self.measured = self._measure(trainer, pl_module, split, True)
        self._finish(trainer, pl_module)
        pl_module.log_dict(self._scalars(), sync_dist=trainer.world_size > 1)
        self._tell(trainer, pl_module, self.measured)

    def _log(self, trainer: pl.Trainer, scalars: dict[str, float]) -> None:
        log_scalars(trainer, scalars, watched=self._watched)
        let_monitor(trainer, scalars)
