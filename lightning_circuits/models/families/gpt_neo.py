"""GPT-Neo: GPT-2 with attention scores that are not scaled; its layers attend in turn to all tokens or to a window."""

from __future__ import annotations

from torch import Tensor

from lightning_circuits.models.context import Context, causal_mask, position_ids
from lightning_circuits.models.families.gpt2 import GPT2CircuitModel
from lightning_circuits.models.parts import ModelParts


class GPTNeoCircuitModel(GPT2CircuitModel):
    model_types = ("gpt_neo",)

    where = GPT2CircuitModel.where._replace(attention="attn.attention", output="out_proj")

    def scaling(self, layer: int) -> float:
        return 1.0

    def context(self, attention_mask: Tensor) -> Context:
        return Context(
            mask=causal_mask(attention_mask),
            window_mask=causal_mask(attention_mask, self.model.config.window_size),
            position_ids=position_ids(attention_mask),
        )

    def layer_mask(self, layer: int, context: Context) -> Tensor:
        local = self.attention_module(layer).attention_type == "local"
        return context.window_mask if local else context.mask  # type: ignore[return-value]

    projections = ModelParts.projections  # GPT-2's are one layer
