"""Judge the circuits of a search by exact ablation, while it trains and when it is done.

What a search trains is not a circuit yet. Gates are soft, scores only rank; the loss going down says nothing about the
binary circuit that comes out in the end. So every `every_n_steps` steps this callback takes the best edges as they
stand, cuts all others, and measures on held-out prompts (see `lightning_circuits.evaluation.rows` for what is
measured, and with which controls):

    validation = FaithfulnessValidation(every_n_steps=100, sizes=[0.01, 0.05], ablations=["interchange", "mean"])
    trainer = pl.Trainer(max_steps=300, callbacks=[validation])
    trainer.fit(search, datamodule)        # logs val/interchange/1%/faithfulness and the like, ends with a table
    validation.rows                        # the last measurement
    trainer.test(search, datamodule)       # the same on the test split

The circuits' controls (a random one, the complement) are measured when training is done. Loggers that have tables
(Weights & Biases, TensorBoard) get faithfulness, KL and accuracy as curves, and all rows in one table in the end.

`trainer.validate` and `trainer.test` measure too, on their own split. The numbers are returned by them, go to all
loggers, and can be monitored by Lightning's own callbacks (`EarlyStopping(monitor="val/interchange/1%/kl")`). Those
look at the end of every epoch: if nothing has been measured by then, it is measured then. Other callbacks are told of
each measurement: `on_circuits_measured` (see `lightning_circuits.callbacks.announcing`).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import fields
from typing import Any

from rich.console import RenderableType

from lightning_circuits.ablation import Ablation
from lightning_circuits.callbacks.announcing import Measured, announce
from lightning_circuits.callbacks.exact_ablation import ExactAblationCallback
from lightning_circuits.callbacks.loggers import in_key, log_table
from lightning_circuits.callbacks.looked_at import circuits_to_look_at, sizes_to_look_at
from lightning_circuits.callbacks.measuring import MeasuringCallback
from lightning_circuits.callbacks.options import require_sizes
from lightning_circuits.callbacks.requirements import require_search
from lightning_circuits.drawing.tables import rows_table
from lightning_circuits.evaluation.rows import CONTROLS as OF_ROWS
from lightning_circuits.evaluation.rows import REFERENCES, Row, require_narrow
from lightning_circuits.measures import DEFAULT, AnyMeasure, by_measure, measure_name
from lightning_circuits.namespace import pl
from lightning_circuits.search.base import CircuitSearch

CONTROLS = ("", *map(in_key, OF_ROWS))
"""What a circuit's name ends with in the keys of its own numbers and of its controls'."""

WATCHED = ("faithfulness", "kl", "accuracy")
"""What loggers make curves of, for the circuits that were asked for; the rest of a row stands in their table."""


class FaithfulnessValidation(MeasuringCallback, ExactAblationCallback):
    """Measure binary circuits on the validation split every so many training steps and at the end.

    Args:
        every_n_steps: optimizer steps between two measurements.
        sizes: of the circuits, beside the size that the method trains for (if it has one): shares of the edges, or
            numbers of edges, one or several. Default: the trained size alone, or `DEFAULT_SIZES` for a method without
            one.
        ablations: what cut edges carry: names or objects, one or several (see `lightning_circuits.ablation`).
        seed: of the random circuits beside each circuit.
        measure: what faithfulness is of, by name or a function ``(logits, batch, full_logits) -> [B]`` (see
            `lightning_circuits.measures`). Keys name it after the ablation: ``val/interchange/kl/1%/faithfulness``;
            not the logit difference.
        narrow: a circuit is not run on the prompts that are left once the 95 % interval of its faithfulness is no wider
            than this (see `lightning_circuits.evaluation.rows.evaluate`): 0.02 spares most of what controls cost.
            Numbers of different circuits, or of one at different steps, are then of different numbers of prompts.
            Default: all prompts.

    Attributes:
        measured: the last measurement, a `Measured`; None before the first.

    Raises:
        ValueError: here, an unknown ablation or measure, or a step count below 1. Before any training: a size that
            rounds to no edge; no validation (test) prompts; mean ablation without training prompts; a key monitored by
            a callback of Lightning's that nobody will log.
        TypeError: here, an ablation, a size or a measure that is none. At setup, the model is no `CircuitSearch`, or
            the Trainer of the other of Lightning's two names.
    """

    announces = "on_circuits_measured"

    def __init__(
        self,
        every_n_steps: int = 100,
        sizes: Sequence[int | float] | int | float | None = None,
        ablations: Sequence[str | Ablation] | str | Ablation = ("interchange",),
        seed: int = 0,
        measure: AnyMeasure = DEFAULT,
        narrow: float | None = None,
    ) -> None:
        MeasuringCallback.__init__(self, every_n_steps)
        ExactAblationCallback.__init__(self, ablations, seed, measure)
        self.sizes = None if sizes is None else require_sizes(sizes)
        require_narrow(narrow)
        self.narrow = narrow
        self.measured: Measured | None = None
        self._so_far: list[dict[str, Any]] = []  # rows of all measurements

    @property
    def rows(self) -> list[Row]:
        """Those of the last measurement; none before the first."""
        return [] if self.measured is None else self.measured.rows

    # ---- Lightning ---------------------------------------------------------------------------------------------

    def setup(self, trainer: pl.Trainer, pl_module: pl.LightningModule, stage: str) -> None:
        if stage == "predict":
            return
        search = require_search(self, trainer, pl_module)
        sizes_to_look_at(search, self.sizes)
        self._begin(trainer, search, "test" if stage == "test" else "val")
        self.measured, self._so_far = None, []

    def logged_keys(self, search: CircuitSearch) -> list[str]:
        """What can be monitored: every number of the circuits, their controls, the full and the empty one."""
        numbers = [*(field.name for field in fields(Row) if field.type != "str"), "overshoot"]
        sizes = [in_key(name) for name in sizes_to_look_at(search, self.sizes)]
        circuits = [*REFERENCES, *(f"{name}{control}" for name in sizes for control in CONTROLS)]
        names = [by_measure(ablation.name, measure_name(self.measure), "/") for ablation in self.ablations]
        return [f"val/{name}/{circuit}/{number}" for name in names for circuit in circuits for number in numbers]

    # ---- measuring ---------------------------------------------------------------------------------------------

    def _measure(self, trainer: pl.Trainer, pl_module: pl.LightningModule, split: str, last: bool) -> Measured:
        search = require_search(self, trainer, pl_module)
        circuits = circuits_to_look_at(search, self.sizes)
        # Controls take most of the time, and say in the end what they would have said on the way.
        controls = last or any(key.split("/")[-2].endswith(CONTROLS[1:]) for key in self._monitored(trainer, search))
        rows = self._evaluate(trainer, search, circuits, split, controls, self.narrow)
        self._so_far += [{"step": trainer.global_step, **row.to_dict()} for row in rows]
        return Measured(trainer.global_step, split, circuits, rows, self._describe_ablations())

    def _watched(self, key: str) -> bool:
        """Whether it is a number of `WATCHED`, of a circuit that was asked for."""
        circuit, number = key.split("/")[-2:]
        return number in WATCHED and circuit not in REFERENCES and not circuit.endswith(CONTROLS[1:])

    def _scalars(self) -> dict[str, float]:
        """``val/interchange/1%-random/kl`` and so on."""
        return {
            f"{row.split}/{by_measure(row.ablation, row.measure, '/')}/{in_key(row.circuit)}/{key}": value
            for row in self.rows
            for key, value in row.scalars().items()
        }

    def _table(self) -> RenderableType:
        return rows_table(self.rows)

    def _tell(self, trainer: pl.Trainer, pl_module: pl.LightningModule, measured: Measured) -> None:
        announce(trainer, "on_circuits_measured", require_search(self, trainer, pl_module), measured)

    def _finish(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        key = by_measure(f"{self.rows[0].split}/circuits", measure_name(self.measure), "/")
        log_table(trainer, key, self._so_far)
