"""What a circuit of weights is made of, and what two have in common.

Of a part of the model, such as its norms:

- **share**: how much of the circuit it is. Norms are .04 % of GPT-2's block weights, and can never be much of it.
- **retention**: how much of the part the circuit keeps.
- **enrichment**: retention over density: above 1 the circuit prefers the part.

"60 % of the circuit is LayerNorm" can only be a retention.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any, Literal

from lightning_circuits.arguments import require_choice
from lightning_circuits.files.numbers import to_json
from lightning_circuits.weights.weight_circuit import WeightCircuit, Within

By = Literal["kind", "layer", "tensor"]
"""Parts of a model: attention, MLPs, norms; its layers (embeddings and head are parts of their own); single tensors."""


@dataclass(frozen=True)
class Composition:
    """A part of the model in a circuit: how many of its ``weights`` are ``kept``, and the three numbers above."""

    part: str
    weights: int
    kept: int
    share: float
    retention: float
    enrichment: float

    def to_dict(self) -> dict[str, Any]:
        """Plain JSON data; a number that does not exist is None."""
        return to_json(asdict(self))


def composition(circuit: WeightCircuit, by: By = "kind") -> list[Composition]:
    """What a circuit is made of, part by part, in the order of the model. Shares are NaN in an empty circuit."""
    require_choice("by", by, By)
    of = {
        "kind": lambda tensor: tensor.kind,
        "layer": lambda tensor: tensor.kind if tensor.layer is None else tensor.layer,
        "tensor": lambda tensor: tensor.name,
    }
    total, density = circuit.n_weights, circuit.density
    rows = []
    for part, tensors in circuit.space.groups(of[by]):
        n, kept = sum(tensor.n_weights for tensor in tensors), sum(map(circuit.kept, tensors))
        share, enrichment = (kept / total, kept / n / density) if total else (math.nan, math.nan)
        rows.append(Composition(str(part), n, kept, share, kept / n, enrichment))
    return rows


@dataclass(frozen=True)
class WeightOverlap:
    """What two circuits share, beside what random ones of their densities do.

    ``iou`` is the weights in both over those in either. ``expected`` is that of the mean number that random circuits
    share which keep as many weights in the whole, or in every tensor; ``z``, by how many standard deviations of that
    number the two share more.
    """

    within: str
    both: int
    iou: float
    expected: float
    z: float

    def to_dict(self) -> dict[str, Any]:
        """Plain JSON data; a number that does not exist is None."""
        return to_json(asdict(self))


def weight_overlap(a: WeightCircuit, b: WeightCircuit, within: Within = "tensor") -> WeightOverlap:
    """What two circuits of the same weights have in common, held against chance.

    Args:
        a: a circuit.
        b: another.
        within: what random ones have as many of: weights in the ``whole``, or in every ``tensor``.

    Raises:
        ValueError: they are of other weights.
    """
    require_choice("within", within, Within)
    a.space.require(b.space, "the other circuit")
    both, counts = 0, []
    for (tensor, mine), (_, theirs) in zip(a.masks(), b.masks(), strict=True):
        both += int((mine & theirs).sum())
        counts.append((tensor.n_weights, int(mine.sum()), int(theirs.sum())))
    n, in_a, in_b = (sum(column) for column in zip(*counts, strict=True))
    mean, variance = _hypergeometric(counts if within == "tensor" else [(n, in_a, in_b)])
    either = in_a + in_b
    spread = math.sqrt(variance)
    return WeightOverlap(
        within,
        both,
        both / (either - both) if either else math.nan,
        mean / (either - mean) if either else math.nan,
        (both - mean) / spread if spread else math.nan,
    )


def _hypergeometric(counts: Sequence[tuple[int, int, int]]) -> tuple[float, float]:
    """Mean and variance of how many are drawn twice, where of n two people draw a and b, over several such piles."""
    mean = variance = 0.0
    for n, a, b in counts:
        mean += a * b / n
        variance += a * (b / n) * (1 - b / n) * (n - a) / (n - 1) if n > 1 else 0.0
    return mean, variance
