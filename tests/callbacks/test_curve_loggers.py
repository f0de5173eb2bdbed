"""FaithfulnessCurve and loggers: those that have tables and pictures get them, and one that fails costs its entry."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from lightning_circuits.callbacks import FaithfulnessCurve
from lightning_circuits.commands.runs import find_curves
from lightning_circuits.datamodules import IOIDataModule
from lightning_circuits.namespace import pl
from tests.callbacks.test_curve import FOUR, Waves, make_trainer
from tests.support.drift import files


class WandbLike(pl.loggers.logger.DummyLogger):
    """A logger with the methods of W&B's."""

    def __init__(self) -> None:
        super().__init__()
        self.metrics: dict[str, float] = {}
        self.seen: list[tuple[str, Any]] = []
        self.saved: list[tuple[str, str]] = []
        self._own = SimpleNamespace(save=lambda path, base_path, policy: self.saved.append((path, base_path)))

    @property
    def experiment(self) -> Any:
        return self._own

    def log_metrics(self, metrics: dict[str, float], step: int | None = None) -> None:  # type: ignore[override]
        self.metrics |= metrics

    def log_table(self, key: str, columns: list[str], data: list[list[Any]]) -> None:
        self.seen.append((key, (columns, data)))

    def log_image(self, key: str, images: list[str], step: int) -> None:
        self.seen.append((key, images))


class Broken(WandbLike):
    def log_image(self, key: str, images: list[str], step: int) -> None:
        raise ConnectionError("no network")


def test_loggers_get_numbers_table_picture_and_files(data: IOIDataModule, tmp_path: Path) -> None:
    wandb = WandbLike()
    callback = FaithfulnessCurve(sizes=[0.1, 0.5], dirpath=tmp_path)
    trainer = make_trainer(callback, logger=[wandb])
    trainer.fit(Waves(), data)
    curve = callback.curve
    assert curve is not None
    for point, name in zip(curve.points("interchange", "signed"), ("10%", "50%"), strict=True):
        for key in ("faithfulness", "kl", "accuracy"):
            found = trainer.callback_metrics[f"val/curve/interchange/{name}/{key}"]
            assert found == pytest.approx(getattr(point, key))
    # what is in its table is no curve
    assert not [key for key in wandb.metrics if key.startswith("val/curve/interchange/10%")]
    for key in ("cpr", "cmd", "log_area"):
        value = getattr(curve.areas("interchange", "signed"), key)
        assert wandb.metrics[f"val/curve/interchange/signed/{key}"] == value
        assert trainer.callback_metrics[f"val/curve/interchange/signed/{key}"] == pytest.approx(value)
    [(table, (columns, content)), (picture, images)] = wandb.seen
    assert (table, picture) == ("val/curve_table", "val/curve") and images == [str(tmp_path / "curve.png")]
    assert [dict(zip(columns, line, strict=True)) for line in content] == curve.to_dict()["rows"]
    assert wandb.saved == [(str(path), str(tmp_path)) for path in callback.paths]
    [logged] = trainer.test(Waves(), data, verbose=False)
    assert logged["test/curve/interchange/signed/cmd"] == pytest.approx(
        callback.curve.areas("interchange", "signed").cmd  # type: ignore[union-attr]
    )


def test_a_logger_that_fails_loses_nothing_that_is_local(data: IOIDataModule, tmp_path: Path) -> None:
    with pytest.warns(UserWarning, match="no network"):
        make_trainer(FaithfulnessCurve(sizes=[0.1, 0.5], dirpath=tmp_path), logger=[Broken()]).fit(Waves(), data)
    assert files(tmp_path) == {f"curve.{suffix}" for suffix in FOUR}


@pytest.mark.slow
def test_an_offline_run_of_weights_and_biases_is_a_run_to_compare(data: IOIDataModule, tmp_path: Path) -> None:
    import wandb

    logger = pl.loggers.WandbLogger(project="circuits", save_dir=tmp_path, offline=True)
    callback = FaithfulnessCurve(sizes=[0.1, 0.5], dirpath=tmp_path / "elsewhere")
    make_trainer(callback, logger=logger).fit(Waves(), data)
    wandb.finish()
    [offline] = (tmp_path / "wandb").glob("offline-run-*")
    [found] = find_curves([str(offline)])
    assert callback.curve is not None and found.curve.to_dict() == callback.curve.to_dict()
