"""Cohere (Command R, R7B, A): attention and MLP read the same stream through one layer norm; logits are scaled.

Rotary positions turn neighbours. In Cohere 2 the layers with a sliding window have them, the others none. The norms
that Command R+ has for every head's query and key are not read.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, ClassVar

from torch import Tensor

from lightning_circuits.models.base import CircuitModel, Dimensions
from lightning_circuits.models.context import Context
from lightning_circuits.models.llama import LlamaCircuitModel
from lightning_circuits.models.norms import Norm
from lightning_circuits.models.rotary import rotate_pairs
from lightning_circuits.pages import see_page


class CohereCircuitModel(LlamaCircuitModel):
    """Raises ValueError for a model with ``use_qk_norm``."""

    model_types: ClassVar[Sequence[str]] = ("cohere", "cohere2")

    where = LlamaCircuitModel.where._replace(mlp_norm="input_layernorm")

    def __init__(self, model: Any, kv: str = "head", freeze: bool = True) -> None:
        if getattr(model.config, "use_qk_norm", False):
            raise ValueError(
                "Cohere with use_qk_norm is not supported: each head's query and key has a norm of its own there. "
                f"Models without are, such as Command R {see_page('own-model', 'From Hugging Face')}"
            )
        super().__init__(model, kv, freeze)

    @staticmethod
    def read_dimensions(model: Any) -> Dimensions:
        return CircuitModel.read_dimensions(model)._replace(parallel=True)

    @staticmethod
    def read_norm(norm: Any) -> Norm:
        return Norm(norm.weight, norm.variance_epsilon, centres=True)

    def turn(self, layer: int, q: Tensor, k: Tensor, context: Context) -> tuple[Tensor, Tensor]:
        if self.model.config.model_type == "cohere2" and not self.windowed[layer]:
            return q, k
        return rotate_pairs(q, context), rotate_pairs(k, context)

    def head(self, x: Tensor) -> Tensor:
        return super().head(x) * self.model.config.logit_scale
