"""A search that is cheap to train, and runs of the Trainer around it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from lightning_circuits.batch import Batch
from lightning_circuits.datamodules import IOIDataModule
from lightning_circuits.models.loading import load_model
from lightning_circuits.namespace import pl
from lightning_circuits.search.base import CircuitSearch
from tests.support.training import quiet_trainer

MODEL = load_model("tiny-ioi")
N_VAL, N_TEST = 12, 10


class Drift(CircuitSearch):
    """Scores that walk at random, by torch's global generator: cheap to train, and another circuit at each step."""

    def __init__(self, trained: float | None = None, ablation: str = "interchange") -> None:
        super().__init__(MODEL, ablation=ablation)
        self.trained = trained
        self.seen: list[int] = []
        self.lr = 0.1
        self.scores = torch.nn.Parameter(torch.zeros(self.layout.n_edges))

    def edge_scores(self) -> Tensor:
        return self.scores.detach()

    def trained_size(self) -> float | None:
        return self.trained

    def training_step(self, batch: Batch, batch_idx: int) -> Tensor:
        self.seen.append(self.global_step)
        loss = (self.scores * torch.randn(len(self.scores))).sum()
        self.log("train/loss", loss)
        return loss

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return torch.optim.SGD([self.scores], lr=self.lr)


def make_data() -> IOIDataModule:
    return IOIDataModule("tiny-ioi", n_train=24, n_val=N_VAL, n_test=N_TEST, batch_size=4)


def make_trainer(*callbacks: pl.Callback, **options: Any) -> pl.Trainer:
    return quiet_trainer(*callbacks, **{"max_steps": 5, **options})


def refused(search: pl.LightningModule, data: Any, *callbacks: pl.Callback, **options: Any) -> str:
    """What is said, before any training."""
    with pytest.raises((ValueError, TypeError)) as error:
        make_trainer(*callbacks, **options).fit(search, data)
    assert getattr(search, "seen", []) == []
    return str(error.value)


def files(folder: Path) -> set[str]:
    return {path.name for path in folder.iterdir()}


class Memory(pl.loggers.logger.DummyLogger):
    """A logger that keeps what it is given, with W&B's method for tables."""

    def __init__(self) -> None:
        super().__init__()
        self.metrics: list[tuple[int, dict[str, float]]] = []
        self.tables: list[tuple[str, list[str], list[list[Any]]]] = []

    def log_metrics(self, metrics: dict[str, float], step: int) -> None:  # type: ignore[override]
        self.metrics.append((step, metrics))

    def log_table(self, key: str, columns: list[str], data: list[list[Any]]) -> None:
        self.tables.append((key, columns, data))
