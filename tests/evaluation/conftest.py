"""The embedded model, and a good circuit of it by a module's own `data`."""

from __future__ import annotations

import pytest

from lightning_circuits.circuit import Circuit
from lightning_circuits.datamodules import IOIDataModule
from lightning_circuits.models import CircuitModel, wrap
from lightning_circuits.models.loading import load_model
from tests.support.ioi_circuit import ioi_circuit


@pytest.fixture(scope="module")
def model() -> CircuitModel:
    return wrap(load_model("tiny-ioi"))


@pytest.fixture(scope="module")
def circuit(model: CircuitModel, data: IOIDataModule) -> Circuit:
    return ioi_circuit(model, data.train_dataloader(), 30)
