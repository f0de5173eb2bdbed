"""nanochat: Llama with RMS norms that have no weights, one of them behind the embedding, and logits that are capped.

Queries and keys turn the other way round, and are normed after that.
"""

from __future__ import annotations

from typing import Any

from torch import Tensor

from lightning_circuits.models.context import Context
from lightning_circuits.models.families.gemma2 import capped
from lightning_circuits.models.families.llama import LlamaCircuitModel
from lightning_circuits.models.normed_embedding import NormedEmbedding
from lightning_circuits.models.norms import Norm
from lightning_circuits.models.rotary import angles, rotate


class NanoChatCircuitModel(LlamaCircuitModel):
    model_types = ("nanochat",)

    def place(self) -> None:
        super().place()
        # One module is the norm of the embedding and the last one.
        self.token_embedding = NormedEmbedding(self.backbone.embed_tokens, self.final_norm, self.blocks[0])

    @staticmethod
    def read_norm(norm: Any) -> Norm:
        return Norm(None, norm.eps)

    def rotary(self, positions: Tensor) -> dict[str, Any]:
        cos, sin = angles(self.backbone.rotary_emb, positions, self.dtype)
        return {"rotary": (cos, -sin)}

    def turn(self, layer: int, q: Tensor, k: Tensor, context: Context) -> tuple[Tensor, Tensor]:
        attention = self.attention_module(layer)
        return attention.q_norm(rotate(q, context)), attention.k_norm(rotate(k, context))

    def head(self, x: Tensor) -> Tensor:
        return capped(super().head(x), self.model.config.final_logit_softcapping)
