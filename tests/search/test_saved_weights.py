"""A circuit of weights from a file as a search: what it refuses."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

from lightning_circuits import Circuit, SavedWeightCircuit
from lightning_circuits.layout import Layout
from lightning_circuits.models import wrap
from lightning_circuits.models.loading import load_model
from lightning_circuits.weights.space import WeightSpace, WeightTensor
from lightning_circuits.weights.weight_circuit import WeightCircuit
from tests.support.babble import Babble, ioi
from tests.support.training import quiet_trainer


def saved(path: Path, space: WeightSpace | None = None) -> Path:
    space = space or WeightSpace.of(wrap(load_model("tiny-ioi")), kinds=["norm"])
    masks = {each.name: torch.arange(each.n_weights).view(each.shape) % 4 == 0 for each in space.tensors}
    return WeightCircuit.of(space, masks, {"method": "by hand"}).save(path)


def test_it_is_the_circuit_of_the_file(tmp_path: Path) -> None:
    search = SavedWeightCircuit("tiny-ioi", Babble(), path=saved(tmp_path / "norms.safetensors"))
    circuit = search.circuit()
    assert circuit == WeightCircuit.load(tmp_path / "norms.safetensors") and search.density == circuit.density == 0.25
    assert circuit.metadata["made_by"] == {"method": "by hand"}
    assert (circuit.metadata["path"], circuit.metadata["text"]["text"]) == (str(search.path), "babble")


def test_it_cannot_be_trained(tmp_path: Path) -> None:
    search = SavedWeightCircuit("tiny-ioi", Babble(), path=saved(tmp_path / "norms.safetensors"))
    with pytest.raises(TypeError, match="a saved circuit is not trained"):
        quiet_trainer(max_steps=1).fit(search, ioi())


def test_what_is_no_circuit_of_weights_of_this_model(tmp_path: Path) -> None:
    def refused(path: Any, error: type, said: str, text: Any = True) -> None:
        with pytest.raises(error, match=said):
            SavedWeightCircuit("tiny-ioi", Babble() if text else None, path=path)

    other = WeightSpace((WeightTensor("transformer.h.0.ln_1.weight", (8,), 0, "norm"),))
    refused(saved(tmp_path / "other.safetensors", other), ValueError, r"another model: GPT2LMHeadModel has \[64\]")
    edges = Circuit.random(Layout(4, 4, 64), 50, 0).save(tmp_path / "edges.safetensors")
    refused(edges, ValueError, "a circuit of edges is read by Circuit")
    refused(tmp_path / "nowhere.safetensors", FileNotFoundError, "nowhere")
    refused(3, TypeError, "path takes that of a file")
    refused(saved(tmp_path / "norms.safetensors"), ValueError, "ordinary text is missing", text=False)
