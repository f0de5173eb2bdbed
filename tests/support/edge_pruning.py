"""A run of edge pruning on the embedded model, as tests of searches make it."""

from __future__ import annotations

from copy import deepcopy
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.utils.data import DataLoader

from lightning_circuits import CircuitSearch, EdgePruning
from lightning_circuits.datamodules import IOIDataModule
from lightning_circuits.models.loading import EMBEDDED
from lightning_circuits.namespace import pl
from tests.support.tiny_models import tiny_model
from tests.support.training import QUIET

STEPS = 150


def data(n_train: int = 64, **options: Any) -> IOIDataModule:
    return IOIDataModule(EMBEDDED, **{"n_train": n_train, "n_val": 16, "n_test": 8} | options)


def fit(search: CircuitSearch, steps: int, source: Any = None, **options: Any) -> pl.Trainer:
    trainer = pl.Trainer(max_steps=steps, **QUIET | options)
    trainer.fit(search, data() if source is None else source)
    return trainer


@dataclass(frozen=True)
class Trained:
    search: EdgePruning
    data: IOIDataModule
    trainer: pl.Trainer
    weights_before: dict[str, Tensor]


def fresh(family: str) -> Any:
    return deepcopy(tiny_model(family))


def as_loader(batches: list[dict[str, Tensor]]) -> DataLoader[Any]:
    return DataLoader(batches, batch_size=None)  # type: ignore[arg-type]  # Lightning takes a list for several loaders


def best(scores: Tensor, n: int) -> Tensor:
    return torch.zeros(len(scores), dtype=torch.bool).index_fill_(0, scores.argsort(descending=True)[:n], True)
