"""XGLM, and what else was first trained with fairseq: layer norms and biases everywhere, an MLP without a module.

Token embeddings may be scaled, by their own module. The positions of XGLM are sinusoidal, those of others learned, and
counted from the third row of their table on, as their module does.
"""

from __future__ import annotations

from typing import Any

from torch import Tensor, nn
from torch.utils.hooks import RemovableHandle

from lightning_circuits.models.base import CircuitModel
from lightning_circuits.models.context import Context
from lightning_circuits.models.where import Where


class XGLMCircuitModel(CircuitModel):
    model_types = ("xglm",)

    where = Where(
        decoder="model",
        token_embedding="embed_tokens",
        blocks="layers",
        final_norm="layer_norm",
        attention_norm="self_attn_layer_norm",
        attention="self_attn",
        output="out_proj",
        mlp_norm="final_layer_norm",
        mlp="",  # see `mlp_module`
    )

    def position_embedding(self, context: Context) -> Tensor | None:
        positions: Tensor = self.backbone.embed_positions(position_ids=context.position_ids)
        return positions

    def mlp_module(self, layer: int) -> nn.Module:
        return LooseMLP(self.blocks[layer])


class LooseMLP(nn.Sequential):
    """An MLP whose parts a block calls one by one, as a module. A hook on it is one on its last part."""

    def __init__(self, block: Any) -> None:
        super().__init__(block.fc1, block.activation_fn, block.fc2)

    def register_forward_hook(self, *hook: Any, **options: Any) -> RemovableHandle:
        return self[-1].register_forward_hook(*hook, **options)
