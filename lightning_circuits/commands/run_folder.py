"""The folder of a run: where its config stands beside its circuits, curves, numbers and checkpoints.

Lightning saves a config where its logger logs, which for Weights & Biases is the folder of all runs, each in the place
of the one before. Here it stands where `CircuitExport` and `ModelCheckpoint` write when they are given no folder, and
a link `latest` beside that folder leads to the last run that was fitted; but TensorBoard, which reads every folder that
it finds, would show that run twice.
"""

from __future__ import annotations

from contextlib import suppress
from pathlib import Path

from lightning_circuits.callbacks.disk import run_folder
from lightning_circuits.callbacks.terminal import print_files
from lightning_circuits.namespace import SaveConfigCallback, pl

LATEST = "latest"


class RunFolder(SaveConfigCallback):
    """Keep the config of a run in its folder, and say at the end of `fit` where it is.

    The arguments are Lightning's, of `SaveConfigCallback`.
    """

    _config: Path | None = None

    def save_config(self, trainer: pl.Trainer, pl_module: pl.LightningModule, stage: str) -> None:
        folder = run_folder(trainer)
        folder.mkdir(parents=True, exist_ok=True)
        self._config = folder / self.config_filename
        self.parser.save(self.config, str(self._config), skip_none=False, overwrite=True, multifile=False)

    def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        # Not before: what this run begins from, a checkpoint or scores, may have been named by that link.
        if self._config is not None and trainer.loggers:
            in_tensorboard = any(isinstance(logger, pl.loggers.TensorBoardLogger) for logger in trainer.loggers)
            _link(self._config.parent, in_tensorboard)

    def teardown(self, trainer: pl.Trainer, pl_module: pl.LightningModule, stage: str) -> None:
        if stage == "fit" and self._config is not None:
            print_files("Config", [self._config])


def _link(folder: Path, nowhere: bool) -> None:
    """Let ``latest`` beside the folder lead to it, unless something else is called so or the disk knows no links.

    Args:
        folder: of the run.
        nowhere: there is to be none, not that of a run before either.
    """
    link = folder.parent / LATEST
    with suppress(OSError):
        if link.is_symlink():
            link.unlink()
        if not nowhere:
            link.symlink_to(folder.name, target_is_directory=True)
