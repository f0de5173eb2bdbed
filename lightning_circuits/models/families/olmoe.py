"""OLMoE: a mixture with one norm of all queries of a layer, and one of all keys, as OLMo 2; norms before, as Llama."""

from __future__ import annotations

from typing import Any

from torch import Tensor

from lightning_circuits.models.base import CircuitModel, Dimensions
from lightning_circuits.models.context import Context
from lightning_circuits.models.families.llama import LlamaCircuitModel
from lightning_circuits.models.families.olmo2 import normed
from lightning_circuits.models.rotary import rotate


class OlmoeCircuitModel(LlamaCircuitModel):
    """Raises ValueError for a model with ``clip_qkv``."""

    model_types = ("olmoe",)

    def __init__(self, model: Any, kv: str = "head", freeze: bool = True) -> None:
        if model.config.clip_qkv is not None:
            raise ValueError("OLMoE with clip_qkv is not supported: its queries, keys and values are cut off at a size")
        super().__init__(model, kv, freeze)

    @staticmethod
    def read_dimensions(model: Any) -> Dimensions:
        return CircuitModel.read_dimensions(model)._replace(coupled=True)

    def turn(self, layer: int, q: Tensor, k: Tensor, context: Context) -> tuple[Tensor, Tensor]:
        attention = self.attention_module(layer)
        return rotate(normed(attention.q_norm, q), context), rotate(normed(attention.k_norm, k), context)
