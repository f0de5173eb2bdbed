"""GPT-2: learned positions (a constant of the stream), layer norms, fused query-key-value weights."""

from __future__ import annotations

from typing import Any

from torch import Tensor, nn

from lightning_circuits.models.base import CircuitModel
from lightning_circuits.models.context import Context, PromptLimit


class GPT2CircuitModel(CircuitModel):
    model_types = ("gpt2",)

    def __init__(self, model: Any, kv: str = "head", freeze: bool = True) -> None:
        super().__init__(model, kv, freeze)
        self.backbone = model.transformer
        self.blocks = model.transformer.h
        self.token_embedding = model.transformer.wte
        self.final_norm = model.transformer.ln_f

    def attention_norm(self, layer: int) -> nn.Module:
        return self.blocks[layer].ln_1

    def mlp_norm(self, layer: int) -> nn.Module:
        return self.blocks[layer].ln_2

    def mlp_module(self, layer: int) -> nn.Module:
        return self.blocks[layer].mlp

    def output_module(self, layer: int) -> Any:
        return self.blocks[layer].attn.c_proj

    def output_weight(self, layer: int) -> Tensor:
        return self.output_module(layer).weight.unflatten(0, (self.layout.n_heads, -1))  # Conv1D: [in, out]

    def output_bias(self, layer: int) -> Tensor | None:
        return self.output_module(layer).bias

    def scaling(self, layer: int) -> float:
        return self.blocks[layer].attn.scaling

    @property
    def prompt_limit(self) -> PromptLimit:
        return PromptLimit(self.backbone.wpe.num_embeddings, "it has learned no more positions")

    def position_embedding(self, context: Context) -> Tensor | None:
        return self.backbone.wpe(context.position_ids)

    def projections(self, layer: int) -> list[tuple[Tensor, Tensor | None]]:
        fused, n_heads = self.blocks[layer].attn.c_attn, self.layout.n_heads
        weight = fused.weight.unflatten(1, (3, n_heads, -1)).permute(1, 2, 0, 3)  # [3, n_heads, d_model, d_head]
        return list(zip(weight, fused.bias.view(3, n_heads, -1), strict=True))
