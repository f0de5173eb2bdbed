"""A language model with some of its weights zero, differentiable with respect to which.

Every weight w has a logit, and is kept where that is not below a threshold. Forward, the weight is ``w * kept``;
backward the step from logit to kept is taken for the identity (straight-through; Bengio et al. 2013), so that

    dL/dlogit = w * dL/d(w * kept)

to first order what the loss gains if the weight is taken away, for kept and pruned weights alike.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, TypeVar

import torch
from torch import Tensor, nn
from torch.func import functional_call

Result = TypeVar("Result")

SAMPLE = 2**20
"""So many logits say where the threshold lies: to a twentieth of a percent of the weights."""


class _Kept(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, logits: Tensor, weight: Tensor, threshold: float) -> Tensor:
        ctx.save_for_backward(weight)
        return weight.where(logits >= threshold, 0.0)

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None, None]:
        (weight,) = ctx.saved_tensors
        return (gradient * weight).float(), None, None


class _Calling(nn.Module):
    """A model, and what is done with it, as one module: what `functional_call` wants."""

    def __init__(self, model: nn.Module, call: Callable[[], Any]) -> None:
        super().__init__()
        self.model, self.call = model, call

    def forward(self) -> Any:
        return self.call()


def with_kept(model: nn.Module, logits: Mapping[str, Tensor], threshold: float, call: Callable[[], Result]) -> Result:
    """What ``call`` gives while weights of a model below the threshold are zero; differentiable to the logits.

    Args:
        model: the language model, frozen. Nothing of it is written to.
        logits: float32 ``[*shape]`` by the names of parameters.
        threshold: from which on a weight is kept.
        call: runs the model in some way.
    """
    parameters = dict(model.named_parameters())
    kept = {f"model.{name}": _Kept.apply(each, parameters[name], threshold) for name, each in logits.items()}
    return functional_call(_Calling(model, call), kept, ())


def threshold_of(logits: Mapping[str, Tensor], density: float, generator: torch.Generator) -> float:
    """The number that a share ``density`` of all logits, float32 ``[...]`` by name, reaches, by a sample of them."""
    sample = sampled(logits, generator)
    return float(sample.kthvalue(max(round((1 - density) * len(sample)), 1)).values) if density < 1 else -float("inf")


def sampled(values: Mapping[str, Tensor], generator: torch.Generator) -> Tensor:
    """Some of all values, ``[...]`` by name: float32 ``[n]``, drawn evenly from each tensor; all, if those are few."""
    total = sum(each.numel() for each in values.values())
    parts = []
    for each in values.values():
        flat = each.detach().flatten()
        if total > SAMPLE:
            n = max(round(SAMPLE * len(flat) / total), 1)
            flat = flat[torch.randint(len(flat), (n,), generator=generator).to(flat.device)]
        parts.append(flat)
    return torch.cat(parts)
