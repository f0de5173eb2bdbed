"""An ablation that the package lacks, through a search and its validation: as an object, and registered by its name."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from lightning_circuits import EAP, Circuit, EdgePruning
from lightning_circuits.ablation import ABLATIONS, Ablation
from lightning_circuits.batch import Batch
from lightning_circuits.callbacks import CircuitExport, FaithfulnessValidation
from lightning_circuits.datamodules import IOIDataModule
from lightning_circuits.evaluation.rows import evaluate
from tests.support.training import quiet_trainer

MODEL = "tiny-ioi"


class Resample(Ablation):
    """What the writer puts out on the corrupt prompt of another pair: that of the next row."""

    name = "resample"

    def reference(self, batch: Batch, corrupt: Tensor) -> Tensor:
        return corrupt.roll(1, dims=1)


@pytest.fixture
def registered() -> str:
    ABLATIONS.register(Resample)
    return "resample"


def fitted(search: Any, folder: Path, ablations: list[Any], **options: Any) -> FaithfulnessValidation:
    validation = FaithfulnessValidation(sizes=[0.1], ablations=ablations)
    trainer = quiet_trainer(validation, CircuitExport(folder, formats=["json"]), **options)
    trainer.fit(search, IOIDataModule(MODEL, n_train=8, n_val=8, n_test=2, batch_size=8))
    return validation


@pytest.mark.parametrize("method", [EAP, EdgePruning])
def test_a_search_under_an_ablation_of_ones_own(method: Any, tmp_path: Path, registered: str) -> None:
    search = method(MODEL, ablation=Resample())
    fitted(search, tmp_path, [registered, "zero"], max_epochs=2)
    [path] = tmp_path.glob("circuit-last*.json")
    circuit = Circuit.load(path)
    assert circuit.metadata["ablation"] == "resample"
    found = {row["ablation"]: row for row in circuit.metadata["measured"] if row["circuit"] == "10%"}
    assert set(found) == {"resample", "zero"}
    data = IOIDataModule(MODEL, n_train=8, n_val=8, n_test=2, batch_size=8)
    data.setup("fit")
    members = {"10%": search.circuit(0.1).members}
    rows = evaluate(search.circuit_model, data.val_dataloader(), members, [Resample()])
    [expected] = [row for row in rows if row.circuit == "10%"]
    assert found["resample"]["kl"] == pytest.approx(expected.kl)
    assert found["resample"]["kl"] != pytest.approx(found["zero"]["kl"])


def test_by_its_name_it_is_the_same(tmp_path: Path, registered: str) -> None:
    by_name, by_object = EAP(MODEL, ablation=registered), EAP(MODEL, ablation=Resample())
    for search in (by_name, by_object):
        fitted(search, tmp_path, [Resample()])
    assert torch.equal(by_name.edge_scores(), by_object.edge_scores())
