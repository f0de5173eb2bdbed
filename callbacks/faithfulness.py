"""Judge the circuits of a search by exact ablation, while it trains and when it is done.

What a search trains is not a circuit yet. Gates are soft, scores only rank; the loss going down says nothing about the
binary circuit that comes out in the end. So every `every_n_steps` steps this callback takes the best edges as they
stand, cuts all others, and measures on held-out prompts (see `lightning_circuits.evaluation.rows` for what is
measured, and in which company):

    validation = FaithfulnessValidation(every_n_steps=100, sizes=[0.01, 0.05], ablations=["interchange", "mean"])
    trainer = pl.Trainer(max_steps=300, callbacks=[validation])
    trainer.fit(search, datamodule)        # logs val/interchange/1%/faithfulness and the like, ends with a table
    validation.rows                        # the last measurement
    trainer.test(search, datamodule)       # the same on the test split

`trainer.validate` and `trainer.test` measure too, on their own split. The numbers are returned by them, go to all
loggers, and can be monitored by Lightning's own callbacks (`EarlyStopping(monitor="val/interchange/1%/kl")`).

Lightning's validation loop is not used: it would repeat prompts to even out the processes, and it cannot run between
two steps of an epoch without counting batches. The loader is asked for directly, and every process takes its share of
the batches, each batch once. Training prompts are never measured on; mean ablations take their means over them.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from itertools import islice
from typing import Any

import torch
from rich.console import Console

from lightning_circuits.ablation import ABLATIONS, Ablation
from lightning_circuits.batch import Batch
from lightning_circuits.callbacks.loggers import log_scalars, log_table
from lightning_circuits.circuit import Circuit
from lightning_circuits.drawing.tables import rows_table
from lightning_circuits.evaluation.rows import Row, evaluate
from lightning_circuits.namespace import pl, refuse_mixture
from lightning_circuits.pages import see_page
from lightning_circuits.search.base import CircuitSearch
from lightning_circuits.search.splits import whole_split
from lightning_circuits.selection import size_to_count

DEFAULT_SIZES = (0.005, 0.01, 0.02, 0.05)
"""Shares of the edges that are looked at when neither the user nor the method names a size."""


class ExactAblationCallback(pl.Callback):
    """What callbacks that judge circuits by exact ablation have in common; by itself it judges nothing.

    Every process takes its share of the batches of a split, each batch once; mean ablations take their means over all
    of the training split, once a run; the random numbers of training stay as they are.

    Args:
        ablations: what cut edges carry, by name (see `lightning_circuits.ablation`).
        seed: of random circuits.

    Raises:
        ValueError: an unknown ablation, or none.
    """

    def __init__(self, ablations: Sequence[str], seed: int) -> None:
        if not ablations:
            raise ValueError("no ablation to measure under: name at least one, such as 'interchange'")
        self.ablations: list[Ablation] = [ABLATIONS.make(name) for name in dict.fromkeys(ablations)]
        self.seed = seed
        self._fitted = False

    def _begin(self, trainer: pl.Trainer, split: str) -> None:
        """For `setup`: see that there is something to measure on, before any training.

        Raises:
            ValueError: no batch in the split; mean ablation without training prompts.
        """
        with torch.random.fork_rng(devices=[]):
            if next(self._batches(trainer, split), None) is None:
                raise ValueError(
                    f"the {split} loader (with Trainer(limit_{split}_batches=...), if that was given) has no batch to "
                    "measure circuits on"
                )
        if any(ablation.needs_data for ablation in self.ablations):
            whole_split(trainer, "train")
        # A run of its own: other prompts perhaps, so means are taken anew.
        self.ablations = [ABLATIONS.make(ablation.name) for ablation in self.ablations]
        self._fitted = False

    def _evaluate(
        self,
        trainer: pl.Trainer,
        search: CircuitSearch,
        circuits: Mapping[str, Circuit],
        split: str,
        company: bool = True,
    ) -> list[Row]:
        # Loaders may draw random numbers just by being iterated: measuring must not change how training goes on.
        with torch.random.fork_rng(devices=[]):
            if not self._fitted:
                for ablation in self.ablations:
                    if ablation.needs_data:
                        ablation.fit(search.circuit_model, whole_split(trainer, "train"))
                self._fitted = True
            return evaluate(
                search.circuit_model,
                circuits,
                self._batches(trainer, split),
                self.ablations,
                split=split,
                seed=self.seed,
                company=company,
                rank=trainer.global_rank,
                world_size=trainer.world_size,
            )

    def _batches(self, trainer: pl.Trainer, split: str) -> Iterator[Batch]:
        """The split, or as much of it as `Trainer(limit_val_batches=...)` (`limit_test_batches`) leaves."""
        limit = trainer.limit_test_batches if split == "test" else trainer.limit_val_batches
        loader = whole_split(trainer, split)
        if isinstance(limit, float):  # a share; 1.0 is all, also of a loader that does not know its length
            return islice(loader, None if limit == 1.0 else int(limit * len(loader)))
        return islice(loader, limit)


class FaithfulnessValidation(ExactAblationCallback):
    """Measure binary circuits on the validation split every so many training steps and at the end.

    Args:
        every_n_steps: optimizer steps between two measurements.
        sizes: of the circuits, beside the size that the method trains for (if it has one): shares of the edges, or
            numbers of edges. Default: the trained size alone, or `DEFAULT_SIZES` for a method without one.
        ablations: what cut edges carry, by name (see `lightning_circuits.ablation`).
        seed: of the random circuits beside each circuit.

    Attributes:
        rows: the last measurement, a list of `evaluation.Row`; empty before the first.

    Raises:
        ValueError: here, an unknown ablation or a step count below 1. At setup, so before any training: a size that
            rounds to no edge; no validation (test) prompts; mean ablation without training prompts.
        TypeError: at setup, the model is no `CircuitSearch`, or the Trainer of the other of Lightning's two names.
    """

    def __init__(
        self,
        every_n_steps: int = 100,
        sizes: Sequence[int | float] | None = None,
        ablations: Sequence[str] = ("interchange",),
        seed: int = 0,
    ) -> None:
        if every_n_steps < 1:
            raise ValueError(f"every_n_steps is {every_n_steps}: it has to be at least 1")
        super().__init__(ablations, seed)
        self.every_n_steps = every_n_steps
        self.sizes = sizes
        self.rows: list[Row] = []
        self._measured: int | None = None  # the step of the last measurement within fit

    # ---- for other callbacks -----------------------------------------------------------------------------------

    def due(self, trainer: pl.Trainer) -> bool:
        """Whether circuits are measured after the training batch that has just been done."""
        return trainer.global_step > 0 and trainer.global_step % self.every_n_steps == 0

    def measure(self, trainer: pl.Trainer, search: CircuitSearch) -> list[Row]:
        """The rows of this training step. They are made once: whichever callback asks first, the order is all the same.

        With several processes, all have to ask.
        """
        if self._measured != trainer.global_step:
            self.rows = self._evaluate(trainer, search, circuits_to_look_at(search, self.sizes), "val")
            self._measured = trainer.global_step
            scalars = _scalars(self.rows)
            log_scalars(trainer, scalars)
            trainer.callback_metrics.update({key: torch.tensor(value) for key, value in scalars.items()})
        return self.rows

    # ---- Lightning ---------------------------------------------------------------------------------------------

    def setup(self, trainer: pl.Trainer, pl_module: pl.LightningModule, stage: str) -> None:
        if stage == "predict":
            return
        refuse_mixture(self, trainer)
        search = require_search(self, pl_module)
        sizes_to_look_at(search, self.sizes)
        self._begin(trainer, "test" if stage == "test" else "val")
        self.rows, self._measured = [], None

    def on_train_batch_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule, *_: Any) -> None:
        if self.due(trainer):
            self.measure(trainer, require_search(self, pl_module))

    def on_train_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        rows = self.measure(trainer, require_search(self, pl_module))
        log_table(trainer, "val/circuits", [row.to_dict() for row in rows])

    def on_validation_epoch_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        if trainer.state.fn == "validate":  # within fit there are steps to go by
            self._evaluate_now(trainer, require_search(self, pl_module), "val")

    def on_test_epoch_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        self._evaluate_now(trainer, require_search(self, pl_module), "test")

    def teardown(self, trainer: pl.Trainer, pl_module: pl.LightningModule, stage: str) -> None:
        if self.rows and trainer.is_global_zero:
            close_progress_bar(trainer, stage)
            console(trainer).print(rows_table(self.rows))

    # ---- measuring ---------------------------------------------------------------------------------------------

    def _evaluate_now(self, trainer: pl.Trainer, search: CircuitSearch, split: str) -> None:
        """For `trainer.validate` and `trainer.test`, which return what is logged here."""
        self.rows = self._evaluate(trainer, search, circuits_to_look_at(search, self.sizes), split)
        search.log_dict(_scalars(self.rows), sync_dist=trainer.world_size > 1)
        log_table(trainer, f"{split}/circuits", [row.to_dict() for row in self.rows])


# ---- which circuits ------------------------------------------------------------------------------------------------


def size_name(size: float) -> str:
    """What a circuit of a size is called: ``0.01`` is ``1%``, ``200`` is ``200 edges``."""
    return f"{size} edges" if isinstance(size, int) else f"{100 * size:.4g}%"


def sizes_to_look_at(search: CircuitSearch, sizes: Sequence[int | float] | None) -> dict[str, int | float | None]:
    """Sizes of circuits by name, None for the one that the method trains for.

    Raises:
        ValueError, TypeError: a size that is none (see `selection.size_to_count`).
    """
    trained = search.trained_size()
    chosen: dict[str, int | float | None] = {}
    if trained is not None:
        size_to_count(trained, search.layout)
        chosen[size_name(trained)] = None
    elif sizes is None:
        # In a very small model the smallest of them may be no edge at all.
        sizes = [size for size in DEFAULT_SIZES if size * search.layout.n_edges >= 1]
    for size in sizes or ():
        size_to_count(size, search.layout)
        chosen.setdefault(size_name(size), size)
    return chosen


def circuits_to_look_at(search: CircuitSearch, sizes: Sequence[int | float] | None) -> dict[str, Circuit]:
    """The circuits of a search as it stands, by the names of `sizes_to_look_at`."""
    return {name: search.circuit(size) for name, size in sizes_to_look_at(search, sizes).items()}


# ---- what Lightning knows ------------------------------------------------------------------------------------------


def require_search(callback: pl.Callback, module: pl.LightningModule) -> CircuitSearch:
    if not isinstance(module, CircuitSearch):
        raise TypeError(
            f"{type(callback).__name__} judges searches for circuits, and {type(module).__name__} is none: it has to "
            f"be a subclass of lightning_circuits.CircuitSearch {see_page('choosing-a-method', 'A method of your own')}"
        )
    return module


def close_progress_bar(trainer: pl.Trainer, stage: str) -> None:
    """Let the bar end now, at the end of a run, so that what is printed next stands below it."""
    if trainer.progress_bar_callback is not None:
        trainer.progress_bar_callback.teardown(trainer, trainer.lightning_module, stage)


def console(trainer: pl.Trainer) -> Console:
    """The terminal; where there is none, a page as wide as the tables; with --quiet, nothing."""
    quiet = getattr(trainer, "quiet", False)
    found = Console(quiet=quiet)
    return found if found.is_terminal else Console(quiet=quiet, width=100)


def _scalars(rows: Sequence[Row]) -> dict[str, float]:
    """``val/interchange/1%-random/kl`` and so on."""
    return {
        f"{row.split}/{row.ablation}/{row.circuit.replace(' ', '-')}/{key}": value
        for row in rows
        for key, value in row.scalars().items()
    }
