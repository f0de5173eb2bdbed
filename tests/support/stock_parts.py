"""The parts of Hugging Face's models, found by their own names: what the oracle is made of.

A class for each way in which modules are called. Nothing of `lightning_circuits` is used, and nothing is computed that
a stock module computes. Rotary positions stand here once more, number by number.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import torch
from torch import Tensor


def parts_of(model: Any) -> LlamaParts:
    """The parts of a model, by its ``config.model_type``."""
    from tests.support.like_llama import PARTS  # which are made from those here

    kinds = PARTS | {
        "gpt2": GPT2Parts,
        "gpt_neox": GPTNeoXParts,
        "gptj": GPTJParts,
        "cohere": CohereParts,
        "cohere2": CohereParts,
        "granite": GraniteParts,
        "phi3": Phi3Parts,
        "smollm3": SmolLM3Parts,
        "stablelm": StableLmParts,
    }
    return kinds.get(model.config.model_type, LlamaParts)(model)


class LlamaParts:
    """Llama and what is called like it. Streams are ``[T, d]``, of one prompt without padding."""

    def __init__(self, model: Any) -> None:
        self.model, self.config = model, model.config
        self.n_heads: int = model.config.num_attention_heads
        self.n_groups: int = getattr(model.config, "num_key_value_heads", None) or self.n_heads
        self.parallel, self.multiplier = False, 1.0  # of what attention and MLP put out
        self.place()

    def place(self) -> None:
        """Where the modules are."""
        self.decoder = self.model.model
        self.blocks, self.tokens, self.last_norm = self.decoder.layers, self.decoder.embed_tokens, self.decoder.norm

    def constant(self, n_tokens: int) -> Tensor | None:
        """``[T, d]``: learned positions."""
        return None

    def projected(self, layer: int, kind: str, index: int, stream: Tensor) -> Tensor:
        """``[T, d_head]``: the ``index``-th query, key or value of a layer, as the projection has it."""
        attention, count = self.blocks[layer].self_attn, self.n_heads if kind == "q" else self.n_groups
        x = getattr(attention, f"{kind}_proj")(self.blocks[layer].input_layernorm(stream)).chunk(count, -1)[index]
        return getattr(attention, f"{kind}_norm")(x) if kind != "v" and hasattr(attention, "q_norm") else x

    def turned(self, layer: int, x: Tensor) -> Tensor:
        """A query or key ``[T, d_head]``, as it meets others."""
        cos, sin = self.decoder.rotary_emb(x, torch.arange(len(x))[None])
        half = cos.shape[-1] // 2
        return turned(x, ((i, i + half, cos[0, :, i], sin[0, :, i]) for i in range(half)))

    def query_key_value(self, layer: int, kind: str, index: int, stream: Tensor) -> Tensor:
        """``[T, d_head]``: the ``index``-th query, key or value of a layer."""
        x = self.projected(layer, kind, index, stream)
        return x if kind == "v" else self.turned(layer, x)

    def scale(self, layer: int, d_head: int) -> float:
        return d_head**-0.5

    def sees(self, layer: int, token: int, other: int) -> bool:
        """Whether a token attends to another that is not after it."""
        windowed = self.config.model_type in ("mistral", "starcoder2", "phi3") or (
            self.config.model_type == "qwen2"
            and self.config.use_sliding_window
            and layer >= self.config.max_window_layers
        )
        return not windowed or token - other < self.config.sliding_window

    def output(self, layer: int) -> Any:
        """The module that takes all heads' values side by side."""
        return self.blocks[layer].self_attn.o_proj

    def mlp(self, layer: int, stream: Tensor) -> Tensor:
        return self.blocks[layer].mlp(self.blocks[layer].post_attention_layernorm(stream))

    def logits(self, stream: Tensor) -> Tensor:
        return self.model.lm_head(self.last_norm(stream))


class CohereParts(LlamaParts):
    def place(self) -> None:
        super().place()
        self.parallel = True

    def turned(self, layer: int, x: Tensor) -> Tensor:
        if self.config.model_type == "cohere2" and self.config.layer_types[layer] == "full_attention":
            return x
        cos, sin = self.decoder.rotary_emb(x, torch.arange(len(x))[None])
        return turned(x, ((i, i + 1, cos[0, :, i], sin[0, :, i]) for i in range(0, cos.shape[-1], 2)))

    def sees(self, layer: int, token: int, other: int) -> bool:
        windowed = self.config.model_type == "cohere2" and self.config.layer_types[layer] == "sliding_attention"
        return not windowed or token - other < self.config.sliding_window

    def mlp(self, layer: int, stream: Tensor) -> Tensor:
        return self.blocks[layer].mlp(self.blocks[layer].input_layernorm(stream))

    def logits(self, stream: Tensor) -> Tensor:
        return super().logits(stream) * self.config.logit_scale


class GraniteParts(LlamaParts):
    def place(self) -> None:
        super().place()
        self.tokens = lambda ids: self.config.embedding_multiplier * self.decoder.embed_tokens(ids)
        self.multiplier = self.config.residual_multiplier

    def scale(self, layer: int, d_head: int) -> float:
        return self.config.attention_multiplier

    def mlp(self, layer: int, stream: Tensor) -> Tensor:
        return self.multiplier * super().mlp(layer, stream)

    def logits(self, stream: Tensor) -> Tensor:
        return super().logits(stream) / self.config.logits_scaling


class Phi3Parts(LlamaParts):
    def projected(self, layer: int, kind: str, index: int, stream: Tensor) -> Tensor:
        block = self.blocks[layer]
        before = {"q": 0, "k": self.n_heads, "v": self.n_heads + self.n_groups}[kind]
        return block.self_attn.qkv_proj(block.input_layernorm(stream)).chunk(self.n_heads + 2 * self.n_groups, -1)[
            before + index
        ]


class SmolLM3Parts(LlamaParts):
    def turned(self, layer: int, x: Tensor) -> Tensor:
        return super().turned(layer, x) if self.config.no_rope_layers[layer] else x

    def sees(self, layer: int, token: int, other: int) -> bool:
        return bool(self.config.no_rope_layers[layer]) or token - other < self.config.sliding_window


class StableLmParts(LlamaParts):
    def place(self) -> None:
        super().place()
        self.parallel = self.config.use_parallel_residual

    def mlp(self, layer: int, stream: Tensor) -> Tensor:
        block = self.blocks[layer]
        return block.mlp((block.input_layernorm if self.parallel else block.post_attention_layernorm)(stream))


class GPT2Parts(LlamaParts):
    def place(self) -> None:
        self.decoder = self.model.transformer
        self.blocks, self.tokens, self.last_norm = self.decoder.h, self.decoder.wte, self.decoder.ln_f

    def constant(self, n_tokens: int) -> Tensor | None:
        return self.decoder.wpe(torch.arange(n_tokens))

    def projected(self, layer: int, kind: str, index: int, stream: Tensor) -> Tensor:
        fused = self.blocks[layer].attn.c_attn(self.blocks[layer].ln_1(stream))
        return fused.chunk(3, -1)["qkv".index(kind)].chunk(self.n_heads, -1)[index]

    def turned(self, layer: int, x: Tensor) -> Tensor:
        return x

    def scale(self, layer: int, d_head: int) -> float:
        return d_head**-0.5 / (layer + 1 if self.config.scale_attn_by_inverse_layer_idx else 1)

    def output(self, layer: int) -> Any:
        return self.blocks[layer].attn.c_proj

    def mlp(self, layer: int, stream: Tensor) -> Tensor:
        return self.blocks[layer].mlp(self.blocks[layer].ln_2(stream))


class GPTNeoXParts(LlamaParts):
    def place(self) -> None:
        self.decoder = self.model.gpt_neox
        self.blocks, self.tokens = self.decoder.layers, self.decoder.embed_in
        self.last_norm, self.parallel = self.decoder.final_layer_norm, self.config.use_parallel_residual

    def projected(self, layer: int, kind: str, index: int, stream: Tensor) -> Tensor:
        fused = self.blocks[layer].attention.query_key_value(self.blocks[layer].input_layernorm(stream))
        return fused.chunk(self.n_heads, -1)[index].chunk(3, -1)["qkv".index(kind)]  # a head's three side by side

    def output(self, layer: int) -> Any:
        return self.blocks[layer].attention.dense


class GPTJParts(GPT2Parts):
    def place(self) -> None:
        super().place()
        self.parallel = True

    def constant(self, n_tokens: int) -> Tensor | None:
        return None

    def projected(self, layer: int, kind: str, index: int, stream: Tensor) -> Tensor:
        linear = getattr(self.blocks[layer].attn, f"{kind}_proj")
        return linear(self.blocks[layer].ln_1(stream)).chunk(self.n_heads, -1)[index]

    def turned(self, layer: int, x: Tensor) -> Tensor:
        sines, cosines = self.blocks[layer].attn.embed_positions[: len(x)].to(x.dtype).chunk(2, -1)
        return turned(x, ((2 * i, 2 * i + 1, c, s) for i, (c, s) in enumerate(zip(cosines.T, sines.T, strict=True))))

    def scale(self, layer: int, d_head: int) -> float:
        return d_head**-0.5

    def output(self, layer: int) -> Any:
        return self.blocks[layer].attn.out_proj

    def mlp(self, layer: int, stream: Tensor) -> Tensor:
        return self.blocks[layer].mlp(self.blocks[layer].ln_1(stream))


def turned(x: Tensor, points: Iterable[tuple[int, int, Tensor, Tensor]]) -> Tensor:
    """Numbers ``[T, n]``, pairs of which are points in the plane that turn; the others stay.

    Args:
        x: ``[T, n]``.
        points: which two numbers, and cosine and sine ``[T]`` of their angle.
    """
    columns = list(x.unbind(-1))
    for i, j, cos, sin in points:
        columns[i], columns[j] = x[:, i] * cos - x[:, j] * sin, x[:, j] * cos + x[:, i] * sin
    return torch.stack(columns, -1)
