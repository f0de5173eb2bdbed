"""DBRX: layer norms, rotary positions, one projection for queries, keys and values, and a mixture in the MLP's place.

A config may cut queries, keys and values off at a largest number, before queries and keys are turned.
"""

from __future__ import annotations

from typing import Any

from torch import Tensor

from lightning_circuits.models.base import CircuitModel, Dimensions
from lightning_circuits.models.context import Context
from lightning_circuits.models.families.llama import LlamaCircuitModel
from lightning_circuits.models.heads import of_rows
from lightning_circuits.models.where import Where


class DbrxCircuitModel(LlamaCircuitModel):
    model_types = ("dbrx",)

    where = Where(
        decoder="transformer",
        token_embedding="wte",
        blocks="blocks",
        final_norm="norm_f",
        attention_norm="norm_attn_norm.norm_1",
        attention="norm_attn_norm.attn",
        output="out_proj",
        mlp_norm="norm_attn_norm.norm_2",
        mlp="ffn",
    )

    @staticmethod
    def read_dimensions(model: Any) -> Dimensions:
        return CircuitModel.read_dimensions(model)._replace(n_groups=model.config.attn_config.kv_n_heads)

    def projections(self, layer: int) -> list[tuple[Tensor, Tensor | None]]:
        return of_rows(self.attention_module(layer).Wqkv, self.layout.n_heads, self.n_groups)

    def mix(self, layer: int, q: Tensor, k: Tensor, v: Tensor, context: Context, units: Tensor | None = None) -> Tensor:
        largest = self.attention_module(layer).clip_qkv
        if largest is not None:
            q, k, v = (each.clamp(-largest, largest) for each in (q, k, v))
        return super().mix(layer, q, k, v, context, units)
