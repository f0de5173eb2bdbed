"""What a probe leaves behind: the formation of the circuit, as numbers and as a figure."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

from lightning_circuits.callbacks import CircuitProbe
from lightning_circuits.callbacks import probe as probing
from lightning_circuits.evaluation.formation import Formation
from lightning_circuits.namespace import pl
from tests.support.training import QUIET, Mine, fit, small, trainable


class NeverTrains(Mine):
    def training_step(self, *_: Any) -> torch.Tensor:
        raise AssertionError("a step was taken")


FILES = ["formation.json", "formation.png", "formation.svg"]


def test_the_formation_is_the_history(tmp_path: Path) -> None:
    probe = CircuitProbe(
        small(), 1, [5, 0.2], faithfulness=0.5, method="EdgePruning", training_steps=2, dirpath=tmp_path / "new"
    )
    with pytest.raises(RuntimeError, match="no formation of a circuit yet"):
        probe.formation()
    fit(probe, Mine(trainable(), lr=1e-2))
    assert [path.name for path in probe.paths] == FILES and all(path.stat().st_size > 1000 for path in probe.paths)
    formation = Formation.load(tmp_path / "new" / "formation.json")
    assert (formation.method, formation.model, formation.faithfulness) == ("EdgePruning", "Mine, net.lm", 0.5)
    assert formation.steps == [found.step for found in probe.history] == [0, 1, 2]
    for moment, found in zip(formation.moments, probe.history, strict=True):
        assert repr(moment.rows) == repr(found.rows) and moment.members.keys() == found.members.keys()
        assert all(torch.equal(moment.members[size], found.members[size]) for size in found.members)
    for found, common in zip(probe.history, formation.overlaps("20%"), strict=True):
        assert common is not None and common.iou == pytest.approx(found.iou_final["20%"])
    said = formation.metadata
    assert (said["method"], said["training_steps"], said["gate"]) == ("EdgePruning", 2, "TopK")
    assert said["judged_under"]["name"] == "interchange" and said["data"] == small().describe()


def test_files_are_where_the_logger_writes(tmp_path: Path) -> None:
    probe, logger = CircuitProbe(small(), 2, [5]), pl.loggers.CSVLogger(tmp_path)
    fit(probe, Mine(trainable()), logger=logger)
    assert probe.paths == [Path(logger.log_dir) / name for name in FILES]


@pytest.mark.parametrize("options", [{}, {"logger": True, "fast_dev_run": 2}])
def test_a_run_without_a_logger_leaves_no_files(
    options: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    probe = CircuitProbe(small(), 1, [5])
    fit(probe, Mine(trainable()), **options)
    assert probe.paths == [] and not list(tmp_path.iterdir())
    assert probe.formation().steps == [0, 1, 2]


def test_a_folder_that_cannot_be_written_to_is_refused_before_training(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(ValueError, match=r"the circuit's formation cannot be written to .*give CircuitProbe another"):
        fit(CircuitProbe(small(), 1, [5], dirpath=tmp_path / "file" / "x"), NeverTrains(trainable()))
    with pytest.raises(TypeError, match="dirpath takes a folder, got 7"):
        CircuitProbe(small(), dirpath=7)  # type: ignore[arg-type]


def test_a_full_disk_is_a_warning(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: Any) -> None:
        raise OSError("No space left on device")

    monkeypatch.setattr(probing, "save", full)
    with pytest.warns(UserWarning, match=r"could not all be written to .* \(No space left on device\)"):
        trainer = fit(CircuitProbe(small(), 2, [5], dirpath=tmp_path), Mine(trainable()))
    assert trainer.global_step == 2


def test_what_a_run_before_looked_at_otherwise_is_left_out(tmp_path: Path) -> None:
    fit(CircuitProbe(small(), 1, [5]), Mine(trainable())).save_checkpoint(tmp_path / "two.ckpt")
    for options, steps in (({}, [0, 1, 2, 3]), ({"sizes": [7]}, [3]), ({"ablation": "zero"}, [3])):
        probe = CircuitProbe(small(), **{"every_n_steps": 1, "sizes": [5], "dirpath": tmp_path, **options})
        trainer = pl.Trainer(**QUIET, max_steps=3, callbacks=[probe])
        trainer.fit(Mine(trainable()), small(seed=1).train_dataloader(), ckpt_path=tmp_path / "two.ckpt")
        assert [found.step for found in probe.history] == [0, 1, 2, 3]
        assert Formation.load(tmp_path / "formation.json").steps == steps
