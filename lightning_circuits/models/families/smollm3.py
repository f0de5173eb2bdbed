"""SmolLM3: Llama with some layers whose queries and keys are not turned, so that their attention sees no positions."""

from __future__ import annotations

from torch import Tensor

from lightning_circuits.models.context import Context
from lightning_circuits.models.families.llama import LlamaCircuitModel


class SmolLM3CircuitModel(LlamaCircuitModel):
    model_types = ("smollm3",)

    def turn(self, layer: int, q: Tensor, k: Tensor, context: Context) -> tuple[Tensor, Tensor]:
        return super().turn(layer, q, k, context) if self.attention_module(layer).use_rope else (q, k)
