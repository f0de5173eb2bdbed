"""Statistical tests of a circuit, as functions of scores: numbers in, p-values out, no model.

The five of "Hypothesis Testing the Circuit Hypothesis in LLMs" (Shi et al. 2024); what each claims, and all of them on
a model, is in `hypotheses`. Scores are what a measure says of each prompt, such as the logit difference: a row of
`per_prompt.measured` for each circuit.

    >>> model_scores, circuit_scores = torch.zeros(40), torch.tensor([1.0, 1.0, -1.0, 1.0]).repeat(10)
    >>> found = equivalence(circuit_scores, model_scores, epsilon=0.0)
    >>> found.statistic, round(found.p_value, 4), found.n
    (0.75, 0.0022, 40)
"""

from __future__ import annotations

import math
from typing import NamedTuple

import torch
from torch import Tensor

from lightning_circuits.evaluation.metrics import RESOLUTION


class SignificanceResult(NamedTuple):
    """What a test found: its statistic, its p-value, and the number of prompts or draws it rests on."""

    statistic: float
    p_value: float
    n: int


def equivalence(circuit: Tensor, full: Tensor, epsilon: float = 0.1) -> SignificanceResult:
    """Do circuit and model win equally often? A sign test with a margin (Shi et al. 2024).

    Null: ``|P(s(C) > s(M)) - 1/2| <= epsilon``. Statistic: the share of n prompts that the circuit wins. With K ~
    Binomial(n, 1/2 + epsilon), the null's border, ``p = P(|K/n - 1/2| >= |statistic - 1/2|)``. With epsilon 0 that is
    the exact two-sided sign test. Ties, closer than `RESOLUTION`, say nothing about who wins and are left out, as usual
    in a sign test; without any other prompt p is 1.

    Args:
        circuit: ``[n_prompts]``, logit differences of the circuit.
        full: ``[n_prompts]``, those of the model.
        epsilon: how far from 1/2 still counts as equal, in [0, 1/2).

    Raises:
        ValueError: an epsilon outside; scores of different shapes.
    """
    if not 0 <= epsilon < 0.5:
        raise ValueError(f"epsilon lies in [0, 1/2), got {epsilon}")
    change = _same_shape(circuit, full)[0] - full.double()
    decided = change.abs() >= RESOLUTION
    n, wins = int(decided.sum()), int((change[decided] > 0).sum())
    if n == 0:
        return SignificanceResult(0.5, 1.0, 0)
    # In whole numbers, |2k - n| >= |2 wins - n|: k/n is not exact.
    k = torch.arange(n + 1)
    as_far = (2 * k - n).abs() >= abs(2 * wins - n)
    p = _binomial(n, 0.5 + epsilon)[as_far].sum()
    return SignificanceResult(wins / n, min(1.0, float(p)), n)


def independence(complement: Tensor, full: Tensor, permutations: int = 1000, seed: int = 0) -> SignificanceResult:
    """Does the model without the circuit still know which prompts are easy? (Shi et al. 2024.)

    Null: s(M - C) and s(M) are independent. Statistic: the Hilbert-Schmidt independence criterion ``HSIC = tr(K H L H)
    / (n - 1)^2`` (Gretton et al. 2007) with Gaussian kernels K, L over the two scores, each as wide as the median
    distance of two prompts, and H the centring matrix. It is 0 only for independent scores. By permutation: with b of m
    shuffles of one score against the other reaching the statistic, ``p = (1 + b) / (1 + m)``. Scores that are the same
    for all prompts are independent of everything: p is 1.

    Args:
        complement: ``[n_prompts]``, logit differences of the complement. Memory grows with the square of the prompts.
        full: ``[n_prompts]``, those of the model.
        permutations: m. No p-value is below ``1 / (1 + m)``.
        seed: of the shuffles.

    Raises:
        ValueError: fewer than 4 prompts, which cannot be shuffled to any effect; no permutation; other shapes.
    """
    x, y = _same_shape(complement, full)
    n = len(x)
    if n < 4 or permutations < 1:
        raise ValueError(f"independence needs at least 4 prompts and 1 permutation, got {n} and {permutations}")
    of_x, of_y = _centred_kernel(x), _centred_kernel(y)
    observed = (of_x * of_y).sum()
    generator = torch.Generator().manual_seed(seed)
    reached = 0
    for _ in range(permutations):
        order = torch.randperm(n, generator=generator)
        # Shuffles that change nothing give the same sum in another order: a tie, whatever the rounding says.
        reached += int((of_x * of_y[order][:, order]).sum() >= observed - 1e-9 * observed.abs())
    return SignificanceResult(float(observed) / (n - 1) ** 2, (1 + reached) / (1 + permutations), n)


def minimality(changes: Tensor, inflated: Tensor, quantile: float = 0.9) -> Tensor:
    """Does cutting this edge change more than cutting a superfluous one? (Shi et al. 2024.)

    Null, for each edge e of C: ``P(change(e) > change of a random superfluous edge) >= q*``. Statistic: the number k of
    the n draws that the edge beats. With K ~ Binomial(n, q*), ``p = P(K <= k)``: small if the edge does no more than a
    superfluous one. An edge that only draws level does not beat.

    Args:
        changes: ``[n_edges]``, for each edge the mean over prompts of ``|s(C) - s(C without e)|``.
        inflated: ``[n_draws]``, the same for random edges that do not belong: each the change of a circuit C' = C and a
            random path, when an edge of the path that is not in C is cut.
        quantile: q*, in (0, 1).

    Returns:
        p-values, float64 ``[n_edges]``, of the single edges; for all of them together see `bonferroni`.

    Raises:
        ValueError: a quantile outside, no draws.
    """
    require_quantile(quantile)
    n = _draws(inflated)
    beaten = (changes[:, None] > inflated).sum(1)
    return _binomial(n, quantile).cumsum(0).clamp(max=1.0)[beaten]


def sufficiency(distance: float, random_distances: Tensor, quantile: float = 0.9) -> SignificanceResult:
    """Is the circuit nearer to the model than random circuits of its size? (Shi et al. 2024.)

    Null: ``P(distance(C) < distance(random circuit)) <= q*``. Statistic: the share k/n of the n random circuits that
    are farther. With K ~ Binomial(n, q*), ``p = P(K >= k)``. For p below 0.05 at q* = 0.9 it takes 29 draws at least.

    Args:
        distance: the mean over prompts of ``|s(M) - s(C)|``.
        random_distances: ``[n_draws]``, the same of random circuits with as many edges.
        quantile: q*, in (0, 1).

    Raises:
        ValueError: a quantile outside, no draws.
    """
    return _beats(int((distance < random_distances).sum()), _draws(random_distances), quantile)


def partial_necessity(distance: float, random_distances: Tensor, quantile: float = 0.9) -> SignificanceResult:
    """Does the model miss the circuit more than it misses random circuits of its size? (Shi et al. 2024.)

    Null: ``P(distance(M - C) > distance(M - random circuit)) <= q*``. Statistic: the share k/n of the n random circuits
    whose complement is nearer to the model. With K ~ Binomial(n, q*), ``p = P(K >= k)``.

    Args:
        distance: the mean over prompts of ``|s(M) - s(M - C)|``.
        random_distances: ``[n_draws]``, the same of the complements of random circuits with as many edges.
        quantile: q*, in (0, 1).

    Raises:
        ValueError: a quantile outside, no draws.
    """
    return _beats(int((distance > random_distances).sum()), _draws(random_distances), quantile)


def bonferroni(p_values: Tensor) -> float:
    """One p-value for many tests ``[n]``: that all their null hypotheses hold. ``min(1, n * smallest)``; 1 for none."""
    return min(1.0, len(p_values) * float(p_values.min())) if len(p_values) else 1.0


def holm(p_values: Tensor) -> Tensor:
    """p-values adjusted for being several, by Holm (1979), float64 of the same shape ``[n]``.

    The i-th smallest of n becomes ``max over j <= i of min(1, (n - j + 1) p_(j))``. Rejecting where that is at most
    alpha, the chance to reject any true hypothesis at all is at most alpha, however the tests depend on each other.
    """
    n = len(p_values)
    ordered, order = p_values.double().sort()
    steps = (ordered * torch.arange(n, 0, -1)).clamp(max=1.0)
    adjusted = torch.empty_like(ordered)
    adjusted[order] = steps.cummax(0).values if n else steps
    return adjusted


def distance(scores: Tensor, full: Tensor) -> Tensor:
    """How far circuits are from a model: the mean over prompts of ``|s - s(M)|``; ``[..., n_prompts]`` to ``[...]``."""
    return (scores.double() - full.double()).abs().mean(-1)


def _same_shape(one: Tensor, other: Tensor) -> tuple[Tensor, Tensor]:
    if one.shape != other.shape or one.ndim != 1:
        raise ValueError(
            f"a score for every prompt is needed from both, got shapes {tuple(one.shape)}, {tuple(other.shape)}"
        )
    return one.double(), other.double()


def require_quantile(quantile: float) -> None:
    if not 0 < quantile < 1:
        raise ValueError(f"the quantile q* lies between 0 and 1, got {quantile}")


def _draws(values: Tensor) -> int:
    if not len(values):
        raise ValueError("no random draws to compare with")
    return len(values)


def _beats(k: int, n: int, quantile: float) -> SignificanceResult:
    require_quantile(quantile)
    return SignificanceResult(k / n, min(1.0, float(_binomial(n, quantile)[k:].sum())), n)


def _binomial(n: int, p: float) -> Tensor:
    """float64 ``[n + 1]``: the probabilities of 0 to n successes in n trials, 0 < p < 1."""
    k = torch.arange(n + 1, dtype=torch.float64)
    ways = math.lgamma(n + 1) - torch.lgamma(k + 1) - torch.lgamma(n - k + 1)
    return (ways + k * math.log(p) + (n - k) * math.log1p(-p)).exp()


def _centred_kernel(x: Tensor) -> Tensor:
    """``H K H`` ``[n, n]`` of a Gaussian kernel as wide as the median distance of two different prompts."""
    apart = (x[:, None] - x).abs()
    pairs = apart[torch.ones_like(apart, dtype=torch.bool).triu(1)]
    width = pairs.median()
    if width == 0:  # most prompts score the same
        width = pairs.mean()
    if width == 0:  # all do: the kernel is constant
        return torch.zeros_like(apart)
    kernel = (-((apart / width) ** 2) / 2).exp()
    return kernel - kernel.mean(0) - kernel.mean(1, keepdim=True) + kernel.mean()
