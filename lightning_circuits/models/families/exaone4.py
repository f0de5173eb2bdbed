"""EXAONE 4: the attention of EXAONE's mixture; norms after attention and MLP alone, as OLMo 2."""

from __future__ import annotations

from lightning_circuits.models.families.exaone_moe import ExaoneMoeCircuitModel
from lightning_circuits.models.families.olmo2 import Olmo2CircuitModel


class Exaone4CircuitModel(ExaoneMoeCircuitModel):
    model_types = ("exaone4",)

    where = Olmo2CircuitModel.where
