"""The single weights of a model: which tensors there are, and what part of the model each belongs to.

>>> model_weights(wrap(load_model("tiny-ioi")))[1].name                                          # doctest: +SKIP
'model.layers.0.self_attn.q_proj.weight'
"""

from __future__ import annotations

from typing import Literal, NamedTuple

from torch import nn

from lightning_circuits.models.base import CircuitModel

WeightKind = Literal["attention", "mlp", "norm", "embedding", "head"]
"""What part of a model a weight belongs to. Norms inside of an attention or MLP, as Qwen3's of q and k, are norms; the
last one, behind all blocks, is of the head, and one behind the embedding of that. A head that is the embedding's
transpose is an embedding."""


class ModelWeight(NamedTuple):
    """A parameter: its name in the language model, its layer (None outside of all blocks), its kind, and the tensor."""

    name: str
    layer: int | None
    kind: WeightKind
    parameter: nn.Parameter


def model_weights(model: CircuitModel) -> list[ModelWeight]:
    """The parameters of a model: embeddings, then those of the blocks, layer by layer, in the order of the modules that
    have them, then those of the head.

    A parameter that several modules share comes once, where the first of them is.

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
    inside: dict[int, ModelWeight] = {}
    for layer, block in enumerate(blocks):
        in_mlp = {id(module) for module in model.mlp_module(layer).modules()}
        for module in block.modules():
            is_norm = "norm" in type(module).__name__.lower()
            kind: WeightKind = "norm" if is_norm else "mlp" if id(module) in in_mlp else "attention"
            for parameter in module.parameters(recurse=False):
                inside.setdefault(id(parameter), ModelWeight(names[id(parameter)], layer, kind, parameter))
    in_embedding = {id(module) for module in model.token_embedding.modules()}
    embeddings = [
        parameter
        for module in model.model.modules()
        if isinstance(module, nn.Embedding) or (id(module) in in_embedding and module is not model.final_norm)
        for parameter in module.parameters(recurse=False)
    ]
    embedded = {id(each): ModelWeight(names[id(each)], None, "embedding", each) for each in embeddings}
    rest = (each for each in model.model.parameters() if id(each) not in inside | embedded)
    return [*embedded.values(), *inside.values(), *(ModelWeight(names[id(each)], None, "head", each) for each in rest)]
