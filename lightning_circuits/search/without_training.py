"""What searches have in common that learn nothing: they are done when they have seen what there is to see."""

from __future__ import annotations

from typing import Any

from lightning_circuits.namespace import pl
from lightning_circuits.search.base import CircuitSearch
from lightning_circuits.search.splits import Training


class WithoutTraining(CircuitSearch):
    """A search whose fit ends by itself, whatever the Trainer's ``max_steps`` and ``max_epochs``.

    Raises:
        ValueError: when fitted: a Trainer in mixed precision.
    """

    def setup(self, stage: str) -> None:
        super().setup(stage)
        if "mixed" in str(self.trainer.precision):
            raise ValueError(
                f"precision={self.trainer.precision!r} rounds and scales gradients behind a method's back: give the "
                f"language model a dtype instead, {type(self).__name__}(dtype=...)"
            )

    @property
    def trainer(self) -> pl.Trainer:
        return super().trainer

    @trainer.setter
    def trainer(self, trainer: pl.Trainer | None) -> None:
        # The first that a module sees of its Trainer, which is about to warn whoever gave no max_epochs of a thousand.
        if trainer is not None and trainer.state.fn == "fit":
            loop = trainer.fit_loop
            self._limits = loop.min_epochs, loop.max_epochs, loop.epoch_loop.min_steps, loop.epoch_loop.max_steps
            loop.max_epochs = 1 if loop.max_epochs is None else loop.max_epochs
        pl.LightningModule.trainer.fset(self, trainer)  # type: ignore[attr-defined]

    def on_fit_start(self) -> None:
        super().on_fit_start()
        # One pass: what more there is to see, a method says. The Trainer may be used again for something else.
        loop = self.trainer.fit_loop
        loop.min_epochs, loop.max_epochs = 0, 1
        loop.epoch_loop.min_steps, loop.epoch_loop.max_steps = None, -1

    def on_fit_end(self) -> None:
        loop = self.trainer.fit_loop
        loop.min_epochs, loop.max_epochs, loop.epoch_loop.min_steps, loop.epoch_loop.max_steps = self._limits

    def _run_settings(self, training: Training) -> dict[str, Any]:
        # Of the others nothing depends on them: one prompt after the other, in full precision.
        apply = ("processes", "batch_size", "order_seed", "limit_train_batches", "overfit_batches")
        return {name: value for name, value in super()._run_settings(training).items() if name in apply}
