"""Edges whose effects cancel over spans, by names and sets; and their sums, against scores without spans."""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from lightning_circuits.ablation import ABLATIONS
from lightning_circuits.circuit import Circuit
from lightning_circuits.datamodules import IOIDataModule
from lightning_circuits.layout import Layout
from lightning_circuits.models import wrap
from lightning_circuits.models.loading import EMBEDDED, load_model
from lightning_circuits.objectives import LogitDifference
from lightning_circuits.scoring.cancellation import cancelled_edges
from lightning_circuits.scoring.gradients import gradient_scores

LAYOUT = Layout(2, 1, 4).in_spans(["S2", "S2..END", "END"])
EFFECTS = {"scores_are": "effects"}


@given(st.lists(st.integers(-3, 3), min_size=LAYOUT.n_edges, max_size=LAYOUT.n_edges), st.data())
def test_cancelled_edges_are_lost_from_the_best_by_name(values: list[int], data: st.DataObject) -> None:
    n = data.draw(st.integers(0, LAYOUT.plain.n_edges))
    effects: dict[str, list[int]] = {}
    for name, value in zip(LAYOUT.edge_names(range(LAYOUT.n_edges)), values, strict=True):
        effects.setdefault(name.partition("@")[0], []).append(value)
    # Python's sort is stable: of equals the first goes first.
    by_absolutes = sorted(effects, key=lambda name: -sum(map(abs, effects[name])))[:n]
    by_sum = sorted(effects, key=lambda name: -abs(sum(effects[name])))[:n]
    found = cancelled_edges(torch.tensor(values).float(), LAYOUT, n)
    assert set(LAYOUT.plain.edge_names(found.nonzero()[:, 0])) == set(by_absolutes) - set(by_sum)


def test_nothing_cancels_where_all_effects_of_an_edge_have_one_sign() -> None:
    scores = torch.rand(LAYOUT.n_edges) * torch.randn(LAYOUT.plain.n_edges).sign().repeat(3)
    assert not any(cancelled_edges(scores, LAYOUT, n).any() for n in range(LAYOUT.plain.n_edges + 1))


def test_what_cannot_cancel_is_refused() -> None:
    with pytest.raises(ValueError, match=r"cancel over spans, and .* has none: score with spans=True"):
        cancelled_edges(torch.zeros(LAYOUT.plain.n_edges), LAYOUT.plain, 1)
    with pytest.raises(ValueError, match=r"3 layers|expected one value for each"):
        cancelled_edges(torch.zeros(5), LAYOUT, 1)
    with pytest.raises(ValueError, match="cannot choose 99 of"):
        cancelled_edges(torch.zeros(LAYOUT.n_edges), LAYOUT, 99)
    broken = torch.zeros(LAYOUT.n_edges)
    broken[LAYOUT.edge_index("m0->m1@END")] = math.nan
    with pytest.raises(ValueError, match="m0->m1 is NaN"):
        cancelled_edges(broken, LAYOUT, 1)


@pytest.mark.parametrize(
    ("corruption", "ablation"), [("third-name", "interchange"), ("abc", "interchange"), ("abc", "zero")]
)
def test_the_sum_over_live_spans_is_the_score_without_spans(corruption: str, ablation: str) -> None:
    """Dead spans carry nothing: what they are left out of is the same sum, to float precision."""
    data = IOIDataModule(EMBEDDED, n_train=12, n_val=8, n_test=8, batch_size=12, corruption=corruption, spans="roles")
    (batch,) = data.train_dataloader()
    plain, cut = wrap(load_model(EMBEDDED)), ABLATIONS.make(ablation)
    alive = batch["spans"][cut.live(batch)].unique().tolist()
    model = plain.in_spans([batch["span_names"][span] for span in alive])
    whole = gradient_scores(plain, batch, cut, LogitDifference())
    placed = gradient_scores(model, batch, cut, LogitDifference())
    circuit = Circuit(model.layout, placed.edges > 0, placed.edges, EFFECTS, placed.writers)
    summed = circuit.without_spans("any", scores="sum")
    torch.testing.assert_close(summed.scores, whole.edges, rtol=1e-4, atol=1e-5 * float(whole.edges.abs().max()))
    torch.testing.assert_close(summed.node_scores, whole.writers, rtol=1e-4, atol=1e-4)
    absolutes = circuit.without_spans("any", scores="sum-of-absolutes").scores
    assert (absolutes >= summed.scores.abs() - 1e-6).all() and (absolutes > 1.5 * summed.scores.abs() + 1e-3).any()
    n = plain.layout.n_edges // 2
    assert 0 < int(cancelled_edges(placed.edges, model.layout, n).sum()) < n / 4
