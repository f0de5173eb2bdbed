"""The tests of circuits on scores: known values, p-values that are what they say, power on planted effects."""

from __future__ import annotations

import math
from fractions import Fraction
from itertools import permutations

import pytest
import torch
from torch import Tensor

from lightning_circuits.evaluation.statistical_tests import (
    bonferroni,
    distance,
    equivalence,
    holm,
    independence,
    minimality,
    partial_necessity,
    sufficiency,
)
from tests.support.gates import generator


def wins(n: int, k: int) -> tuple[Tensor, Tensor]:
    """Scores of a circuit that wins k of n prompts, and of the model."""
    return torch.where(torch.arange(n) < k, 1.0, -1.0), torch.zeros(n)


def binomial(n: int, p: Fraction, k: int) -> Fraction:
    return math.comb(n, k) * p**k * (1 - p) ** (n - k)


def ks_distance(p_values: Tensor) -> float:
    """Largest gap between the empirical distribution function of p-values and that of even ones."""
    ordered, n = p_values.sort().values, len(p_values)
    above = torch.arange(1, n + 1) / n - ordered
    return float(torch.maximum(above, ordered - torch.arange(n) / n).max())


# ---- equivalence -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("n", "k", "p"), [(10, 1, 22 / 1024), (10, 9, 22 / 1024), (10, 5, 1), (5, 0, 2 / 32), (1, 1, 1)]
)
def test_without_a_margin_it_is_the_sign_test(n: int, k: int, p: float) -> None:
    found = equivalence(*wins(n, k), epsilon=0.0)
    assert found.p_value == pytest.approx(p, abs=1e-12) and (found.statistic, found.n) == (k / n, n)


@pytest.mark.parametrize(("n", "epsilon"), [(7, Fraction(1, 10)), (12, Fraction(1, 4)), (20, Fraction(0))])
def test_with_a_margin_it_is_the_tail_at_the_border_of_the_null(n: int, epsilon: Fraction) -> None:
    for k in range(n + 1):
        t = abs(Fraction(k, n) - Fraction(1, 2))
        tail = [
            binomial(n, Fraction(1, 2) + epsilon, j) for j in range(n + 1) if abs(Fraction(j, n) - Fraction(1, 2)) >= t
        ]
        assert equivalence(*wins(n, k), epsilon=float(epsilon)).p_value == pytest.approx(float(sum(tail)), abs=1e-12)


@pytest.mark.parametrize(("p", "epsilon"), [(0.5, 0.0), (0.6, 0.1), (0.4, 0.1), (0.5, 0.1)])
def test_equivalence_rejects_a_true_null_no_more_often_than_it_says(p: float, epsilon: float) -> None:
    """Exactly, over all outcomes of 60 prompts; at the border of the null it uses its level up, as steps allow."""
    n = 60
    p_values = torch.tensor(
        [equivalence(*wins(n, k), epsilon=epsilon).p_value for k in range(n + 1)], dtype=torch.float64
    )
    chance = torch.tensor(
        [float(binomial(n, Fraction(p).limit_denominator(10), k)) for k in range(n + 1)], dtype=torch.float64
    )
    for level in p_values.unique().tolist():
        rejected = float(chance[p_values <= level + 1e-12].sum())
        assert rejected <= level + 1e-9
        if abs(p - 0.5) == pytest.approx(epsilon):
            assert rejected == pytest.approx(level, abs=1e-9)


def test_equivalence_finds_a_circuit_that_is_better_and_one_that_is_worse() -> None:
    full = torch.randn(200, generator=generator())
    for shift in (1.5, -1.5):
        circuit = full + shift + torch.randn(200, generator=generator(1))
        assert equivalence(circuit, full).p_value < 1e-6
    assert equivalence(full + 0.01 * torch.randn(200, generator=generator(1)), full).p_value > 0.1


def test_ties_say_nothing() -> None:
    full = torch.linspace(-3, 3, 50)
    assert equivalence(full + 1e-6, full) == (0.5, 1.0, 0)
    circuit = full.clone()
    circuit[:10] += 1
    assert equivalence(circuit, full, epsilon=0.0) == equivalence(*wins(10, 10), epsilon=0.0)


# ---- independence ----------------------------------------------------------------------------------------------------


def hsic_by_sums(x: Tensor, y: Tensor) -> float:
    """HSIC as expectations over pairs, triples and quadruples of prompts, in loops (Gretton et al. 2007, biased)."""
    n = len(x)

    def kernel(z: Tensor) -> list[list[float]]:
        gaps = sorted(abs(float(z[i] - z[j])) for i in range(n) for j in range(i + 1, n))
        width = gaps[(len(gaps) - 1) // 2]
        return [[math.exp(-((float(a - b) / width) ** 2) / 2) for b in z] for a in z]

    k, l = kernel(x), kernel(y)  # noqa: E741
    pairs = sum(k[i][j] * l[i][j] for i in range(n) for j in range(n)) / n**2
    triples = sum(k[i][j] * l[i][q] for i in range(n) for j in range(n) for q in range(n)) / n**3
    apart = sum(map(sum, k)) / n**2 * sum(map(sum, l)) / n**2
    return (pairs + apart - 2 * triples) * n**2 / (n - 1) ** 2


def test_hsic_is_what_its_definition_says() -> None:
    x, y = torch.randn(2, 9, dtype=torch.float64, generator=generator())
    assert independence(x, y, permutations=1).statistic == pytest.approx(hsic_by_sums(x, y), rel=1e-9)


def test_the_permutation_p_value_is_near_the_one_over_all_permutations() -> None:
    x, y = torch.randn(2, 6, dtype=torch.float64, generator=generator(3))
    observed = hsic_by_sums(x, y)
    reached = [hsic_by_sums(x, y[list(order)]) >= observed - 1e-12 for order in permutations(range(6))]
    exact = sum(reached) / len(reached)
    assert independence(x, y, permutations=2000).p_value == pytest.approx(exact, abs=0.04)


def test_p_values_of_independent_scores_are_even() -> None:
    """800 draws; the distance that even ones exceed once in a thousand is 1.95 / sqrt(800) = 0.069."""
    draws = torch.randn(800, 2, 10, generator=generator())
    draws[:, 1] = draws[:, 1].exp()  # whatever their distributions
    p_values = torch.tensor([independence(x, y, permutations=49, seed=i).p_value for i, (x, y) in enumerate(draws)])
    jitter = torch.rand(800, generator=generator(1)) / 50  # of 50 possible values
    assert ks_distance(p_values - jitter) < 0.069
    assert float((p_values <= 0.05).float().mean()) == pytest.approx(0.05, abs=0.025)


def test_independence_finds_dependence_without_correlation_in_any_unit() -> None:
    x = torch.randn(80, generator=generator())
    y = x.square() + 0.1 * torch.randn(80, generator=generator(1))
    for unit, origin in ((1.0, 0.0), (1e-3, 0.0), (1e3, 500.0)):
        assert independence(unit * y + origin, x, permutations=199).p_value == 1 / 200


def test_a_complement_that_does_the_same_for_all_prompts_is_independent() -> None:
    x = torch.randn(20, generator=generator())
    assert independence(torch.full((20,), 3.0), x, permutations=50).p_value == 1
    mostly = torch.zeros(20)
    mostly[0] = 1.0  # the median distance is 0
    assert 0 < independence(mostly, x, permutations=50).p_value <= 1


# ---- minimality, sufficiency, partial necessity ----------------------------------------------------------------------


def test_minimality_by_hand() -> None:
    """Two draws, q* = 0.9: beating none, one, both has p = 0.01, 0.19, 1; drawing level does not beat."""
    p = minimality(torch.tensor([0.5, 1.0, 1.5, 2.0, 3.0]), torch.tensor([1.0, 2.0]), quantile=0.9)
    torch.testing.assert_close(p, torch.tensor([0.01, 0.01, 0.19, 0.19, 1.0], dtype=torch.float64))


def test_sufficiency_and_partial_necessity_by_hand() -> None:
    found = sufficiency(1.0, torch.tensor([0.5, 1.0, 2.0, 3.0]), quantile=0.5)  # farther are two of four
    assert found == (0.5, pytest.approx(11 / 16), 4)
    found = partial_necessity(1.0, torch.tensor([0.5, 1.0, 2.0, 3.0]), quantile=0.5)  # nearer is one
    assert found == (0.25, pytest.approx(15 / 16), 4)
    assert sufficiency(0.0, torch.ones(28)).p_value > 0.05 > sufficiency(0.0, torch.ones(29)).p_value
    assert partial_necessity(2.0, torch.ones(29)).p_value == pytest.approx(0.9**29)


@pytest.mark.parametrize("test", ["minimality", "sufficiency", "partial necessity"])
def test_flexible_tests_reject_a_true_null_as_often_as_they_say(test: str) -> None:
    """2,000 circuits that stand exactly at the quantile of their rivals: the p-values are even, up to their steps."""
    n, quantile, draws = 100, 0.9, 2000
    rivals = torch.rand(draws, n, generator=generator(), dtype=torch.float64)
    if test == "minimality":
        p_values = torch.cat([minimality(torch.tensor([quantile]), row, quantile) for row in rivals])
    elif test == "sufficiency":
        p_values = torch.tensor([sufficiency(1 - quantile, row, quantile).p_value for row in rivals])
    else:
        p_values = torch.tensor([partial_necessity(quantile, row, quantile).p_value for row in rivals])
    for level in (0.01, 0.05, 0.2, 0.5):
        attained = p_values.unique()
        attained = float(attained[attained <= level].max()) if (attained <= level).any() else 0.0
        share = float((p_values <= level).double().mean())
        assert share == pytest.approx(attained, abs=4 * (level * (1 - level) / draws) ** 0.5), level


def test_they_find_what_is_planted() -> None:
    rivals = torch.rand(100, generator=generator())
    assert sufficiency(-0.1, rivals).p_value < 1e-4 and partial_necessity(1.1, rivals).p_value < 1e-4
    assert sufficiency(0.5, rivals).p_value > 0.99 and partial_necessity(0.5, rivals).p_value > 0.99
    changes = torch.cat([torch.full((30,), 2.0), torch.tensor([0.3])])
    p = minimality(changes, rivals)
    assert p[:30].min() > 0.999 and float(p[30]) * 31 < 1e-6 and bonferroni(p) < 1e-6
    assert bonferroni(p[:30]) == 1  # 30 times almost 1


# ---- several tests ---------------------------------------------------------------------------------------------------


def test_holm_by_hand_and_in_any_order() -> None:
    p = torch.tensor([0.03, 0.01, 0.6, 0.02], dtype=torch.float64)
    torch.testing.assert_close(holm(p), torch.tensor([0.06, 0.04, 0.6, 0.06], dtype=torch.float64))
    assert holm(torch.tensor([0.9, 0.8])).tolist() == [1.0, 1.0]
    assert holm(torch.tensor([0.04])).tolist() == pytest.approx([0.04]) and len(holm(torch.zeros(0))) == 0
    assert bonferroni(torch.tensor([0.5, 0.01, 0.2])) == pytest.approx(0.03) and bonferroni(torch.zeros(0)) == 1


def test_holm_is_stepping_down() -> None:
    """The definition, in words: reject the smallest while it is at most alpha over the number that are left."""
    for seed in range(50):
        p = torch.rand(6, generator=generator(seed), dtype=torch.float64) ** 3
        for alpha in (0.01, 0.05, 0.3):
            rejected, left = set(), sorted(range(6), key=lambda i: float(p[i]))
            while left and float(p[left[0]]) <= alpha / len(left):
                rejected.add(left.pop(0))
            assert {i for i, value in enumerate(holm(p).tolist()) if value <= alpha} == rejected


def test_corrections_keep_the_chance_of_any_false_rejection() -> None:
    p = torch.rand(20_000, 10, generator=generator(), dtype=torch.float64)
    assert float((p.min(1).values * 10 <= 0.05).double().mean()) == pytest.approx(0.049, abs=0.006)
    assert float(torch.stack([holm(row).min() <= 0.05 for row in p[:4000]]).double().mean()) <= 0.05 + 0.014


def test_distance() -> None:
    full = torch.tensor([1.0, 2.0])
    assert distance(torch.tensor([[1.0, 2.0], [0.0, 4.0]]), full).tolist() == [0.0, 1.5]


# ---- refused ---------------------------------------------------------------------------------------------------------


def test_scores_that_cannot_be_tested_are_refused() -> None:
    with pytest.raises(ValueError, match="a score for every prompt is needed from both"):
        equivalence(torch.zeros(3), torch.zeros(4))
    with pytest.raises(ValueError, match="epsilon lies in"):
        equivalence(torch.zeros(3), torch.zeros(3), epsilon=-0.1)
    with pytest.raises(ValueError, match="at least 4 prompts"):
        independence(torch.zeros(3), torch.zeros(3))
    with pytest.raises(ValueError, match="no random draws"):
        sufficiency(1.0, torch.zeros(0))
    with pytest.raises(ValueError, match="quantile"):
        partial_necessity(1.0, torch.zeros(3), quantile=0.0)
    with pytest.raises(ValueError, match="no random draws"):
        minimality(torch.zeros(3), torch.zeros(0))
