"""Hard concrete gates against their own samples and the closed forms of the paper."""

from __future__ import annotations

import math

import pytest
import torch

from lightning_circuits.gates import HardConcrete, L0Penalty, TargetSparsity, TopK
from tests.support.gates import generator, spread, with_logits


@pytest.mark.parametrize("log_alpha", [-6.0, -2.5, -1.5986, 0.0, 1.0, 3.0])
def test_hard_concrete_openness_is_the_share_of_its_own_open_samples(log_alpha: float) -> None:
    n = 40_000
    gate = with_logits(HardConcrete(), torch.full((n,), log_alpha))
    values = gate(generator(), 0, 0.0)
    expected = 1 - 1 / (1 + math.exp(1.5986 + log_alpha))  # FIELD.md: P(closed) = sigmoid(-1.5986 - log_alpha)
    sampled = (values > 0).double().mean().item()
    assert gate.openness().item() == pytest.approx(expected, abs=1e-4)
    assert sampled == pytest.approx(expected, abs=4.5 * math.sqrt(expected * (1 - expected) / n) + 1e-5)


@pytest.mark.parametrize("log_alpha", [-1.0, 0.5])
def test_hard_concrete_samples_have_the_distribution_of_the_paper(log_alpha: float) -> None:
    gate = with_logits(HardConcrete(), torch.full((40_000,), log_alpha))
    values = gate(generator(), 0, 0.0).detach().double().numpy()
    for threshold in (0.0, 0.1, 0.3, 0.5, 0.8, 0.99):
        stretched = (threshold + 0.1) / 1.2
        at_most = 1 / (1 + math.exp(-(2 / 3 * math.log(stretched / (1 - stretched)) - log_alpha)))
        assert (values <= threshold).mean() == pytest.approx(at_most, abs=0.012), threshold


def test_hard_concrete_openness_is_a_mean_over_different_gates() -> None:
    logits = torch.tensor([-3.0, 0.0, 2.0])
    expected = sum(1 - 1 / (1 + math.exp(1.5986 + x)) for x in logits.tolist()) / 3
    assert with_logits(HardConcrete(), logits).openness().item() == pytest.approx(expected, abs=1e-4)


def test_hard_concrete_gradient_is_exactly_zero_where_a_gate_is_clamped() -> None:
    gate = with_logits(HardConcrete(), torch.linspace(-4, 4, 2000))
    values = gate(generator(), 0, 0.0)
    values.sum().backward()
    clamped = (values == 0) | (values == 1)
    assert 100 < clamped.sum() < 1900
    assert (gate.logits.grad[clamped] == 0).all()
    assert (gate.logits.grad[~clamped] > 0).all()


def test_hard_concrete_gradient_is_that_of_finite_differences() -> None:
    logits, eps = spread(200, torch.float64), 1e-6
    gate = with_logits(HardConcrete(), logits)
    gate(generator(5), 5, 0.0).sum().backward()
    with torch.no_grad():  # every value depends on its own logit alone: one difference serves them all
        above = with_logits(HardConcrete(), logits + eps)(generator(5), 5, 0.0)
        below = with_logits(HardConcrete(), logits - eps)(generator(5), 5, 0.0)
    torch.testing.assert_close(gate.logits.grad, (above - below) / (2 * eps), atol=1e-7, rtol=1e-5)


def test_hard_concrete_penalty_reaches_every_gate_even_the_clamped() -> None:
    gate = with_logits(HardConcrete(L0Penalty(2.0)), torch.linspace(-10, 10, 50))
    gate.penalty(0.0).backward()
    assert (gate.logits.grad > 0).all()  # DDP needs every parameter in the loss
    share = torch.sigmoid(torch.linspace(-10, 10, 50).double() + math.log(11) * 2 / 3)
    torch.testing.assert_close(gate.logits.grad.double(), 2.0 * share * (1 - share) / 50, rtol=1e-3, atol=1e-8)


def test_hard_concrete_starts_nearly_open_with_most_gates_unclamped_below() -> None:
    gate = HardConcrete()
    gate.start(20_000, generator())
    assert gate.logits.mean().item() == pytest.approx(2.0, abs=0.001)
    assert gate.logits.std().item() == pytest.approx(0.01, rel=0.05)
    assert (gate(generator(1), 1, 0.0) == 0).double().mean().item() == pytest.approx(0.027, abs=0.006)


def test_hard_concrete_is_trained_for_its_target_or_else_for_the_size_it_has() -> None:
    for target, size in ((0.98, 0.02), (0.9, 0.1), (0.999, 0.001), (0.7, 0.3)):
        assert (
            HardConcrete(TargetSparsity(target)).trained_size() == size
        )  # rounded down, .0999... would be an edge less
    gate = with_logits(HardConcrete(L0Penalty(1.0)), torch.full((10,), -1.5986))
    assert gate.trained_size() == pytest.approx(0.5, abs=1e-3)
    assert TopK().trained_size() is None
