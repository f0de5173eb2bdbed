"""The mixture of EXAONE: Qwen3's attention. Where some layers have a window, the others have no rotary positions."""

from __future__ import annotations

from torch import Tensor

from lightning_circuits.models.context import Context
from lightning_circuits.models.families.llama import LlamaCircuitModel


class ExaoneMoeCircuitModel(LlamaCircuitModel):
    model_types = ("exaone_moe",)

    def turn(self, layer: int, q: Tensor, k: Tensor, context: Context) -> tuple[Tensor, Tensor]:
        if self.window is None or self.windowed[layer]:
            return super().turn(layer, q, k, context)
        attention = self.attention_module(layer)
        return attention.q_norm(q), attention.k_norm(k)
