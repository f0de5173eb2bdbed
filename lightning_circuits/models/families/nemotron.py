"""Nemotron 3 and 4, Minitron: Llama with layer norms that scale by ``1 + weight``, and rotary positions in part."""

from __future__ import annotations

from typing import Any

from lightning_circuits.models.families.llama import LlamaCircuitModel
from lightning_circuits.models.norms import Norm


class NemotronCircuitModel(LlamaCircuitModel):
    model_types = ("nemotron",)

    @staticmethod
    def read_norm(norm: Any) -> Norm:
        return Norm(gain=1 + norm.weight, epsilon=norm.eps, centres=True, constant=norm.bias)
