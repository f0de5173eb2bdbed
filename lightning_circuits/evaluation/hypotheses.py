"""Statistical tests of a circuit, after "Hypothesis Testing the Circuit Hypothesis in LLMs" (Shi et al. 2024).

A circuit claims three things: it does what the model does, nothing else does it, and nothing in it is idle. Each claim
is a hypothesis about the logit difference ``s`` on a random prompt, and can be tested. C is the circuit, M the model,
``M - C`` the complement: all edges but the circuit's.

*Idealised* tests. The null hypothesis is the claim, so a small p-value speaks **against** the circuit.

| test         | null hypothesis                                                                                    |
|--------------|----------------------------------------------------------------------------------------------------|
| equivalence  | circuit and model win equally often: P(s(C) > s(M)) within epsilon of 1/2                          |
| independence | what the complement does has nothing to do with what the model does: s(M - C), s(M) independent    |
| minimality   | every edge e matters: cutting it changes more than cutting an edge of a random path that was added |
|              | to C, at least in a share q* of the draws                                                          |

*Flexible* tests. The null hypothesis is that the circuit is nothing special, so a small p-value speaks **for** it.

| test              | null hypothesis                                                                                |
|-------------------|------------------------------------------------------------------------------------------------|
| sufficiency       | C is nearer to the model than a random circuit of its size in at most a share q* of the draws   |
| partial necessity | taking C away takes the model farther than taking a random circuit of its size, in at most q*   |

How near two circuits are is the mean over prompts of ``|s(one) - s(other)|``. Random circuits are made of random paths
from the input to the logits (`random_paths`), for edges that are merely scattered do nothing and are no match.

    >>> report = examine(model, circuit, loader, ABLATIONS.make("interchange"))                        # doctest: +SKIP
    >>> rich.print(hypotheses_table(report))                                                           # doctest: +SKIP

All runs of the model are made once and give one matrix, circuits by prompts (`per_prompt.logit_differences`). The tests
are functions of its rows and need no model:

    >>> model_scores, circuit_scores = torch.zeros(40), torch.tensor([1.0, 1.0, -1.0, 1.0]).repeat(10)
    >>> found = equivalence(circuit_scores, model_scores, epsilon=0.0)
    >>> found.statistic, round(found.p_value, 4), found.n
    (0.75, 0.0022, 40)

**Several tests at once.** `minimality` tests every edge, and a circuit of many edges would fail by chance: its p-value
is Bonferroni's, the smallest over the edges times their number. `examine` makes five tests: its ``adjusted`` p-values
are Holm's over the five (`holm`). Both hold whatever depends on what.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor

from lightning_circuits.ablation import Ablation
from lightning_circuits.batch import Batch
from lightning_circuits.circuit import Circuit
from lightning_circuits.evaluation.per_prompt import logit_differences
from lightning_circuits.layout import Layout, reader_nodes
from lightning_circuits.models import CircuitModel

TIE = 1e-4
"""Logit differences this close are a tie: between two ways of computing one model in float32, that is rounding."""


class Finding(NamedTuple):
    """What a test found: its statistic, its p-value, and the number of prompts or draws it rests on."""

    statistic: float
    p_value: float
    n: int


# ---- the tests, as functions of scores -------------------------------------------------------------------------------


def equivalence(circuit: Tensor, full: Tensor, epsilon: float = 0.1) -> Finding:
    """Do circuit and model win equally often? A sign test with a margin (Shi et al. 2024).

    Null: ``|P(s(C) > s(M)) - 1/2| <= epsilon``. Statistic: the share of n prompts that the circuit wins. With K ~
    Binomial(n, 1/2 + epsilon), the null's border, ``p = P(|K/n - 1/2| >= |statistic - 1/2|)``. With epsilon 0 that is
    the exact two-sided sign test. Ties, closer than `TIE`, say nothing about who wins and are left out, as usual in a
    sign test; without any other prompt p is 1.

    Args:
        circuit, full: ``[n_prompts]``, logit differences of the circuit and of the model.
        epsilon: how far from 1/2 still counts as equal, in [0, 1/2).

    Raises:
        ValueError: an epsilon outside; scores of different shapes.
    """
    if not 0 <= epsilon < 0.5:
        raise ValueError(f"epsilon lies in [0, 1/2), got {epsilon}")
    change = _same_shape(circuit, full)[0] - full.double()
    decided = change.abs() >= TIE
    n, wins = int(decided.sum()), int((change[decided] > 0).sum())
    if n == 0:
        return Finding(0.5, 1.0, 0)
    # In whole numbers, |2k - n| >= |2 wins - n|: k/n is not exact.
    k = torch.arange(n + 1)
    as_far = (2 * k - n).abs() >= abs(2 * wins - n)
    p = _binomial(n, 0.5 + epsilon)[as_far].sum()
    return Finding(wins / n, min(1.0, float(p)), n)


def independence(complement: Tensor, full: Tensor, permutations: int = 1000, seed: int = 0) -> Finding:
    """Does the model without the circuit still know which prompts are easy? (Shi et al. 2024.)

    Null: s(M - C) and s(M) are independent. Statistic: the Hilbert-Schmidt independence criterion ``HSIC = tr(K H L H)
    / (n - 1)^2`` (Gretton et al. 2007) with Gaussian kernels K, L over the two scores, each as wide as the median
    distance of two prompts, and H the centring matrix. It is 0 only for independent scores. By permutation: with b of m
    shuffles of one score against the other reaching the statistic, ``p = (1 + b) / (1 + m)``. Scores that are the same
    for all prompts are independent of everything: p is 1.

    Args:
        complement, full: ``[n_prompts]``, logit differences of the complement and of the model. Memory grows with the
            square of the prompts.
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
    return Finding(float(observed) / (n - 1) ** 2, (1 + reached) / (1 + permutations), n)


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
    _require_quantile(quantile)
    n = _draws(inflated)
    beaten = (changes[:, None] > inflated).sum(1)
    return _binomial(n, quantile).cumsum(0).clamp(max=1.0)[beaten]


def sufficiency(distance: float, random_distances: Tensor, quantile: float = 0.9) -> Finding:
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


def partial_necessity(distance: float, random_distances: Tensor, quantile: float = 0.9) -> Finding:
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
    """One p-value for many tests: that all their null hypotheses hold. ``min(1, number * smallest)``; 1 for none."""
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


def _require_quantile(quantile: float) -> None:
    if not 0 < quantile < 1:
        raise ValueError(f"the quantile q* lies between 0 and 1, got {quantile}")


def _draws(values: Tensor) -> int:
    if not len(values):
        raise ValueError("no random draws to compare with")
    return len(values)


def _beats(k: int, n: int, quantile: float) -> Finding:
    _require_quantile(quantile)
    return Finding(k / n, min(1.0, float(_binomial(n, quantile)[k:].sum())), n)


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


# ---- random circuits -------------------------------------------------------------------------------------------------


def random_paths(layout: Layout, n: int, seed: int = 0) -> Tensor:
    """A random circuit of n edges that is made of paths from the input to the logits; bool ``[n_edges]``, n times True.

    A path is drawn from the logits down: an even draw of a writer that the reader can read, then, at a head, of its
    query, key or value, and so on until the writer is the input. Paths are joined until there are n edges; the last
    one is cut short at its lower end.

    Raises:
        ValueError: more edges than there are, or fewer than none.
    """
    if not 0 <= n <= layout.n_edges:
        raise ValueError(f"cannot draw {n:,} of the {layout.n_edges:,} edges of {layout}")
    generator = torch.Generator().manual_seed(seed)
    chosen: dict[int, None] = {}  # in the order of their coming
    while len(chosen) < n:
        for path in _draw_paths(layout, min(n - len(chosen), 4096), generator):
            chosen.update(dict.fromkeys(path))
            if len(chosen) >= n:
                break
    members = torch.zeros(layout.n_edges, dtype=torch.bool)
    members[list(chosen)[:n]] = True
    return members


def _draw_paths(layout: Layout, count: int, generator: torch.Generator) -> list[list[int]]:
    """``count`` random paths, each the flat indices of its edges from the logits down. All are drawn side by side."""
    readers, nodes = reader_nodes(layout)
    by_node = readers[nodes.argsort(stable=True)]
    per_node = torch.bincount(nodes, minlength=layout.n_nodes)  # 0 for the input, 3 for a head, 1 for the others
    first = per_node.cumsum(0) - per_node

    def below(sizes: Tensor) -> Tensor:
        return (torch.rand(len(sizes), generator=generator, dtype=torch.float64) * sizes).long()

    paths: list[list[int]] = [[] for _ in range(count)]
    alive, node = torch.arange(count), torch.full((count,), layout.n_writers)
    while len(alive):
        reader = by_node[first[node] + below(per_node[node])]
        writer = below(layout.reader_prefix[reader])
        for path, edge in zip(alive.tolist(), (layout.reader_offset[reader] + writer).tolist(), strict=True):
            paths[path].append(edge)
        alive, node = alive[writer > 0], writer[writer > 0]
    return paths


def _superfluous(circuit: Circuit, count: int, generator: torch.Generator) -> list[tuple[Tensor, int]]:
    """``count`` pairs: the members of circuit and random path, and an edge of the path that is not the circuit's."""
    own = set(circuit.members.nonzero()[:, 0].tolist())
    drawn: list[tuple[Tensor, int]] = []
    while len(drawn) < count:
        for path in _draw_paths(circuit.layout, count - len(drawn), generator):
            if new := [edge for edge in path if edge not in own]:
                members = circuit.members.clone()
                members[path] = True
                drawn.append((members, new[int(torch.randint(len(new), (), generator=generator))]))
    return drawn


# ---- all of them on a model ------------------------------------------------------------------------------------------

CLAIMS = {
    "equivalence": "wins as often as the model",
    "independence": "the rest is blind to the task",
    "minimality": "no edge is superfluous",
    "sufficiency": "nearer than random circuits",
    "partial necessity": "missed more than random ones",
}
IDEALISED = ("equivalence", "independence", "minimality")


@dataclass(frozen=True)
class Verdict:
    """One test: the claim about the circuit, what was found, the p-value adjusted by Holm over all tests, and whether
    the claim stands: it was not rejected (idealised tests), or its contrary was (flexible tests)."""

    test: str
    claim: str
    statistic: float
    n: int
    p_value: float
    adjusted: float
    holds: bool


@dataclass(frozen=True)
class Report:
    """The five verdicts; and of minimality, for each edge tested its flat index, how much cutting it changes (mean
    ``|s(C) - s(C without e)|`` in logits) and its own p-value, uncorrected."""

    verdicts: list[Verdict]
    alpha: float
    ablation: str
    edges: Tensor
    changes: Tensor
    edge_p_values: Tensor

    def __getitem__(self, test: str) -> Verdict:
        return next(verdict for verdict in self.verdicts if verdict.test == test)


def examine(
    model: CircuitModel,
    circuit: Circuit,
    batches: Iterable[Batch],
    ablation: Ablation,
    n_random: int = 100,
    quantile: float = 0.9,
    epsilon: float = 0.1,
    permutations: int = 1000,
    max_edges: int | None = None,
    alpha: float = 0.05,
    seed: int = 0,
) -> Report:
    """Put a circuit to all five tests on a data set.

    It runs ``3 + 4 n_random`` circuits, and one for each edge tested, on every batch.

    Args:
        model: the frozen model.
        circuit: neither empty nor full.
        batches: prompts that the circuit was not found on; see `per_prompt.logit_differences`.
        ablation: what a cut edge carries; a mean ablation already fitted.
        n_random: how many random circuits, and how many superfluous edges, are drawn.
        quantile: q* of minimality, sufficiency and partial necessity.
        epsilon: the margin of equivalence.
        permutations: of independence.
        max_edges: for minimality, how many edges of the circuit, drawn at random, are tested; default all.
        alpha: the level at which the adjusted p-values are judged.
        seed: of everything that is drawn.

    Returns:
        a `Report`; for minimality the statistic is the smallest share of superfluous edges that an edge beats.

    Raises:
        ValueError: an empty or full circuit, one of another layout, no batches, no draws, a quantile, epsilon or
            alpha that is no such thing.
    """
    layout = circuit.layout
    model.layout.require(layout, "the circuit")
    if circuit.n_edges in (0, layout.n_edges):
        raise ValueError(
            f"a circuit of {circuit.n_edges:,} of {layout.n_edges:,} edges claims nothing that can be tested"
        )
    if n_random < 1 or (max_edges is not None and max_edges < 1):
        raise ValueError(f"at least one random circuit and one edge are needed, got {n_random} and {max_edges}")
    if permutations < 1:
        raise ValueError(f"independence needs at least 1 permutation, got {permutations}")
    if not 0 < alpha < 1 or not 0 <= epsilon < 0.5:
        raise ValueError(f"alpha lies between 0 and 1 and epsilon in [0, 1/2), got {alpha} and {epsilon}")
    _require_quantile(quantile)

    generator = torch.Generator().manual_seed(seed)
    seeds = torch.randint(2**62, (n_random,), generator=generator).tolist()
    rivals = [random_paths(layout, circuit.n_edges, rival_seed) for rival_seed in seeds]
    inflated = _superfluous(circuit, n_random, generator)
    edges = circuit.members.nonzero()[:, 0]
    if max_edges is not None and max_edges < len(edges):
        edges = edges[torch.randperm(len(edges), generator=generator)[:max_edges]].sort().values

    lineup = {
        "full": [torch.ones_like(circuit.members)],
        "circuit": [circuit.members],
        "complement": [~circuit.members],
        "random": rivals,
        "random complement": [~members for members in rivals],
        "inflated": [members for members, _ in inflated],
        "inflated without": [_without(members, edge) for members, edge in inflated],
        "without": [_without(circuit.members, edge) for edge in edges.tolist()],
    }
    scores = logit_differences(model, [members for group in lineup.values() for members in group], batches, ablation)
    of = dict(zip(lineup, scores.split([len(group) for group in lineup.values()]), strict=True))
    full, own = of["full"][0], of["circuit"][0]

    changes, superfluous = distance(of["without"], own), distance(of["inflated"], of["inflated without"])
    edge_p = minimality(changes, superfluous, quantile)
    least = float((changes[:, None] > superfluous).double().mean(1).min())
    found = {
        "equivalence": equivalence(own, full, epsilon),
        "independence": independence(of["complement"][0], full, permutations, seed),
        "minimality": Finding(least, bonferroni(edge_p), n_random),
        "sufficiency": sufficiency(float(distance(own, full)), distance(of["random"], full), quantile),
        "partial necessity": partial_necessity(
            float(distance(of["complement"][0], full)), distance(of["random complement"], full), quantile
        ),
    }
    adjusted = holm(torch.tensor([finding.p_value for finding in found.values()])).tolist()
    verdicts = [
        Verdict(test, CLAIMS[test], f.statistic, f.n, f.p_value, p, holds=(p > alpha) == (test in IDEALISED))
        for (test, f), p in zip(found.items(), adjusted, strict=True)
    ]
    return Report(verdicts, alpha, ablation.name, edges, changes, edge_p)


def _without(members: Tensor, edge: int) -> Tensor:
    rest = members.clone()
    rest[edge] = False
    return rest
