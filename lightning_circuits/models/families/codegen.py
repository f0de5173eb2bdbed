"""CodeGen: GPT-J with one projection in four parts, as it was once spread over chips: queries, values, keys in each."""

from __future__ import annotations

from torch import Tensor

from lightning_circuits.models.families.gptj import GPTJCircuitModel

PARTS = 4
"""Into how many parts Hugging Face's module cuts the projection, whatever the config."""


class CodeGenCircuitModel(GPTJCircuitModel):
    model_types = ("codegen",)

    def projections(self, layer: int) -> list[tuple[Tensor, Tensor | None]]:
        fused = self.attention_module(layer).qkv_proj  # without biases
        parts = fused.weight.unflatten(0, (PARTS, 3, self.layout.n_heads // PARTS, -1)).mT
        query, value, key = parts.transpose(0, 1).flatten(1, 2)  # [n_heads, d_model, d_head] each, copied
        return [(query, None), (key, None), (value, None)]
