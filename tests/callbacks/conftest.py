"""Data for a search that is cheap to train, and a look at what is measured."""

from __future__ import annotations

from typing import Any

import pytest

from lightning_circuits.callbacks import exact_ablation
from lightning_circuits.circuit import Circuit
from lightning_circuits.datamodules import IOIDataModule
from lightning_circuits.evaluation.rows import Row, evaluate
from tests.support.drift import make_data


@pytest.fixture
def data() -> IOIDataModule:
    return make_data()


@pytest.fixture
def measured(monkeypatch: pytest.MonkeyPatch) -> list[list[str]]:
    """The names of the circuits of each evaluation."""
    calls: list[list[str]] = []

    def spy(model: Any, batches: Any, circuits: dict[str, Circuit], *args: Any, **options: Any) -> list[Row]:
        calls.append(list(circuits))
        return evaluate(model, batches, circuits, *args, **options)

    monkeypatch.setattr(exact_ablation, "evaluate", spy)
    return calls
