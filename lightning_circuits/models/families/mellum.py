"""Mellum 2: Qwen3's mixture, whose layers with a window have rotary positions of their own."""

from __future__ import annotations

from lightning_circuits.models.families.llama import LlamaCircuitModel
from lightning_circuits.models.families.rotary_by_kind import RotaryByKind


class MellumCircuitModel(RotaryByKind, LlamaCircuitModel):
    model_types = ("mellum",)
