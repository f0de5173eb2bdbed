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
from typing import Any

from lightning_circuits.callbacks.export import CircuitExport
from lightning_circuits.callbacks.faithfulness import require_search
from lightning_circuits.callbacks.loggers import send
from lightning_circuits.circuit import Circuit
from lightning_circuits.drawing.circuit import circuit_figure, save_figure
from lightning_circuits.namespace import pl, refuse_mixture
from lightning_circuits.pages import see_page
from lightning_circuits.search.base import CircuitSearch


class CircuitReport(pl.Callback):
    """Send settings, scores, circuits and their pictures to all loggers that can show them.

    Beside a `CircuitExport` (in any order), whose circuits and files are sent.

    Raises:
        ValueError: at setup, there is no `CircuitExport`.
        TypeError: at setup, the model is no `CircuitSearch`, or the Trainer of the other of Lightning's two names.
    """

    def __init__(self) -> None:
        self._reported: int | None = None  # the step of the last report

    def setup(self, trainer: pl.Trainer, pl_module: pl.LightningModule, stage: str) -> None:
        if stage != "fit":
            return
        refuse_mixture(self, trainer)
        self._reported = None
        search = require_search(self, pl_module)
        if _export(trainer) is None:
            raise ValueError(
                "CircuitReport sends what CircuitExport writes, and there is none among the callbacks "
                f"{see_page('sweeps', 'What is logged')}"
            )
        if trainer.is_global_zero:
            describe = getattr(getattr(trainer, "datamodule", None), "describe", None)
            settings = {**search.describe(), "data": None if describe is None else describe()}
            del settings["step"]  # of no setting, and another one in a resumed run
            for logger in trainer.loggers:
                send(logger, lambda to: to.log_hyperparams(settings))

    def on_train_batch_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule, *_: Any) -> None:
        export = _export(trainer)
        if export is not None and export.due(trainer):
            self._report(trainer, require_search(self, pl_module), export)

    def on_train_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        export = _export(trainer)
        if export is not None:
            circuits = self._report(trainer, require_search(self, pl_module), export)
            for logger in trainer.loggers:
                for name, circuit in circuits.items():
                    key = f"circuit/{name.replace(' ', '-')}"
                    send(logger, _show_picture, key, circuit, trainer.global_step)
                    send(logger, _show_page, key, circuit, trainer.global_step)

    def _report(self, trainer: pl.Trainer, search: CircuitSearch, export: CircuitExport) -> dict[str, Circuit]:
        """Of this step, once; gives the circuits, to the first process alone."""
        circuits = export.export(trainer, search)
        step = trainer.global_step
        if trainer.is_global_zero and self._reported != step:
            self._reported = step
            for logger in trainer.loggers:
                send(logger, _log_scores, search, step)
                send(logger, _log_files, export.paths, circuits, step)
        return circuits


def _log_scores(logger: Any, search: CircuitSearch, step: int) -> None:
    scores = search.edge_scores().detach().float().cpu()
    if _is_wandb(logger):
        import wandb

        logger.log_metrics({"scores": wandb.Histogram(scores.numpy())}, step)
    elif hasattr(logger.experiment, "add_histogram"):
        logger.experiment.add_histogram("scores", scores, global_step=step)


def _log_files(logger: Any, paths: list[Path], circuits: dict[str, Circuit], step: int) -> None:
    if _is_wandb(logger):
        import wandb

        made = {name: circuit.metadata for name, circuit in circuits.items()}
        artifact = wandb.Artifact(
            f"circuits-{logger.version}", type="circuit", metadata={"step": step, "circuits": made}
        )
        for path in paths:
            artifact.add_file(str(path))
        logger.experiment.log_artifact(artifact, aliases=["latest", f"step-{step}"])


def _show_picture(logger: Any, key: str, circuit: Circuit, step: int) -> None:
    if _is_wandb(logger):
        with tempfile.TemporaryDirectory() as folder:
            logger.log_image(key, [str(save_figure(circuit, Path(folder) / "circuit.png"))], step)
    elif hasattr(logger.experiment, "add_figure"):
        logger.experiment.add_figure(key, circuit_figure(circuit), global_step=step)


def _show_page(logger: Any, key: str, circuit: Circuit, step: int) -> None:
    if _is_wandb(logger):
        import wandb

        from lightning_circuits.drawing.page import save_page

        with tempfile.TemporaryDirectory() as folder:
            page = Path(folder) / "circuit.html"
            save_page(circuit, page)
            logger.log_metrics({f"{key}/page": wandb.Html(str(page))}, step)


def _is_wandb(logger: Any) -> bool:
    return hasattr(logger, "log_image") and hasattr(logger.experiment, "log_artifact")


def _export(trainer: pl.Trainer) -> CircuitExport | None:
    callbacks = trainer.callbacks  # type: ignore[attr-defined]  # Lightning sets it elsewhere
    return next((callback for callback in callbacks if isinstance(callback, CircuitExport)), None)
