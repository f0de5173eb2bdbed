"""Write circuits to files while a search trains, so that a run leaves something behind whenever it ends.

    export = CircuitExport("runs/ioi", formats=["json", "pt"], save_top_k=1)
    trainer = pl.Trainer(max_steps=300, callbacks=[FaithfulnessValidation(sizes=[0.01]), export])

leaves behind, after each measurement of `FaithfulnessValidation` and at the end,

    runs/ioi/circuit-last-1pct.json, .pt              the circuit as it stands
    runs/ioi/circuit-step000200-1pct.json, .pt        the best one measured so far (`save_top_k` of them)

A run killed at any moment, or a disk that is full, leaves complete files (see `callbacks.kept`). On a full disk
training goes on: a warning says so, the next export tries again, and if the last one fails too the run ends with an
error, the search still in memory. Other callbacks are told of what has been written: `on_circuits_written` (see
`lightning_circuits.callbacks.announcing`).

In the metadata of each file stands how it was made (`CircuitSearch.describe`), on which data, its step and sizes before
and after pruning, and what was measured.

A `.json` has the scores of the circuit's own edges alone: with all, that of 300 edges of SmolLM2 would be 9 MB. The
whole ranking, by which circuits of other sizes are taken, is in `.pt` and `.safetensors`.

What is written is the pruned subgraph: without the edges that are on no way from the input to the logits. Under
interchange ablation that changes nothing that a circuit puts out. Under the other ablations it would, and a circuit
that was searched for under one of them is written as it was measured.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, Literal

from lightning_circuits.arguments import require_choice, shortened
from lightning_circuits.callbacks.announcing import Measured, Written, announce
from lightning_circuits.callbacks.disk import once, writable_folder
from lightning_circuits.callbacks.kept import KeptCircuits
from lightning_circuits.callbacks.looked_at import circuits_to_look_at, sizes_to_look_at
from lightning_circuits.callbacks.options import require_folder, require_several, require_sizes
from lightning_circuits.callbacks.requirements import require_search
from lightning_circuits.callbacks.terminal import close_progress_bar, print_files
from lightning_circuits.circuit import Circuit
from lightning_circuits.drawing.circuit import save_figure
from lightning_circuits.drawing.page import save_page
from lightning_circuits.drawing.style import SUFFIXES
from lightning_circuits.evaluation.rows import Row
from lightning_circuits.files import FORMATS
from lightning_circuits.namespace import pl
from lightning_circuits.search.base import CircuitSearch
from lightning_circuits.search.splits import describe_data

Monitor = Literal["kl", "faithfulness", "accuracy"]
MONITORS: dict[Monitor, Callable[[Row], float]] = {
    "kl": lambda row: row.kl,
    "faithfulness": lambda row: abs(1 - row.faithfulness),
    "accuracy": lambda row: -row.accuracy,
}
"""What may be monitored, as numbers of which the smallest is the best: faithfulness is best at 1, not above."""


PICTURES: dict[str, Callable[[Circuit, Path], Any]] = {**dict.fromkeys(SUFFIXES, save_figure), ".html": save_page}
"""What draws a circuit, by suffix: figures for papers, the interactive page. All other formats are data."""


def _with_its_own_scores(circuit: Circuit) -> Circuit:
    """Without the scores of edges that are not in it."""
    return circuit if circuit.scores is None else replace(circuit, scores=circuit.scores * circuit.members)


def _holds_spans(suffix: str) -> bool:
    return suffix not in FORMATS or FORMATS[suffix].holds_spans


class CircuitExport(pl.Callback):
    """Write the circuits of a search to files.

    Args:
        dirpath: the folder; it is made if it is not there. Default: where the run's first logger writes
            (``save_dir/name/version``), so that no two runs share one.
        formats: each circuit is written in all that are named: as data in `json`, `pt`, `safetensors`, `graphml` or
            `dot`; as a figure in `svg`, `pdf` or `png`; as an interactive page in `html`. One or several.
        sizes: of the circuits, as for `FaithfulnessValidation`. Default: the circuits that it measures.
        save_top_k: how many of the best circuits of each size are kept; -1 keeps all, 0 only the last.
        monitor: what makes a circuit the best: the lowest `kl`, the `faithfulness` nearest to 1, or the highest
            `accuracy`, under the first ablation of `FaithfulnessValidation`. Each size is ranked by itself.

    Circuits are measured by the `FaithfulnessValidation` beside this callback (in any order). Without one, or for sizes
    that it does not measure, there is nothing to rank by, and only the last circuit is written.

    Attributes:
        step: of the last circuits in the files; None before the first.

    Raises:
        ValueError: here, an unknown format or monitor, or `save_top_k` below -1. At setup, so before any training: a
            folder that cannot be made or written to; a size that rounds to no edge; a format that knows no spans, for a
            search in spans.
        OSError: at the end of training, the last circuits cannot be written (a full disk).
        TypeError: here, a format or a size that is none. At setup, the model is no `CircuitSearch`, or the Trainer of
            the other of Lightning's two names.
    """

    announces = "on_circuits_written"

    def __init__(
        self,
        dirpath: str | Path | None = None,
        formats: Sequence[str] | str = ("json", "pt", "safetensors"),
        sizes: Sequence[int | float] | int | float | None = None,
        save_top_k: int = 1,
        monitor: Monitor = "kl",
    ) -> None:
        known = [suffix.removeprefix(".") for suffix in (*FORMATS.names(), *PICTURES)]
        self.formats = require_several("formats", formats, (str,), f"names of formats ({', '.join(known)})")
        if not self.formats or (unknown := [name for name in self.formats if name not in known]):
            asked = f"unknown format {shortened(unknown[0])}" if self.formats else "no format to write circuits in"
            raise ValueError(f"{asked}: choose from {', '.join(known)}")
        require_choice("monitor", monitor, Monitor)
        self.dirpath = require_folder(dirpath)
        self.sizes = None if sizes is None else require_sizes(sizes)
        self.save_top_k = save_top_k
        self.monitor = monitor
        self._kept = KeptCircuits(self.dirpath, self.formats, save_top_k)
        self.step: int | None = None
        self._measured: Measured | None = None  # what was announced last
        self._left = False  # whether circuits have come out of training that are not in the files
        self._warned = False

    @property
    def paths(self) -> list[Path]:
        """The files that this run has left in the folder so far: for each size the last circuit, then the best.

        With several processes, the first one knows.
        """
        return self._kept.paths

    # ---- when --------------------------------------------------------------------------------------------------

    def setup(self, trainer: pl.Trainer, pl_module: pl.LightningModule, stage: str) -> None:
        if stage != "fit":
            return
        search = require_search(self, trainer, pl_module)
        sizes_to_look_at(search, self.sizes)
        if search.spans and (without := [name for name in self.formats if not _holds_spans(f".{name}")]):
            kept = [name for name in self.formats if name not in without] or ["safetensors"]
            raise ValueError(
                f"{' and '.join(without)} know no spans of tokens, which {type(search).__name__} tells edges apart by: "
                f"give {type(self).__name__} other formats, formats={kept}"
            )
        self._kept.best = {}  # a resumed run gets the best of its checkpoint after this
        self._measured, self._left, self._warned = None, False, False
        self._kept.folder = writable_folder(trainer, self.dirpath, "circuits", self)

    def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        self._left = True

    def on_circuits_measured(self, trainer: pl.Trainer, search: CircuitSearch, measured: Measured) -> None:
        if trainer.state.fn != "fit":
            return
        self._measured = measured
        if (trouble := self._export(trainer, search)) and not self._warned:
            self._warned = True
            pl.utilities.rank_zero_warn(f"{trouble}. Training goes on, the next export tries again")

    def on_fit_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        # Whoever measures has done so by now, in `on_train_end` at the latest. So nobody does, or the disk was full.
        if self._left and (trouble := self._export(trainer, require_search(self, trainer, pl_module))):
            raise OSError(f"{trouble}. Unless they are saved from memory, search.circuit(...).save(...), they are lost")

    def teardown(self, trainer: pl.Trainer, pl_module: pl.LightningModule, stage: str) -> None:
        if stage == "fit" and self.paths and trainer.is_global_zero:
            close_progress_bar(trainer, stage)
            print_files("Circuits", self.paths)

    def state_dict(self) -> dict[str, Any]:
        return self._kept.state_dict()

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        self._kept.load_state_dict(state_dict)

    # ---- writing -----------------------------------------------------------------------------------------------

    def _export(self, trainer: pl.Trainer, search: CircuitSearch) -> str | None:
        """Write the circuits as they stand, and announce it; if the disk is full, say so instead."""
        measured = self._measured
        if measured is not None and self.sizes is None:
            circuits = measured.circuits
        else:
            circuits = circuits_to_look_at(search, self.sizes)
        data = describe_data(trainer)
        rows = {
            name: [row for row in measured.rows if row.circuit in (name, f"{name} pruned")] if measured else []
            for name in circuits
        }
        written = {}
        for name, circuit in circuits.items():
            pruned = circuit.prune()
            metadata = {
                **circuit.metadata,
                "data": data,
                "step": trainer.global_step,
                "size": circuit.size,
                "edges": circuit.n_edges,
                "edges_pruned": pruned.n_edges,
                "measured": [row.to_dict() for row in rows[name]],
                **({"measured_under": measured.ablations} if measured else {}),
            }
            chosen = pruned if search.ablation.pruning_keeps_output else circuit
            written[name] = replace(chosen, metadata=metadata)

        def write() -> None:
            for name, circuit in written.items():
                self._write(name, circuit, rows[name], trainer.global_step)

        trouble = once(trainer, write)
        self._left = trouble is not None
        self.step = self.step if trouble else trainer.global_step
        if trouble is not None:
            return (
                f"the circuits of step {trainer.global_step} could not all be written to {self._kept.folder} "
                f"({trouble}). The files that are there are complete, of this step or an earlier one"
            )
        paths = trainer.strategy.broadcast(self.paths)
        announce(trainer, "on_circuits_written", search, Written(trainer.global_step, written, paths))
        return None

    def _write(self, name: str, circuit: Circuit, measured: Sequence[Row], step: int) -> None:
        def save(path: Path) -> None:
            chosen = _with_its_own_scores(circuit) if path.suffix == ".json" else circuit
            PICTURES.get(path.suffix, Circuit.save)(chosen, path)

        value = MONITORS[self.monitor](measured[0]) if measured else math.nan
        self._kept.write(name, value, step, save)
