"""gpt-oss: a mixture whose heads may look at nothing, each as far as its *sink* says; some layers have a window."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from lightning_circuits.models.context import Context
from lightning_circuits.models.families.llama import LlamaCircuitModel
from lightning_circuits.models.rotary import angles


class GptOssCircuitModel(LlamaCircuitModel):
    model_types = ("gpt_oss",)

    fused = False

    def rotary(self, positions: Tensor) -> dict[str, Any]:
        halves = angles(self.backbone.rotary_emb, positions, self.dtype)
        return {"rotary": tuple(torch.cat([half, half], dim=-1) for half in halves)}

    def attention_weights(
        self, layer: int, q: Tensor, k: Tensor, context: Context, units: Tensor | None = None
    ) -> Tensor:
        scores = self.attention_scores(layer, q, k, context, units)
        scores = scores.masked_fill(~self.layer_mask(layer, context), float("-inf"))
        sinks = self.attention_module(layer).sinks
        sinks = (sinks if units is None else sinks[self.heads(units)]).view(-1, 1, 1, 1).expand(*scores.shape[:-1], 1)
        wide = torch.promote_types(q.dtype, torch.float32)
        return torch.cat([scores, sinks], dim=-1).softmax(-1, dtype=wide)[..., :-1].to(q.dtype)
