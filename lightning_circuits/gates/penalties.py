"""What makes gates close: a price on open ones, or a target share with multipliers.

Sizes are shares of all edges throughout. `progress` is how far training is, from 0 to 1.
"""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor, nn

from lightning_circuits.arguments import require_numbers
from lightning_circuits.registry import Registry


class Sparsity(nn.Module):
    """A term of the loss that closes gates."""

    def forward(self, openness: Tensor, progress: float) -> Tensor:
        """The penalty for an expected share of open gates (expected L0 / edges, a scalar)."""
        raise NotImplementedError(f"{type(self).__name__} does not say forward(openness, progress)")

    def target_size(self) -> float | None:
        """The share of the edges that is asked for, if one is."""
        return None

    def parameter_groups(self) -> list[dict[str, Any]]:
        """What the optimizer is to move, in its own words."""
        return []


SPARSITIES = Registry("sparsity", Sparsity)


@SPARSITIES.register
class TargetSparsity(Sparsity):
    """Ask for a given sparsity: ``l1 * excess + l2 * excess^2``, with multipliers that grow while it is not reached.

    ``excess`` is how far the expected share of open gates is *above* the share allowed. That share falls geometrically
    from 1 to ``1 - target`` in the first ``warmup`` of training, so that as much of it is spent between 10 % and 1 % as
    between 100 % and 10 %. Below the allowed share nothing pushes gates open again but the objective. The multipliers
    are parameters that the optimizer *ascends* (Lagrange; Louizos et al. 2018 and Edge Pruning, which asks for equality
    and lowers the share linearly, so that most of its training is spent on circuits far larger than the target).

    Args:
        target: the share of closed gates, in [0, 1): 0.99 keeps 1 % of the edges.
        warmup: the share of training in which the allowed share falls.
        multiplier_lr: learning rate of the multipliers.

    Raises:
        ValueError: a target outside [0, 1), a warmup outside [0, 1], or a learning rate that is not positive.
        TypeError: an argument that is not a number.
    """

    def __init__(self, target: float = 0.99, warmup: float = 0.6, multiplier_lr: float = 10.0) -> None:
        super().__init__()
        require_numbers(target=target, warmup=warmup, multiplier_lr=multiplier_lr)
        if not 0 <= target < 1:
            raise ValueError(
                f"target sparsity must be in [0, 1), got {target}: it is the share of edges that are cut, "
                "so 0.99 keeps 1 % of them"
            )
        if not 0 <= warmup <= 1:
            raise ValueError(f"warmup is a share of training in [0, 1], got {warmup}")
        if not 0 < multiplier_lr < math.inf:
            raise ValueError(f"multiplier_lr must be positive and finite, got {multiplier_lr}")
        self.target, self.warmup, self.multiplier_lr = target, warmup, multiplier_lr
        self.multipliers = nn.Parameter(torch.zeros(2, dtype=torch.float32))

    def forward(self, openness: Tensor, progress: float) -> Tensor:
        allowed = (1 - self.target) ** (min(1.0, progress / self.warmup) if self.warmup else 1.0)
        excess = (openness - allowed).clamp(min=0)
        return self.multipliers[0] * excess + self.multipliers[1] * excess.square()

    def target_size(self) -> float:
        return round(1 - self.target, 12)  # 1 - .9 is a little less than .1, and would be rounded down by an edge

    def parameter_groups(self) -> list[dict[str, Any]]:
        return [{"params": [self.multipliers], "lr": self.multiplier_lr, "maximize": True}]


@SPARSITIES.register
class L0Penalty(Sparsity):
    """A price on every open gate: ``weight * expected L0 / edges``.

    Raises:
        ValueError: a negative weight.
        TypeError: a weight that is not a number.
    """

    def __init__(self, weight: float = 1.0) -> None:
        super().__init__()
        require_numbers(weight=weight)
        if not 0 <= weight < math.inf:
            raise ValueError(f"the weight of the L0 penalty must not be negative or infinite, got {weight}")
        self.weight = weight

    def forward(self, openness: Tensor, progress: float) -> Tensor:
        return self.weight * openness
