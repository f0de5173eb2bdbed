"""Where weights begin: in the order of what the loss would gain if each were taken away alone, to second order.

At the whole model the KL to it is 0 and has no gradient. Its curvature is the Fisher information of what the model
says, and without a weight w it grows by

    w^2 F / 2,      F = sum_y p(y) (d log p(y) / dw)^2

("Optimal Brain Damage", LeCun et al. 1990; with Fisher information for the curvature, Theis et al. 2018). That is one
unit for all weights, so they are ranked in the whole: how many a layer, or its norms, keep is found, not given. A mask
that begins at random begins with a broken model, and what is learned from there is a lookup table in it.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping

import torch
from torch import Tensor, nn

from lightning_circuits.measures import log_softmax
from lightning_circuits.weights.straight_through import sampled, with_kept


def start(
    model: nn.Module,
    logits: Mapping[str, Tensor],
    said: Iterable[tuple[float, Callable[[], Tensor]]],
    density: float,
    generator: torch.Generator,
) -> None:
    """Set logits to the ranks of ``w^2 F`` among all weights, from ``density - 1`` to ``density``.

    Args:
        model: the language model, frozen.
        logits: float32 ``[*shape]`` by the names of parameters. Whatever they are is lost.
        said: how much something weighs in the loss, and what runs the model on it: logits ``[n, V]`` of what it says at
            ``n`` places.
        density: the share that is above 0.
        generator: of the signs that `F` is estimated with.
    """
    for each in logits.values():
        each.data.zero_()
    for weight, run in said:
        # All weights are kept, and a gradient with respect to a logit is w times that with respect to w.
        drawn = with_kept(model, logits, -math.inf, lambda run=run: _drawn(run(), generator))  # type: ignore[misc]
        for each, gradient in zip(logits.values(), torch.autograd.grad(drawn, list(logits.values())), strict=True):
            each.data.addcmul_(gradient, gradient, value=weight)  # the logits are where the sum is kept
    among = sampled(logits, generator).sort().values
    for each in logits.values():
        ranks = torch.searchsorted(among, each.data, right=True)
        each.data.copy_(ranks / len(among) - (1 - density))


def _drawn(logits: Tensor, generator: torch.Generator) -> Tensor:
    """A number whose squared gradient is in the mean ``F``, averaged over places, from logits ``[n, V]``.

    Every token comes by the root of its probability and with a random sign, by which the products of two tokens cancel,
    and of two places. A token that is drawn for each place would do as well in the mean, and vary more.
    """
    logs = log_softmax(logits)
    signs = (torch.randint(0, 2, logs.shape, generator=generator) * 2 - 1).to(logs.device)
    return ((logs.detach() / 2).exp() * signs * logs).sum() / math.sqrt(len(logs))
