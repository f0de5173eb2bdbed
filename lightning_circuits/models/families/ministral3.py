"""Ministral 3: Mistral whose queries grow with their place, by the logarithm of how often the original length is in it.

Below that length nothing is scaled, so that short prompts show no difference to Mistral.
"""

from __future__ import annotations

from torch import Tensor

from lightning_circuits.models.context import Context
from lightning_circuits.models.families.llama import LlamaCircuitModel


class Ministral3CircuitModel(LlamaCircuitModel):
    model_types = ("ministral3",)

    def turn(self, layer: int, q: Tensor, k: Tensor, context: Context) -> tuple[Tensor, Tensor]:
        q, k = super().turn(layer, q, k, context)
        rope = self.model.config.rope_parameters
        rounds = context.position_ids // rope["original_max_position_embeddings"]
        scale = 1 + rope["llama_4_scaling_beta"] * (1 + rounds.float()).log()
        return q * scale[..., None].to(q.dtype), k
