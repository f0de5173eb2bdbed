"""How much two circuits have in common, and how much of that is chance.

Node overlap without a null is empty. A circuit of 2 % of SmolLM2-135M's edges goes through half of its nodes, and two
random halves share a third of what either has; that the circuits of two tasks share half of their heads is hardly news,
then. What random pairs share is the *null* that an overlap is held against:

| null     | does the pair share more than two random sets ...                                                      |
|----------|--------------------------------------------------------------------------------------------------------|
| `size`   | of as many edges (in spans, as many in every span), or as many nodes?                                  |
| `layer`  | of as many edges from each layer to each layer (and in every span), or as many nodes in each layer?    |
| `paths`  | of as many edges (in every span), all on paths from the input to the logits; or of the nodes of these? |

All circuits are denser in some layers, so two that have nothing else to do with each other exceed `size`, but not
`layer`. Both are known exactly: what is in common, summed over the groups, is hypergeometric in each. Nodes are drawn
as nodes: as many edges, scattered, would touch nearly all of them.

Random paths are drawn (`random_circuits.random_paths`). They crowd near the input and spread over nearly all nodes,
more than found circuits do: a node overlap below theirs says that circuits are concentrated, not that they differ.

    >>> layout = Layout(n_layers=2, n_heads=2, d_model=8)
    >>> a, b = Circuit.random(layout, 12, seed=0), Circuit.random(layout, 12, seed=1)
    >>> found = overlap(a, b)
    >>> round(found.iou, 2), round(found.expected, 2), (round(found.low, 2), round(found.high, 2)), round(found.p, 2)
    (0.09, 0.15, (0.04, 0.33), 0.9)
"""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass
from typing import Any, Literal

import torch
from torch import Tensor

from lightning_circuits.arguments import require_choice, require_seed, require_whole_numbers
from lightning_circuits.circuit import Circuit, ComparedBy
from lightning_circuits.evaluation.random_circuits import paths_like
from lightning_circuits.files.numbers import to_json
from lightning_circuits.layout import Layout

Null = Literal["size", "layer", "paths"]
"""What random pairs have in common with the circuits that they are held against."""


@dataclass(frozen=True)
class Overlap:
    """What two circuits a and b have in common, beside what random pairs have (see the module).

    ``of``: edges, edges in any span, or nodes, which ``in_a``, ``in_b`` and ``both`` count. ``iou`` is both over those
    in either, ``precision`` the share of a's that b has, ``recall`` the share of b's that a has.

    ``null``: what random pairs are like; ``draws``: how many were drawn, 0 where the null is known exactly. Their IoU:
    its mean ``expected``, standard deviation ``std``, and the 95 % interval from ``low`` to ``high``.

    ``log10_p``: the logarithm of the chance that a random pair has this IoU or more; the hypergeometric p where the
    null is exact, else ``(1 + k) / (1 + draws)`` with k of the draws reaching it. Of circuits of one task p is often
    too small for a float, the logarithm is not.
    """

    of: str
    null: str
    draws: int
    in_a: int
    in_b: int
    both: int
    iou: float
    precision: float
    recall: float
    expected: float
    std: float
    low: float
    high: float
    log10_p: float

    @property
    def p(self) -> float:
        """The p-value itself; 0 where no float is as small."""
        return float(10**self.log10_p)

    @property
    def z(self) -> float:
        """How many standard deviations the IoU lies above the expected one; NaN where random pairs are all alike."""
        return (self.iou - self.expected) / self.std if self.std else math.nan

    def to_dict(self) -> dict[str, Any]:
        """Plain JSON data, ``p`` and ``z`` included; NaN, which JSON does not have, becomes None."""
        return to_json({**asdict(self), "p": self.p, "z": self.z})


def overlap(
    a: Circuit, b: Circuit, of: ComparedBy = "edges", null: Null = "size", draws: int = 200, seed: int = 0
) -> Overlap:
    """What two circuits have in common, held against a null (see the module).

    Args:
        a: a circuit.
        b: another. By ``edges-in-any-span`` and by ``nodes`` it may be in other spans, or in none.
        of: what is compared (see `Circuit.iou`).
        null: what random pairs are like. Under ``paths`` the circuits are pruned first: all edges of those lead
            somewhere.
        draws: how many pairs are drawn under ``paths``, both circuits anew.
        seed: of the draws.

    Raises:
        ValueError: circuits of different layouts; one that has nothing to compare, if need be once it is pruned;
            another word for ``of`` or ``null``; fewer than one draw, a negative seed.
        TypeError: draws or a seed that are no whole numbers.
    """
    require_choice("null", null, Null)
    require_whole_numbers(draws=draws)
    require_seed(seed)
    if draws < 1:
        raise ValueError(f"an overlap is held against at least one draw, got {draws}")
    if null == "paths":
        a, b = a.prune(), b.prune()
    iou = a.iou(b, of)
    mine, theirs = a.parts(of), b.parts(of)
    for name, parts in (("a", mine), ("b", theirs)):
        if not parts.any():
            pruned = " once it is pruned" if null == "paths" else ""
            raise ValueError(f"circuit {name} has no {of}{pruned}, so that it has nothing in common with any other")
    in_a, in_b, both = int(mine.sum()), int(theirs.sum()), int((mine & theirs).sum())
    if null == "paths":
        values = _of_drawn_paths(a, b, of, draws, seed)
        chances = torch.full_like(values, 1 / draws)
        log_p = math.log((1 + int((values >= iou).sum())) / (1 + draws))
    else:
        log_chances = _log_in_common(mine, theirs, _groups(a.layout, of, null))
        in_common = torch.arange(len(log_chances), dtype=torch.float64)
        values, chances = in_common / (in_a + in_b - in_common), log_chances.exp()
        log_p = min(0.0, float(log_chances[both:].logsumexp(0)))
    expected = float(values @ chances)
    up_to = chances.cumsum(0)
    low, high = (float(values[(up_to < share).sum().clamp(max=len(values) - 1)]) for share in (0.025, 0.975))
    return Overlap(
        of=of,
        null=null,
        draws=draws if null == "paths" else 0,
        in_a=in_a,
        in_b=in_b,
        both=both,
        iou=iou,
        precision=both / in_a,
        recall=both / in_b,
        expected=expected,
        std=math.sqrt(float((values - expected) ** 2 @ chances)),
        low=low,
        high=high,
        log10_p=log_p / math.log(10),
    )


# ---- what is drawn ---------------------------------------------------------------------------------------------------


def _of_drawn_paths(a: Circuit, b: Circuit, of: ComparedBy, draws: int, seed: int) -> Tensor:
    """float64 ``[draws]``, ascending: the IoU of pairs of random paths (`paths_like`)."""
    generator = torch.Generator().manual_seed(seed)
    drawn = [paths_like(a, generator).iou(paths_like(b, generator), of) for _ in range(draws)]
    return torch.tensor(drawn, dtype=torch.float64).sort().values


# ---- what is known exactly -------------------------------------------------------------------------------------------


def _groups(layout: Layout, of: ComparedBy, null: Null) -> Tensor:
    """int64, one number for everything that is compared: within a group of equal ones it might be any other.

    The input and the logits count as layers.
    """
    if of != "edges":
        layout = layout.plain
    if null == "size":
        return torch.zeros(layout.n_nodes, dtype=torch.int64) if of == "nodes" else layout.edge_span
    layers = torch.tensor([component.layer for component in layout.components]) + 1
    of_writers, n = layers[layout.writer_component], layout.n_layers + 2
    if of == "nodes":
        return torch.cat([of_writers, layers[-1:]])
    of_readers = layers[layout.reader_component]
    return (layout.edge_span * n + of_writers[layout.edge_writer]) * n + of_readers[layout.edge_reader]


def _log_in_common(mine: Tensor, theirs: Tensor, groups: Tensor) -> Tensor:
    """float64: log P of 0, 1, 2 ... in common, if of every group as many were drawn anew for both."""
    n = int(groups.max()) + 1
    counts = [torch.bincount(some, minlength=n).tolist() for some in (groups, groups[mine], groups[theirs])]
    log_p = torch.zeros(1, dtype=torch.float64)
    for of_group in zip(*counts, strict=True):
        log_p = _of_sum(log_p, _hypergeometric(*of_group))
    return log_p


def _hypergeometric(total: int, n: int, m: int) -> Tensor:
    """float64 ``[min(n, m) + 1]``: log P of k in common, of n and m drawn from ``total``.

    P = C(n, k) C(total - n, m - k) / C(total, m).
    """
    k = torch.arange(min(n, m) + 1, dtype=torch.float64)
    return _log_ways(n, k) + _log_ways(total - n, m - k) - _log_ways(total, k.new_tensor(m))


def _log_ways(total: int, chosen: Tensor) -> Tensor:
    """log C(total, chosen); minus infinity for more than there are."""
    return math.lgamma(total + 1) - torch.lgamma(chosen + 1) - torch.lgamma(total - chosen + 1)


def _of_sum(one: Tensor, other: Tensor) -> Tensor:
    """log P of 0, 1, 2 ... for the sum of two independent counts, from those of each."""
    total = one.new_full((len(one) + len(other) - 1,), -math.inf)
    for k in other.isfinite().nonzero()[:, 0].tolist():
        total[k : k + len(one)] = torch.logaddexp(total[k : k + len(one)], one + other[k])
    return total
