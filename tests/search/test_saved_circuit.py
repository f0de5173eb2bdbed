"""Methods of one's own, and circuits of files as methods."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from torch import Tensor

from lightning_circuits import Circuit, CircuitSearch, SavedCircuit
from lightning_circuits.models.loading import EMBEDDED
from tests.support.edge_pruning import Trained, fit, fresh


def test_a_method_that_says_no_scores_is_named() -> None:
    class Mine(CircuitSearch):
        pass

    with pytest.raises(NotImplementedError, match=r"Mine does not say edge_scores"):
        Mine(EMBEDDED).circuit(0.1)


def test_a_method_of_ones_own_is_one_method(trained: Trained) -> None:
    class Backwards(CircuitSearch):
        def edge_scores(self) -> Tensor:
            return -torch.arange(float(self.layout.n_edges))

    circuit = Backwards(EMBEDDED).circuit(3)
    assert circuit.members.nonzero().flatten().tolist() == [0, 1, 2]
    assert circuit.metadata["method"] == "Backwards"


def _files(directory: Path, circuit: Circuit) -> Iterator[Path]:
    for suffix in (".json", ".pt", ".safetensors"):
        yield circuit.save(directory / f"circuit{suffix}")


def test_a_saved_circuit_is_a_method_and_says_what_it_was_made_by(trained: Trained, tmp_path: Path) -> None:
    circuit = trained.search.circuit(0.05)
    for path in _files(tmp_path, circuit):
        search = SavedCircuit(EMBEDDED, path=path)
        assert search.circuit() == circuit
        assert search.trained_size() == circuit.n_edges
        assert search.circuit(10) == trained.search.circuit(10)
        assert search.circuit().metadata["path"] == str(path)
        with pytest.raises(TypeError, match="a saved circuit is not trained"):
            fit(search, 1)
    with pytest.raises(ValueError, match="another layout"):
        SavedCircuit(fresh("gpt2"), path=tmp_path / "circuit.json")
    with pytest.raises(FileNotFoundError, match=r"nowhere\.pt"):
        SavedCircuit(EMBEDDED, path=tmp_path / "nowhere.pt")
