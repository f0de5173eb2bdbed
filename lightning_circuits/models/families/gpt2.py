"""GPT-2: learned positions (a constant of the stream), layer norms, fused query-key-value weights."""

from __future__ import annotations

from torch import Tensor

from lightning_circuits.models.base import CircuitModel
from lightning_circuits.models.context import Context, PromptLimit
from lightning_circuits.models.where import Where


class GPT2CircuitModel(CircuitModel):
    model_types = ("gpt2",)

    where = Where(
        decoder="transformer",
        token_embedding="wte",
        blocks="h",
        final_norm="ln_f",
        attention_norm="ln_1",
        attention="attn",
        output="c_proj",
        mlp_norm="ln_2",
        mlp="mlp",
    )

    @property
    def prompt_limit(self) -> PromptLimit:
        return PromptLimit(self.backbone.wpe.num_embeddings, "it has learned no more positions")

    def position_embedding(self, context: Context) -> Tensor | None:
        return self.backbone.wpe(context.position_ids)

    def projections(self, layer: int) -> list[tuple[Tensor, Tensor | None]]:
        fused, n_heads = self.attention_module(layer).c_attn, self.layout.n_heads
        weight = fused.weight.unflatten(1, (3, n_heads, -1)).permute(1, 2, 0, 3)  # [3, n_heads, d_model, d_head]
        return list(zip(weight, fused.bias.view(3, n_heads, -1), strict=True))
