"""Where weights begin: in the order of how much each puts out, |w| times the size of what it meets.

A mask that begins at random begins with a broken model, and one that is learned from there is a lookup table in it.
Pruned by ``|w| * |x|`` within every output (Sun et al. 2023, "A Simple and Effective Pruning Approach for Large
Language Models"), half of a model still says much of what it said. Norms and biases begin open: they are few, and
everything depends on each.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor

from lightning_circuits.models import CircuitModel
from lightning_circuits.models.block_weights import block_weights
from lightning_circuits.weights.space import WeightSpace


@torch.no_grad()
def input_sizes(model: CircuitModel, space: WeightSpace, call: Callable[[], object]) -> dict[str, Tensor]:
    """How large the inputs of the modules are that have a weight: float32 ``[d_in]`` by the names of the weights.

    The root of the sum of squares, over all tokens that ``call`` runs the model on. Padding counts as well, alike for
    all.
    """
    names = {tensor.name for tensor in space.tensors}
    squares: dict[str, Tensor] = {}
    hooks = []
    for weight in block_weights(model):
        if weight.name in names and weight.inputs is not None:

            def add(module: Any, args: tuple[Tensor, ...], name: str = weight.name) -> None:
                more = args[0].detach().float().flatten(0, -2).square().sum(0)
                squares[name] = squares.get(name, torch.zeros_like(more)) + more

            hooks.append(weight.module.register_forward_pre_hook(add))
    try:
        call()
    finally:
        for hook in hooks:
            hook.remove()
    return {name: each.sqrt() for name, each in squares.items()}


@torch.no_grad()
def start_logits(
    model: CircuitModel, space: WeightSpace, sizes: Mapping[str, Tensor], density: float
) -> dict[str, Tensor]:
    """Logits, float32 ``[*shape]`` by name, of which a share ``density`` is above 0 in every output of every matrix.

    They are the ranks of ``|w| * |x|`` among the weights of an output, from ``density - 1`` to ``density``; of a matrix
    whose inputs are not known, of |w| among all of its weights. Those of norms and biases are ``density``, the highest.

    Args:
        model: the language model.
        space: the weights.
        sizes: from `input_sizes`.
        density: the share to begin with.
    """
    parameters, logits = space.parameters(model.model), {}
    inputs = {weight.name: weight.inputs for weight in block_weights(model)}
    for tensor in space.tensors:
        weight, axis = parameters[tensor.name].detach().abs().float(), inputs[tensor.name]
        if weight.ndim < 2:
            logits[tensor.name] = torch.full_like(weight, density)
            continue
        if axis is None or tensor.name not in sizes:
            rows = weight.flatten()[None]
        else:
            rows = (weight.T if axis == 0 else weight) * sizes[tensor.name]
        ranks = (rows.argsort(dim=1, stable=True).argsort(1) + 1).float() / rows.shape[1]  # from above 0 to 1
        ranks = ranks - (1 - density)
        logits[tensor.name] = (ranks.T if axis == 0 else ranks).reshape(weight.shape).contiguous()
    return logits
