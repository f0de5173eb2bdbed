"""Soft top-k gates against a solver in numpy and finite differences."""

from __future__ import annotations

import itertools
import math
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from lightning_circuits.datamodules import IOIDataModule
from lightning_circuits.gates import SizeRange, TopK
from lightning_circuits.gates.top_k import _SoftTopK
from lightning_circuits.masked import masked_logits
from lightning_circuits.models import wrap
from lightning_circuits.models.loading import EMBEDDED, load_model
from tests.support.gates import generator, spread, with_logits

Array = np.ndarray[Any, np.dtype[np.float64]]


def top_k(logits: Tensor, share: float, temperature: float, **options: Any) -> TopK:
    """A gate of one size and temperature."""
    return with_logits(TopK(SizeRange(share, share), temperature, temperature, **options), logits)


def solved(x: Array, k: float, temperature: float) -> Array:
    """The soft top-k by numpy: Newton's method on tau, kept within a bracket that only shrinks."""

    def values(tau: float) -> Array:
        return 0.5 * (1 + np.tanh((x - tau) / (2 * temperature)))  # the sigmoid, without overflow

    low, high = float(x.min() - 50 * temperature), float(x.max() + 50 * temperature)
    tau = (low + high) / 2
    for _ in range(200):
        m = values(tau)
        excess = m.sum() - k
        if abs(excess) < 1e-13 * k:
            break
        low, high = (tau, high) if excess > 0 else (low, tau)
        slope = (m * (1 - m)).sum() / temperature
        step = tau + excess / slope if slope > 0 else math.inf
        tau = step if low < step < high else (low + high) / 2
    return values(tau)


soft_cases = given(
    seed=st.integers(0, 10_000),
    n=st.integers(3, 120),
    share=st.floats(0.02, 0.95),
    temperature=st.sampled_from([0.07, 0.5, 2.0]),
)


@soft_cases
def test_soft_top_k_is_what_an_independent_solver_finds(seed: int, n: int, share: float, temperature: float) -> None:
    x = spread(n, torch.float64, seed)
    values = top_k(x, share, temperature, hard_from=1.0)(generator(), 0, 0.0).detach()
    assert_solved(values, solved(x.numpy(), share * n, temperature))


def assert_solved(values: Tensor, expected: Array) -> None:
    """As the solver has it, and exactly zero where that is below the documented 1e-6."""
    counts = expected > 1.1e-6
    np.testing.assert_allclose(values.numpy()[counts], expected[counts], atol=1e-7)
    assert (values.numpy()[expected < 0.9e-6] == 0).all()


def test_taking_tiny_gates_as_zero_does_not_change_what_the_model_says(monkeypatch: pytest.MonkeyPatch) -> None:
    """At a low temperature nine gates of ten are denormal numbers or near it."""
    model = wrap(load_model(EMBEDDED))
    batch = next(iter(IOIDataModule(EMBEDDED, n_train=8, n_val=1, n_test=1).train_dataloader()))
    _, corrupt = model.run_pair(batch)
    prompts = batch["clean_ids"], batch["attention_mask"], batch["positions"]
    found = []
    for tiny in (1e-6, 0.0):
        monkeypatch.setattr(_SoftTopK, "TINY", tiny)
        gate = top_k(4 * spread(model.layout.n_edges), 0.05, 0.1, hard_from=1.0)
        values = gate(generator(), 0, 0.0)
        logits = masked_logits(model, values, *prompts, corrupt.clone(), skip_closed=gate.closed_for_good(0.0))
        logits[:, 0].sum().backward()
        found.append((values.detach(), logits.detach(), gate.logits.grad))
    assert (found[0][0] == 0).float().mean() > 0.8 > (found[1][0] == 0).float().mean()
    torch.testing.assert_close(found[0][1], found[1][1], atol=1e-4, rtol=0)
    torch.testing.assert_close(found[0][2], found[1][2], atol=1e-4, rtol=1e-3)


@soft_cases
def test_soft_top_k_sums_to_k_and_is_monotone_in_float32(seed: int, n: int, share: float, temperature: float) -> None:
    x = spread(n, seed=seed)
    values = top_k(x, share, temperature, hard_from=1.0)(generator(), 0, 0.0).detach()
    assert values.double().sum().item() == pytest.approx(share * n, rel=1e-4, abs=1e-3)
    assert (values[x.argsort()].diff() >= 0).all()


def test_soft_top_k_sums_to_k_over_a_hundred_thousand_edges() -> None:
    values = top_k(spread(100_000), 0.003, 0.1, hard_from=1.0)(generator(), 0, 0.0).detach()
    assert values.double().sum().item() == pytest.approx(300, rel=1e-3)


@settings(max_examples=30)
@given(seed=st.integers(0, 10_000), share=st.floats(0.05, 0.9), temperature=st.sampled_from([0.2, 0.5, 2.0]))
def test_soft_top_k_gradient_is_that_of_finite_differences_of_the_solver(
    seed: int, share: float, temperature: float
) -> None:
    n, eps = 12, 1e-5
    x, weights = spread(n, torch.float64, seed), spread(n, torch.float64, seed + 1)
    gate = top_k(x, share, temperature, hard_from=1.0)
    (gate(generator(), 0, 0.0) * weights).sum().backward()

    def loss(point: Array) -> float:
        return float(solved(point, share * n, temperature) @ weights.numpy())

    differences = [(loss(x.numpy() + eps * unit) - loss(x.numpy() - eps * unit)) / (2 * eps) for unit in np.eye(n)]
    # Gates below 1e-6 are taken as zero, and with them a gradient of at most 1e-6 / T each.
    left_out = 1e-6 / temperature * float(weights.abs().max()) * n
    np.testing.assert_allclose(gate.logits.grad.numpy(), differences, atol=1e-6 + left_out, rtol=1e-5)


def test_what_one_gate_gains_the_others_lose() -> None:
    gate = top_k(spread(50, torch.float64), 0.2, 0.5, hard_from=1.0)
    (gate(generator(), 0, 0.0) * spread(50, torch.float64, 1)).sum().backward()
    assert gate.logits.grad.sum().item() == pytest.approx(0, abs=1e-12)
    assert gate.logits.grad.abs().max() > 1e-3


def test_saturated_gates_do_not_move_and_are_not_nan() -> None:
    gate = top_k(torch.tensor([-1e4] * 5 + [1e4] * 5), 0.5, 0.1, hard_from=1.0)
    values = gate(generator(), 0, 0.0)
    (values * torch.arange(10.0)).sum().backward()
    torch.testing.assert_close(values.detach(), torch.tensor([0.0] * 5 + [1.0] * 5), atol=1e-5, rtol=0)
    assert gate.logits.grad.abs().max() < 1e-4


@soft_cases
def test_hard_values_are_exactly_the_k_best(seed: int, n: int, share: float, temperature: float) -> None:
    x = spread(n, seed=seed)
    values = top_k(x, share, temperature, hard_from=0.0)(generator(), 0, 0.0).detach()
    k = max(round(share * n), 1)
    best = np.argsort(-x.numpy())[:k]
    assert sorted(values.nonzero().flatten().tolist()) == sorted(best.tolist())
    assert set(values.tolist()) <= {0.0, 1.0}


def test_from_one_size_to_half_of_it_is_the_same_way_everywhere() -> None:
    """Ranks of millions stay apart, the best of them too."""
    n = 2**22
    scores = torch.randperm(n, generator=torch.Generator().manual_seed(0)).float()
    gate = TopK()
    gate.start(n, torch.Generator())
    gate.start_from(scores)
    best_first = gate.logits.detach().sort(descending=True).values
    for size in (n, 400_000, 12_000, 300, 2):
        assert float(best_first[size // 2 - 1] - best_first[size - 1]) == pytest.approx(math.log(2), abs=1e-5)
    assert torch.equal(scores.topk(5_000).indices, gate.logits.detach().topk(5_000).indices)


@pytest.mark.parametrize("n_tied", [10, 4])
def test_hard_values_are_k_also_when_gates_tie(n_tied: int) -> None:
    x = torch.arange(10.0)
    x[:n_tied] = -1.0
    values = top_k(x, 0.8, 0.5, hard_from=0.0)(generator(), 0, 0.0)
    assert values.sum() == 8
    assert (values[n_tied:] == 1).all()


def test_hard_values_keep_one_edge_where_the_size_is_less_than_one() -> None:
    values = top_k(spread(20), 0.001, 0.5, hard_from=0.0)(generator(), 0, 0.0)
    assert values.tolist() == [float(i == spread(20).argmax()) for i in range(20)]


def test_hard_values_have_the_gradient_of_the_soft_ones() -> None:
    x, weights = spread(40, torch.float64), spread(40, torch.float64, 1)
    gradients = []
    for hard_from in (0.0, 1.0):
        gate = top_k(x, 0.25, 0.3, hard_from=hard_from)
        (gate(generator(), 0, 0.0) * weights).sum().backward()
        gradients.append(gate.logits.grad)
    assert torch.equal(*gradients) and gradients[0].abs().max() > 0


@pytest.mark.parametrize("progress", [0.0, 0.25, 0.5, 0.999])
def test_the_temperature_falls_geometrically(progress: float) -> None:
    x = spread(60, torch.float64)
    options = {"temperature": 0.8, "final_temperature": 0.05, "anneal_from": 0.0, "hard_from": 1.0}
    gate = with_logits(TopK(SizeRange(0.2, 0.2), **options), x)
    expected = solved(x.numpy(), 12, math.exp((1 - progress) * math.log(0.8) + progress * math.log(0.05)))
    assert_solved(gate(generator(), 0, progress).detach(), expected)


@pytest.mark.parametrize(("progress", "fallen"), [(0.0, 0.0), (0.4, 0.0), (0.7, 0.5), (0.85, 0.75)])
def test_the_temperature_stays_until_it_is_told_to_fall(progress: float, fallen: float) -> None:
    x = spread(60, torch.float64)
    gate = with_logits(TopK(SizeRange(0.2, 0.2), 0.8, 0.05, anneal_from=0.4, hard_from=1.0), x)
    expected = solved(x.numpy(), 12, math.exp((1 - fallen) * math.log(0.8) + fallen * math.log(0.05)))
    # Half way in float64: 0.7 - 0.4 is not half of 0.6 to the last bit, hence values of nearly the same temperature.
    assert_solved(gate(generator(), 0, progress).detach(), expected)


@pytest.mark.parametrize("option", ["anneal_from", "hard_from"])
@pytest.mark.parametrize("value", [-0.1, 1.1, math.nan])
def test_a_part_of_training_outside_it_is_refused(option: str, value: float) -> None:
    with pytest.raises(ValueError, match=f"{option} is a part of training"):
        TopK(**{option: value})


def test_circuits_become_hard_when_asked_and_not_before() -> None:
    gate = with_logits(TopK(hard_from=0.6), spread(100))
    for progress, hard in ((0.0, False), (0.59, False), (0.6, True), (0.99, True)):
        values = gate(generator(), 0, progress)
        assert ((values == 0) | (values == 1)).all().item() is hard, progress


def test_every_step_asks_another_size_from_the_range() -> None:
    gate = with_logits(TopK(SizeRange(0.01, 0.5), hard_from=0.0), spread(1000))
    sizes = [int(gate(generator(seed), seed, 1.0).sum()) for seed in range(200)]
    assert min(sizes) >= 10 and max(sizes) <= 500 and len(set(sizes)) > 80
    median = sorted(sizes)[100]  # log-uniform: half of the steps are below the geometric mean, 71
    assert 45 < median < 110


def test_circuits_of_one_ranking_are_nested() -> None:
    gate = with_logits(TopK(hard_from=0.0), spread(500))
    drawn = sorted((gate(generator(seed), seed, 1.0).detach() for seed in range(20)), key=lambda values: values.sum())
    assert all((small <= large).all() for small, large in itertools.pairwise(drawn))


# ---- the mean of the logits ------------------------------------------------------------------------------------------


def test_the_ranking_is_the_mean_of_the_logits_over_the_last_part_of_training() -> None:
    gate = with_logits(TopK(average_from=0.75), spread(50))
    seen = [spread(50, seed=seed) for seed in range(8)]
    for step, logits in enumerate(seen, start=1):
        gate.logits.data.copy_(logits)
        gate.after_step(step / 8)
        assert torch.equal(gate.edge_scores(), logits) or step > 6
    torch.testing.assert_close(gate.edge_scores(), torch.stack(seen[5:]).mean(0))


def test_another_training_begins_a_mean_of_its_own() -> None:
    gate = with_logits(TopK(average_from=0.5), spread(50))
    gate.after_step(1.0)
    later = spread(50, seed=1)
    gate.logits.data.copy_(later)
    gate.after_step(0.1)
    assert torch.equal(gate.edge_scores(), later)
    gate.after_step(0.5)
    torch.testing.assert_close(gate.edge_scores(), later)


def test_a_gate_read_from_a_checkpoint_goes_on_with_its_mean() -> None:
    whole, first, second = (with_logits(TopK(), torch.zeros(50)) for _ in range(3))
    for step in (1, 2, 3, 4):
        for gate in (whole, first if step <= 2 else second):
            gate.logits.data.copy_(spread(50, seed=step))
            gate.after_step(0.9 + step / 40)
        if step == 2:
            second.load_state_dict(first.state_dict())
    assert torch.equal(second.edge_scores(), whole.edge_scores())


@pytest.mark.parametrize("share", [-0.1, 1.1, math.nan])
def test_a_mean_that_begins_outside_of_training_is_refused(share: float) -> None:
    with pytest.raises(ValueError, match="average_from is a part of training"):
        TopK(average_from=share)


@pytest.mark.parametrize("option", ["temperature", "final_temperature"])
@pytest.mark.parametrize("value", [0.0, -1.0, math.nan])
def test_a_temperature_that_is_not_positive_is_refused(option: str, value: float) -> None:
    with pytest.raises(ValueError, match="temperatures must be positive"):
        TopK(**{option: value})
