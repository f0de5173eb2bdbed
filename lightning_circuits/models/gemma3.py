"""Gemma 3: Gemma 2 with a norm of every query and key, and no cap on attention scores. Text models, and the language
model of those that also see."""

from __future__ import annotations

from torch import Tensor

from lightning_circuits.models.gemma2 import Gemma2CircuitModel
from lightning_circuits.models.rotary_by_kind import RotaryByKind


class Gemma3CircuitModel(RotaryByKind, Gemma2CircuitModel):
    model_types = ("gemma3_text",)

    fused = True

    def attention_scores(self, layer: int, q: Tensor, k: Tensor) -> Tensor:
        return super(Gemma2CircuitModel, self).attention_scores(layer, q, k)
