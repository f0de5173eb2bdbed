"""EXAONE 4: norms after attention and MLP alone, as OLMo 2; a norm of each query and key, as Qwen3; where some layers
have a window, the others have no positions."""

from __future__ import annotations

from torch import Tensor

from lightning_circuits.models.context import Context
from lightning_circuits.models.families.llama import LlamaCircuitModel
from lightning_circuits.models.families.olmo2 import Olmo2CircuitModel


class Exaone4CircuitModel(LlamaCircuitModel):
    model_types = ("exaone4",)

    where = Olmo2CircuitModel.where

    def turn(self, layer: int, q: Tensor, k: Tensor, context: Context) -> tuple[Tensor, Tensor]:
        if self.window is None or self.windowed[layer]:
            return super().turn(layer, q, k, context)
        attention = self.attention_module(layer)
        return attention.q_norm(q), attention.k_norm(k)
