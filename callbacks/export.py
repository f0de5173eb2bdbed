"""Write circuits to files while a search trains, so that a run leaves something behind whenever it ends.

    export = CircuitExport("runs/ioi", formats=["json", "pt"], save_top_k=1)
    trainer = pl.Trainer(max_steps=300, callbacks=[FaithfulnessValidation(sizes=[0.01]), export])

leaves behind, after each measurement of `FaithfulnessValidation` and at the end,

    runs/ioi/circuit-last-1pct.json, .pt              the circuit as it stands
    runs/ioi/circuit-step000200-1pct.json, .pt        the best one measured so far (`save_top_k` of them)

Each file is written whole and then moved into its place, and the files it replaces are removed after that: a run killed
at any moment leaves complete files. In the metadata of each stands how it was made (`CircuitSearch.describe`), on which
data, its step and sizes before and after pruning, and what was measured.

What is written is the pruned subgraph: without the edges that are on no way from the input to the logits. Under
interchange ablation that changes nothing that a circuit puts out. Under the other ablations it would, and a circuit
that was searched for under one of them is written as it was measured.
"""

from __future__ import annotations

import math
import tempfile
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
from lightning_circuits.circuit import Circuit
from lightning_circuits.evaluation import Row
from lightning_circuits.formats import FORMATS
from lightning_circuits.lightning import pl
from lightning_circuits.search.base import CircuitSearch

MONITORS: dict[str, Callable[[Row], float]] = {
    "kl": lambda row: row.kl,
    "faithfulness": lambda row: abs(1 - row.faithfulness),
    "accuracy": lambda row: -row.accuracy,
}
"""What may be monitored, as numbers of which the smallest is the best: faithfulness is best at 1, not above."""


class CircuitExport(pl.Callback):
    """Write the circuits of a search to files.

    Args:
        dirpath: the folder; it is made if it is not there.
        formats: of `json`, `pt`, `safetensors`, `graphml`, `dot`; each circuit is written in all that are named.
        sizes: of the circuits, as for `FaithfulnessValidation`. Default: the circuits that it measures.
        save_top_k: how many of the best circuits of each size are kept; -1 keeps all, 0 only the last.
        monitor: what makes a circuit the best: the lowest `kl`, the `faithfulness` nearest to 1, or the highest
            `accuracy`, under the first ablation of `FaithfulnessValidation`. Each size is ranked by itself.

    Circuits are measured by the `FaithfulnessValidation` beside this callback (in any order). Without one, or for sizes
    that it does not measure, there is nothing to rank by, and only the last circuit is written.

    Raises:
        ValueError: here, an unknown format or monitor, or `save_top_k` below -1. At setup, so before any training: a
            folder that cannot be made or written to; a size that rounds to no edge.
        TypeError: at setup, the model is no `CircuitSearch`.
    """

    def __init__(
        self,
        dirpath: str | Path,
        formats: Sequence[str] = ("json", "pt", "safetensors"),
        sizes: Sequence[int | float] | None = None,
        save_top_k: int = 1,
        monitor: str = "kl",
    ) -> None:
        known = [suffix.removeprefix(".") for suffix in FORMATS]
        if not formats or (unknown := [name for name in formats if name not in known]):
            asked = f"unknown format {unknown[0]!r}" if formats else "no format to write circuits in"
            raise ValueError(f"{asked}: choose from {', '.join(known)}")
        if monitor not in MONITORS:
            raise ValueError(f"circuits cannot be ranked by {monitor!r}: choose one of {', '.join(MONITORS)}")
        if save_top_k < -1:
            raise ValueError(f"save_top_k is {save_top_k}: a number of circuits to keep, or -1 for all")
        self.dirpath = Path(dirpath)
        self.formats = tuple(formats)
        self.sizes = sizes
        self.save_top_k = save_top_k
        self.monitor = monitor
        self.best: dict[str, list[tuple[float, int]]] = {}  # for each size: how bad, and of which step; best first
        self._exported: int | None = None  # the step of the last export

    @property
    def paths(self) -> list[Path]:
        """The files that this run has left in the folder so far: for each size the last circuit, then the best."""
        return [
            path
            for name, entries in self.best.items()
            for step in (None, *(step for _, step in entries))
            for path in self._files(name, step)
        ]

    # ---- Lightning ---------------------------------------------------------------------------------------------

    def setup(self, trainer: pl.Trainer, pl_module: pl.LightningModule, stage: str) -> None:
        if stage != "fit":
            return
        sizes_to_look_at(require_search(self, pl_module), self.sizes)
        self.best, self._exported = {}, None  # a resumed run gets the best of its checkpoint after this
        if trainer.is_global_zero:
            try:
                self.dirpath.mkdir(parents=True, exist_ok=True)
                with tempfile.TemporaryFile(dir=self.dirpath):
                    pass
            except OSError as error:
                raise ValueError(
                    f"circuits cannot be written to {self.dirpath} ({error}): give CircuitExport another dirpath"
                ) from error

    def on_train_batch_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule, *_: Any) -> None:
        validation = _validation(trainer)
        if validation is not None and validation.due(trainer):
            self._export(trainer, require_search(self, pl_module), validation)

    def on_train_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        self._export(trainer, require_search(self, pl_module), _validation(trainer))

    def teardown(self, trainer: pl.Trainer, pl_module: pl.LightningModule, stage: str) -> None:
        if stage == "fit" and trainer.is_global_zero and self._exported is not None:
            close_progress_bar(trainer, stage)
            print("Circuits written:", *(f"  {path}" for path in self.paths), sep="\n")

    def state_dict(self) -> dict[str, Any]:
        return {"best": {name: [list(entry) for entry in entries] for name, entries in self.best.items()}}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        self.best = {name: [(value, step) for value, step in entries] for name, entries in state_dict["best"].items()}

    # ---- writing -----------------------------------------------------------------------------------------------

    def _export(self, trainer: pl.Trainer, search: CircuitSearch, validation: FaithfulnessValidation | None) -> None:
        if self._exported == trainer.global_step:
            return
        self._exported = trainer.global_step
        rows = [] if validation is None else validation.measure(trainer, search)
        sizes = validation.sizes if self.sizes is None and validation is not None else self.sizes
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
                written = pruned if search.ablation.name == "interchange" else circuit
                self._write(name, replace(written, metadata=metadata), measured, trainer.global_step)
        trainer.strategy.barrier()

    def _write(self, name: str, circuit: Circuit, measured: Sequence[Row], step: int) -> None:
        """Write a circuit as the last of its size and, if it is among the best, as that; remove what it displaces."""
        before = [entry for entry in self.best.get(name, []) if entry[1] != step]
        value = MONITORS[self.monitor](measured[0]) if measured else math.nan
        # What has no number is not comparable, and never among the best.
        after = sorted(before if math.isnan(value) else [*before, (value, step)])
        if self.save_top_k >= 0:
            after = after[: self.save_top_k]
        self.best[name] = after
        for path in self._files(name, None):
            circuit.save(path)
        if (value, step) in after:
            for path in self._files(name, step):
                circuit.save(path)
        for entry in before:
            if entry not in after:
                for path in self._files(name, entry[1]):
                    path.unlink(missing_ok=True)

    def _files(self, name: str, step: int | None) -> list[Path]:
        """The files of the circuit called `name` at a step; without one, of the last."""
        label = "last" if step is None else f"step{step:06d}"
        stem = f"circuit-{label}-{name.replace('%', 'pct').replace(' ', '-')}"
        return [self.dirpath / f"{stem}.{suffix}" for suffix in self.formats]


def _validation(trainer: pl.Trainer) -> FaithfulnessValidation | None:
    callbacks = trainer.callbacks  # type: ignore[attr-defined]  # Lightning sets it elsewhere
    return next((callback for callback in callbacks if isinstance(callback, FaithfulnessValidation)), None)
