"""Rotary positions of two kinds: the layers with a sliding window turn queries and keys by angles of their own."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any, ClassVar

from torch import Tensor

from lightning_circuits.models.context import Context, PromptLimit
from lightning_circuits.models.families.llama import LlamaCircuitModel
from lightning_circuits.models.rotary import angles, rotary_limit

FULL, WINDOW = "full_attention", "sliding_attention"


class RotaryByKind(LlamaCircuitModel):
    """Llama with such layers, told apart by ``config.layer_types``; families are made of it, and no model is one."""

    model_types: ClassVar[Sequence[str]] = ()

    @property
    def prompt_limit(self) -> PromptLimit | None:
        limits = [rotary_limit(self.backbone.rotary_emb, kind) for kind in set(self.backbone.config.layer_types)]
        return min((limit for limit in limits if limit is not None), default=None)

    def rotary(self, positions: Tensor) -> dict[str, Any]:
        kinds = {"rotary": FULL, "window_rotary": WINDOW}
        rotary, used = self.backbone.rotary_emb, self.backbone.config.layer_types
        return {name: angles(rotary, positions, self.dtype, kind) for name, kind in kinds.items() if kind in used}

    def turn(self, layer: int, q: Tensor, k: Tensor, context: Context) -> tuple[Tensor, Tensor]:
        of_layer = replace(context, rotary=context.window_rotary) if self.windowed[layer] else context
        return super().turn(layer, q, k, of_layer)
