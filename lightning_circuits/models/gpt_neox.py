"""GPT-NeoX and Pythia: attention and MLP read the same stream, each through a layer norm of its own.

Queries, keys and values are one projection, head by head; the first part of every head has rotary positions. A config
may say that the two are not parallel (``use_parallel_residual: false``, as RedPajama-INCITE has it).
"""

from __future__ import annotations

from typing import Any

from torch import Tensor, nn

from lightning_circuits.models.base import CircuitModel, Dimensions
from lightning_circuits.models.context import Context, PromptLimit, causal_mask, position_ids
from lightning_circuits.models.rotary import angles, rotary_limit, rotate


class GPTNeoXCircuitModel(CircuitModel):
    model_types = ("gpt_neox",)

    def __init__(self, model: Any, kv: str = "head", freeze: bool = True) -> None:
        super().__init__(model, kv, freeze)
        self.backbone = model.gpt_neox
        self.blocks = model.gpt_neox.layers
        self.token_embedding = model.gpt_neox.embed_in
        self.final_norm = model.gpt_neox.final_layer_norm

    @staticmethod
    def read_dimensions(model: Any) -> Dimensions:
        return CircuitModel.read_dimensions(model)._replace(parallel=model.config.use_parallel_residual)

    def attention_norm(self, layer: int) -> nn.Module:
        return self.blocks[layer].input_layernorm

    def mlp_norm(self, layer: int) -> nn.Module:
        return self.blocks[layer].post_attention_layernorm  # a name from sequential blocks

    def mlp_module(self, layer: int) -> nn.Module:
        return self.blocks[layer].mlp

    def output_module(self, layer: int) -> Any:
        return self.blocks[layer].attention.dense

    def output_weight(self, layer: int) -> Tensor:
        weight = self.output_module(layer).weight  # [d_model, n_heads * d_head]
        return weight.unflatten(1, (self.layout.n_heads, -1)).permute(1, 2, 0)

    def output_bias(self, layer: int) -> Tensor | None:
        return self.output_module(layer).bias

    def scaling(self, layer: int) -> float:
        return self.blocks[layer].attention.scaling

    @property
    def prompt_limit(self) -> PromptLimit | None:
        return rotary_limit(self.backbone.rotary_emb)

    def context(self, attention_mask: Tensor) -> Context:
        positions = position_ids(attention_mask)
        rotary = angles(self.backbone.rotary_emb, positions, self.dtype)
        return Context(mask=causal_mask(attention_mask), position_ids=positions, rotary=rotary)

    def projections(self, layer: int) -> list[tuple[Tensor, Tensor | None]]:
        fused, heads = self.blocks[layer].attention.query_key_value, self.layout.n_heads
        weights = fused.weight.unflatten(0, (heads, 3, -1)).permute(1, 0, 3, 2)  # [3, n_heads, d_model, d_head]
        biases = [None] * 3 if fused.bias is None else fused.bias.unflatten(0, (heads, 3, -1)).unbind(1)
        return list(zip(weights, biases, strict=True))

    def turn(self, layer: int, q: Tensor, k: Tensor, context: Context) -> tuple[Tensor, Tensor]:
        return rotate(q, context), rotate(k, context)
