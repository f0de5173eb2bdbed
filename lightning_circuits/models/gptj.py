"""GPT-J: attention and MLP read the same stream through one layer norm; rotary positions turn neighbouring numbers."""

from __future__ import annotations

from typing import Any

from torch import Tensor, nn

from lightning_circuits.models.base import CircuitModel, Dimensions
from lightning_circuits.models.context import Context, PromptLimit, causal_mask, position_ids
from lightning_circuits.models.rotary import rotate_pairs


class GPTJCircuitModel(CircuitModel):
    model_types = ("gptj",)

    def __init__(self, model: Any, kv: str = "head", freeze: bool = True) -> None:
        super().__init__(model, kv, freeze)
        self.backbone = model.transformer
        self.blocks = model.transformer.h
        self.token_embedding = model.transformer.wte
        self.final_norm = model.transformer.ln_f

    @staticmethod
    def read_dimensions(model: Any) -> Dimensions:
        return CircuitModel.read_dimensions(model)._replace(parallel=True)

    def attention_norm(self, layer: int) -> nn.Module:
        return self.blocks[layer].ln_1

    def mlp_norm(self, layer: int) -> nn.Module:
        return self.attention_norm(layer)

    def mlp_module(self, layer: int) -> nn.Module:
        return self.blocks[layer].mlp

    def output_module(self, layer: int) -> Any:
        return self.blocks[layer].attn.out_proj

    def output_weight(self, layer: int) -> Tensor:
        weight = self.output_module(layer).weight  # [d_model, n_heads * d_head]
        return weight.unflatten(1, (self.layout.n_heads, -1)).permute(1, 2, 0)

    def output_bias(self, layer: int) -> Tensor | None:
        return self.output_module(layer).bias

    def scaling(self, layer: int) -> float:
        return 1 / self.blocks[layer].attn.scale_attn

    @property
    def prompt_limit(self) -> PromptLimit:
        return PromptLimit(self.blocks[0].attn.max_positions, "it has rotary angles for no more positions")

    def context(self, attention_mask: Tensor) -> Context:
        positions = position_ids(attention_mask)
        # Every layer has the same table: sines of all positions, and beside them cosines.
        sines, cosines = self.blocks[0].attn.embed_positions.to(positions.device)[positions].to(self.dtype).chunk(2, -1)
        rotary = cosines.repeat_interleave(2, dim=-1), sines.repeat_interleave(2, dim=-1)
        return Context(mask=causal_mask(attention_mask), position_ids=positions, rotary=rotary)

    def projections(self, layer: int) -> list[tuple[Tensor, Tensor | None]]:
        attention, heads = self.blocks[layer].attn, self.layout.n_heads
        linears = attention.q_proj, attention.k_proj, attention.v_proj  # without biases
        return [(linear.weight.unflatten(0, (heads, -1)).mT, None) for linear in linears]

    def turn(self, layer: int, q: Tensor, k: Tensor, context: Context) -> tuple[Tensor, Tensor]:
        return rotate_pairs(q, context), rotate_pairs(k, context)
