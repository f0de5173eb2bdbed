"""Granite: Llama that multiplies embeddings, attention scores, what attention and MLP write, and logits.

A head's writer, and an MLP's, is what goes into the stream: after the residual multiplier. The attention multiplier is
the ``scaling`` of its attention modules.
"""

from __future__ import annotations

from typing import Any

from torch import Tensor

from lightning_circuits.models.families.llama import LlamaCircuitModel


class GraniteCircuitModel(LlamaCircuitModel):
    model_types = ("granite",)

    def __init__(self, model: Any, kv: str = "head", freeze: bool = True) -> None:
        super().__init__(model, kv, freeze)
        self.embedding_multiplier = model.config.embedding_multiplier
        self.residual_multiplier = model.config.residual_multiplier

    def head(self, x: Tensor) -> Tensor:
        return super().head(x) / self.model.config.logits_scaling
