"""Persimmon: Phi's attention, with one projection head by head, in blocks whose MLP comes after it."""

from __future__ import annotations

from typing import Any

from torch import Tensor

from lightning_circuits.models.base import CircuitModel, Dimensions
from lightning_circuits.models.families.phi import PhiCircuitModel
from lightning_circuits.models.heads import of_groups


class PersimmonCircuitModel(PhiCircuitModel):
    model_types = ("persimmon",)

    where = PhiCircuitModel.where._replace(mlp_norm="post_attention_layernorm")

    @staticmethod
    def read_dimensions(model: Any) -> Dimensions:
        return CircuitModel.read_dimensions(model)

    def projections(self, layer: int) -> list[tuple[Tensor, Tensor | None]]:
        heads = self.layout.n_heads
        return of_groups(self.attention_module(layer).query_key_value, heads, groups=heads)
