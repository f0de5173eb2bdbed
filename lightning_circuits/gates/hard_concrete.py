"""Hard concrete gates: exactly 0 or 1 most of the time, with a gradient in between (Louizos et al. 2018)."""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor, nn

from lightning_circuits.arguments import require_numbers
from lightning_circuits.gates.base import GATES, Gate, normalised_ranks
from lightning_circuits.gates.penalties import SPARSITIES, Sparsity


@GATES.register
class HardConcrete(Gate):
    """Gates that are exactly 0 or 1 most of the time, with a gradient in between (Louizos et al. 2018).

    With ``u`` uniform noise, ``z = sigmoid((log u - log(1 - u) + logit) / (2/3))`` stretched to (-0.1, 1.1) and clamped
    to [0, 1]. The probability of being open is known in closed form, so the penalty has no noise.

    Args:
        sparsity: what closes gates, `TargetSparsity`, `L0Penalty` or one of your own; an object or its name.
        start_at: where the logits begin. 2 leaves 3 % of the gates closed and most with a gradient; the 10 of Edge
            Pruning leaves 99.98 % of the gates clamped.

    Raises:
        ValueError, TypeError: an unknown sparsity, or an argument of a wrong type.
    """

    TEMPERATURE = 2 / 3
    LOW, HIGH = -0.1, 1.1

    def __init__(self, sparsity: Sparsity | str = "TargetSparsity", start_at: float = 2.0) -> None:
        super().__init__()
        self.sparsity = SPARSITIES.make(sparsity)
        require_numbers(start_at=start_at)
        self.start_at = start_at

    def start(self, n_edges: int, generator: torch.Generator) -> None:
        noise = torch.randn(n_edges, generator=generator, dtype=torch.float32)
        self.logits = nn.Parameter(self.start_at + 0.01 * noise)

    def start_from(self, scores: Tensor) -> None:
        with torch.no_grad():
            self.logits.copy_(
                8 * (normalised_ranks(scores) - 0.8)
            )  # from all but closed to open: some 40 % open in expectation

    def forward(self, generator: torch.Generator, number: int, progress: float) -> Tensor:
        u = torch.rand(len(self.logits), generator=generator, dtype=torch.float32).clamp(1e-6, 1 - 1e-6)
        u = u.to(self.logits.device)
        z = torch.sigmoid((u.log() - (-u).log1p() + self.logits) / self.TEMPERATURE)
        return (z * (self.HIGH - self.LOW) + self.LOW).clamp(0, 1)

    def closed_for_good(self, progress: float) -> bool:
        return True

    def openness(self) -> Tensor:
        """The expected share of open gates (expected L0 / edges), a scalar in closed form, with gradient."""
        shift = self.TEMPERATURE * math.log(-self.LOW / self.HIGH)  # -1.5986: P(z = 0) = sigmoid(shift - logit)
        return torch.sigmoid(self.logits - shift).mean()

    def parameter_groups(self) -> list[dict[str, Any]]:
        return [*super().parameter_groups(), *self.sparsity.parameter_groups()]

    def penalty(self, progress: float) -> Tensor:
        return self.sparsity(self.openness(), progress)

    def report(self) -> dict[str, Tensor]:
        return {"open": self.openness().detach()}

    def trained_size(self) -> float:
        target = self.sparsity.target_size()
        return target if target is not None else self.openness().item()
