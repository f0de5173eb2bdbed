"""Judge the circuit of a search for weights while it trains and when it is done, and write it to files.

    validation = WeightValidation("runs/facts", every_n_steps=100)
    trainer = pl.Trainer(max_steps=300, callbacks=[validation])
    trainer.fit(search, datamodule)        # logs val/zero/50%/agreement and the like, ends with a table
    validation.rows                        # the last measurement
    trainer.test(search, datamodule)       # the same on the test split

judges on the validation prompts and on held-out lines of the search's own text (what is measured:
`lightning_circuits.weights.judging`), and leaves behind, after each measurement and at the end,

    runs/facts/circuit-last-50pct.safetensors          the circuit as it stands, which `WeightCircuit.load` reads
    runs/facts/circuit-step000200-50pct.safetensors    the best one measured so far (`save_top_k` of them)
    runs/facts/weights.json, .csv                      the rows of the last measurement; of the test, weights-test.json

The full model and the circuit are measured every time, what it is held against (its complement, random weights, the
largest) at the end alone, for that costs four times as much. Numbers can be monitored by Lightning's own callbacks
(`EarlyStopping(monitor="val/zero/50%/text_nll")`). Settings and numbers go to all loggers; Weights & Biases has the
table and, at the end, the files as an artifact.

Files are whole whenever a run is killed. On a full disk training goes on: a warning says so, the next measurement tries
again, and if the last one fails too the run ends with an error, the search still in memory.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

import torch
from rich.console import RenderableType

from lightning_circuits.arguments import require_choice, require_seed
from lightning_circuits.callbacks.disk import once, writable_folder
from lightning_circuits.callbacks.held_out import held_out, require_held_out
from lightning_circuits.callbacks.kept import KeptCircuits
from lightning_circuits.callbacks.loggers import in_key, log_artifact, log_settings, log_table
from lightning_circuits.callbacks.looked_at import size_name
from lightning_circuits.callbacks.measuring import MeasuringCallback
from lightning_circuits.callbacks.options import require_folder
from lightning_circuits.callbacks.requirements import require_weight_search
from lightning_circuits.callbacks.terminal import print_files
from lightning_circuits.drawing.tables import weights_table
from lightning_circuits.files.atomic import write_atomically
from lightning_circuits.files.numbers import to_csv
from lightning_circuits.files.plain_json import plain_data
from lightning_circuits.namespace import pl
from lightning_circuits.search.bars import bars_of
from lightning_circuits.search.splits import describe_data
from lightning_circuits.search.weight_search import WeightSearch
from lightning_circuits.weights.judging import WeightRow, beside, judge
from lightning_circuits.weights.weight_circuit import Rest, WeightCircuit

Monitor = Literal["agreement", "answer_nll", "text_nll"]
MONITORS: dict[Monitor, Callable[[WeightRow], float]] = {
    "agreement": lambda row: -row.agreement,
    "answer_nll": lambda row: row.answer_nll,
    "text_nll": lambda row: row.text_nll,
}
"""What may be monitored, as numbers of which the smallest is the best; and what is logged of every row."""


@dataclass(frozen=True)
class MeasuredWeights:
    """A circuit of weights that has been judged.

    ``step``: the Trainer's. ``split``: ``val`` or ``test``. ``rows``: of the full model and the circuit, and after the
    last measurement of what it is held against.
    """

    step: int
    split: str
    circuit: WeightCircuit
    rows: list[WeightRow]


class WeightValidation(MeasuringCallback):
    """Judge a circuit of weights every so many training steps and at the end, and keep it in files.

    Args:
        dirpath: the folder of the files; it is made if it is not there. Default: where the run's first logger writes
            (``save_dir/name/version``), so that no two runs share one.
        every_n_steps: optimizer steps between two measurements.
        rest: what the weights are that are not kept: ``zero``, or the ``mean`` of those of their tensor.
        save_top_k: how many of the best circuits are kept; -1 keeps all, 0 only the last.
        monitor: what makes a circuit the best: the highest `agreement`, the lowest `answer_nll` or `text_nll`; of equal
            ones the first.
        seed: of the random circuits that it is held against.

    Attributes:
        measured: the last measurement, a `MeasuredWeights`; None before the first.

    Raises:
        ValueError: here, another rest or monitor, a step count below 1, or `save_top_k` below -1. Before any training:
            no validation (test) prompts, or no held-out text; a folder that cannot be made or written to; a key
            monitored by a callback of Lightning's that nobody will log.
        OSError: at the end, the files cannot be written (a full disk).
        TypeError: here, an argument of a wrong type. At setup, the model is no search for weights, or the Trainer of
            the other of Lightning's two names.
    """

    def __init__(
        self,
        dirpath: str | Path | None = None,
        every_n_steps: int = 100,
        rest: Rest = "zero",
        save_top_k: int = 1,
        monitor: Monitor = "agreement",
        seed: int = 0,
    ) -> None:
        super().__init__(every_n_steps)
        require_choice("rest", rest, Rest)
        require_choice("monitor", monitor, Monitor)
        require_seed(seed)
        self.dirpath = require_folder(dirpath)
        self.rest, self.save_top_k, self.monitor, self.seed = rest, save_top_k, monitor, seed
        self.measured: MeasuredWeights | None = None
        self._kept = KeptCircuits(self.dirpath, ["safetensors"], save_top_k)
        self._written: list[Path] = []  # files of rows
        self._trouble: str | None = None  # why the last measurement is not in the files
        self._warned = False

    @property
    def rows(self) -> list[WeightRow]:
        """Those of the last measurement; none before the first."""
        return [] if self.measured is None else self.measured.rows

    @property
    def paths(self) -> list[Path]:
        """The files of the run so far: the last circuit, the best ones, the rows. With several processes, the first
        one knows."""
        return [*self._kept.paths, *self._written]

    # ---- Lightning ---------------------------------------------------------------------------------------------

    def setup(self, trainer: pl.Trainer, pl_module: pl.LightningModule, stage: str) -> None:
        if stage == "predict":
            return
        search, split = require_weight_search(self, trainer, pl_module), "test" if stage == "test" else "val"
        require_held_out(trainer, split)
        if next(iter(search.text.held_out(split)), None) is None:
            raise ValueError(f"the text of {type(search).__name__} has no {split} lines to judge its circuit by")
        self.measured, self._trouble, self._warned = None, None, False
        self._kept.best, self._written = {}, []  # a resumed run gets the best of its checkpoint after this
        self._kept.folder = writable_folder(trainer, self.dirpath, "circuits", self)
        if stage == "fit":
            log_settings(trainer, {**search.describe(), "data": describe_data(trainer)})

    def on_fit_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        measured = self.measured
        if self._trouble and measured is not None:
            self._write(trainer, require_weight_search(self, trainer, pl_module), measured)
        if self._trouble:
            raise OSError(f"{self._trouble}. Unless it is saved from memory, search.circuit().save(...), it is lost")
        if measured is not None:
            log_artifact(trainer, "circuits", "circuit", self.paths, measured.circuit.metadata, measured.step)

    def teardown(self, trainer: pl.Trainer, pl_module: pl.LightningModule, stage: str) -> None:
        super().teardown(trainer, pl_module, stage)
        if self.paths and trainer.is_global_zero:
            print_files("Circuits", self.paths)

    def logged_keys(self, search: WeightSearch) -> list[str]:
        """What can be monitored: the numbers of the full model and of the circuit."""
        circuits = "full", in_key(size_name(search.density))
        return [f"val/{self.rest}/{circuit}/{number}" for circuit in circuits for number in MONITORS]

    def state_dict(self) -> dict[str, Any]:
        return self._kept.state_dict()

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        self._kept.load_state_dict(state_dict)

    # ---- measuring ---------------------------------------------------------------------------------------------

    def _measure(self, trainer: pl.Trainer, pl_module: pl.LightningModule, split: str, last: bool) -> MeasuredWeights:
        search = require_weight_search(self, trainer, pl_module)
        circuit, data = search.circuit(), {"data": describe_data(trainer), "step": trainer.global_step}
        rows = self._judge(trainer, search, split, lambda: {size_name(search.density): circuit})
        said = {**circuit.metadata, **data, "measured": [row.to_dict() for row in rows]}
        return MeasuredWeights(trainer.global_step, split, replace(circuit, metadata=said), rows)

    def _judge(
        self,
        trainer: pl.Trainer,
        search: WeightSearch,
        split: str,
        circuits: Callable[[], Mapping[str, WeightCircuit]],
    ) -> list[WeightRow]:
        """Rows that the first process has measured, on every process the same, to the bit."""
        rows: list[WeightRow] = []
        if trainer.is_global_zero:
            # Loaders may draw random numbers just by being iterated: measuring must not change how training goes on.
            with torch.random.fork_rng(devices=[]), torch.inference_mode(False), bars_of(trainer):
                prompts, text = list(held_out(trainer, split)), search.text.held_out(split)
                rows = judge(search.circuit_model, circuits(), prompts, text, self.rest, split)
        return trainer.strategy.broadcast(rows)

    def _finish(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Judge what the circuit is held against; show all rows, and keep them."""
        search, measured = require_weight_search(self, trainer, pl_module), self.measured
        if measured is None:
            return
        circuit, model, before = measured.circuit, search.circuit_model, self._scalars()
        others = self._judge(trainer, search, measured.split, lambda: beside(circuit, model, self.seed))
        self.measured = measured = replace(measured, rows=[*measured.rows, *others[1:]])
        if trainer.state.fn == "fit":
            self._log(trainer, {key: value for key, value in self._scalars().items() if key not in before})
        log_table(trainer, f"{measured.split}/weights", [row.to_dict() for row in measured.rows])
        self._write(trainer, search, measured)
        if self._trouble and trainer.state.fn != "fit":  # in it, the checkpoints matter more
            raise OSError(self._trouble)

    def _scalars(self) -> dict[str, float]:
        """``val/zero/50%/agreement`` and so on."""
        return {
            f"{row.split}/{row.rest}/{in_key(row.circuit.replace(',', ''))}/{number}": float(getattr(row, number))
            for row in self.rows
            for number in MONITORS
        }

    def _table(self) -> RenderableType:
        return weights_table(self.rows)

    # ---- files -------------------------------------------------------------------------------------------------

    def _tell(self, trainer: pl.Trainer, pl_module: pl.LightningModule, measured: MeasuredWeights) -> None:
        if trainer.state.fn != "fit":  # written by `_finish`
            return
        self._write(trainer, require_weight_search(self, trainer, pl_module), measured)
        if self._trouble and not self._warned:
            self._warned = True
            pl.utilities.rank_zero_warn(f"{self._trouble}. Training goes on, the next measurement tries again")

    def _write(self, trainer: pl.Trainer, search: WeightSearch, measured: MeasuredWeights) -> None:
        """Write the rows and, of a search that trains, the circuit; `_trouble` says what the disk had against it."""
        name = size_name(search.density)
        said = {**search.describe(), "data": describe_data(trainer), "step": measured.step, "seed_of_random": self.seed}
        rows = [row.to_dict() for row in measured.rows]
        stem = self._kept.folder / ("weights" if measured.split == "val" else f"weights-{measured.split}")
        content = json.dumps({"made": plain_data(said), "rows": rows}, indent=1)

        def write() -> None:
            if trainer.state.fn == "fit":
                [row] = (row for row in measured.rows if row.circuit == name)
                self._kept.write(name, MONITORS[self.monitor](row), measured.step, measured.circuit.save)
            write_atomically(stem.with_suffix(".json"), content.encode())
            write_atomically(stem.with_suffix(".csv"), to_csv(rows).encode())
            self._written = [stem.with_suffix(".json"), stem.with_suffix(".csv")]

        trouble = once(trainer, write)
        self._trouble = trouble and (
            f"the circuit of step {measured.step} could not all be written to {self._kept.folder} ({trouble}). The "
            "files that are there are complete, of this step or an earlier one"
        )
