"""Show a search to the loggers of its Trainer: how it was set up, how its scores spread, the circuits themselves.

    logger = WandbLogger(project="circuits")                     # offline=True sends nothing, and keeps all the same
    callbacks = [FaithfulnessValidation(), CircuitExport(), CircuitReport()]
    pl.Trainer(max_steps=300, logger=logger, callbacks=callbacks).fit(search, datamodule)

| what                                   | when            | Weights & Biases         | TensorBoard  | CSV     |
|----------------------------------------|-----------------|--------------------------|--------------|---------|
| settings of the search and of the data | at the start    | the run's config         | hparams      | hparams |
| histogram of the edges' scores (gates) | at every export | `scores`                 | `scores`     |         |
| the files of `CircuitExport`           | at every export | a version of an artifact |              |         |
| a picture of each circuit              | at the end      | `circuit/1%`             | `circuit/1%` |         |
| the interactive page of each circuit   | at the end      | `circuit/1%/page`        |              |         |

Curves and the table of measurements are sent by `FaithfulnessValidation` and `FaithfulnessCurve`.

The artifact is called `circuits-<run id>`, of type `circuit`; Weights & Biases shows the run that made each version.
Its metadata hold, for each circuit, all that the files say of how it was made: model and its hash, data, seed, what was
measured. Each version has the alias `step-<n>`.

Loggers are told apart by what they can do, for each has two classes, one for either name of Lightning. Nothing of
Weights & Biases is imported unless its logger is in use. A logger that fails (no network, a full disk) costs what was
to be shown there: a warning says so once, and training and the files of the run go on.
"""

from __future__ import annotations

import tempfile
from pathlib import Path

from lightning_circuits.callbacks.announcing import Written, is_announced
from lightning_circuits.callbacks.loggers import (
    in_key,
    log_artifact,
    log_histogram,
    log_page,
    log_picture,
    log_settings,
)
from lightning_circuits.callbacks.requirements import require_search
from lightning_circuits.circuit import Circuit
from lightning_circuits.drawing.circuit import circuit_figure, save_figure
from lightning_circuits.drawing.page import save_page
from lightning_circuits.namespace import pl
from lightning_circuits.pages import see_page
from lightning_circuits.search.base import CircuitSearch
from lightning_circuits.search.splits import describe_data


class CircuitReport(pl.Callback):
    """Send settings, scores, circuits and their pictures to all loggers that can show them.

    Beside a `CircuitExport` (in any order), whose circuits and files are sent.

    Raises:
        ValueError: at setup, nothing writes circuits: there is no `CircuitExport`.
        TypeError: at setup, the model is no `CircuitSearch`, or the Trainer of the other of Lightning's two names.
    """

    def __init__(self) -> None:
        self._written: Written | None = None  # what was announced last

    def setup(self, trainer: pl.Trainer, pl_module: pl.LightningModule, stage: str) -> None:
        if stage != "fit":
            return
        search = require_search(self, trainer, pl_module)
        if not is_announced(trainer, "on_circuits_written"):
            raise ValueError(
                "CircuitReport sends what CircuitExport writes, and there is none among the callbacks "
                f"{see_page('sweeps', 'What is logged')}"
            )
        self._written = None
        settings = {**search.describe(), "data": describe_data(trainer)}
        for name in ("step", "example", "swapped"):  # of no setting, and the step another one in a resumed run
            settings.pop(name, None)
        log_settings(trainer, settings)

    def on_circuits_written(self, trainer: pl.Trainer, search: CircuitSearch, written: Written) -> None:
        self._written = written
        log_histogram(trainer, "scores", search.edge_scores().detach().float().cpu(), written.step)
        made = {name: circuit.metadata for name, circuit in written.circuits.items()}
        metadata = {"step": written.step, "circuits": made}
        log_artifact(trainer, "circuits", "circuit", written.paths, metadata, written.step)

    def teardown(self, trainer: pl.Trainer, pl_module: pl.LightningModule, stage: str) -> None:
        if stage == "fit" and self._written is not None:  # after the last export, wherever that stands
            for name, circuit in self._written.circuits.items():
                _show(trainer, f"circuit/{in_key(name)}", circuit, self._written.step)


def _show(trainer: pl.Trainer, key: str, circuit: Circuit, step: int) -> None:
    with tempfile.TemporaryDirectory() as folder:

        def png() -> Path:
            return save_figure(circuit, Path(folder) / "circuit.png")

        def html() -> Path:
            return save_page(circuit, Path(folder) / "circuit.html")

        log_picture(trainer, key, png, lambda: circuit_figure(circuit), step)
        log_page(trainer, f"{key}/page", html, step)
