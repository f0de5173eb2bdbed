"""GPT-NeoX Japanese: GPT-NeoX in sequence, whose attention has an output bias in the last layer, beside its module."""

from __future__ import annotations

from typing import Any

from torch import Tensor

from lightning_circuits.models.base import CircuitModel, Dimensions
from lightning_circuits.models.families.gpt_neox import GPTNeoXCircuitModel


class GPTNeoXJapaneseCircuitModel(GPTNeoXCircuitModel):
    model_types = ("gpt_neox_japanese",)

    where = GPTNeoXCircuitModel.where._replace(decoder="gpt_neox_japanese")

    @staticmethod
    def read_dimensions(model: Any) -> Dimensions:
        return CircuitModel.read_dimensions(model)

    def scaling(self, layer: int) -> float:
        return 1 / float(self.attention_module(layer).norm_factor)

    def output_bias(self, layer: int) -> Tensor | None:
        bias: Tensor | None = self.attention_module(layer).dense_bias
        return bias

    def head(self, x: Tensor) -> Tensor:
        logits: Tensor = self.model.embed_out(x)
        return logits
