"""Families that are called like Llama, mixtures among them: what the oracle has to know of each.

As in `stock_parts`, nothing of `lightning_circuits` is used, and nothing is computed that a stock module computes.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from tests.support.stock_parts import (
    CohereParts,
    Gemma3Parts,
    GPTNeoXParts,
    GraniteParts,
    LlamaParts,
    NormedAfter,
    Olmo2Parts,
    OlmoeParts,
    Phi3Parts,
    TurnedByKind,
    turned,
)


class NearLlamaParts(LlamaParts):
    """Windows as the config says, of each layer or of all; modules in the place of the MLP that want a batch."""

    def sees(self, layer: int, token: int, other: int) -> bool:
        kinds, width = (getattr(self.config, name, None) for name in ("layer_types", "sliding_window"))
        windowed = width is not None and (kinds is None or kinds[layer] == "sliding_attention")
        return not windowed or token - other < width

    def mlp(self, layer: int, stream: Tensor) -> Tensor:
        block = self.blocks[layer]
        return block.mlp(block.post_attention_layernorm(stream)[None])[0]


class ApertusParts(NearLlamaParts):
    def projected(self, layer: int, kind: str, index: int, stream: Tensor) -> Tensor:
        block, count = self.blocks[layer], self.n_heads if kind == "q" else self.n_groups
        x = getattr(block.self_attn, f"{kind}_proj")(block.attention_layernorm(stream)).chunk(count, -1)[index]
        return x if kind == "v" else getattr(block.self_attn, f"{kind}_norm")(x)

    def mlp(self, layer: int, stream: Tensor) -> Tensor:
        return self.blocks[layer].mlp(self.blocks[layer].feedforward_layernorm(stream))


class GlmParts(NearLlamaParts):
    def turned(self, layer: int, x: Tensor) -> Tensor:
        cos, sin = self.decoder.rotary_emb(x, torch.arange(len(x))[None])
        return turned(x, ((2 * i, 2 * i + 1, cos[0, :, i], sin[0, :, i]) for i in range(cos.shape[-1] // 2)))


class HunYuanParts(NearLlamaParts):
    def across(self, layer: int, kind: str, heads: list[Tensor]) -> list[Tensor]:
        attention = self.blocks[layer].self_attn
        norm = {"q": attention.query_layernorm, "k": attention.key_layernorm}[kind]
        return [norm(LlamaParts.turned(self, layer, x)) for x in heads]

    def turned(self, layer: int, x: Tensor) -> Tensor:
        return x  # it is, before its norm


class Ministral3Parts(NearLlamaParts):
    def across(self, layer: int, kind: str, heads: list[Tensor]) -> list[Tensor]:
        if kind != "q":
            return heads
        rope, tokens = self.config.rope_parameters, range(len(heads[0]))
        rounds = torch.tensor([1 + token // rope["original_max_position_embeddings"] for token in tokens])
        return [x * (1 + rope["llama_4_scaling_beta"] * rounds.log())[:, None] for x in heads]


class MultimodalParts(NearLlamaParts):
    def __init__(self, model: Any) -> None:
        super().__init__(model.model.language_model)
        self.model = model

    def place(self) -> None:
        self.decoder = self.model
        self.blocks, self.tokens, self.last_norm = self.decoder.layers, self.decoder.embed_tokens, self.decoder.norm


class MultimodalGemma3Parts(Gemma3Parts):
    place = MultimodalParts.place

    def __init__(self, model: Any) -> None:
        super().__init__(model.model.language_model)
        self.model = model

    def logits(self, stream: Tensor) -> Tensor:
        return self.model.lm_head(self.last_norm(stream))


class DbrxParts(NearLlamaParts):
    def place(self) -> None:
        self.decoder, self.n_groups = self.model.transformer, self.config.attn_config.kv_n_heads
        self.blocks, self.tokens, self.last_norm = self.decoder.blocks, self.decoder.wte, self.decoder.norm_f

    def projected(self, layer: int, kind: str, index: int, stream: Tensor) -> Tensor:
        block, largest = self.blocks[layer].norm_attn_norm, self.config.attn_config.clip_qkv
        before = {"q": 0, "k": self.n_heads, "v": self.n_heads + self.n_groups}[kind]
        all_of_them = block.attn.Wqkv(block.norm_1(stream)).clamp(-largest, largest)
        return all_of_them.chunk(self.n_heads + 2 * self.n_groups, -1)[before + index]

    def output(self, layer: int) -> Any:
        return self.blocks[layer].norm_attn_norm.attn.out_proj

    def mlp(self, layer: int, stream: Tensor) -> Tensor:
        return self.blocks[layer].ffn(self.blocks[layer].norm_attn_norm.norm_2(stream)[None])[0]


class ExaoneMoeParts(NearLlamaParts):
    def turned(self, layer: int, x: Tensor) -> Tensor:
        is_global = self.config.sliding_window is not None and self.config.layer_types[layer] == "full_attention"
        return x if is_global else super().turned(layer, x)


class Phi4MultimodalParts(Phi3Parts, NearLlamaParts):
    """The one's projections, the other's windows."""


class GraniteMoeParts(GraniteParts):
    def mlp(self, layer: int, stream: Tensor) -> Tensor:
        block = self.blocks[layer]
        return self.multiplier * block.block_sparse_moe(block.post_attention_layernorm(stream)[None])[0]


class Cohere2MoeParts(CohereParts):
    def turned(self, layer: int, x: Tensor) -> Tensor:
        config = self.config
        dense = config.mlp_layer_types[layer] == "dense" and config.prefix_dense_sliding_window_pattern == 1
        return super().turned(layer, x) if dense or config.layer_types[layer] == "sliding_attention" else x

    def sees(self, layer: int, token: int, other: int) -> bool:
        is_global = self.config.layer_types[layer] == "full_attention"
        return is_global or token - other < self.config.sliding_window

    def mlp(self, layer: int, stream: Tensor) -> Tensor:
        return self.blocks[layer].mlp(self.blocks[layer].input_layernorm(stream)[None])[0]


class VaultGemmaParts(NearLlamaParts):
    def scale(self, layer: int, d_head: int) -> float:
        return float(self.config.query_pre_attn_scalar**-0.5)

    def mlp(self, layer: int, stream: Tensor) -> Tensor:
        return self.blocks[layer].mlp(self.blocks[layer].pre_feedforward_layernorm(stream))

    def logits(self, stream: Tensor) -> Tensor:
        cap = self.config.final_logit_softcapping
        return cap * torch.tanh(super().logits(stream) / cap)


class Glm4Parts(NormedAfter, GlmParts):
    after = "post_self_attn_layernorm", "post_mlp_layernorm"
    sees = LlamaParts.sees

    def before_mlp(self, layer: int, stream: Tensor) -> Tensor:
        return self.blocks[layer].post_attention_layernorm(stream)


class Kolibri1Parts(NormedAfter, ExaoneMoeParts):
    after, before_mlp = Glm4Parts.after, Glm4Parts.before_mlp


class MellumParts(TurnedByKind, NearLlamaParts):
    """The one's turns, the other's windows."""


class GPTNeoXJapaneseParts(GPTNeoXParts):
    def place(self) -> None:
        self.decoder, self.parallel = self.model.gpt_neox_japanese, False
        self.blocks, self.tokens = self.decoder.layers, self.decoder.embed_in
        self.last_norm = self.decoder.final_layer_norm

    def output(self, layer: int) -> Any:
        """With the bias of the last layer, which the stock model adds outside of the module."""
        attention = self.blocks[layer].attention
        if attention.dense_bias is None:
            return attention.dense
        both = nn.Linear(attention.dense.in_features, attention.dense.out_features)
        both.weight, both.bias = attention.dense.weight, attention.dense_bias
        return both

    def logits(self, stream: Tensor) -> Tensor:
        return self.model.embed_out(self.last_norm(stream))


PARTS: dict[str, type[LlamaParts]] = {
    **dict.fromkeys(("arcee", "cwm", "emu3_text_model", "internlm3", "iquestcoder", "jais2"), NearLlamaParts),
    **dict.fromkeys(("ministral", "seed_oss"), NearLlamaParts),
    **dict.fromkeys(("aria_text", "dots1", "glm4_moe", "hy_v3", "mixtral", "phimoe"), NearLlamaParts),
    **dict.fromkeys(("qwen2_moe", "qwen3_moe", "solar_open"), NearLlamaParts),
    **dict.fromkeys(("glm", "helium", "ernie4_5", "ernie4_5_moe"), GlmParts),
    **dict.fromkeys(("hunyuan_v1_dense", "hunyuan_v1_moe"), HunYuanParts),
    "apertus": ApertusParts,
    "cohere2_moe": Cohere2MoeParts,
    "dbrx": DbrxParts,
    "exaone_moe": ExaoneMoeParts,
    "gpt_neox_japanese": GPTNeoXJapaneseParts,
    "flex_olmo": Olmo2Parts,
    "glm4": Glm4Parts,
    "granitemoe": GraniteMoeParts,
    "kolibri1": Kolibri1Parts,
    "mellum": MellumParts,
    "minimax_m2": OlmoeParts,
    "ministral3": Ministral3Parts,
    **dict.fromkeys(("got_ocr2", "moss_transcribe_diarize"), MultimodalParts),
    "gemma3": MultimodalGemma3Parts,
    "phi4_multimodal": Phi4MultimodalParts,
    "vaultgemma": VaultGemmaParts,
}
