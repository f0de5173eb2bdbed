"""GPT-BigCode (SantaCoder, StarCoder): GPT-2 with one key and one value for all query heads, or with one for each."""

from __future__ import annotations

from torch import Tensor

from lightning_circuits.models.families.gpt2 import GPT2CircuitModel
from lightning_circuits.models.heads import of_groups


class GPTBigCodeCircuitModel(GPT2CircuitModel):
    model_types = ("gpt_bigcode",)

    def projections(self, layer: int) -> list[tuple[Tensor, Tensor | None]]:
        return of_groups(self.attention_module(layer).c_attn, self.layout.n_heads, self.n_groups)
