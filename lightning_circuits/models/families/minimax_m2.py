"""MiniMax M2: a mixture with one norm of all queries of a layer and one of all keys, as OLMoE."""

from __future__ import annotations

from lightning_circuits.models.families.llama import LlamaCircuitModel
from lightning_circuits.models.families.olmoe import OlmoeCircuitModel


class MiniMaxM2CircuitModel(LlamaCircuitModel):
    model_types = ("minimax_m2",)

    read_dimensions = staticmethod(OlmoeCircuitModel.read_dimensions)
    turn = OlmoeCircuitModel.turn
