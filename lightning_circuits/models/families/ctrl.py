"""CTRL: a norm before attention and MLP, sinusoidal positions, token embeddings that the model scales."""

from __future__ import annotations

from typing import Any

from torch import Tensor

from lightning_circuits.models.base import CircuitModel
from lightning_circuits.models.context import Context, PromptLimit
from lightning_circuits.models.heads import of_linears
from lightning_circuits.models.where import Where


class CTRLCircuitModel(CircuitModel):
    model_types = ("ctrl",)

    where = Where(
        decoder="transformer",
        token_embedding="w",
        blocks="h",
        final_norm="layernorm",
        attention_norm="layernorm1",
        attention="multi_head_attention",
        output="dense",
        mlp_norm="layernorm2",
        mlp="ffn",
    )

    def __init__(self, model: Any, kv: str = "head", freeze: bool = True) -> None:
        super().__init__(model, kv, freeze)
        self.embedding_multiplier = self.layout.d_model**0.5

    @property
    def prompt_limit(self) -> PromptLimit:
        return PromptLimit(len(self.backbone.pos_encoding), "its table of positions has no more")

    def position_embedding(self, context: Context) -> Tensor | None:
        table = self.backbone.pos_encoding.to(self.device, self.dtype)
        return table[context.position_ids]

    def projections(self, layer: int) -> list[tuple[Tensor, Tensor | None]]:
        attention = self.attention_module(layer)
        return of_linears((attention.Wq, attention.Wk, attention.Wv), [self.layout.n_heads] * 3)
