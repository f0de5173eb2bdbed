"""The Llama line: Llama, Mistral, Qwen2 (biases on q, k, v), Qwen3 (norms on q and k), Starcoder2 (layer norms).

Rotary positions, norms before attention and MLP, grouped-query attention, optionally a sliding window. The norms
of Qwen3 act on a head's query and key after the projection: they change what a head does, not what it reads.

Of a mixture of experts, router and experts are one node, the MLP: what it writes is the sum that its module puts out.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, ClassVar

from torch import Tensor

from lightning_circuits.models.base import CircuitModel
from lightning_circuits.models.context import Context, PromptLimit, causal_mask, position_ids
from lightning_circuits.models.rotary import angles, rotary_limit, rotate
from lightning_circuits.models.where import Where


class LlamaCircuitModel(CircuitModel):
    model_types: ClassVar[Sequence[str]] = (
        *("llama", "arcee", "cwm", "emu3", "emu3_text_model", "internlm3", "iquestcoder", "jais2", "ministral"),
        *("mistral", "qwen2", "qwen3", "seed_oss", "starcoder2"),
        *("aria_text", "dots1", "glm4_moe", "hy_v3", "mixtral", "phimoe", "qwen2_moe", "qwen3_moe", "solar_open"),
    )

    where = Where(
        decoder="model",
        token_embedding="embed_tokens",
        blocks="layers",
        final_norm="norm",
        attention_norm="input_layernorm",
        attention="self_attn",
        output="o_proj",
        mlp_norm="post_attention_layernorm",
        mlp="mlp",
    )

    def __init__(self, model: Any, kv: str = "head", freeze: bool = True) -> None:
        super().__init__(model, kv, freeze)
        config = model.config.get_text_config()
        self.window: int | None = getattr(config, "sliding_window", None)
        # Mistral says one window for all layers, Qwen says for each layer whether it has one.
        layer_types = getattr(config, "layer_types", None) or ["sliding_attention"] * self.layout.n_layers
        self.windowed = [self.window is not None and kind == "sliding_attention" for kind in layer_types]

    @property
    def prompt_limit(self) -> PromptLimit | None:
        return rotary_limit(self.backbone.rotary_emb)

    def context(self, attention_mask: Tensor) -> Context:
        positions = position_ids(attention_mask)
        return Context(
            mask=causal_mask(attention_mask),
            window_mask=causal_mask(attention_mask, self.window) if any(self.windowed) else None,
            position_ids=positions,
            **self.rotary(positions),
        )

    def rotary(self, positions: Tensor) -> dict[str, Any]:
        """The angles that a `Context` holds, for ``positions`` ``[B, T]``."""
        return {"rotary": angles(self.backbone.rotary_emb, positions, self.dtype)}

    def layer_mask(self, layer: int, context: Context) -> Tensor:
        return context.window_mask if self.windowed[layer] else context.mask  # type: ignore[return-value]

    def turn(self, layer: int, q: Tensor, k: Tensor, context: Context) -> tuple[Tensor, Tensor]:
        attention = self.attention_module(layer)
        if hasattr(attention, "q_norm"):
            q, k = attention.q_norm(q), attention.k_norm(k)
        return rotate(q, context), rotate(k, context)
