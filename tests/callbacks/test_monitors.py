"""Callbacks of Lightning's that watch our numbers find them whenever they look; misspelt keys are refused at once."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

from lightning_circuits import EdgePruning
from lightning_circuits.callbacks import CircuitProbe, FaithfulnessCurve, FaithfulnessValidation
from lightning_circuits.datamodules import IOIDataModule
from lightning_circuits.namespace import pl
from tests.support.training import QUIET, Mine, small, trainable

KEY = "val/interchange/10%/kl"


def data() -> IOIDataModule:
    """Epochs of two steps."""
    return IOIDataModule("tiny-ioi", n_train=8, n_val=4, n_test=4, batch_size=4)


class Plateau(EdgePruning):
    """A search that lowers its learning rate where nothing gets better."""

    interval = "epoch"

    def configure_optimizers(self) -> Any:
        optimizer = torch.optim.Adam(self.parameters(), lr=0.1)
        scheduler = torch.optim.lr_scheduler.ReduceLROnPlateau(optimizer)
        return {
            "optimizer": optimizer,
            "lr_scheduler": {"scheduler": scheduler, "monitor": KEY, "interval": self.interval},
        }


class PlateauEachStep(Plateau):
    interval = "step"


def run(*callbacks: pl.Callback, search: Any = EdgePruning, every: int = 100, **options: Any) -> list[int]:
    """Train, and at which steps was measured."""
    steps = []

    class Note(pl.Callback):
        def on_circuits_measured(self, trainer: Any, search: Any, measured: Any) -> None:
            steps.append(measured.step)

    validation = FaithfulnessValidation(every, sizes=[0.1], ablations=["interchange", "mean"])
    trainer = pl.Trainer(**QUIET | {"max_epochs": 3} | options, callbacks=[*callbacks, validation, Note()])
    trainer.fit(search("tiny-ioi"), data())
    return steps


@pytest.mark.parametrize(
    ("options", "steps"),
    [
        ({}, [2, 6]),
        ({"max_steps": 1}, [1]),  # training ends before the epoch
        ({"check_val_every_n_epoch": 2, "max_epochs": 4}, [2, 8]),
        ({"val_check_interval": 0.5}, [1, 6]),
        ({"num_sanity_val_steps": 2}, [2, 6]),
        ({"every": 3}, [2, 3, 6]),
        ({"every": 2}, [2, 4, 6]),
        ({"search": Plateau}, [2, 6]),
        ({"search": PlateauEachStep}, [1, 6]),
    ],
)
@pytest.mark.filterwarnings("ignore")
def test_a_number_is_there_when_somebody_looks(options: dict[str, Any], steps: list[int], tmp_path: Path) -> None:
    stopping = pl.callbacks.EarlyStopping(KEY, patience=100)
    keep = pl.callbacks.ModelCheckpoint(tmp_path, monitor=KEY)
    assert run(stopping, keep, enable_checkpointing=True, **options) == steps
    assert torch.isfinite(stopping.best_score) and torch.isfinite(keep.best_model_score)


@pytest.mark.filterwarnings("ignore")
def test_checkpoints_between_measurements_and_resumed_runs_find_it_too(tmp_path: Path) -> None:
    keep = pl.callbacks.ModelCheckpoint(tmp_path, monitor=KEY, every_n_train_steps=1, save_last=True)
    assert run(keep, enable_checkpointing=True) == [2, 6]
    stopping = pl.callbacks.EarlyStopping(KEY)
    validation = FaithfulnessValidation(sizes=[0.1])
    trainer = pl.Trainer(**QUIET, max_epochs=5, callbacks=[stopping, validation])
    trainer.fit(EdgePruning("tiny-ioi"), data(), ckpt_path=tmp_path / "last.ckpt", weights_only=True)
    assert torch.isfinite(stopping.best_score)


def test_where_nobody_monitors_nothing_more_is_measured() -> None:
    assert run() == [6]
    assert run(pl.callbacks.EarlyStopping("train/objective")) == [6]


def test_what_is_measured_early_leaves_the_training_as_it_was() -> None:
    """Under the mean, which is learned from data when it is first measured."""
    gates = []
    for callbacks in ([], [pl.callbacks.EarlyStopping(KEY, patience=100)]):
        search = EdgePruning("tiny-ioi", ablation="mean")
        validation = FaithfulnessValidation(sizes=[0.1], ablations=["interchange", search.ablation])
        options = QUIET | {"max_epochs": 3, "val_check_interval": 0.5}
        pl.Trainer(**options, callbacks=[*callbacks, validation]).fit(search, data())
        gates.append(search.edge_scores().detach())
    assert torch.equal(*gates)


@pytest.mark.parametrize(
    "key", ["val/interchange/10%/KL", "val/zero/10%/kl", "val/interchange/5%/kl", "val/kl", "kl", "val/curve/x/kl"]
)
def test_a_misspelt_key_is_refused_with_those_there_will_be(key: str) -> None:
    said = r"nothing logs that .* Did you mean .* There will be val/\{interchange, mean\}/\{full, .*10%-random.*kl.*"
    validation = FaithfulnessValidation(sizes=[0.1], ablations=["interchange", "mean"])
    callbacks = [validation, FaithfulnessCurve(sizes=[0.1, 0.2]), pl.callbacks.EarlyStopping(key)]
    with pytest.raises(ValueError, match=said) as error:
        pl.Trainer(**QUIET, max_epochs=1, callbacks=callbacks).fit(EdgePruning("tiny-ioi"), data())
    assert repr(key) in str(error.value)


def test_keys_of_ones_own_are_let_be() -> None:
    class Logs(pl.Callback):
        def on_train_epoch_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
            pl_module.log("val/mine", 1.0)

    assert run(Logs(), pl.callbacks.EarlyStopping("val/mine", patience=100)) == [6]


def test_numbers_of_a_probe_can_be_monitored() -> None:
    keys = ["probe/10%/kl", "probe/10%/iou_last"]
    stopping = [pl.callbacks.EarlyStopping(key, patience=100) for key in keys]
    probe = CircuitProbe(small(), sizes=[0.1])
    pl.Trainer(**QUIET, max_epochs=2, callbacks=[probe, *stopping]).fit(Mine(trainable()), small(seed=1))
    assert [found.step for found in probe.history] == [0, 3, 6]
    assert all(torch.isfinite(one.best_score) for one in stopping)
    with pytest.raises(ValueError, match=r"nothing logs that .* Did you mean 'probe/10%/kl'"):
        callbacks = [CircuitProbe(small(), sizes=[0.1]), pl.callbacks.EarlyStopping("probe/10%/k")]
        pl.Trainer(**QUIET, max_epochs=2, callbacks=callbacks).fit(Mine(trainable()), small(seed=1))
