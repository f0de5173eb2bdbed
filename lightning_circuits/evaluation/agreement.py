"""Do two searches rank the edges alike? Correlations of two circuits' scores, whichever edges the circuits hold.

| measure           | two rankings are alike if                                                                     |
|-------------------|-----------------------------------------------------------------------------------------------|
| Pearson's r       | their scores are proportional: ruled by the few edges with the largest                        |
| Spearman's rho    | edges have about the same ranks: ruled by the many that do nothing                            |
| Kendall's tau-b   | pairs of edges are in the same order; pairs that a ranking leaves level are taken into account |
| average overlap   | their best k edges are the same, for all k down to a depth: ruled by the top                  |

Most of a model's edges do nothing, and their order is noise; a circuit is made of the top. So average overlap (Webber,
Moffat and Zobel 2010) is what speaks of circuits. By chance it is ``(k + 1) / 2n`` at depth k of n edges.

Edges rank as the search of their circuit ranks them: by |score| where it does (`Circuit.absolute`), else by score.

    >>> from lightning_circuits.layout import Layout
    >>> layout = Layout(n_layers=1, n_heads=1, d_model=4)
    >>> none = torch.zeros(layout.n_edges, dtype=torch.bool)
    >>> a = Circuit(layout, none, torch.tensor([8.0, 7.0, 6.0, 5.0, 4.0, 3.0, 2.0, 1.0]))
    >>> b = Circuit(layout, none, torch.tensor([8.0, 6.0, 7.0, 5.0, 4.0, 3.0, 2.0, 1.0]))
    >>> found = score_correlations(a, b, depths=[1, 2, 8])
    >>> round(found.kendall, 3), found.depths, [round(value, 3) for value in found.average_overlap]
    (0.929, (1, 2, 8), [1.0, 0.75, 0.938])
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

import torch
from torch import Tensor

from lightning_circuits.circuit import Circuit
from lightning_circuits.files.numbers import to_json
from lightning_circuits.selection import size_to_count, worth


@dataclass(frozen=True)
class ScoreCorrelations:
    """How alike two rankings of the edges are (see the module); ``average_overlap`` at each of the ``depths``, which
    count edges. A correlation is NaN where a ranking leaves all edges level, Pearson's also where a score is
    infinite."""

    pearson: float
    spearman: float
    kendall: float
    depths: tuple[int, ...]
    average_overlap: tuple[float, ...]

    def to_dict(self) -> dict[str, Any]:
        """Plain JSON data; NaN, which JSON does not have, becomes None."""
        return to_json({**asdict(self), "depths": list(self.depths), "average_overlap": list(self.average_overlap)})


def score_correlations(a: Circuit, b: Circuit, depths: Sequence[float] = (0.01, 0.1, 1.0)) -> ScoreCorrelations:
    """How alike the scores of two circuits rank all edges (see the module); ``n log n`` in their number.

    Args:
        a: a circuit with scores.
        b: another of the same layout.
        depths: where average overlap is taken: numbers of edges, or shares of them (see `selection.size_to_count`).

    Raises:
        ValueError: circuits of different layouts; one without scores, or with one that is NaN; a depth that no circuit
            can have.
        TypeError: a depth that is no number.
    """
    a.layout.require(b.layout, "circuit b")
    counts = [size_to_count(depth, a.layout) for depth in depths]
    one, other = (_ranked_by(name, circuit) for name, circuit in (("a", a), ("b", b)))
    # torchmetrics has both, but sums the ranks of equal scores in 32 bits, which 65,536 of them overflow, and counts
    # Kendall's pairs one by one.
    return ScoreCorrelations(
        pearson=_pearson(one, other),
        spearman=spearman_rho(one, other),
        kendall=kendall_tau_b(one, other),
        depths=tuple(counts),
        average_overlap=tuple(average_overlap(one, other)[[count - 1 for count in counts]].tolist()),
    )


def spearman_rho(one: Tensor, other: Tensor) -> float:
    """Spearman's rho of two vectors ``[n]``: Pearson's r of their ranks, of equal values the mean of theirs.

    NaN where all are level in one of them or one is NaN, and of fewer than two values.
    """
    if len(one) < 2 or (one.isnan() | other.isnan()).any():
        return math.nan
    return _pearson(_mean_ranks(*_ranks(one)), _mean_ranks(*_ranks(other)))


def kendall_tau_b(one: Tensor, other: Tensor) -> float:
    """Kendall's tau-b of two vectors ``[n]`` (Kendall 1945), in ``n log n`` by Knight's (1966) count of exchanges.

    ``(P - Q) / sqrt((n0 - n1) (n0 - n2))``: of all n0 = n (n - 1) / 2 pairs, P are in the same order in both and Q in
    opposite ones, n1 and n2 are level in one and the other. NaN where all are level in one.
    """
    (ranks, ties), (other_ranks, other_ties) = _ranks(one), _ranks(other)
    joint, joint_ties = _ranks(ranks * len(other_ties) + other_ranks)
    n0, n1, n2, n3 = (_pairs(counts) for counts in (joint.new_tensor([len(one)]), ties, other_ties, joint_ties))
    # In the order of one, and of other where one is level, opposite pairs are those that other has the wrong way round.
    opposite = _inversions(other_ranks[joint.argsort()])
    varied = (n0 - n1) * (n0 - n2)
    return (n0 - n1 - n2 + n3 - 2 * opposite) / math.sqrt(varied) if varied else math.nan


def average_overlap(one: Tensor, other: Tensor) -> Tensor:
    """The average overlap of two rankings ``[n]`` at every depth 1 to n (Webber et al. 2010), float64 ``[n]``.

    At depth k it is the mean over d = 1 ... k of the share that the best d of both have in common. Of equal scores the
    lower index goes first, as in circuits; what both leave level, they so agree on.
    """
    places = [scores.sort(descending=True, stable=True).indices.argsort() for scores in (one, other)]
    # What stands at places i and j is in common from depth max(i, j) + 1 on.
    common = torch.bincount(torch.maximum(*places), minlength=len(one)).cumsum(0)
    depths = torch.arange(1, len(one) + 1)
    return (common.double() / depths).cumsum(0) / depths


def _ranked_by(name: str, circuit: Circuit) -> Tensor:
    if circuit.scores is None:
        raise ValueError(f"circuit {name} has no scores to rank edges by; a search gives them, and its files keep them")
    return worth(circuit.scores, circuit.layout, circuit.absolute)


def _ranks(values: Tensor) -> tuple[Tensor, Tensor]:
    """The rank of each value among the different ones, from 0 up, ``[n]``, and how often each of these is there."""
    _, ranks, counts = values.unique(return_inverse=True, return_counts=True)
    return ranks, counts


def _mean_ranks(ranks: Tensor, counts: Tensor) -> Tensor:
    """float64 ``[n]``: the places of the values in their order, of equal ones the mean of theirs."""
    return (counts.cumsum(0) - (counts - 1) / 2).double()[ranks]


def _pearson(one: Tensor, other: Tensor) -> float:
    return float(torch.corrcoef(torch.stack([one, other]).double())[0, 1])


def _pairs(counts: Tensor) -> int:
    """How many pairs lie within groups of these sizes."""
    return int((counts * (counts - 1)).sum()) // 2


def _inversions(ranks: Tensor) -> int:
    """How many pairs of whole numbers ``[n]`` stand in the wrong order, the larger one first.

    Bit by bit from the highest: the numbers are sorted by the bits above, those alike there still in their old order,
    and of these every 1 before a 0 is such a pair, told by this bit.
    """
    found = 0
    for bit in reversed(range(int(ranks.max()).bit_length())):
        alike, one = ranks >> bit + 1, ranks >> bit & 1
        ones = torch.cat([one.new_zeros(1), one.cumsum(0)])
        before = ones[:-1] - ones[torch.searchsorted(alike, alike)]
        found += int(before[one == 0].sum())
        ranks = ranks[(ranks >> bit).argsort(stable=True)]
    return found
