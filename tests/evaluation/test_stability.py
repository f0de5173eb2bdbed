"""Jaccard indices against sets, and the bootstrap against enumeration and planted noise."""

from __future__ import annotations

import math
from itertools import combinations

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from lightning_circuits.circuit import Circuit
from lightning_circuits.datamodules import IOIDataModule
from lightning_circuits.evaluation.stability import (
    BatchScores,
    bootstrap_stability,
    jaccard,
    pairwise_stability,
    resampled_scores,
    scores_per_batch,
    stability_of_scores,
)
from lightning_circuits.layout import Layout
from lightning_circuits.models import wrap
from lightning_circuits.models.loading import load_model
from lightning_circuits.selection import top_n
from tests.support.ioi_circuit import gate_gradients

LAYOUT = Layout(2, 2, 8)


@given(st.lists(st.sets(st.integers(0, LAYOUT.n_edges - 1)), min_size=2, max_size=5))
def test_all_pairs_against_sets(chosen: list[set[int]]) -> None:
    members = torch.stack([torch.tensor([i in one for i in range(LAYOUT.n_edges)]) for one in chosen])
    index = jaccard(members)
    pairs = []
    for i, j in combinations(range(len(chosen)), 2):
        expected = len(chosen[i] & chosen[j]) / len(chosen[i] | chosen[j]) if chosen[i] | chosen[j] else 1.0
        assert index[i, j] == index[j, i] == expected
        pairs.append(expected)
    found = pairwise_stability([Circuit(LAYOUT, row) for row in members])
    assert found.mean == pytest.approx(sum(pairs) / len(pairs)) and found.pairs == len(pairs)
    assert (found.lowest, found.highest, found.circuits) == (min(pairs), max(pairs), len(chosen))
    assert index.diagonal().eq(1).all()


def test_many_edges_are_counted_exactly() -> None:
    members = torch.rand(3, 200_000, generator=torch.Generator().manual_seed(0)) < 0.5
    one, two = members[0], members[1]
    assert float(jaccard(members)[0, 1]) == int((one & two).sum()) / int((one | two).sum())


def test_the_spread_is_over_pairs() -> None:
    a, b, c = (torch.tensor(row, dtype=torch.bool) for row in ([1, 1, 0, 0], [1, 1, 0, 0], [0, 1, 1, 0]))
    found = pairwise_stability([a, b, c])  # 1, 1/3, 1/3
    assert found.mean == pytest.approx(5 / 9) and found.std == pytest.approx((4 / 27) ** 0.5)
    assert math.isnan(pairwise_stability([a, c]).std)


def test_chance_is_what_random_circuits_have_in_common() -> None:
    circuits = [Circuit.random(Layout(12, 12, 768), 16_245, seed) for seed in range(6)]
    found = pairwise_stability(circuits)
    assert found.chance == pytest.approx(1 / 3, abs=1e-4) and found.mean == pytest.approx(found.chance, abs=5e-3)


def test_score_vectors_give_their_top_n() -> None:
    scores = torch.randn(4, 60, generator=torch.Generator().manual_seed(0))
    for absolute in (False, True):
        found = stability_of_scores(scores, [5, 60], absolute=absolute)
        assert found[0] == pairwise_stability([top_n(row, 5, absolute=absolute) for row in scores])
        assert found[1].mean == found[1].chance == 1
    flipped = torch.stack([scores[0], -scores[0]])
    assert (
        stability_of_scores(flipped, [5], absolute=True)[0].mean == 1 and stability_of_scores(flipped, [5])[0].mean == 0
    )


# ---- the bootstrap ---------------------------------------------------------------------------------------------------


def test_draws_are_weighted_means_over_batches_drawn_with_replacement() -> None:
    """With two batches there are three possible draws, of chances 1/4, 1/2, 1/4."""
    kept = BatchScores(torch.tensor([[3.0, 0.0], [0.0, 10.0]]), torch.tensor([3, 1]))
    draws = [tuple(scores.tolist()) for scores in resampled_scores(kept, draws=2000)]
    counts = {draw: draws.count(draw) for draw in set(draws)}
    assert set(counts) == {(1.0, 0.0), (0.75, 2.5), (0.0, 10.0)}
    assert counts[0.75, 2.5] == pytest.approx(1000, abs=5 * 500**0.5)
    assert counts[1.0, 0.0] == pytest.approx(500, abs=5 * 375**0.5)


def test_the_spread_of_draws_is_the_standard_error_of_the_mean() -> None:
    values = torch.randn(200, 1, generator=torch.Generator().manual_seed(0))
    kept = BatchScores(values, torch.ones(200, dtype=torch.int64))
    draws = torch.stack(list(resampled_scores(kept, draws=3000)))
    assert float(draws.std()) == pytest.approx(float(values.std()) / 200**0.5, rel=0.06)
    assert float(draws.mean()) == pytest.approx(float(values.mean()), abs=5e-3)


def test_batches_that_agree_are_stable_and_noise_is_at_chance() -> None:
    generator = torch.Generator().manual_seed(0)
    signal, noise = torch.randn(400, generator=generator), torch.randn(30, 400, generator=generator)
    ones = torch.ones(30, dtype=torch.int64)
    [same] = bootstrap_stability(BatchScores(signal.expand(30, -1), ones), [40], draws=20)
    [sound] = bootstrap_stability(BatchScores(signal + 0.3 * noise, ones), [40], draws=20)
    [mixed] = bootstrap_stability(BatchScores(signal + 3 * noise, ones), [40], draws=20)
    assert same.mean == 1 > sound.mean > mixed.mean > mixed.chance
    assert bootstrap_stability(BatchScores(signal + noise, ones), [40], draws=5) == bootstrap_stability(
        BatchScores(signal + noise, ones), [40], draws=5
    )


def test_a_methods_own_batches() -> None:
    model = wrap(load_model("tiny-ioi"))
    data = IOIDataModule("tiny-ioi", n_train=8, n_val=10, n_test=4, batch_size=4)
    data.setup()

    def attribute(batch: dict[str, Tensor]) -> tuple[Tensor, Tensor]:
        return gate_gradients(model, batch), torch.zeros(model.layout.n_writers)

    kept = scores_per_batch(attribute, data.val_dataloader())
    assert kept.examples.tolist() == [4, 4, 2] and kept.sums.shape == (3, 479)
    at_once = sum(attribute(batch)[0] for batch in data.val_dataloader())
    torch.testing.assert_close(kept.sums.sum(0), at_once)
    found = bootstrap_stability(kept, [20, 60], draws=10)
    assert all(row.mean > row.chance + 0.3 for row in found) and [row.edges for row in found] == [20, 60]


# ---- refused, and shown ----------------------------------------------------------------------------------------------


def test_what_cannot_be_compared_is_refused() -> None:
    one = Circuit.empty(LAYOUT)
    with pytest.raises(ValueError, match="at least two circuits, got 1"):
        pairwise_stability([one])
    with pytest.raises(ValueError, match="circuit 1 is of another layout: n_layers"):
        pairwise_stability([one, Circuit.empty(Layout(3, 2, 8))])
    with pytest.raises(ValueError, match="different layouts"):
        pairwise_stability([one.members, torch.zeros(5, dtype=torch.bool)])
    with pytest.raises(TypeError, match=r"bool tensor, got torch\.float32"):
        pairwise_stability([torch.rand(5), torch.rand(5)])
    with pytest.raises(ValueError, match=r"at least two score vectors .* got shape \(5,\)"):
        stability_of_scores(torch.zeros(5), [1])
    with pytest.raises(ValueError, match="NaN"):
        stability_of_scores(torch.full((2, 5), torch.nan), [1])
    with pytest.raises(ValueError, match="cannot choose 6 of 5"):
        stability_of_scores(torch.zeros(2, 5), [6])


def test_what_cannot_be_drawn_again_is_refused() -> None:
    with pytest.raises(ValueError, match="no batches to attribute"):
        scores_per_batch(lambda batch: (torch.zeros(3), torch.zeros(2)), [])
    batch = {"clean_ids": torch.zeros(2, 3)}
    with pytest.raises(ValueError, match=r"batch 0: expected a flat vector of scores, got shape \(2, 3\)"):
        scores_per_batch(lambda batch: (torch.zeros(2, 3), torch.zeros(2)), [batch])
    with pytest.raises(ValueError, match="at least two batches, got 1"):
        bootstrap_stability(BatchScores(torch.zeros(1, 5), torch.ones(1)), [1])
    with pytest.raises(ValueError, match="at least two draws"):
        bootstrap_stability(BatchScores(torch.zeros(3, 5), torch.ones(3)), [1], draws=1)
    with pytest.raises(ValueError, match="for each of the 3 batches"):
        bootstrap_stability(BatchScores(torch.zeros(3, 5), torch.tensor([1, 0, 2])), [1])
