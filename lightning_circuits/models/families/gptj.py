"""GPT-J: attention and MLP read the same stream through one layer norm; rotary positions turn neighbouring numbers."""

from __future__ import annotations

from typing import Any

from torch import Tensor

from lightning_circuits.models.base import CircuitModel, Dimensions
from lightning_circuits.models.context import Context, PromptLimit, causal_mask, position_ids
from lightning_circuits.models.rotary import rotate_pairs
from lightning_circuits.models.where import Where


class GPTJCircuitModel(CircuitModel):
    model_types = ("gptj",)

    where = Where(
        decoder="transformer",
        token_embedding="wte",
        blocks="h",
        final_norm="ln_f",
        attention_norm="ln_1",
        attention="attn",
        output="out_proj",
        mlp_norm="ln_1",
        mlp="mlp",
    )

    @staticmethod
    def read_dimensions(model: Any) -> Dimensions:
        return CircuitModel.read_dimensions(model)._replace(parallel=True)

    def scaling(self, layer: int) -> float:
        return 1 / self.attention_module(layer).scale_attn

    @property
    def prompt_limit(self) -> PromptLimit:
        return PromptLimit(self.attention_module(0).max_positions, "it has rotary angles for no more positions")

    def context(self, attention_mask: Tensor) -> Context:
        positions = position_ids(attention_mask)
        # Every layer has the same table: sines of all positions, and beside them cosines.
        table = self.attention_module(0).embed_positions.to(positions.device)
        sines, cosines = table[positions].to(self.dtype).chunk(2, -1)
        rotary = cosines.repeat_interleave(2, dim=-1), sines.repeat_interleave(2, dim=-1)
        return Context(mask=causal_mask(attention_mask), position_ids=positions, rotary=rotary)

    def turn(self, layer: int, q: Tensor, k: Tensor, context: Context) -> tuple[Tensor, Tensor]:
        return rotate_pairs(q, context), rotate_pairs(k, context)
