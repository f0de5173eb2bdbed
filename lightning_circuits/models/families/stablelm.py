"""StableLM: Llama with layer norms; a config may say that attention and MLP read the same stream through one of them.

StableLM 2 12B has a norm for every head's query and key.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import torch
from torch import nn

from lightning_circuits.models.base import CircuitModel, Dimensions
from lightning_circuits.models.families.llama import LlamaCircuitModel
from lightning_circuits.models.norms import Norm


class StableLmCircuitModel(LlamaCircuitModel):
    model_types = ("stablelm",)

    @staticmethod
    def read_dimensions(model: Any) -> Dimensions:
        return CircuitModel.read_dimensions(model)._replace(parallel=model.config.use_parallel_residual)

    def head_norms(self, layer: int) -> tuple[Norm, Norm] | None:
        attention = self.attention_module(layer)
        if not attention.qk_layernorm:
            return None
        of_queries, of_keys = attention.q_layernorm.norms, attention.k_layernorm.norms
        return _side_by_side(of_queries), _side_by_side(of_keys)

    def mlp_norm(self, layer: int) -> nn.Module:
        return self.attention_norm(layer) if self.layout.parallel else super().mlp_norm(layer)


def _side_by_side(norms: Iterable[Any]) -> Norm:
    """Norms of single heads as one, with a gain ``[heads, d_head]``."""
    first, *_ = norms
    return Norm(torch.stack([norm.weight for norm in norms]), first.eps, centres=True)
