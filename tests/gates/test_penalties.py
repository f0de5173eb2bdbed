"""What closes gates: the law of the sizes, the price of openness, and the constraint with its multipliers."""

from __future__ import annotations

import math
from collections.abc import Iterable

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from lightning_circuits.gates import L0Penalty, SizeRange, TargetSparsity


def taken(law: str, low: float, high: float, numbers: Iterable[int]) -> list[float]:
    sizes = SizeRange(low, high, law)
    return [sizes.size(number, progress=1.0) for number in numbers]


@given(first=st.integers(0, 10**9), n=st.integers(1, 400), quantile=st.floats(0.0, 1.0))
def test_batches_that_follow_each_other_have_sizes_of_the_law_in_even_shares(
    first: int, n: int, quantile: float
) -> None:
    low, high, numbers = 0.001, 0.2, range(first, first + n)
    below = {
        "log-uniform": sum(size <= low * (high / low) ** quantile for size in taken("log-uniform", low, high, numbers)),
        "uniform": sum(size <= low + (high - low) * quantile for size in taken("uniform", low, high, numbers)),
    }
    # n independent draws would be off by some sqrt(n) / 2, 10 of 400; an even sequence by a few times log n.
    off = 2 * (1 + math.log(n) / math.log(2.618))
    assert below["log-uniform"] == pytest.approx(n * quantile, abs=off)
    assert below["uniform"] == pytest.approx(n * quantile, abs=off)


@given(low=st.floats(1e-4, 1.0), ratio=st.floats(1.0, 100.0), law=st.sampled_from(["log-uniform", "uniform"]))
def test_sizes_stay_within_the_range(low: float, ratio: float, law: str) -> None:
    high = min(1.0, low * ratio)
    for size in taken(law, low, high, range(20)):
        assert low * (1 - 1e-9) <= size <= high * (1 + 1e-9)


@pytest.mark.parametrize(
    ("low", "high"), [(0.0, 0.1), (-0.1, 0.1), (0.2, 0.1), (0.1, 1.1), (math.nan, 0.1), (0.1, math.nan)]
)
def test_a_range_of_impossible_sizes_is_refused(low: float, high: float) -> None:
    with pytest.raises(ValueError, match="shares of the edges"):
        SizeRange(low, high)


@given(warmup=st.floats(0.05, 1.0), progress=st.floats(0.0, 1.0), law=st.sampled_from(["log-uniform", "uniform"]))
def test_the_range_opens_downwards(warmup: float, progress: float, law: str) -> None:
    sizes = SizeRange(0.001, 0.4, law, warmup)
    drawn = [sizes.size(number, progress) for number in range(200)]
    # Halfway through the warmup, as many tenfolds are open as are still to open.
    lowest = 10 ** (math.log10(0.4) + min(progress / warmup, 1.0) * math.log10(0.001 / 0.4))
    assert lowest * (1 - 1e-9) <= min(drawn) and max(drawn) <= 0.4 * (1 + 1e-9)
    if law == "log-uniform":
        assert min(drawn) < lowest * (0.4 / lowest) ** 0.1 * (1 + 1e-9)  # not stuck above it


@pytest.mark.parametrize("warmup", [-0.1, 1.1, math.nan])
def test_a_warmup_that_is_no_part_of_training_is_refused(warmup: float) -> None:
    with pytest.raises(ValueError, match="warmup is a share of training"):
        SizeRange(warmup=warmup)


def test_an_unknown_law_is_refused_with_those_known() -> None:
    with pytest.raises(ValueError, match=r"law is one of 'log-uniform', 'uniform', got 'normal'"):
        SizeRange(law="normal")


@pytest.mark.parametrize("target", [1.0, 1.5, -0.01, 99.0, math.nan, math.inf])
def test_a_target_outside_zero_to_one_is_refused(target: float) -> None:
    with pytest.raises(ValueError, match=r"\[0, 1\).*0\.99 keeps 1 %"):
        TargetSparsity(target)


@pytest.mark.parametrize("warmup", [-0.1, 1.1, math.nan])
def test_a_warmup_outside_training_is_refused(warmup: float) -> None:
    with pytest.raises(ValueError, match="warmup"):
        TargetSparsity(0.9, warmup)


def test_a_target_of_zero_keeps_everything() -> None:
    assert TargetSparsity(0.0).target_size() == 1.0
    assert TargetSparsity(0.99).target_size() == pytest.approx(0.01)


@pytest.mark.parametrize(
    ("progress", "warmup", "allowed"),
    [(0.0, 0.5, 1.0), (0.25, 0.5, 0.1), (0.5, 0.5, 0.01), (0.8, 0.5, 0.01), (1.0, 1.0, 0.01), (0.0, 0.0, 0.01)],
)
def test_the_allowed_share_falls_geometrically(progress: float, warmup: float, allowed: float) -> None:
    sparsity = TargetSparsity(0.99, warmup)
    with torch.no_grad():
        sparsity.multipliers.copy_(torch.tensor([2.0, 3.0]))
    for openness in (0.005, 0.3, 1.0):
        excess = max(0.0, openness - allowed)
        price = sparsity(torch.tensor(openness, dtype=torch.float64), progress).item()
        assert price == pytest.approx(2 * excess + 3 * excess**2, abs=1e-6)


def test_multipliers_start_at_zero_and_their_gradient_says_how_far_the_target_is() -> None:
    sparsity = TargetSparsity(0.9, warmup=0.0)
    assert sparsity.multipliers.tolist() == [0.0, 0.0]
    sparsity(torch.tensor(0.6), 0.0).backward()  # 40 % closed, 90 % wanted
    torch.testing.assert_close(sparsity.multipliers.grad, torch.tensor([0.5, 0.25]))
    sparsity.multipliers.grad = None
    sparsity(torch.tensor(0.02), 0.0).backward()  # overdone: nothing pushes gates open again
    assert sparsity.multipliers.grad.tolist() == [0.0, 0.0]


@pytest.mark.parametrize("rate", [0.0, -1.0, math.nan])
def test_a_multiplier_learning_rate_that_is_not_positive_is_refused(rate: float) -> None:
    with pytest.raises(ValueError, match="multiplier_lr must be positive"):
        TargetSparsity(0.9, multiplier_lr=rate)


def test_ascended_multipliers_push_gates_shut_until_the_target_is_met() -> None:
    """The game between gates and multipliers, played by hand: it settles where the constraint holds."""
    sparsity = TargetSparsity(0.8, warmup=0.0)
    logit, openness = 3.0, 1.0
    for _ in range(3000):
        x = torch.tensor(logit, requires_grad=True)
        share = torch.sigmoid(x)
        sparsity.multipliers.grad = None
        sparsity(share, 0.0).backward()
        logit -= 0.1 * x.grad.item()
        with torch.no_grad():
            sparsity.multipliers += 0.05 * sparsity.multipliers.grad
        openness = share.item()
    assert openness == pytest.approx(0.2, abs=0.02)


def test_the_l0_penalty_is_a_price_per_open_gate() -> None:
    openness = torch.tensor(0.25, requires_grad=True)
    penalty = L0Penalty(3.0)(openness, 0.7)
    penalty.backward()
    assert penalty.item() == 0.75 and openness.grad.item() == 3.0
    assert L0Penalty(0.0)(openness, 0.0).item() == 0.0
    assert L0Penalty().target_size() is None
    assert not list(L0Penalty().parameters())


@pytest.mark.parametrize("weight", [-1.0, math.nan])
def test_a_price_that_is_not_one_is_refused(weight: float) -> None:
    with pytest.raises(ValueError, match="weight of the L0 penalty"):
        L0Penalty(weight)
