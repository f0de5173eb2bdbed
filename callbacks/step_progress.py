"""The bar of a run: steps done of all, the time that is left, what is trained for; on one line of 80 columns.

    pl.Trainer(max_steps=300, callbacks=[StepProgressBar(), ...])

Lightning's bars count the batches of one epoch at a time, and with `max_steps` alone call the last epoch -2. What takes
long between two steps (validation, curves, means) has bars of its own, below this one (see
`lightning_circuits.progress`). The command line puts it into every run that has no other.
"""

from __future__ import annotations

import math
from contextlib import ExitStack
from typing import Any

from lightning_circuits.namespace import pl
from lightning_circuits.progress import Bar, progress


class StepProgressBar(pl.callbacks.ProgressBar):
    """Show how far a training is, from its first step to its last.

    Beside the steps stands the first number that is logged for bars (``prog_bar=True``). Where output goes to a file
    there is a line a minute.
    """

    def __init__(self) -> None:
        super().__init__()
        self._enabled, self._drawn = True, ExitStack()
        self._bar: Bar | None = None

    def enable(self) -> None:
        self._enabled = True

    def disable(self) -> None:
        self._enabled = False
        self._end()

    def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        if self._enabled and trainer.is_global_zero:
            planned = trainer.estimated_stepping_batches
            total = None if math.isinf(planned) else int(planned)
            self._bar = self._drawn.enter_context(progress(type(pl_module).__name__, total, trainer.global_step, 0.0))

    def on_train_batch_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule, *_: Any) -> None:
        if self._bar is not None:
            self._bar.update(trainer.global_step, self._note(trainer, pl_module))

    def on_train_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        self._end()

    def on_exception(self, trainer: pl.Trainer, pl_module: pl.LightningModule, exception: BaseException) -> None:
        self._end()

    def teardown(self, trainer: pl.Trainer, pl_module: pl.LightningModule, stage: str) -> None:
        self._end()

    def _end(self) -> None:
        self._drawn.close()
        self._bar = None

    def _note(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> str:
        shown = {name: value for name, value in self.get_metrics(trainer, pl_module).items() if name != "v_num"}
        if not shown:
            return ""
        name, value = next(iter(shown.items()))
        return f"{name.rpartition('/')[2]} {value:.3g}" if isinstance(value, (int, float)) else f"{name} {value}"
