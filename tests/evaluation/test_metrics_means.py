"""AUROC of edge scores by counting pairs, overlap of circuits by sets of names, KL by prompt."""

from __future__ import annotations

import statistics

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from lightning_circuits.circuit import Circuit
from lightning_circuits.evaluation.metrics import EdgeAUROC, EdgeIoU, KLDivergence, NodeIoU, edge_auroc
from lightning_circuits.layout import Layout
from lightning_circuits.measures import kl_divergence

LAYOUT = Layout(2, 2, 8)
N = LAYOUT.n_edges
values = st.sampled_from([-float("inf"), -1e30, -2.0, -1.0, -0.0, 0.0, 1.0, 1.0 + 1e-6, 2.0, 1e30, float("inf")])


@given(st.lists(values, min_size=N, max_size=N), st.integers(1, N - 1), st.integers(0, 10_000), st.booleans())
def test_auroc_is_the_share_of_pairs_in_the_right_order(scores: list[float], n: int, seed: int, absolute: bool) -> None:
    true = Circuit.random(LAYOUT, n, seed)
    tensor = torch.tensor(scores)
    worth = [abs(score) if absolute else score for score in tensor.tolist()]
    inside = [w for w, m in zip(worth, true.members.tolist(), strict=True) if m]
    outside = [w for w, m in zip(worth, true.members.tolist(), strict=True) if not m]
    wins = [1.0 if a > b else 0.5 if a == b else 0.0 for a in inside for b in outside]
    assert edge_auroc(tensor, true, absolute).item() == pytest.approx(statistics.fmean(wins), abs=1e-6)


def test_auroc_looks_at_the_order_alone() -> None:
    """Also where scores are so large, small or close that a squashed score would be equal to the next."""
    true = Circuit.random(LAYOUT, 12, 3)
    scores = torch.randn(N, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    expected = edge_auroc(scores, true)
    assert expected not in (0, 0.5, 1)
    for same in (scores * 1e6, scores * 1e-12, scores + 1e3, scores.argsort().argsort()):
        assert edge_auroc(same, true) == pytest.approx(expected)
    assert edge_auroc(-scores, true) == pytest.approx(1 - expected)


def test_auroc_of_several_scorings_is_their_mean() -> None:
    metric, each = EdgeAUROC(), []
    for seed in range(3):
        true, scores = Circuit.random(LAYOUT, 5 + seed, seed), torch.arange(N) - 20
        metric.update(scores, true, absolute=True)
        each.append(edge_auroc(scores, true, absolute=True).item())
    assert len(set(each)) == 3
    assert metric.compute().item() == pytest.approx(statistics.fmean(each))


def test_what_has_no_auroc_is_refused() -> None:
    scores, true = torch.zeros(N), Circuit.random(LAYOUT, 5, 0)
    for nothing in (Circuit.empty(LAYOUT), Circuit.full(LAYOUT)):
        with pytest.raises(ValueError, match="none or all"):
            edge_auroc(scores, nothing)
    with pytest.raises(ValueError, match="46 edges of"):
        edge_auroc(torch.zeros(45), true)
    scores[LAYOUT.edge_index("a0.h1->m1")] = float("nan")
    with pytest.raises(ValueError, match=r"edge a0\.h1->m1 is NaN"):
        edge_auroc(scores, true)


@given(st.lists(st.tuples(st.integers(0, N), st.integers(0, N), st.integers(0, 99)), min_size=1, max_size=4))
def test_overlaps_are_means_of_shared_names(pairs: list[tuple[int, int, int]]) -> None:
    edges, nodes = EdgeIoU(), NodeIoU()
    expected: dict[str, list[float]] = {"edges": [], "nodes": []}
    for n, m, seed in pairs:
        circuits = Circuit.random(LAYOUT, n, seed), Circuit.random(LAYOUT, m, seed + 1)
        edges.update(*circuits)
        nodes.update(*circuits)
        for of, (a, b) in {
            "edges": [set(c.edge_names()) for c in circuits],
            "nodes": [set(c.node_names()) for c in circuits],
        }.items():
            expected[of].append(len(a & b) / len(a | b) if a | b else 1.0)
    assert edges.compute().item() == pytest.approx(statistics.fmean(expected["edges"]))
    assert nodes.compute().item() == pytest.approx(statistics.fmean(expected["nodes"]))


def test_circuits_of_different_layouts_do_not_overlap() -> None:
    for metric in (EdgeIoU(), NodeIoU()):
        with pytest.raises(ValueError, match="of another layout"):
            metric.update(Circuit.full(LAYOUT), Circuit.full(Layout(1, 2, 8)))


@given(st.lists(st.integers(1, 5), min_size=1, max_size=4), st.integers(0, 10_000))
def test_kl_is_a_mean_over_prompts_whatever_the_batches(batches: list[int], seed: int) -> None:
    circuit, full = torch.randn(2, sum(batches), 9, generator=torch.Generator().manual_seed(seed)) * 3
    metric = KLDivergence()
    for logits in zip(circuit.split(batches), full.split(batches), strict=True):
        metric.update(*logits)
    assert metric.compute().item() == pytest.approx(kl_divergence(circuit, full).mean().item(), rel=1e-5)


def test_kl_is_counted_in_nats_from_the_full_model() -> None:
    """Full: one half each of two words. Circuit: 1/4 and 3/4."""
    metric = KLDivergence()
    metric.update(torch.tensor([[0.25, 0.75]]).log(), torch.zeros(1, 2))
    assert metric.compute().item() == pytest.approx(0.5 * torch.tensor([2.0, 2 / 3]).log().sum().item())


@pytest.mark.filterwarnings("ignore:The ``compute`` method of metric")
@pytest.mark.parametrize("metric", [KLDivergence(), EdgeIoU(), NodeIoU(), EdgeAUROC()], ids=lambda m: type(m).__name__)
def test_without_anything_there_is_nothing_to_measure(metric: KLDivergence) -> None:
    with pytest.raises(ValueError, match=f"{type(metric).__name__}: no process has seen anything"):
        metric.compute()


def test_metrics_work_as_torchmetrics_do() -> None:
    """Called, a metric gives the batch's value and keeps the sum; `reset` forgets."""
    circuits = [Circuit.random(LAYOUT, n, 0) for n in (10, 20, 40)]
    metric = EdgeIoU()
    each: list[Tensor] = [metric(circuits[0], other) for other in circuits]
    assert [value.item() for value in each] == [1.0, 0.5, 0.25]
    assert metric.compute().item() == pytest.approx(1.75 / 3)
    metric.reset()
    metric.update(circuits[0], circuits[1])
    assert metric.compute().item() == 0.5
