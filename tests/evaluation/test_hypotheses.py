"""All five tests of a circuit, run on a model."""

from __future__ import annotations

import pytest
import torch

from lightning_circuits.ablation import ABLATIONS
from lightning_circuits.circuit import Circuit
from lightning_circuits.datamodules import IOIDataModule
from lightning_circuits.evaluation import hypotheses
from lightning_circuits.evaluation.hypotheses import examine
from lightning_circuits.evaluation.random_circuits import random_paths
from lightning_circuits.evaluation.statistical_tests import bonferroni, holm
from lightning_circuits.layout import Layout
from lightning_circuits.models import CircuitModel


@pytest.fixture(scope="module")
def data() -> IOIDataModule:
    data = IOIDataModule("tiny-ioi", n_train=16, n_val=24, n_test=8, batch_size=24)
    data.setup()
    return data


def test_a_good_circuit_of_the_embedded_model(model: CircuitModel, data: IOIDataModule, circuit: Circuit) -> None:
    report = examine(model, data.val_dataloader(), circuit, ABLATIONS.make("interchange"), n_random=44, permutations=50)
    assert [verdict.test for verdict in report.verdicts] == list(hypotheses.CLAIMS)
    assert report["sufficiency"].holds and report["sufficiency"].statistic == 1
    assert report["sufficiency"].p_value == pytest.approx(0.9**44)
    assert report["minimality"].holds and report["independence"].holds
    assert torch.equal(report.edges, circuit.members.nonzero()[:, 0])
    assert report["minimality"].p_value == bonferroni(report.edge_p_values)
    p_values = torch.tensor([verdict.p_value for verdict in report.verdicts])
    assert [verdict.adjusted for verdict in report.verdicts] == pytest.approx(holm(p_values).tolist())


@pytest.mark.slow
def test_idle_edges_are_found_and_the_rest_is_not_blamed(
    model: CircuitModel, data: IOIDataModule, circuit: Circuit
) -> None:
    """Edges into the query of the last layer's other heads, which do not reach the logits: idle by construction."""
    idle = [f"{writer}->a3.h0<q>" for writer in ("a0.h0", "a0.h1", "m1")]
    members = circuit.members.clone()
    members[[model.layout.edge_index(name) for name in idle]] = True
    padded = Circuit(model.layout, members)
    assert padded.prune() == circuit
    report = examine(model, data.val_dataloader(), padded, ABLATIONS.make("interchange"), n_random=55, permutations=1)
    assert not report["minimality"].holds
    blamed = report.edge_p_values * len(report.edges) <= 0.05
    assert set(model.layout.edge_names(report.edges[blamed])) >= set(idle)
    strongest = report.changes.sort(descending=True).indices[:20]
    assert not blamed[strongest].any()
    changes = dict(zip(model.layout.edge_names(report.edges), report.changes.tolist(), strict=True))
    assert max(changes[name] for name in idle) < 1e-4


def test_a_random_circuit_is_nothing_special(model: CircuitModel, data: IOIDataModule) -> None:
    rival = Circuit(
        model.layout, random_paths(Circuit.random(model.layout, 30, seed=0), torch.Generator().manual_seed(5))
    )
    options = dict(n_random=8, permutations=20, max_edges=4)
    report = examine(model, data.val_dataloader(), rival, ABLATIONS.make("zero"), **options)
    assert not report["sufficiency"].holds and not report["equivalence"].holds and report.ablation == "zero"
    assert len(report.edges) == 4 and rival.members[report.edges].all()
    again = examine(model, data.val_dataloader(), rival, ABLATIONS.make("zero"), **options)
    assert again.verdicts == report.verdicts and torch.equal(again.edges, report.edges)


# ---- refused ---------------------------------------------------------------------------------------------------------


def test_what_cannot_be_examined_is_refused(model: CircuitModel, data: IOIDataModule, circuit: Circuit) -> None:
    loader, ablation = data.val_dataloader(), ABLATIONS.make("interchange")
    for nothing in (Circuit.empty(model.layout), Circuit.full(model.layout)):
        with pytest.raises(ValueError, match="claims nothing that can be tested"):
            examine(model, loader, nothing, ablation)
    with pytest.raises(ValueError, match="of another layout: n_layers 1 against 4"):
        examine(model, loader, Circuit.empty(Layout(1, 4, 64)), ablation)
    with pytest.raises(ValueError, match="no batches"):
        examine(model, [], circuit, ablation, n_random=1, max_edges=1)
    for options, what in [
        ({"n_random": 0}, "at least one random circuit"),
        ({"max_edges": 0}, "at least one random circuit and one edge"),
        ({"quantile": 1.0}, "quantile"),
        ({"alpha": 0.0}, "alpha lies between"),
        ({"epsilon": 0.5}, r"epsilon in \[0, 1/2\)"),
        ({"permutations": 0}, "1 permutation"),
    ]:
        with pytest.raises(ValueError, match=what):
            examine(model, loader, circuit, ablation, **options)
