"""Granite's mixture (3.0 and 3.1, 1B and 3B): Granite with another name for what stands in the place of the MLP."""

from __future__ import annotations

from lightning_circuits.models.families.granite import GraniteCircuitModel


class GraniteMoeCircuitModel(GraniteCircuitModel):
    model_types = ("granitemoe",)

    where = GraniteCircuitModel.where._replace(mlp="block_sparse_moe")
