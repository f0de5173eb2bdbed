"""Cohere 2 as a mixture: a config may have RMS norms, and rotary positions in dense layers without a window, too."""

from __future__ import annotations

from typing import Any

from torch import Tensor

from lightning_circuits.models.base import CircuitModel
from lightning_circuits.models.context import Context
from lightning_circuits.models.families.cohere import CohereCircuitModel
from lightning_circuits.models.norms import Norm
from lightning_circuits.models.rotary import rotate_pairs


class Cohere2MoeCircuitModel(CohereCircuitModel):
    model_types = ("cohere2_moe",)

    @staticmethod
    def read_norm(norm: Any) -> Norm:
        is_rms = type(norm).__name__.endswith("RMSNorm")
        return CircuitModel.read_norm(norm) if is_rms else CohereCircuitModel.read_norm(norm)

    def turn(self, layer: int, q: Tensor, k: Tensor, context: Context) -> tuple[Tensor, Tensor]:
        if not self.windowed[layer] and not self.attention_module(layer).force_rope:
            return q, k
        return rotate_pairs(q, context), rotate_pairs(k, context)
