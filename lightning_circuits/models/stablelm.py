"""StableLM: Llama with layer norms; a config may say that attention and MLP read the same stream through one of them.

StableLM 2 12B has a norm of its own for every head's query and key. Those are not read.
"""

from __future__ import annotations

from typing import Any

from torch import nn

from lightning_circuits.models.base import CircuitModel, Dimensions
from lightning_circuits.models.llama import LlamaCircuitModel
from lightning_circuits.pages import see_page


class StableLmCircuitModel(LlamaCircuitModel):
    """Raises ValueError for a model with ``qk_layernorm``."""

    model_types = ("stablelm",)

    def __init__(self, model: Any, kv: str = "head", freeze: bool = True) -> None:
        if model.config.qk_layernorm:
            raise ValueError(
                "StableLM with qk_layernorm is not supported: each head's query and key has a norm of its own there. "
                f"Models without are, such as StableLM 2 1.6B {see_page('own-model', 'From Hugging Face')}"
            )
        super().__init__(model, kv, freeze)

    @staticmethod
    def read_dimensions(model: Any) -> Dimensions:
        return CircuitModel.read_dimensions(model)._replace(parallel=model.config.use_parallel_residual)

    def mlp_norm(self, layer: int) -> nn.Module:
        return self.attention_norm(layer) if self.layout.parallel else super().mlp_norm(layer)
