"""A language model with some of its weights zero, differentiable with respect to which.

Every weight w has a logit, and is kept where that is not below a threshold. Forward, the weight is ``w * kept``;
backward the step from logit to kept is taken for the identity (straight-through; Bengio et al. 2013), so that

    dL/dlogit = w * dL/d(w * kept)

to first order what the loss gains if the weight is taken away, for kept and pruned weights alike.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from contextlib import ExitStack
from typing import Any, TypeVar

import torch
from torch import Tensor, nn

Result = TypeVar("Result")

SAMPLE = 2**20
"""So many logits say where the threshold lies: to a twentieth of a percent of the weights."""


class _Kept(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, logits: Tensor, weight: Tensor, threshold: float) -> Tensor:
        ctx.save_for_backward(weight)
        # Ten times as fast as a `where` on a CPU.
        return torch.ge(logits, threshold, out=torch.empty_like(weight)).mul_(weight)

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None, None]:
        (weight,) = ctx.saved_tensors
        return (gradient * weight).float(), None, None


def with_kept(model: nn.Module, logits: Mapping[str, Tensor], threshold: float, call: Callable[[], Result]) -> Result:
    """What ``call`` gives while weights of a model below the threshold are zero; differentiable to the logits.

    What is kept of a module's weights is there while the module runs, and made again for its backward: all of it at
    once would be as large as the logits.

    Args:
        model: the language model, frozen. Its modules hold other weights while they run, and nothing is written to.
        logits: float32 ``[*shape]`` by the names of parameters.
        threshold: from which on a weight is kept.
        call: runs the model in some way.
    """
    parameters = dict(model.named_parameters())
    names = {id(parameters[name]): name for name in logits}
    at_work: dict[int, str] = {}  # by where it stands in memory, what is kept of which parameter

    def kept_of(name: str) -> Tensor:
        return _Kept.apply(logits[name], parameters[name], threshold)

    def pack(saved: Tensor) -> Any:
        name = at_work.get(saved.untyped_storage().data_ptr())
        return saved if name is None else (name, saved.shape, saved.stride(), saved.storage_offset())

    def unpack(packed: Any) -> Tensor:
        if isinstance(packed, Tensor):
            return packed
        name, *view = packed
        with torch.no_grad():
            return kept_of(name).as_strided(*view)

    def begin(module: nn.Module, _inputs: Any) -> None:
        for key, parameter in module._parameters.items():
            if id(parameter) in names:
                kept = module._parameters[key] = kept_of(names[id(parameter)])  # type: ignore[assignment]
                at_work[kept.untyped_storage().data_ptr()] = names[id(parameter)]

    def end(module: nn.Module, *_: Any) -> None:
        for key, kept in module._parameters.items():
            name = None if kept is None else at_work.pop(kept.untyped_storage().data_ptr(), None)
            if name is not None:
                module._parameters[key] = parameters[name]

    with ExitStack() as hooks:
        for module in model.modules():
            if any(id(parameter) in names for parameter in module._parameters.values()):
                hooks.enter_context(module.register_forward_pre_hook(begin))
                hooks.enter_context(module.register_forward_hook(end, always_call=True))
        with torch.autograd.graph.saved_tensors_hooks(pack, unpack):
            return call()


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
