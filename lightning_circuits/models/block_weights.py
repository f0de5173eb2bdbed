"""The single weights of a model's blocks: which tensors there are, and what part of a block each belongs to.

>>> block_weights(wrap(load_model("tiny-ioi")))[0].name                                          # doctest: +SKIP
'model.layers.0.self_attn.q_proj.weight'
"""

from __future__ import annotations

from typing import Literal, NamedTuple

from torch import nn

from lightning_circuits.models.base import CircuitModel

WeightKind = Literal["attention", "mlp", "norm"]
"""What part of a block a weight belongs to. Norms inside of an attention or MLP, as Qwen3's of q and k, are norms."""


class BlockWeight(NamedTuple):
    """A parameter of a block: its name in the language model, its layer and kind, and the tensor."""

    name: str
    layer: int
    kind: WeightKind
    parameter: nn.Parameter


def block_weights(model: CircuitModel) -> list[BlockWeight]:
    """The parameters of all blocks, layer by layer, in the order in which the modules have them.

    Embeddings, the final norm and the head are in no block. A parameter that several modules share comes once.

    Raises:
        ValueError: a model whose adapter names no blocks.
    """
    blocks = getattr(model, "blocks", None)
    if blocks is None:
        raise ValueError(
            f"{type(model).__name__} does not say which modules are the blocks of {type(model.model).__name__}, so "
            "that it has no weights of blocks: give it `blocks`, the list of its layers"
        )
    names = {id(parameter): name for name, parameter in model.model.named_parameters()}
    found: dict[int, BlockWeight] = {}
    for layer, block in enumerate(blocks):
        in_mlp = {id(module) for module in model.mlp_module(layer).modules()}
        for module in block.modules():
            is_norm = "norm" in type(module).__name__.lower()
            kind: WeightKind = "norm" if is_norm else "mlp" if id(module) in in_mlp else "attention"
            for parameter in module.parameters(recurse=False):
                found.setdefault(id(parameter), BlockWeight(names[id(parameter)], layer, kind, parameter))
    return list(found.values())
