"""Soft top-k gates: every step asks for another size, and one run ranks the edges for circuits of all sizes."""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor

from lightning_circuits.arguments import require_instance, require_numbers
from lightning_circuits.gates.base import GATES, Gate, normalised_ranks
from lightning_circuits.gates.sizes import SizeRange


@GATES.register
class TopK(Gate):
    """A soft top-k of which every step asks another size, so that one run ranks the edges for circuits of all sizes.

    The values are ``sigmoid((logits - tau) / T)`` with the threshold ``tau`` at which they sum to k. Soft gates learn
    well, but a mask of which thousands of gates are a little open is not yet a circuit: the hard circuit of its k best
    edges can be far worse. So T falls during training, and in its last part a step runs the hard circuit itself, with
    the soft values' gradient (straight-through). What training sees is then what evaluation sees.

    A step moves edges by what eight prompts or so say at one size, so the last logits are those of the last few steps.
    The ranking is their mean over the last part of training (Polyak and Juditsky 1992), which is a better one: at 5 %
    KL .067 for .091 in `benchmarks/ioi_smollm2.py`, seed 2.

    Args:
        sizes: which k are asked for. Default: those of `SizeRange`.
        temperature: T at the beginning.
        final_temperature: T at the end.
        anneal_from: how far training is, from 0 to 1, when T begins to fall, geometrically.
        hard_from: how far training is when the circuits become hard; 1 for never.
        average_from: how far training is when the mean of the logits begins; 1 for the last ones.

    Raises:
        ValueError: a temperature that is not positive, or a part of training that is not in [0, 1].
        TypeError: an argument of a wrong type.
    """

    def __init__(
        self,
        sizes: SizeRange | None = None,
        temperature: float = 0.5,
        final_temperature: float = 0.05,
        anneal_from: float = 0.3,
        hard_from: float = 0.75,
        average_from: float = 2 / 3,
    ) -> None:
        super().__init__()
        require_numbers(temperature=temperature, final_temperature=final_temperature)
        require_numbers(anneal_from=anneal_from, hard_from=hard_from, average_from=average_from)
        if not (0 < temperature < math.inf and 0 < final_temperature < math.inf):
            raise ValueError(f"temperatures must be positive and finite, got {temperature} and {final_temperature}")
        for name, value in (("anneal_from", anneal_from), ("hard_from", hard_from), ("average_from", average_from)):
            if not 0 <= value <= 1:
                raise ValueError(f"{name} is a part of training in [0, 1], got {value}")
        self.sizes = SizeRange() if sizes is None else require_instance("sizes", sizes, SizeRange)
        self.temperature, self.final_temperature = temperature, final_temperature
        self.anneal_from, self.hard_from, self.average_from = anneal_from, hard_from, average_from

    counts = ("averaged",)
    average: Tensor
    """float32 ``[n_edges]``: the mean of the logits after each of `averaged` steps."""
    averaged: Tensor
    """int64 scalar: how many steps are in the mean."""

    def start(self, n_edges: int, generator: torch.Generator) -> None:
        super().start(n_edges, generator)
        self.register_buffer("average", torch.zeros(n_edges, dtype=torch.float32))
        self.register_buffer("averaged", torch.zeros((), dtype=torch.int64))
        self._out_of_reach: bool | Tensor = False  # of the values that were made last, where these are hard

    def start_from(self, scores: Tensor) -> None:
        # By the logarithm of the rank, as sizes are asked for by theirs: from one size to half of it is the same way
        # everywhere. Were ranks spread evenly, the best tenth would lie within two steps of the optimizer, and an edge
        # that a small circuit is better without would fall out of the large ones too, which have no gradient for it.
        n = len(scores)
        with torch.no_grad():
            self.logits.copy_(math.log(n) - (n - (n - 1) * normalised_ranks(scores.double())).log())
            self.averaged.zero_()

    def forward(self, generator: torch.Generator, number: int, progress: float) -> Tensor:
        k = self.sizes.size(number, progress) * len(self.logits)
        fallen = max(0.0, progress - self.anneal_from) / max(1 - self.anneal_from, 1e-9)
        temperature = self.temperature * (self.final_temperature / self.temperature) ** fallen
        soft = _SoftTopK.apply(self.logits, k, temperature)
        if progress < self.hard_from:
            return soft
        best = self.logits.detach().sort(descending=True, stable=True).indices  # of equals the first, as in `selection`
        hard = torch.zeros_like(soft).index_fill_(0, best[: max(round(k), 1)], 1.0)
        self._out_of_reach = (soft.detach() == 0) & (hard == 0)
        return _StraightThrough.apply(soft, hard)

    @torch.no_grad()
    def after_step(self, progress: float) -> None:
        if progress < self.average_from:
            self.averaged.zero_()  # of an earlier training
        else:
            self.averaged += 1
            self.average += (self.logits - self.average) / self.averaged

    def edge_scores(self) -> Tensor:
        return self.average if self.averaged else super().edge_scores()

    def ranks_up_to(self) -> float:
        return self.sizes.high

    def parameter_groups(self) -> list[dict[str, Any]]:
        # Adam divides a gradient by its usual size, so that an edge that hardly matters would walk as far as any other,
        # at random, and leave the rank that it began with. Gradients below this epsilon stay small. (The best hundred
        # edges of SmolLM2-135M have 1e-3, those around the 5 % line 3e-5, the lower half less than 1e-7. With 1e-4,
        # circuits of 5 and 10 % come out a third worse, `benchmarks/places.py` per span, seed 1.)
        return [{"params": [self.logits], "eps": 3e-4}]

    def closed_for_good(self, progress: float) -> bool | Tensor:
        # Of a hard circuit, an edge that is not in it may be the better one, if its soft value is not 0 too.
        return True if progress < self.hard_from else self._out_of_reach


class _SoftTopK(torch.autograd.Function):
    """``m = sigmoid((x - tau) / T)`` with ``sum m = k``, and 0 where that is below `TINY`.

    tau depends on x: differentiating the sum gives ``dtau/dx_i = m'_i / sum m'`` with ``m' = m (1 - m) / T``, hence
    ``dL/dx = m' (dL/dm - <m', dL/dm> / sum m')``: what one gate gains the others lose.
    """

    # A million gates at this value are one edge, their gradient m (1 - m) / T is as small; as exact zeros they cost
    # nothing, and as the denormal numbers that low temperatures make of them they would slow a CPU down tenfold.
    TINY = 1e-6

    @staticmethod
    def forward(ctx: Any, x: Tensor, k: float, temperature: float) -> Tensor:
        low, high = x.min() - 20 * temperature, x.max() + 20 * temperature
        for _ in range(40):
            tau = (low + high) / 2
            too_many = torch.sigmoid((x - tau) / temperature).sum() > k
            low, high = torch.where(too_many, tau, low), torch.where(too_many, high, tau)
        values = torch.sigmoid((x - (low + high) / 2) / temperature)
        values = values.masked_fill_(values < _SoftTopK.TINY, 0.0)
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
