"""Gemma 3: Gemma 2 with a norm of every query and key, and no cap on attention scores."""

from __future__ import annotations

from lightning_circuits.models.families.gemma2 import Gemma2CircuitModel
from lightning_circuits.models.families.rotary_by_kind import RotaryByKind


class Gemma3CircuitModel(RotaryByKind, Gemma2CircuitModel):
    model_types = ("gemma3_text",)

    caps_scores = False
