"""GPT-NeoX and Pythia: attention and MLP read the same stream, each through a layer norm of its own.

Queries, keys and values are one projection, head by head; the first part of every head has rotary positions. A config
may say that the two are not parallel (``use_parallel_residual: false``, as RedPajama-INCITE has it).
"""

from __future__ import annotations

from typing import Any

from torch import Tensor

from lightning_circuits.models.base import CircuitModel, Dimensions
from lightning_circuits.models.context import Context, PromptLimit, causal_mask, position_ids
from lightning_circuits.models.heads import of_groups
from lightning_circuits.models.rotary import angles, rotary_limit, rotate
from lightning_circuits.models.where import Where


class GPTNeoXCircuitModel(CircuitModel):
    model_types = ("gpt_neox",)

    where = Where(
        decoder="gpt_neox",
        token_embedding="embed_in",
        blocks="layers",
        final_norm="final_layer_norm",
        attention_norm="input_layernorm",
        attention="attention",
        output="dense",
        mlp_norm="post_attention_layernorm",  # a name from sequential blocks
        mlp="mlp",
    )

    @staticmethod
    def read_dimensions(model: Any) -> Dimensions:
        return CircuitModel.read_dimensions(model)._replace(parallel=model.config.use_parallel_residual)

    @property
    def prompt_limit(self) -> PromptLimit | None:
        return rotary_limit(self.backbone.rotary_emb)

    def context(self, attention_mask: Tensor) -> Context:
        positions = position_ids(attention_mask)
        rotary = angles(self.backbone.rotary_emb, positions, self.dtype)
        return Context(mask=causal_mask(attention_mask), position_ids=positions, rotary=rotary)

    def projections(self, layer: int) -> list[tuple[Tensor, Tensor | None]]:
        return of_groups(self.attention_module(layer).query_key_value, self.layout.n_heads, self.layout.n_heads)

    def turn(self, layer: int, q: Tensor, k: Tensor, context: Context) -> tuple[Tensor, Tensor]:
        return rotate(q, context), rotate(k, context)
