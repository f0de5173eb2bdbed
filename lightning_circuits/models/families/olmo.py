"""OLMo, the first: Llama with layer norms that have no weights.

A config may clip queries, keys and values (``clip_qkv``), which changes what a head does and not what it reads. Queries
and keys turn in float32, whatever the dtype of the model.
"""

from __future__ import annotations

from typing import Any

from torch import Tensor

from lightning_circuits.models.context import Context
from lightning_circuits.models.families.llama import LlamaCircuitModel
from lightning_circuits.models.norms import Norm


class OlmoCircuitModel(LlamaCircuitModel):
    model_types = ("olmo",)

    @staticmethod
    def read_norm(norm: Any) -> Norm:
        return Norm(None, epsilon=1e-5, centres=True)  # its module has no more than this in its code

    def mix(self, layer: int, q: Tensor, k: Tensor, v: Tensor, context: Context, units: Tensor | None = None) -> Tensor:
        most = self.model.config.clip_qkv
        if most is not None:
            q, k, v = (each.clamp(-most, most) for each in (q, k, v))
        return super().mix(layer, q, k, v, context, units)
