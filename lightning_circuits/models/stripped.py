"""A copy of a model that has the weights of some of its parts alone.

What a family says of a model tells which weights are whose: the modules of a part by their names, and of an attention
the weights that queries, keys, values and outputs are made of, whatever form they have there (side by side, fused,
transposed). They are found by autograd on a copy that holds no numbers.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from copy import deepcopy
from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd.graph import get_gradient_edge

from lightning_circuits.blocks import Part
from lightning_circuits.models.base import CircuitModel
from lightning_circuits.models.linear_graph import nodes_below
from lightning_circuits.models.live_heads import KINDS, LiveHeads


def stripped(model: CircuitModel, parts: Sequence[Part]) -> CircuitModel:
    """A model of its own, frozen, that computes these parts as the other does, and no others.

    Args:
        model: to be read from; it stays as it is.
        parts: attentions, or some of their units, and MLPs.
    """
    heads = {part.component.layer: live_heads(model, part) for part in parts if part.component.kind == "attention"}
    mlps = {part.component.layer for part in parts if part.component.kind == "mlp"}
    without = _not_needed(model, heads, mlps)
    instead = {id(each): _empty(each) for name, each in model.model.named_parameters() if name in without}
    own = deepcopy(model.model, instead)
    take_out(own, lambda parameter: parameter.is_meta)
    return with_heads(type(model)(own, model.layout.kv), heads)


def with_heads(model: CircuitModel, heads: Mapping[int, LiveHeads]) -> CircuitModel:
    """The model itself, its attentions being these, by layer."""
    model.live_heads = heads
    return model


@torch.no_grad()
def live_heads(model: CircuitModel, part: Part) -> LiveHeads:
    """The heads of an attention that are in a part of it, in tensors of their own."""
    layer, layout = part.component.layer, model.layout
    units = torch.arange(layout.n_kv_readers, device=model.device) if part.units is None else part.units
    norm, heads, weights = model.read_norm(model.attention_norm(layer)), model.heads(units), dict[str, Tensor]()
    of_kinds = zip(KINDS, model.projections(layer), model.readers(), (heads, units, units), strict=True)
    for kind, (weight, bias), n_readers, readers in of_kinds:
        blocks, which = (readers // (n_readers // len(weight))).unique(return_inverse=True)
        weights[kind], constant = norm.folded(weight[blocks], None if bias is None else bias[blocks])
        if constant is not None:
            weights[f"{kind}_constant"] = constant
        if len(which.bincount().unique()) > 1:  # not as many readers to each block
            weights[f"{kind}_blocks"] = which
    weights["output"] = model.output_weight(layer)[heads]
    return LiveHeads({name: each.contiguous() for name, each in weights.items()}, model.readers(units))


def take_out(model: nn.Module, which: Callable[[nn.Parameter], bool]) -> None:
    """Leave a module without its parameters of which ``which(parameter)`` is true, in place: they are None."""
    for module in model.modules():
        for name, parameter in module.named_parameters(recurse=False):
            if which(parameter):
                setattr(module, name, None)


def _not_needed(model: CircuitModel, attentions: Iterable[int], mlps: Iterable[int]) -> set[str]:
    """The names of weights that are only of parts that are not these, or of heads."""
    empty = {id(each): _empty(each).requires_grad_() for each in model.model.parameters()}
    shape = type(model)(deepcopy(model.model, empty), model.layout.kv, freeze=False)
    of_parts, needed = set[nn.Parameter](), set[nn.Parameter]()
    for layer in range(model.layout.n_layers):
        of_heads = set(_leaves(_of_heads(shape, layer)))
        attention, mlp = _parameters(_attention(shape, layer)) | of_heads, _parameters(_mlp(shape, layer))
        of_parts |= attention | mlp
        needed |= attention - of_heads if layer in attentions else set()
        needed |= mlp if layer in mlps else set()
    of_parts |= _parameters(_beside(shape))
    return {name for name, each in shape.model.named_parameters() if each in of_parts - needed}


def _attention(model: CircuitModel, layer: int) -> list[nn.Module]:
    around = [model.attention_norm(layer), model.output_module(layer), model.norm_after_attention(layer)]
    return [*around, model.attention_module(layer)] if hasattr(model, "where") else around


def _mlp(model: CircuitModel, layer: int) -> list[nn.Module]:
    return [model.mlp_norm(layer), model.mlp_module(layer), model.norm_after_mlp(layer)]


def _beside(model: CircuitModel) -> list[nn.Module]:
    """What stands beside the decoder in the module that it is in, such as a tower for images; not a head at the top."""
    path, _, name = model.where.decoder.rpartition(".") if hasattr(model, "where") else ("", "", "")
    return [each for other, each in model.model.get_submodule(path).named_children() if path and other != name]


@torch.enable_grad()
def _of_heads(model: CircuitModel, layer: int) -> list[Tensor]:
    """What the heads of a layer are made of."""
    tensors = [each for projection in model.projections(layer) for each in projection if each is not None]
    return [*tensors, model.output_weight(layer)]


def _leaves(tensors: Iterable[Tensor]) -> Iterator[Any]:
    """The parameters that some tensors have been made of."""
    roots = [get_gradient_edge(each).node for each in tensors if each.requires_grad]
    return (node.variable for node in nodes_below(roots) if hasattr(node, "variable"))


def _parameters(modules: Iterable[nn.Module]) -> set[nn.Parameter]:
    return {parameter for module in modules for parameter in module.parameters()}


def _empty(parameter: nn.Parameter) -> nn.Parameter:
    """A parameter of the same shape that holds no numbers."""
    return nn.Parameter(torch.empty_like(parameter, device="meta"), requires_grad=False)
