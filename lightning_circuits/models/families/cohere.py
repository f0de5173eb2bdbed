"""Cohere (Command R, R7B, A): attention and MLP read the same stream through one layer norm; logits are scaled.

Rotary positions turn neighbours. In Cohere 2 the layers with a sliding window have them, the others none. Command R+
has a norm for every head's query and key.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, ClassVar

from torch import Tensor

from lightning_circuits.models.base import CircuitModel, Dimensions
from lightning_circuits.models.context import Context
from lightning_circuits.models.families.llama import LlamaCircuitModel
from lightning_circuits.models.norms import Norm
from lightning_circuits.models.rotary import rotate_pairs


class CohereCircuitModel(LlamaCircuitModel):
    model_types: ClassVar[Sequence[str]] = ("cohere", "cohere2")

    where = LlamaCircuitModel.where._replace(mlp_norm="input_layernorm")

    @staticmethod
    def read_dimensions(model: Any) -> Dimensions:
        return CircuitModel.read_dimensions(model)._replace(parallel=True)

    @staticmethod
    def read_norm(norm: Any) -> Norm:
        return Norm(norm.weight, norm.variance_epsilon, centres=True)

    def head_norms(self, layer: int) -> tuple[Norm, Norm] | None:
        attention = self.attention_module(layer)
        if not getattr(attention, "use_qk_norm", False):
            return None
        return self.read_norm(attention.q_norm), self.read_norm(attention.k_norm)

    def turn(self, layer: int, q: Tensor, k: Tensor, context: Context) -> tuple[Tensor, Tensor]:
        if self.model.config.model_type == "cohere2" and not self.windowed[layer]:
            return q, k
        return rotate_pairs(q, context), rotate_pairs(k, context)

    def head(self, x: Tensor) -> Tensor:
        return super().head(x) * self.model.config.logit_scale
