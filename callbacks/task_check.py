"""Before a search begins: does the model do the task at all?

    pl.Trainer(max_steps=300, callbacks=[TaskCheck(), FaithfulnessValidation()]).fit(search, datamodule)

The command line does it at the start of every `fit`, and alone by `lightning-circuits check`.
"""

from __future__ import annotations

from typing import Any

from lightning_circuits.callbacks.terminal import console
from lightning_circuits.drawing.task_check import check_table
from lightning_circuits.evaluation.task_check import TaskCheck as Found
from lightning_circuits.evaluation.task_check import check_task
from lightning_circuits.models import CircuitModel
from lightning_circuits.namespace import pl
from lightning_circuits.search.bars import bars_of


class TaskCheck(pl.Callback):
    """Print what the full model makes of the task, with warnings, before the first step.

    It runs the model on 64 of the training pairs at most (`evaluation.task_check`), and changes nothing. Every process
    of a run runs the same, the first one prints.

    Attributes:
        found: what was seen last.

    Raises:
        TypeError: at the start of `fit`, the data are no `PairDataModule`.
    """

    def __init__(self) -> None:
        self.found: Found | None = None

    def on_fit_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        self.look(trainer, getattr(trainer, "datamodule", None), pl_module.circuit_model)  # type: ignore[arg-type]

    def look(self, trainer: pl.Trainer, data: Any, model: CircuitModel) -> None:
        """See, and print on the first process.

        Args:
            trainer: whose terminal it is.
            data: the task.
            model: on the device that it is to run on.
        """
        if not hasattr(data, "check_batches"):
            raise TypeError(f"TaskCheck looks at the pairs of a PairDataModule, and the data are {type(data).__name__}")
        data.require_fit(model)
        with bars_of(trainer):
            self.found = check_task(model, data.check_batches(), data.tokenizer, data.pair_counts)
        if trainer.is_global_zero:
            console(trainer).print(check_table(self.found))
