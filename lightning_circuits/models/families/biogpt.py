"""BioGPT: XGLM with learned positions, and a head of another name."""

from __future__ import annotations

from torch import Tensor

from lightning_circuits.models.context import Context, PromptLimit
from lightning_circuits.models.families.fairseq import XGLMCircuitModel


class BioGptCircuitModel(XGLMCircuitModel):
    model_types = ("biogpt",)

    where = XGLMCircuitModel.where._replace(decoder="biogpt")

    @property
    def prompt_limit(self) -> PromptLimit:
        table = self.backbone.embed_positions
        return PromptLimit(table.num_embeddings - table.offset, "it has learned no more positions")

    def position_embedding(self, context: Context) -> Tensor | None:
        positions: Tensor = self.backbone.embed_positions(None, position_ids=context.position_ids)
        return positions

    def head(self, x: Tensor) -> Tensor:
        logits: Tensor = self.model.output_projection(x)
        return logits
