"""Learned gates: one number per edge that training can move, and a value in [0, 1] made from it.

A gate answers four questions. *What does this step multiply the edges with?* (calling it) *How should edges be ranked?*
(`edge_scores`) *What do open gates cost?* (`penalty`) *What size was it trained for?* (`trained_size`).

    >>> gate = TopK()
    >>> gate.start(n_edges=1000, generator=torch.Generator().manual_seed(0))
    >>> values = gate(torch.Generator().manual_seed(1), progress=0.0)
    >>> values.shape, bool(((values >= 0) & (values <= 1)).all())
    (torch.Size([1000]), True)

Everything random comes from the generator passed in, so a step can be repeated exactly.
"""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor, nn

from lightning_circuits.sparsity import SizeRange, Sparsity, TargetSparsity


class Gate(nn.Module):
    """One learned number per edge; subclasses say what value a gate has."""

    logits: nn.Parameter
    """float32 ``[n_edges]``: what is learned. The larger, the more open."""

    closed_for_good = False
    """Whether a gate whose value is exactly 0 gets no gradient in that step, so that its cost can be saved."""

    def start(self, n_edges: int, generator: torch.Generator) -> None:
        """Make the parameters, all edges alike."""
        self.logits = nn.Parameter(torch.zeros(n_edges))

    def start_from(self, scores: Tensor) -> None:
        """Begin from the ranks of some edge scores ``[n_edges]``: the best edges open, the worst closed."""
        raise NotImplementedError

    def forward(self, generator: torch.Generator, progress: float) -> Tensor:
        """The values ``[n_edges]`` in [0, 1] for one training step, ``progress`` in [0, 1] of the way."""
        raise NotImplementedError

    def edge_scores(self) -> Tensor:
        """float32 ``[n_edges]``: the ranking."""
        return self.logits.detach()

    def penalty(self, progress: float) -> Tensor | None:
        """What open gates cost, a scalar; None for gates whose size is not left to a penalty."""
        return None

    def report(self) -> dict[str, Tensor]:
        """Numbers worth a curve, by name."""
        return {}

    def trained_size(self) -> float | None:
        """The share of the edges that the gates were trained to keep, if there is one."""
        return None


def ranks(scores: Tensor) -> Tensor:
    """Ranks from 0 (worst) to 1 (best)."""
    order = torch.empty_like(scores)
    order[scores.argsort(stable=True)] = torch.arange(len(scores), dtype=scores.dtype, device=scores.device)
    return order / max(len(scores) - 1, 1)


class HardConcrete(Gate):
    """Gates that are exactly 0 or 1 most of the time, with a gradient in between (Louizos et al. 2018).

    With ``u`` uniform noise, ``z = sigmoid((log u - log(1 - u) + logit) / (2/3))`` stretched to (-0.1, 1.1) and clamped
    to [0, 1]. The probability of being open is known in closed form, so the penalty has no noise.

    Args:
        sparsity: `TargetSparsity` or `L0Penalty`.
        start_at: where the logits begin. 2 leaves 3 % of the gates closed and most with a gradient; the 10 of Edge
            Pruning leaves 99.98 % of the gates clamped.
    """

    TEMPERATURE = 2 / 3
    LOW, HIGH = -0.1, 1.1
    closed_for_good = True

    def __init__(self, sparsity: Sparsity | None = None, start_at: float = 2.0) -> None:
        super().__init__()
        self.sparsity = TargetSparsity() if sparsity is None else sparsity
        self.start_at = start_at

    def start(self, n_edges: int, generator: torch.Generator) -> None:
        self.logits = nn.Parameter(self.start_at + 0.01 * torch.randn(n_edges, generator=generator))

    def start_from(self, scores: Tensor) -> None:
        with torch.no_grad():
            self.logits.copy_(self.start_at + 2 * (ranks(scores) - 0.5))

    def forward(self, generator: torch.Generator, progress: float) -> Tensor:
        u = torch.rand(len(self.logits), generator=generator).clamp(1e-6, 1 - 1e-6).to(self.logits.device)
        z = torch.sigmoid((u.log() - (-u).log1p() + self.logits) / self.TEMPERATURE)
        return (z * (self.HIGH - self.LOW) + self.LOW).clamp(0, 1)

    def openness(self) -> Tensor:
        """The expected share of open gates (expected L0 / edges), in closed form, with gradient."""
        shift = self.TEMPERATURE * math.log(-self.LOW / self.HIGH)  # -1.5986: P(z = 0) = sigmoid(shift - logit)
        return torch.sigmoid(self.logits - shift).mean()

    def penalty(self, progress: float) -> Tensor:
        return self.sparsity(self.openness(), progress)

    def report(self) -> dict[str, Tensor]:
        return {"open": self.openness().detach()}

    def trained_size(self) -> float:
        target = self.sparsity.target_size()
        return target if target is not None else self.openness().item()


class TopK(Gate):
    """A soft top-k of which every step asks another size, so that one run ranks the edges for circuits of all sizes.

    The values are ``sigmoid((logits - tau) / T)`` with the threshold ``tau`` at which they sum to k. T falls during
    training, and in its last part the step runs the *hard* circuit of the k best edges, the one that will be reported,
    with the soft values' gradient (straight-through): what training sees is then what evaluation sees.

    Args:
        sizes: which k are drawn.
        temperature: T at the beginning.
        final_temperature: T at the end; it falls geometrically.
        hard_from: how far training is, from 0 to 1, when the circuits become hard; 1 for never.

    Raises:
        ValueError: a temperature that is not positive.
    """

    def __init__(
        self,
        sizes: SizeRange | None = None,
        temperature: float = 0.5,
        final_temperature: float = 0.1,
        hard_from: float = 0.6,
    ) -> None:
        super().__init__()
        if not min(temperature, final_temperature) > 0:
            raise ValueError(f"temperatures must be positive, got {temperature} and {final_temperature}")
        self.sizes = SizeRange() if sizes is None else sizes
        self.temperature, self.final_temperature, self.hard_from = temperature, final_temperature, hard_from

    def start_from(self, scores: Tensor) -> None:
        with torch.no_grad():
            self.logits.copy_(4 * (ranks(scores) - 0.9))

    def forward(self, generator: torch.Generator, progress: float) -> Tensor:
        k = self.sizes.draw(generator) * len(self.logits)
        temperature = self.temperature * (self.final_temperature / self.temperature) ** progress
        soft = _SoftTopK.apply(self.logits, k, temperature)
        if progress < self.hard_from:
            return soft
        hard = torch.zeros_like(soft).index_fill_(0, self.logits.detach().topk(max(round(k), 1)).indices, 1.0)
        return _StraightThrough.apply(soft, hard)


class _SoftTopK(torch.autograd.Function):
    """``m = sigmoid((x - tau) / T)`` with ``sum m = k``.

    tau depends on x: differentiating the sum gives ``dtau/dx_i = m'_i / sum m'`` with ``m' = m (1 - m) / T``, hence
    ``dL/dx = m' (dL/dm - <m', dL/dm> / sum m')``: what one gate gains the others lose.
    """

    @staticmethod
    def forward(ctx: Any, x: Tensor, k: float, temperature: float) -> Tensor:
        low, high = x.min() - 20 * temperature, x.max() + 20 * temperature
        for _ in range(40):
            tau = (low + high) / 2
            too_many = torch.sigmoid((x - tau) / temperature).sum() > k
            low, high = torch.where(too_many, tau, low), torch.where(too_many, high, tau)
        values = torch.sigmoid((x - (low + high) / 2) / temperature)
        ctx.save_for_backward(values)
        ctx.temperature = temperature
        return values

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None, None]:
        (values,) = ctx.saved_tensors
        slope = values * (1 - values) / ctx.temperature
        # All gates may be saturated: then none moves.
        return slope * (grad - (slope @ grad) / slope.sum().clamp(min=1e-30)), None, None


class _StraightThrough(torch.autograd.Function):
    """The hard values, with the gradient of the soft ones."""

    @staticmethod
    def forward(ctx: Any, soft: Tensor, hard: Tensor) -> Tensor:
        return hard

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None]:
        return grad, None
