"""Looking at a task before it is searched: what is printed, and that nothing changes."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

from lightning_circuits import EdgePruning
from lightning_circuits.callbacks import TaskCheck
from lightning_circuits.datamodules import IOIDataModule
from lightning_circuits.namespace import pl


def fitted(folder: Path, *callbacks: pl.Callback, loader: bool = False) -> EdgePruning:
    torch.manual_seed(0)
    search = EdgePruning("tiny-ioi", warm_start=None)
    data: Any = IOIDataModule("tiny-ioi", 16, 4, 4)
    data = data.train_dataloader() if loader else data
    options: dict[str, Any] = {"logger": False, "enable_progress_bar": False, "enable_checkpointing": False}
    pl.Trainer(default_root_dir=folder, max_steps=2, callbacks=list(callbacks), **options).fit(search, data)
    return search


def test_it_prints_before_training_and_changes_nothing(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    check = TaskCheck()
    looked = fitted(tmp_path, check)
    assert "The full model on 16 pairs of the task (train 16, val 4, test 4)" in capsys.readouterr().out
    assert check.found is not None and check.found.prompts == 16
    assert torch.equal(looked.edge_scores(), fitted(tmp_path).edge_scores())
    assert "The full model" not in capsys.readouterr().out


def test_it_looks_at_pairs(tmp_path: Path) -> None:
    with pytest.raises(TypeError, match="TaskCheck looks at the pairs of a PairDataModule, and the data are NoneType"):
        fitted(tmp_path, TaskCheck(), loader=True)
