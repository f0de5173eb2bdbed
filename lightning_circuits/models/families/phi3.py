"""Phi-3 and Phi-4 (``phi3``): Llama with one projection for all queries, then all keys, then all values of a layer.

Gate and up projection of the MLP are one too, which its own module sees to. Phi-4 multimodal is read as what it does
with text.
"""

from __future__ import annotations

from torch import Tensor

from lightning_circuits.models.families.llama import LlamaCircuitModel
from lightning_circuits.models.heads import of_rows


class Phi3CircuitModel(LlamaCircuitModel):
    model_types = ("phi3", "phi4_multimodal")

    def projections(self, layer: int) -> list[tuple[Tensor, Tensor | None]]:
        return of_rows(self.attention_module(layer).qkv_proj, self.layout.n_heads, self.n_groups)
