"""Correlations of scores against their definitions: every pair of edges, every depth, and Python's own statistics."""

from __future__ import annotations

import json
import math
import statistics
import time
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from lightning_circuits.circuit import Circuit
from lightning_circuits.evaluation.agreement import average_overlap, kendall_tau_b, score_correlations
from lightning_circuits.layout import Layout
from lightning_circuits.selection import top_n

LAYOUT = Layout(1, 1, 4)  # of 8 edges
SMOLLM2 = Layout(30, 9, 576)

some = st.one_of(st.integers(-3, 3).map(float), st.floats(-1e3, 1e3, width=32))
two = st.integers(2, 30).flatmap(lambda n: st.tuples(*[st.lists(some, min_size=n, max_size=n)] * 2))


def circuit(scores: Any, layout: Layout = LAYOUT, ranking: str = "signed") -> Circuit:
    members = torch.zeros(layout.n_edges, dtype=torch.bool)
    return Circuit(layout, members, torch.as_tensor(scores), {"ranking": ranking})


# ---- definitions -----------------------------------------------------------------------------------------------------


def pair_by_pair(x: list[float], y: list[float]) -> float:
    """Kendall's tau-b over all pairs."""
    n = len(x)
    signs = [((x[i] > x[j]) - (x[i] < x[j]), (y[i] > y[j]) - (y[i] < y[j])) for i in range(n) for j in range(i)]
    level = sum(s == 0 for s, _ in signs), sum(t == 0 for _, t in signs)
    varied = (len(signs) - level[0]) * (len(signs) - level[1])
    return sum(s * t for s, t in signs) / math.sqrt(varied) if varied else math.nan


@given(two)
def test_kendall_is_that_of_all_pairs(pair: tuple[list[float], list[float]]) -> None:
    x, y = pair
    one, other = torch.tensor(x), torch.tensor(y)
    found = kendall_tau_b(one, other)
    assert found == pytest.approx(pair_by_pair(one.tolist(), other.tolist()), nan_ok=True)
    assert kendall_tau_b(other, one) == pytest.approx(found, nan_ok=True)
    assert kendall_tau_b(-one, other) == pytest.approx(-found, nan_ok=True)


@given(two)
def test_average_overlap_is_the_mean_of_the_overlaps_of_the_best(pair: tuple[list[float], list[float]]) -> None:
    one, other = map(torch.tensor, pair)
    found = average_overlap(one, other).tolist()
    shares = []
    for depth in range(1, len(one) + 1):
        best, best_of_other = (set(top_n(each, depth).nonzero()[:, 0].tolist()) for each in (one, other))
        shares.append(len(best & best_of_other) / depth)
        assert found[depth - 1] == pytest.approx(sum(shares) / depth)


@given(st.lists(st.tuples(some, some), min_size=8, max_size=8))
def test_pearson_and_spearman_are_those_of_python(pairs: list[tuple[float, float]]) -> None:
    x, y = (torch.tensor(each).tolist() for each in zip(*pairs, strict=True))
    found = score_correlations(circuit(x), circuit(y), depths=[1])
    if len(set(x)) == 1 or len(set(y)) == 1:
        assert math.isnan(found.pearson) and math.isnan(found.spearman) and math.isnan(found.kendall)
        return

    def mean_ranks(values: list[float]) -> list[float]:
        return [sum(v < w for v in values) + (sum(v == w for v in values) + 1) / 2 for w in values]

    assert found.spearman == pytest.approx(statistics.correlation(mean_ranks(x), mean_ranks(y)), abs=1e-9)
    if min(map(statistics.pstdev, (x, y))) > 1e-3:
        assert found.pearson == pytest.approx(statistics.correlation(x, y), abs=1e-6)


# ---- as many edges as models have ------------------------------------------------------------------------------------


def test_rankings_of_a_large_model_whose_agreement_is_known() -> None:
    """Blocks of 1,000 edges in order, each turned round within: pairs within a block are opposite, all others agree."""
    n = SMOLLM2.n_edges
    x = torch.arange(n, dtype=torch.float64)
    y = (x // 1000) * 1000 + (999 - x % 1000)
    blocks, rest = divmod(n, 1000)
    opposite = blocks * math.comb(1000, 2) + math.comb(rest, 2)
    began = time.perf_counter()
    assert kendall_tau_b(x, y) == pytest.approx(1 - 2 * opposite / math.comb(n, 2), abs=1e-12)
    assert time.perf_counter() - began < 20  # a second; in n^2 steps it would be minutes
    assert kendall_tau_b(x, -x) == -1 and kendall_tau_b(x, x) == 1


def test_many_edges_without_effect_are_level() -> None:
    """100,000 zeros in both, and an order among the rest that is the same: everything agrees, whatever the sums."""
    scores = torch.zeros(SMOLLM2.n_edges)
    scores[100_000:] = torch.rand(SMOLLM2.n_edges - 100_000, generator=torch.Generator().manual_seed(0)) + 0.1
    found = score_correlations(circuit(scores, SMOLLM2), circuit(scores.exp() - 1, SMOLLM2))
    assert found.spearman == pytest.approx(1) and found.kendall == pytest.approx(1) and 0.9 < found.pearson < 1
    assert found.depths == (1232, 12321, 123211) and found.average_overlap == pytest.approx((1, 1, 1))


def test_rankings_by_chance_agree_as_much_as_is_said() -> None:
    n, generator = SMOLLM2.n_edges, torch.Generator().manual_seed(0)
    one, other = (circuit(torch.randn(n, generator=generator), SMOLLM2) for _ in range(2))
    found = score_correlations(one, other, depths=[0.1, 0.5, 1.0])
    assert max(map(abs, (found.pearson, found.spearman, found.kendall))) < 0.015
    assert found.average_overlap == pytest.approx([(depth + 1) / 2 / n for depth in found.depths], abs=0.01)


# ---- how circuits rank, what is refused, and what is written ---------------------------------------------------------


def test_edges_rank_as_their_search_ranks_them() -> None:
    effects = [3.0, -2.5, 1.0, -0.5, 0.2, 0.1, 0.05, 0.0]
    sizes = [abs(score) for score in effects]
    absolute = circuit(effects, ranking="absolute")
    found = score_correlations(absolute, circuit(sizes), depths=[2, 8])
    assert (found.pearson, found.spearman, found.kendall) == pytest.approx((1, 1, 1))
    assert found.average_overlap == (1, 1)
    assert score_correlations(circuit(effects), circuit(sizes), depths=[2]).average_overlap == (0.75,)
    assert score_correlations(circuit(effects), circuit(sizes), depths=[2]).kendall < 1


def test_infinite_scores_rank_and_are_proportional_to_nothing() -> None:
    found = score_correlations(circuit([math.inf, 5, 4, 3, 2, 1, 0, -math.inf]), circuit(list(range(8, 0, -1))), [1, 8])
    assert math.isnan(found.pearson) and (found.spearman, found.kendall) == pytest.approx((1, 1))
    assert json.loads(json.dumps(found.to_dict())) == {
        "pearson": None,
        "spearman": pytest.approx(1),
        "kendall": 1.0,
        "depths": [1, 8],
        "average_overlap": [1.0, 1.0],
    }


def test_what_cannot_be_ranked_is_refused() -> None:
    one = circuit(torch.rand(8))
    with pytest.raises(ValueError, match="circuit b is of another layout: n_layers 2 against 1"):
        score_correlations(one, Circuit.full(Layout(2, 1, 4)))
    with pytest.raises(ValueError, match=r"another layout: spans .* Spans come and go"):
        score_correlations(one, one.in_spans(["END"]))
    with pytest.raises(ValueError, match="circuit b has no scores to rank edges by"):
        score_correlations(one, Circuit.full(LAYOUT), depths=[1])
    with pytest.raises(ValueError, match=r"score of edge input->a0\.h0<q> is NaN"):
        score_correlations(circuit(torch.full((8,), torch.nan)), one, depths=[1])
    with pytest.raises(ValueError, match="a circuit of 9 edges: a count lies between 1 and the 8"):
        score_correlations(one, one, depths=[9])
    with pytest.raises(ValueError, match=r"size 0\.01 of 8 edges rounds to 0"):
        score_correlations(one, one)
    with pytest.raises(TypeError, match="a number of edges or a share"):
        score_correlations(one, one, depths=["all"])  # type: ignore[list-item]
