"""OLMoE: a mixture with one norm of all queries of a layer, and one of all keys, as OLMo 2; norms before, as Llama."""

from __future__ import annotations

from typing import Any

from lightning_circuits.models.base import CircuitModel, Dimensions
from lightning_circuits.models.families.llama import LlamaCircuitModel
from lightning_circuits.models.families.olmo2 import Olmo2CircuitModel


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

    turn = Olmo2CircuitModel.turn
