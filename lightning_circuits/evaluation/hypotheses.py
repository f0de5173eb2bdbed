"""Statistical tests of a circuit, after "Hypothesis Testing the Circuit Hypothesis in LLMs" (Shi et al. 2024).

A circuit claims three things: it does what the model does, nothing else does it, and nothing in it is idle. Each claim
is a hypothesis about the logit difference ``s`` (or another measure) on a random prompt, and can be tested. C is the
circuit, M the model, ``M - C`` the complement: all edges but the circuit's.

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
from the input to the logits (`random_circuits`), for edges that are merely scattered do nothing and are no match. In
spans an edge is one in its span, random circuits have as many in each as the circuit, and paths go only where the
prompts' tokens attend, and end where their answers are read.

    >>> report = examine(model, loader, circuit, ABLATIONS.make("interchange"))                        # doctest: +SKIP
    >>> rich.print(hypotheses_table(report))                                                           # doctest: +SKIP

All runs of the model are made once and give one matrix, circuits by prompts (`per_prompt.measured`). The tests
are functions of its rows (`statistical_tests`).

**Several tests at once.** `minimality` tests every edge, and a circuit of many edges would fail by chance: its p-value
is Bonferroni's, the smallest over the edges times their number. `examine` makes five tests: its ``adjusted`` p-values
are Holm's over the five (`holm`). Both hold whatever depends on what.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

import torch
from torch import Tensor

from lightning_circuits.ablation import Ablation
from lightning_circuits.batch import Batch
from lightning_circuits.circuit import Circuit
from lightning_circuits.evaluation.per_prompt import measured
from lightning_circuits.evaluation.random_circuits import Sight, random_paths, superfluous_edges
from lightning_circuits.evaluation.statistical_tests import (
    SignificanceResult,
    bonferroni,
    distance,
    equivalence,
    holm,
    independence,
    minimality,
    partial_necessity,
    require_quantile,
    sufficiency,
)
from lightning_circuits.measures import DEFAULT, MEASURES, AnyMeasure, measure_name
from lightning_circuits.models import CircuitModel

CLAIMS = {
    "equivalence": "wins as often as the model",
    "independence": "the rest is blind to the task",
    "minimality": "no edge is superfluous",
    "sufficiency": "nearer than random circuits",
    "partial necessity": "missed more than random ones",
}
IDEALISED = ("equivalence", "independence", "minimality")


@dataclass(frozen=True)
class HypothesisVerdict:
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
class HypothesisReport:
    """The five verdicts; and of minimality, for each edge tested its flat index, how much cutting it changes (mean
    ``|s(C) - s(C without e)|`` in the unit of ``measure``) and its own p-value, uncorrected."""

    verdicts: list[HypothesisVerdict]
    alpha: float
    ablation: str
    edges: Tensor
    changes: Tensor
    edge_p_values: Tensor
    measure: str = DEFAULT

    def __getitem__(self, test: str) -> HypothesisVerdict:
        return next(verdict for verdict in self.verdicts if verdict.test == test)


def examine(
    model: CircuitModel,
    batches: Iterable[Batch],
    circuit: Circuit,
    ablation: Ablation,
    n_random: int = 100,
    quantile: float = 0.9,
    epsilon: float = 0.1,
    permutations: int = 1000,
    max_edges: int | None = None,
    alpha: float = 0.05,
    seed: int = 0,
    measure: AnyMeasure = DEFAULT,
) -> HypothesisReport:
    """Put a circuit to all five tests on a data set.

    It runs ``3 + 4 n_random`` circuits, and one for each edge tested, on every batch.

    Args:
        model: the frozen model.
        batches: prompts that the circuit was not found on; see `per_prompt.measured`.
        circuit: neither empty nor full.
        ablation: what a cut edge carries; a mean ablation already fitted.
        n_random: how many random circuits, and how many superfluous edges, are drawn.
        quantile: q* of minimality, sufficiency and partial necessity.
        epsilon: the margin of equivalence.
        permutations: of independence.
        max_edges: for minimality, how many edges of the circuit, drawn at random, are tested; default all.
        alpha: the level at which the adjusted p-values are judged.
        seed: of everything that is drawn.
        measure: what s is, see `per_prompt.measured`. Equivalence and
            independence ask how s(M) varies, and KL, which is 0 for the model, does not.

    Returns:
        a `HypothesisReport`; for minimality the statistic is the smallest part of the superfluous edges that an edge
        beats.

    Raises:
        ValueError: an empty or full circuit, one of another layout, one in spans that leaves no path, or of more edges
            in a span than random paths have there, no batches, no draws, a quantile, epsilon, alpha or measure that is
            no such thing.
    """
    name_of_measure = measure_name(measure := MEASURES.make(measure, "measure"))
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
    require_quantile(quantile)

    generator = torch.Generator().manual_seed(seed)
    seeds = torch.randint(2**62, (n_random,), generator=generator).tolist()
    batches = list(batches)  # they are gone through twice
    sight = Sight.of(layout, batches)
    rivals = [random_paths(circuit, torch.Generator().manual_seed(rival_seed), sight) for rival_seed in seeds]
    inflated = superfluous_edges(circuit, n_random, generator, sight)
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
    circuits = [members for group in lineup.values() for members in group]
    scores = measured(model, batches, circuits, ablation, measure)
    of = dict(zip(lineup, scores.split([len(group) for group in lineup.values()]), strict=True))
    full, own = of["full"][0], of["circuit"][0]

    changes, superfluous = distance(of["without"], own), distance(of["inflated"], of["inflated without"])
    edge_p = minimality(changes, superfluous, quantile)
    least = float((changes[:, None] > superfluous).double().mean(1).min())
    found = {
        "equivalence": equivalence(own, full, epsilon),
        "independence": independence(of["complement"][0], full, permutations, seed),
        "minimality": SignificanceResult(least, bonferroni(edge_p), n_random),
        "sufficiency": sufficiency(float(distance(own, full)), distance(of["random"], full), quantile),
        "partial necessity": partial_necessity(
            float(distance(of["complement"][0], full)), distance(of["random complement"], full), quantile
        ),
    }
    adjusted = holm(torch.tensor([result.p_value for result in found.values()])).tolist()
    verdicts = [
        HypothesisVerdict(test, CLAIMS[test], f.statistic, f.n, f.p_value, p, holds=(p > alpha) == (test in IDEALISED))
        for (test, f), p in zip(found.items(), adjusted, strict=True)
    ]
    return HypothesisReport(verdicts, alpha, ablation.name, edges, changes, edge_p, name_of_measure)


def _without(members: Tensor, edge: int) -> Tensor:
    rest = members.clone()
    rest[edge] = False
    return rest
