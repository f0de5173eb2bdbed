"""Gemma, the first: Llama with RMS norms that scale by ``1 + weight``. Its embedding module scales what it puts out."""

from __future__ import annotations

from typing import Any

from lightning_circuits.models.families.llama import LlamaCircuitModel
from lightning_circuits.models.norms import Norm


class GemmaCircuitModel(LlamaCircuitModel):
    model_types = ("gemma",)

    @staticmethod
    def read_norm(norm: Any) -> Norm:
        return Norm(gain=1 + norm.weight, epsilon=norm.eps)
