"""Write circuits to files while a search trains, so that a run leaves something behind whenever it ends.

    export = CircuitExport("runs/ioi", formats=["json", "pt"], save_top_k=1)
    trainer = pl.Trainer(max_steps=300, callbacks=[FaithfulnessValidation(sizes=[0.01]), export])

leaves behind, after each measurement of `FaithfulnessValidation` and at the end,

    runs/ioi/circuit-last-1pct.json, .pt              the circuit as it stands
    runs/ioi/circuit-step000200-1pct.json, .pt        the best one measured so far (`save_top_k` of them)

The files of a circuit are all written whole and then moved into their places together, and those they replace are
removed after that. So a run killed at any moment, or a disk that is full, leaves complete files. On a full disk
training goes on: a warning says so, the next export tries again, and if the last one fails too the run ends with an
error, the search still in memory.

In the metadata of each file stands how it was made (`CircuitSearch.describe`), on which data, its step and sizes before
and after pruning, and what was measured.

What is written is the pruned subgraph: without the edges that are on no way from the input to the logits. Under
interchange ablation that changes nothing that a circuit puts out. Under the other ablations it would, and a circuit
that was searched for under one of them is written as it was measured.
"""

from __future__ import annotations

import math
import os
import tempfile
import warnings
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from lightning_circuits.callbacks.faithfulness import (
    FaithfulnessValidation,
    circuits_to_look_at,
    close_progress_bar,
    require_search,
    sizes_to_look_at,
)
from lightning_circuits.callbacks.loggers import run_folder
from lightning_circuits.circuit import Circuit
from lightning_circuits.drawing.circuit import save_figure
from lightning_circuits.drawing.page import save_page
from lightning_circuits.drawing.style import SUFFIXES
from lightning_circuits.evaluation.rows import Row
from lightning_circuits.files import FORMATS
from lightning_circuits.namespace import pl, refuse_mixture
from lightning_circuits.search.base import CircuitSearch

MONITORS: dict[str, Callable[[Row], float]] = {
    "kl": lambda row: row.kl,
    "faithfulness": lambda row: abs(1 - row.faithfulness),
    "accuracy": lambda row: -row.accuracy,
}
"""What may be monitored, as numbers of which the smallest is the best: faithfulness is best at 1, not above."""


def _save_data(circuit: Circuit, path: Path) -> None:
    circuit.save(path)


WRITERS: dict[str, Callable[[Circuit, Path], Any]] = {
    **dict.fromkeys(FORMATS.names(), _save_data),
    **dict.fromkeys(SUFFIXES, save_figure),
    ".html": save_page,
}
"""What writes a circuit, by suffix: data, figures for papers, the interactive page."""


class CircuitExport(pl.Callback):
    """Write the circuits of a search to files.

    Args:
        dirpath: the folder; it is made if it is not there. Default: where the run's first logger writes
            (``save_dir/name/version``), so that no two runs share one.
        formats: each circuit is written in all that are named: as data in `json`, `pt`, `safetensors`, `graphml` or
            `dot`; as a figure in `svg`, `pdf` or `png`; as an interactive page in `html`.
        sizes: of the circuits, as for `FaithfulnessValidation`. Default: the circuits that it measures.
        save_top_k: how many of the best circuits of each size are kept; -1 keeps all, 0 only the last.
        monitor: what makes a circuit the best: the lowest `kl`, the `faithfulness` nearest to 1, or the highest
            `accuracy`, under the first ablation of `FaithfulnessValidation`. Each size is ranked by itself.

    Circuits are measured by the `FaithfulnessValidation` beside this callback (in any order). Without one, or for sizes
    that it does not measure, there is nothing to rank by, and only the last circuit is written.

    Raises:
        ValueError: here, an unknown format or monitor, or `save_top_k` below -1. At setup, so before any training: a
            folder that cannot be made or written to; a size that rounds to no edge.
        OSError: at the end of training, the last circuits cannot be written (a full disk).
        TypeError: at setup, the model is no `CircuitSearch`, or the Trainer of the other of Lightning's two names.
    """

    def __init__(
        self,
        dirpath: str | Path | None = None,
        formats: Sequence[str] = ("json", "pt", "safetensors"),
        sizes: Sequence[int | float] | None = None,
        save_top_k: int = 1,
        monitor: str = "kl",
    ) -> None:
        known = [suffix.removeprefix(".") for suffix in WRITERS]
        if not formats or (unknown := [name for name in formats if name not in known]):
            asked = f"unknown format {unknown[0]!r}" if formats else "no format to write circuits in"
            raise ValueError(f"{asked}: choose from {', '.join(known)}")
        if monitor not in MONITORS:
            raise ValueError(f"circuits cannot be ranked by {monitor!r}: choose one of {', '.join(MONITORS)}")
        if save_top_k < -1:
            raise ValueError(f"save_top_k is {save_top_k}: a number of circuits to keep, or -1 for all")
        self.dirpath = None if dirpath is None else Path(dirpath)
        self.formats = tuple(formats)
        self.sizes = sizes
        self.save_top_k = save_top_k
        self.monitor = monitor
        self.best: dict[str, list[tuple[float, int]]] = {}  # for each size: how bad, and of which step; best first
        self._folder = self.dirpath or Path()  # known at setup
        self._exported: int | None = None  # the step of the last export
        self._circuits: dict[str, Circuit] = {}  # what it was
        self._trouble: str | None = None  # what went wrong with it
        self._warned = False

    @property
    def paths(self) -> list[Path]:
        """The files that this run has left in the folder so far: for each size the last circuit, then the best."""
        return [
            path
            for name, entries in self.best.items()
            for step in (None, *(step for _, step in entries))
            for path in self._files(name, step)
        ]

    # ---- for other callbacks -----------------------------------------------------------------------------------

    def due(self, trainer: pl.Trainer) -> bool:
        """Whether circuits are written after the training batch that has just been done."""
        validation = _validation(trainer)
        return validation is not None and validation.due(trainer)

    def export(self, trainer: pl.Trainer, search: CircuitSearch) -> dict[str, Circuit]:
        """The circuits of this training step, by name, written to files.

        It is done once, whichever callback asks first. With several processes, all have to ask; only the first gets any
        circuit.
        """
        if self._exported != trainer.global_step:
            self._exported = trainer.global_step
            self._circuits = self._export(trainer, search, _validation(trainer))
            if self._trouble and not self._warned and trainer.is_global_zero:
                self._warned = True
                warnings.warn(f"{self._trouble}. Training goes on, the next export tries again", stacklevel=2)
        return self._circuits

    # ---- Lightning ---------------------------------------------------------------------------------------------

    def setup(self, trainer: pl.Trainer, pl_module: pl.LightningModule, stage: str) -> None:
        if stage != "fit":
            return
        refuse_mixture(self, trainer)
        sizes_to_look_at(require_search(self, pl_module), self.sizes)
        self.best, self._exported = {}, None  # a resumed run gets the best of its checkpoint after this
        self._trouble, self._warned = None, False
        self._folder = run_folder(trainer) if self.dirpath is None else self.dirpath
        if trainer.is_global_zero:
            try:
                self._folder.mkdir(parents=True, exist_ok=True)
                with tempfile.TemporaryFile(dir=self._folder):
                    pass
            except OSError as error:
                raise ValueError(
                    f"circuits cannot be written to {self._folder} ({error}): give CircuitExport another dirpath"
                ) from error

    def on_train_batch_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule, *_: Any) -> None:
        if self.due(trainer):
            self.export(trainer, require_search(self, pl_module))

    def on_train_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        if self._trouble:
            self._exported = None  # once more
        self.export(trainer, require_search(self, pl_module))
        if self._trouble:
            raise OSError(
                f"{self._trouble}. Unless they are saved from memory, search.circuit(...).save(...), they are lost"
            )

    def teardown(self, trainer: pl.Trainer, pl_module: pl.LightningModule, stage: str) -> None:
        if stage == "fit" and trainer.is_global_zero and self._exported is not None:
            close_progress_bar(trainer, stage)
            print("Circuits written:", *(f"  {path}" for path in self.paths), sep="\n")

    def state_dict(self) -> dict[str, Any]:
        return {"best": {name: [list(entry) for entry in entries] for name, entries in self.best.items()}}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        self.best = {name: [(value, step) for value, step in entries] for name, entries in state_dict["best"].items()}

    # ---- writing -----------------------------------------------------------------------------------------------

    def _export(
        self, trainer: pl.Trainer, search: CircuitSearch, validation: FaithfulnessValidation | None
    ) -> dict[str, Circuit]:
        rows = [] if validation is None else validation.measure(trainer, search)
        sizes = validation.sizes if self.sizes is None and validation is not None else self.sizes
        written: dict[str, Circuit] = {}
        trouble: str | None = None
        if trainer.is_global_zero:
            describe = getattr(getattr(trainer, "datamodule", None), "describe", None)
            for name, circuit in circuits_to_look_at(search, sizes).items():
                measured = [row for row in rows if row.circuit in (name, f"{name} pruned")]
                pruned = circuit.prune()
                metadata = {
                    **circuit.metadata,
                    "data": None if describe is None else describe(),
                    "step": trainer.global_step,
                    "size": circuit.size,
                    "edges": circuit.n_edges,
                    "edges_pruned": pruned.n_edges,
                    "measured": [row.to_dict() for row in measured],
                }
                chosen = pruned if search.ablation.pruning_keeps_output else circuit
                written[name] = replace(chosen, metadata=metadata)
                try:
                    self._write(name, written[name], measured, trainer.global_step)
                except OSError as error:
                    trouble = str(error)
        # All processes wait for the files, and learn what became of them: one alone must not stop.
        trouble = trainer.strategy.broadcast(trouble)
        self._trouble = trouble and (
            f"the circuits of step {trainer.global_step} could not all be written to {self._folder} ({trouble}). The "
            "files that are there are complete, of this step or an earlier one"
        )
        return written

    def _write(self, name: str, circuit: Circuit, measured: Sequence[Row], step: int) -> None:
        """Write a circuit as the last of its size and, if it is among the best, as that; remove what it displaces."""
        before = [entry for entry in self.best.get(name, []) if entry[1] != step]
        value = MONITORS[self.monitor](measured[0]) if measured else math.nan
        # What has no number is not comparable, and never among the best.
        after = sorted(before if math.isnan(value) else [*before, (value, step)])
        if self.save_top_k >= 0:
            after = after[: self.save_top_k]
        paths = self._files(name, None) + (self._files(name, step) if (value, step) in after else [])
        staged = {path: path.with_name(f".writing-{path.name}") for path in paths}
        try:
            for path, temporary in staged.items():
                WRITERS[path.suffix](circuit, temporary)
            for path, temporary in staged.items():
                os.replace(temporary, path)
        finally:
            for temporary in staged.values():
                temporary.unlink(missing_ok=True)
        self.best[name] = after
        for entry in before:
            if entry not in after:
                for path in self._files(name, entry[1]):
                    path.unlink(missing_ok=True)

    def _files(self, name: str, step: int | None) -> list[Path]:
        """The files of the circuit called `name` at a step; without one, of the last."""
        label = "last" if step is None else f"step{step:06d}"
        stem = f"circuit-{label}-{name.replace('%', 'pct').replace(' ', '-')}"
        return [self._folder / f"{stem}.{suffix}" for suffix in self.formats]


def _validation(trainer: pl.Trainer) -> FaithfulnessValidation | None:
    callbacks = trainer.callbacks  # type: ignore[attr-defined]  # Lightning sets it elsewhere
    return next((callback for callback in callbacks if isinstance(callback, FaithfulnessValidation)), None)
