"""Kolibri 1: EXAONE's mixture, with norms after attention and MLP besides."""

from __future__ import annotations

from lightning_circuits.models.families.exaone_moe import ExaoneMoeCircuitModel


class Kolibri1CircuitModel(ExaoneMoeCircuitModel):
    model_types = ("kolibri1",)

    where = ExaoneMoeCircuitModel.where._replace(
        norm_after_attention="post_self_attn_layernorm", norm_after_mlp="post_mlp_layernorm"
    )
