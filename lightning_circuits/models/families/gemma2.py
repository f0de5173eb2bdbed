"""Gemma 2: norms before *and after* attention and MLP, attention scores and logits that are capped softly.

A norm after the attention takes all heads together, so that a head's writer is its share of what comes out
(`head_outputs`). EAP-IG's library reads heads before this norm: its scores differ from those here.
"""

from __future__ import annotations

from typing import Any, ClassVar

from torch import Tensor

from lightning_circuits.models.context import Context
from lightning_circuits.models.families.gemma import GemmaCircuitModel


class Gemma2CircuitModel(GemmaCircuitModel):
    model_types = ("gemma2",)

    caps_scores: ClassVar[bool] = True
    """Whether its attention heeds what the config says of a cap."""

    where = GemmaCircuitModel.where._replace(
        mlp_norm="pre_feedforward_layernorm",
        norm_after_attention="post_attention_layernorm",
        norm_after_mlp="post_feedforward_layernorm",
    )

    def __init__(self, model: Any, kv: str = "head", freeze: bool = True) -> None:
        super().__init__(model, kv, freeze)
        self.score_cap = self.backbone.config.attn_logit_softcapping if self.caps_scores else None
        self.fused = self.score_cap is None

    def attention_scores(
        self, layer: int, q: Tensor, k: Tensor, context: Context, units: Tensor | None = None
    ) -> Tensor:
        scores = super().attention_scores(layer, q, k, context, units)
        return capped(scores, self.score_cap)

    def head(self, x: Tensor) -> Tensor:
        return capped(super().head(x), self.backbone.config.final_logit_softcapping)


def capped(x: Tensor, cap: float | None) -> Tensor:
    """Numbers ``[...]`` between ``-cap`` and ``cap``, small ones nearly as they are; without a cap, as they are."""
    return x if cap is None else cap * (x / cap).tanh()
