"""Gates that begin at the ranks of scores."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from lightning_circuits import EAP, EAPIG, Circuit, EdgePruning
from lightning_circuits.gates import HardConcrete, TopK
from lightning_circuits.layout import Layout
from lightning_circuits.models.loading import EMBEDDED
from tests.support.edge_pruning import best, data, fit


@pytest.fixture(scope="module")
def some_scores() -> Tensor:
    layout = EdgePruning(EMBEDDED).layout
    return torch.randn(layout.n_edges, generator=torch.Generator().manual_seed(0))


@pytest.mark.parametrize("gate", [TopK, HardConcrete])
@pytest.mark.parametrize("kind", ["tensor", "circuit", ".json", ".pt", ".safetensors"])
def test_gates_begin_from_the_ranks_of_scores(gate: Any, kind: str, some_scores: Tensor, tmp_path: Path) -> None:
    layout = EdgePruning(EMBEDDED).layout
    circuit = Circuit(layout, some_scores > 1, some_scores)
    start: Any = {"tensor": some_scores, "circuit": circuit}.get(kind, tmp_path / f"start{kind}")
    if isinstance(start, Path):
        circuit.save(start)
    search = EdgePruning(EMBEDDED, gate=gate(), warm_start=start)
    assert search.edge_scores().argsort().tolist() == some_scores.argsort().tolist()
    assert search.circuit(30).members.tolist() == best(some_scores, 30).tolist()


def test_a_path_may_be_text(some_scores: Tensor, tmp_path: Path) -> None:
    layout = EdgePruning(EMBEDDED).layout
    path = str(Circuit(layout, some_scores > 1, some_scores).save(tmp_path / "start.json"))
    assert EdgePruning(EMBEDDED, warm_start=path).circuit(5).members.tolist() == best(some_scores, 5).tolist()


def test_a_circuit_without_scores_starts_with_its_members_first(some_scores: Tensor) -> None:
    circuit = Circuit(EdgePruning(EMBEDDED).layout, some_scores > 1)
    assert EdgePruning(EMBEDDED, warm_start=circuit).circuit(circuit.n_edges) == circuit


def test_a_circuit_says_where_its_gates_began(some_scores: Tensor, tmp_path: Path) -> None:
    circuit = Circuit(EdgePruning(EMBEDDED).layout, some_scores > 1, some_scores, {"method": "EAP"})
    path = circuit.save(tmp_path / "start.json")
    method = {"method": "EAPIG", "steps": 3, "rule": "left", "ranking": "absolute", "scores_are": "effects"}
    method |= {"ablation": "zero", "objective": "LogitDifference"}
    starts: list[tuple[Any, Any]] = [
        (None, None),
        (some_scores, {"kind": "scores"}),
        (circuit, {"kind": "circuit", "made_by": "EAP"}),
        (path, {"kind": "file", "path": str(path)}),
        (EAPIG(steps=3, ablation="zero"), {"kind": "method", **method}),
    ]
    for start, expected in starts:
        written = EdgePruning(EMBEDDED, warm_start=start).circuit(5).save(tmp_path / "made.json")
        assert Circuit.load(written).metadata["warm_start"] == expected


@pytest.mark.parametrize(("absolute", "spans"), [(True, False), (False, False), (True, True)])
def test_a_method_its_circuit_and_the_file_of_it_start_gates_the_same_way(
    absolute: bool, spans: bool, tmp_path: Path
) -> None:
    source = data(8, spans="roles")
    fit(method := EAP(EMBEDDED, absolute=absolute, spans=spans), -1, source, limit_val_batches=0)
    circuit = method.circuit(0.05)
    assert (circuit.scores < -1e-3).any(), "no negative score: a test of nothing"
    suffixes = [".safetensors"] if spans else [".safetensors", ".json", ".pt"]
    files = [circuit.save(tmp_path / f"eap{suffix}") for suffix in suffixes]
    ranks = []
    for start in (EAP(absolute=absolute), circuit, *files):
        begun = EdgePruning(EMBEDDED, warm_start=start, spans=spans, lr=1e-12)
        fit(begun, 1, source, limit_val_batches=0)
        ranks.append(begun.gate.logits.detach().argsort(stable=True).tolist())
    assert all(each == ranks[0] for each in ranks[1:])
    best_of_all = circuit.scores.abs() if absolute else circuit.scores
    assert ranks[0][-1] == int(best_of_all.argmax())


@pytest.mark.parametrize("kind", ["tensor", "circuit", "file"])
def test_a_start_for_another_layout_is_refused(kind: str, tmp_path: Path) -> None:
    other = Circuit.random(Layout(3, 4, 64), 50, seed=0)
    start: Any = {"tensor": torch.zeros(other.layout.n_edges), "circuit": other, "file": tmp_path / "other.json"}[kind]
    if kind == "file":
        other.save(start)
    with pytest.raises(ValueError, match=r"479 edges" if kind == "tensor" else r"another layout: n_layers .*3"):
        EdgePruning(EMBEDDED, warm_start=start)


@pytest.mark.parametrize("broken", [math.nan, math.inf, -math.inf])
def test_a_start_without_finite_scores_is_refused_with_the_edge(broken: float, some_scores: Tensor) -> None:
    scores = some_scores.clone()
    scores[EdgePruning(EMBEDDED).layout.edge_index("a1.h2->m2")] = broken
    with pytest.raises(ValueError, match=r"no finite score for edge a1\.h2->m2"):
        EdgePruning(EMBEDDED, warm_start=scores)


def test_a_start_from_a_file_that_is_not_there_is_refused(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match=r"nowhere\.json"):
        EdgePruning(EMBEDDED, warm_start=tmp_path / "nowhere.json")
