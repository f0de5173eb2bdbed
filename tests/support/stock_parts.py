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
    from tests.support import like_llama, unlike_llama  # which are made from those here

    kinds = (
        like_llama.PARTS
        | unlike_llama.PARTS
        | {
            "gemma2": Gemma2Parts,
            "gemma3_text": Gemma3Parts,
            "gpt2": GPT2Parts,
            "gpt_oss": GptOssParts,
            "gpt_neox": GPTNeoXParts,
            "gptj": GPTJParts,
            "cohere": CohereParts,
            "cohere2": CohereParts,
            "exaone4": Exaone4Parts,
            "granite": GraniteParts,
            "olmo2": Olmo2Parts,
            "olmo3": Olmo3Parts,
            "olmoe": OlmoeParts,
            "phi3": Phi3Parts,
            "smollm3": SmolLM3Parts,
            "stablelm": StableLmParts,
        }
    )
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
        return self.normed(getattr(attention, f"{kind}_norm"), index, x) if hasattr(attention, f"{kind}_norm") else x

    def normed(self, norm: Any, index: int, x: Tensor) -> Tensor:
        """The ``index``-th query or key through the norm that all of them share."""
        return norm(x)

    def turned(self, layer: int, x: Tensor) -> Tensor:
        """A query or key ``[T, d_head]``, as it meets others."""
        cos, sin = self.decoder.rotary_emb(x, torch.arange(len(x))[None])
        half = cos.shape[-1] // 2
        return turned(x, ((i, i + half, cos[0, :, i], sin[0, :, i]) for i in range(half)))

    def across(self, layer: int, kind: str, heads: list[Tensor]) -> list[Tensor]:
        """The queries or keys ``[T, d_head]`` of all heads, after what is done to them together."""
        return heads

    def weights(self, layer: int, head: int, scores: Tensor) -> Tensor:
        """How much a token attends to each of those that it sees, of its scores with them."""
        return scores.exp() / scores.exp().sum()

    def shares(self, layer: int, alone: list[Tensor]) -> list[Tensor]:
        """What heads write into the stream, ``[T, d]`` each, of what the output projection makes of each alone."""
        return alone

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

    def normed(self, norm: Any, index: int, x: Tensor) -> Tensor:
        centred = x - x.mean(-1, keepdim=True)
        return norm.weight[index] * centred / (centred.square().mean(-1, keepdim=True) + norm.variance_epsilon).sqrt()

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


class NormedAfter(LlamaParts):
    """What attention and MLP put out goes through a norm."""

    after = "post_attention_layernorm", "post_feedforward_layernorm"

    def shares(self, layer: int, alone: list[Tensor]) -> list[Tensor]:
        norm = getattr(self.blocks[layer], self.after[0])
        epsilon = norm.eps if hasattr(norm, "eps") else norm.variance_epsilon
        gain = norm(torch.ones_like(alone[0])) * (1 + epsilon) ** 0.5
        size = sum(alone, torch.zeros_like(alone[0])).square().mean(-1, keepdim=True) + epsilon
        return [each / size.sqrt() * gain for each in alone]

    def mlp(self, layer: int, stream: Tensor) -> Tensor:
        block = self.blocks[layer]
        return getattr(block, self.after[1])(block.mlp(self.before_mlp(layer, stream)[None])[0])

    def before_mlp(self, layer: int, stream: Tensor) -> Tensor:
        return self.blocks[layer].pre_feedforward_layernorm(stream)

    def sees(self, layer: int, token: int, other: int) -> bool:
        return self.config.layer_types[layer] == "full_attention" or token - other < self.config.sliding_window


class Gemma2Parts(NormedAfter):
    def scale(self, layer: int, d_head: int) -> float:
        return self.config.query_pre_attn_scalar**-0.5

    def weights(self, layer: int, head: int, scores: Tensor) -> Tensor:
        return super().weights(layer, head, softly(scores, self.config.attn_logit_softcapping))

    def logits(self, stream: Tensor) -> Tensor:
        return softly(super().logits(stream), self.config.final_logit_softcapping)


class TurnedByKind(LlamaParts):
    def turned(self, layer: int, x: Tensor) -> Tensor:
        theta = self.config.rope_parameters[self.config.layer_types[layer]]["rope_theta"]
        half, token = x.shape[-1] // 2, torch.arange(len(x), dtype=torch.float32)
        angles = [token / theta ** (2 * i / x.shape[-1]) for i in range(half)]
        return turned(x, ((i, i + half, angle.cos(), angle.sin()) for i, angle in enumerate(angles)))


class Gemma3Parts(TurnedByKind, Gemma2Parts):
    weights = LlamaParts.weights


class Olmo2Parts(NormedAfter):
    def projected(self, layer: int, kind: str, index: int, stream: Tensor) -> Tensor:
        count = self.n_heads if kind == "q" else self.n_groups
        return getattr(self.blocks[layer].self_attn, f"{kind}_proj")(stream).chunk(count, -1)[index]

    def across(self, layer: int, kind: str, heads: list[Tensor]) -> list[Tensor]:
        norm = getattr(self.blocks[layer].self_attn, f"{kind}_norm")
        gains = norm.weight.chunk(self.n_heads if kind == "q" else self.n_groups)
        size = torch.cat(heads, -1).square().mean(-1, keepdim=True) + norm.variance_epsilon
        return [x / size.sqrt() * gains[head * len(gains) // len(heads)] for head, x in enumerate(heads)]

    def before_mlp(self, layer: int, stream: Tensor) -> Tensor:
        return stream

    def sees(self, layer: int, token: int, other: int) -> bool:
        return True


class Olmo3Parts(TurnedByKind, Olmo2Parts):
    sees = NormedAfter.sees


class OlmoeParts(LlamaParts):
    across = Olmo2Parts.across

    def projected(self, layer: int, kind: str, index: int, stream: Tensor) -> Tensor:
        return Olmo2Parts.projected(self, layer, kind, index, self.blocks[layer].input_layernorm(stream))

    def mlp(self, layer: int, stream: Tensor) -> Tensor:
        return self.blocks[layer].mlp(self.blocks[layer].post_attention_layernorm(stream)[None])[0]


class Exaone4Parts(NormedAfter):
    before_mlp = Olmo2Parts.before_mlp

    def projected(self, layer: int, kind: str, index: int, stream: Tensor) -> Tensor:
        x = Olmo2Parts.projected(self, layer, kind, index, stream)
        return x if kind == "v" else getattr(self.blocks[layer].self_attn, f"{kind}_norm")(x)

    def turned(self, layer: int, x: Tensor) -> Tensor:
        return x if self.config.layer_types[layer] == "full_attention" else super().turned(layer, x)


class GptOssParts(LlamaParts):
    """A head may look at nothing, as if there were one token more, with a score of its own and without a value."""

    def weights(self, layer: int, head: int, scores: Tensor) -> Tensor:
        return scores.exp() / (scores.exp().sum() + self.blocks[layer].self_attn.sinks[head].exp())

    def turned(self, layer: int, x: Tensor) -> Tensor:
        half, token = x.shape[-1] // 2, torch.arange(len(x), dtype=torch.float32)
        theta = self.config.rope_parameters["rope_theta"]
        angles = [token / theta ** (2 * i / x.shape[-1]) for i in range(half)]
        return turned(x, ((i, i + half, angle.cos(), angle.sin()) for i, angle in enumerate(angles)))

    def mlp(self, layer: int, stream: Tensor) -> Tensor:
        return self.blocks[layer].mlp(self.blocks[layer].post_attention_layernorm(stream)[None])[0][0]

    sees = NormedAfter.sees


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
    def projected(self, layer: int, kind: str, index: int, stream: Tensor) -> Tensor:
        x, norms = super().projected(layer, kind, index, stream), f"{kind}_layernorm"
        attention = self.blocks[layer].self_attn
        return getattr(attention, norms).norms[index](x) if hasattr(attention, norms) else x

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


def softly(x: Tensor, cap: float) -> Tensor:
    """Numbers kept between ``-cap`` and ``cap``."""
    return torch.tanh(x / cap) * cap


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
