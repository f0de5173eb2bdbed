"""The way from the reference to the clean prompt: where on it gradients are taken, and with what weight.

>>> integral("left", 2)
[PathPoint(at=0.0, weight=0.5), PathPoint(at=0.5, weight=0.5)]
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal, NamedTuple

import numpy as np
from torch import Tensor

from lightning_circuits.arguments import require_choice

Rule = Literal["left", "midpoint", "gauss-legendre"]


class PathPoint(NamedTuple):
    """A step of an integral: how far it is from the reference (0) to the clean prompt (1), and its weight.

    ``at``: the same for all prompts of a batch, or that of each row, ``[B]``.
    """

    at: float | Tensor
    weight: float


CLEAN = (PathPoint(1.0, 1.0),)
"""No integral: gradients on the clean prompt alone."""
ENDS = (PathPoint(0.0, 0.5), PathPoint(1.0, 0.5))
"""Both ends, and nothing between."""


def clean_alone(points: Sequence[PathPoint]) -> bool:
    """Whether they are all at the clean prompt, where the model is the full one."""
    return all(not isinstance(point.at, Tensor) and point.at == 1.0 for point in points)


def _left(steps: int) -> Sequence[tuple[float, float]]:
    return [(k / steps, 1 / steps) for k in range(steps)]


def _midpoint(steps: int) -> Sequence[tuple[float, float]]:
    return [((k + 0.5) / steps, 1 / steps) for k in range(steps)]


def _gauss_legendre(steps: int) -> Sequence[tuple[float, float]]:
    nodes, weights = np.polynomial.legendre.leggauss(steps)  # on [-1, 1]
    return list(zip(((1 + nodes) / 2).tolist(), (weights / 2).tolist(), strict=True))


_RULES = {"left": _left, "midpoint": _midpoint, "gauss-legendre": _gauss_legendre}


MOST_STEPS = 1000
"""Of an integral."""


def require_steps(steps: int) -> None:
    """It can be the number of points of an integral.

    Raises:
        ValueError: less than one step, or more than `MOST_STEPS`.
    """
    if steps < 1:
        raise ValueError(f"an integral takes at least 1 step, got {steps}")
    if steps > MOST_STEPS:
        raise ValueError(
            f"an integral takes at most {MOST_STEPS:,} steps, got {steps:,}: all of them go through the model at once, "
            "each with all prompts of a batch. 5 are usual"
        )


def integral(rule: Rule, steps: int) -> list[PathPoint]:
    """The points of an integral from the reference to the clean prompt.

    Args:
        rule: where they are, with k = 0 .. steps - 1: ``left``, k / steps; ``midpoint``, (k + 1/2) / steps;
            ``gauss-legendre``, exact for polynomials up to degree 2 steps - 1.
        steps: how many.

    Raises:
        ValueError: less than one step, or more than `MOST_STEPS`; an unknown rule.
    """
    require_steps(steps)
    require_choice("rule", rule, Rule)
    return [PathPoint(at, weight) for at, weight in _RULES[rule](steps)]
