"""Apertus: Llama with norms of queries and keys, and other names for those of a block."""

from __future__ import annotations

from lightning_circuits.models.families.llama import LlamaCircuitModel


class ApertusCircuitModel(LlamaCircuitModel):
    model_types = ("apertus",)

    where = LlamaCircuitModel.where._replace(attention_norm="attention_layernorm", mlp_norm="feedforward_layernorm")
