"""Phi-1, Phi-1.5 and Phi-2 (``phi``): attention and MLP read the same stream through one layer norm.

The first part of every head has rotary positions. A config may have queries and keys normed, with a norm that all heads
of a layer share; everything has biases, the head too.
"""

from __future__ import annotations

from typing import Any

from torch import Tensor

from lightning_circuits.models.base import CircuitModel, Dimensions
from lightning_circuits.models.context import Context
from lightning_circuits.models.families.llama import LlamaCircuitModel


class PhiCircuitModel(LlamaCircuitModel):
    model_types = ("phi",)

    where = LlamaCircuitModel.where._replace(final_norm="final_layernorm", output="dense", mlp_norm="input_layernorm")

    @staticmethod
    def read_dimensions(model: Any) -> Dimensions:
        return CircuitModel.read_dimensions(model)._replace(parallel=True)

    def turn(self, layer: int, q: Tensor, k: Tensor, context: Context) -> tuple[Tensor, Tensor]:
        attention = self.attention_module(layer)
        if attention.qk_layernorm:
            q, k = attention.q_layernorm(q), attention.k_layernorm(k)
        return super().turn(layer, q, k, context)
