"""Falcon with rotary positions: 7B (one norm, one key and value for all heads), 40B, 180B and 11B (groups of heads).

In most, attention and MLP read the same stream; the newer ones have a norm for each, where a config does not say that
one will do. Falcon RW and what else has linear biases (ALiBi) in place of rotary positions is not read.
"""

from __future__ import annotations

from typing import Any

from torch import Tensor, nn

from lightning_circuits.models.base import Dimensions
from lightning_circuits.models.families.gpt_neox import GPTNeoXCircuitModel
from lightning_circuits.models.heads import of_groups
from lightning_circuits.models.where import Where
from lightning_circuits.pages import see_page


class FalconCircuitModel(GPTNeoXCircuitModel):
    """Raises ValueError for a model with ``alibi``."""

    model_types = ("falcon",)

    where = Where(
        decoder="transformer",
        token_embedding="word_embeddings",
        blocks="h",
        final_norm="ln_f",
        attention_norm="input_layernorm",
        attention="self_attention",
        output="dense",
        mlp_norm="input_layernorm",
        mlp="mlp",
    )

    def __init__(self, model: Any, kv: str = "head", freeze: bool = True) -> None:
        if model.config.alibi:
            raise ValueError(
                "Falcon with alibi is not supported: there each head adds to its scores what hangs on the distance of "
                "two tokens. Models with rotary positions are, such as Falcon 7B "
                f"{see_page('own-model', 'From Hugging Face')}"
            )
        super().__init__(model, kv, freeze)

    @staticmethod
    def read_dimensions(model: Any) -> Dimensions:
        config = model.config
        heads, new = config.num_attention_heads, config.new_decoder_architecture
        groups = config.num_kv_heads if new else 1 if config.multi_query else heads
        parallel = new or config.parallel_attn
        return Dimensions(config.num_hidden_layers, heads, groups, config.hidden_size, parallel)

    def attention_norm(self, layer: int) -> nn.Module:
        block = self.blocks[layer]
        return block.ln_attn if hasattr(block, "ln_attn") else super().attention_norm(layer)

    def mlp_norm(self, layer: int) -> nn.Module:
        own = [name for name in ("ln_mlp", "post_attention_layernorm") if hasattr(self.blocks[layer], name)]
        return self.blocks[layer].get_submodule(own[0]) if own else super().mlp_norm(layer)

    def scaling(self, layer: int) -> float:
        return float(self.attention_module(layer).inv_norm_factor)

    def projections(self, layer: int) -> list[tuple[Tensor, Tensor | None]]:
        return of_groups(self.attention_module(layer).query_key_value, self.layout.n_heads, self.n_groups)
