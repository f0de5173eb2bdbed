"""Hunyuan, dense and as a mixture: Llama whose queries and keys are normed after they are turned."""

from __future__ import annotations

from torch import Tensor

from lightning_circuits.models.context import Context
from lightning_circuits.models.families.llama import LlamaCircuitModel


class HunYuanCircuitModel(LlamaCircuitModel):
    model_types = ("hunyuan_v1_dense", "hunyuan_v1_moe")

    def turn(self, layer: int, q: Tensor, k: Tensor, context: Context) -> tuple[Tensor, Tensor]:
        attention = self.attention_module(layer)
        q, k = super().turn(layer, q, k, context)
        return attention.query_layernorm(q), attention.key_layernorm(k)
