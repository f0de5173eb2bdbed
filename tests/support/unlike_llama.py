"""Families of decoders that are not like Llama: tiny configs, what makes models of them lively, where their parts are.

As in `stock_parts`, nothing of `lightning_circuits` is used, and nothing is computed that a stock module computes.
"""

from __future__ import annotations

from collections.abc import Callable
from types import MethodType
from typing import Any

import torch
from torch import Tensor, nn
from transformers import (
    BioGptConfig,
    CodeGenConfig,
    CTRLConfig,
    FalconConfig,
    GPTBigCodeConfig,
    GPTNeoConfig,
    ModernBertDecoderConfig,
    NanoChatConfig,
    NemotronConfig,
    OlmoConfig,
    OPTConfig,
    PersimmonConfig,
    PhiConfig,
    XGLMConfig,
)
from transformers.models.modernbert_decoder import modeling_modernbert_decoder as modernbert

from tests.support.stock_parts import GPT2Parts, GPTJParts, LlamaParts, turned


def configs(sizes: dict[str, Any], window: int) -> dict[str, Callable[..., Any]]:
    """A config of every family, with what its members differ in.

    Args:
        sizes: what a Llama's config calls its sizes; as many K/V groups as heads.
        window: how many tokens a window has.
    """
    neox = {key: size for key, size in sizes.items() if key != "num_key_value_heads"}
    falcon = {key: size for key, size in neox.items() if key != "intermediate_size"} | dict(ffn_hidden_size=20)
    grouped = sizes | dict(num_key_value_heads=2)
    half = dict(rope_type="default", rope_theta=100.0, partial_rotary_factor=0.7)
    common = dict(vocab_size=sizes["vocab_size"], bos_token_id=None, eos_token_id=None)
    gpt2 = common | dict(n_embd=24, n_layer=2, n_head=4, n_positions=32)
    fairseq = common | dict(ffn_dim=20, max_position_embeddings=32)
    return {
        "gpt-neo": lambda: GPTNeoConfig(
            **common,
            max_position_embeddings=32,
            hidden_size=24,
            num_layers=3,
            num_heads=3,
            attention_types=[[["global", "local", "local"], 1]],
            window_size=window,
        ),
        "gpt-bigcode": lambda: GPTBigCodeConfig(**gpt2, n_inner=20),
        "gpt-bigcode-heads": lambda: GPTBigCodeConfig(**gpt2 | dict(n_head=3), multi_query=False),
        "falcon": lambda: FalconConfig(**falcon),
        "falcon-heads": lambda: FalconConfig(**falcon, multi_query=False, parallel_attn=False, bias=True),
        "falcon-groups": lambda: FalconConfig(**falcon, new_decoder_architecture=True, num_kv_heads=2, bias=True),
        "falcon-one-norm": lambda: FalconConfig(
            **falcon, new_decoder_architecture=True, num_kv_heads=2, num_ln_in_parallel_attn=1
        ),
        "phi": lambda: PhiConfig(**grouped, rope_parameters=half),
        "phi-normed": lambda: PhiConfig(**sizes, rope_parameters=half, qk_layernorm=True),
        "persimmon": lambda: PersimmonConfig(**neox, rope_parameters=half),
        "nemotron": lambda: NemotronConfig(
            **grouped, rope_parameters=half, attention_bias=True, mlp_bias=True, head_dim=10
        ),
        "olmo": lambda: OlmoConfig(**grouped, pad_token_id=None, attention_bias=True),
        "olmo-clipped": lambda: OlmoConfig(**sizes, pad_token_id=None, clip_qkv=1.5),
        "codegen": lambda: CodeGenConfig(**gpt2 | dict(n_embd=32, n_head=8), n_inner=20, rotary_dim=2, n_ctx=32),
        "ctrl": lambda: CTRLConfig(**gpt2, dff=20),
        "xglm": lambda: XGLMConfig(**fairseq, d_model=24, num_layers=2, attention_heads=4),
        "biogpt": lambda: BioGptConfig(**neox),
        "nanochat": lambda: NanoChatConfig(**grouped, pad_token_id=None, attention_bias=True),
        "modernbert": lambda: ModernBertDecoderConfig(
            **neox | dict(num_hidden_layers=3, bos_token_id=1),
            pad_token_id=0,
            norm_bias=True,
            attention_bias=True,
            local_attention=2 * window,
            layer_types=["full_attention", "sliding_attention", "full_attention"],
            rope_parameters={
                kind: dict(rope_type="default", rope_theta=theta)
                for kind, theta in (("full_attention", 100.0), ("sliding_attention", 1000.0))
            },
        ),
        "opt": lambda: OPTConfig(**fairseq, hidden_size=24, num_hidden_layers=3, num_attention_heads=3),
        "opt-plain": lambda: OPTConfig(
            **fairseq,
            hidden_size=24,
            num_hidden_layers=2,
            num_attention_heads=4,
            enable_bias=False,
            layer_norm_elementwise_affine=False,
        ),
    }


def settle(model: nn.Module, dtype: torch.dtype) -> None:
    """What random weights of a size need in these families, and float64 where stock modules compute in float32."""
    for module in model.modules():
        kind = type(module).__name__
        if kind == "NemotronLayerNorm1P":
            module.weight.data -= 1  # its weights are gains less one
        if kind == "GPTNeoSelfAttention":  # its scores are not scaled
            module.q_proj.weight.data *= module.head_dim**-0.5
        if kind in ("XGLMScaledWordEmbedding", "BioGptScaledWordEmbedding"):
            module.weight.data /= module.embed_scale
        if kind == "MultiHeadAttention":  # CTRL's; others are known by the names of their projections
            module.Wq.weight.data *= 1.6
            module.Wk.weight.data *= 1.6
        if kind == "CTRLModel":
            module.w.weight.data /= module.d_model_size**0.5
        if kind == "XGLMSinusoidalPositionalEmbedding":  # loaded in a dtype, its table has that dtype
            module.weights = module.weights.to(dtype)
        if dtype != torch.float64:
            continue
        if kind in IN_FLOAT64:
            name = "_attn" if hasattr(module, "_attn") else "forward"
            setattr(module, name, MethodType(IN_FLOAT64[kind], module))


def _norm(self: Any, x: Tensor) -> Tensor:
    centred = x - x.mean(-1, keepdim=True)
    return centred / (centred.square().mean(-1, keepdim=True) + 1e-5).sqrt()


def _attention(self: Any, query: Tensor, key: Tensor, value: Tensor, mask: Tensor) -> tuple[Tensor, Tensor]:
    weights = (query @ key.mT / self.scale_attn + mask).softmax(-1)
    return weights @ value, weights


def _unscaled(self: Any, query: Tensor, key: Tensor, value: Tensor, mask: Tensor) -> tuple[Tensor, Tensor]:
    seen = self.bias[:, :, : query.shape[-2], : key.shape[-2]]
    weights = (query @ key.mT + mask).masked_fill(~seen, -torch.inf).softmax(-1)
    return weights @ value, weights


def _xglm(self: Any, hidden_states: Tensor, attention_mask: Tensor, **_named: Any) -> tuple[Tensor, Tensor]:
    q, k, v = (
        projection(hidden_states).unflatten(-1, (self.num_heads, -1)).transpose(1, 2)
        for projection in (self.q_proj, self.k_proj, self.v_proj)
    )
    weights = (q @ k.mT * self.scaling + attention_mask).softmax(-1)
    return self.out_proj((weights @ v).transpose(1, 2).flatten(2)), weights


def _rms_norm(self: Any, x: Tensor) -> Tensor:
    return x / (x.square().mean(-1, keepdim=True) + self.eps).sqrt()


IN_FLOAT64 = {
    "OlmoLayerNorm": _norm,
    "NanoChatRMSNorm": _rms_norm,
    "GPTNeoSelfAttention": _unscaled,
    "CodeGenAttention": _attention,
    "XGLMAttention": _xglm,
}


def _turned(q: Tensor, k: Tensor, cos: Tensor, sin: Tensor, unsqueeze_dim: int = 1) -> Any:
    """As ModernBERT turns queries and keys, but in their own dtype."""
    cos, sin = cos.unsqueeze(unsqueeze_dim), sin.unsqueeze(unsqueeze_dim)
    return tuple(x * cos + modernbert.rotate_half(x) * sin for x in (q, k))


modernbert.apply_rotary_pos_emb = _turned

# ---- where the parts are -------------------------------------------------------------------------------------------


class GPTNeoParts(GPT2Parts):
    def projected(self, layer: int, kind: str, index: int, stream: Tensor) -> Tensor:
        linear = getattr(self.blocks[layer].attn.attention, f"{kind}_proj")
        return linear(self.blocks[layer].ln_1(stream)).chunk(self.n_heads, -1)[index]

    def scale(self, layer: int, d_head: int) -> float:
        return 1.0

    def sees(self, layer: int, token: int, other: int) -> bool:
        return self.config.attention_layers[layer] == "global" or token - other < self.config.window_size

    def output(self, layer: int) -> Any:
        return self.blocks[layer].attn.attention.out_proj


class GPTBigCodeParts(GPT2Parts):
    def projected(self, layer: int, kind: str, index: int, stream: Tensor) -> Tensor:
        fused = self.blocks[layer].attn.c_attn(self.blocks[layer].ln_1(stream))
        if not self.config.multi_query:
            return fused.chunk(self.n_heads, -1)[index].chunk(3, -1)["qkv".index(kind)]
        blocks = fused.chunk(self.n_heads + 2, -1)
        return {"q": blocks[index], "k": blocks[-2], "v": blocks[-1]}[kind]

    def scale(self, layer: int, d_head: int) -> float:
        return d_head**-0.5


class FalconParts(LlamaParts):
    def place(self) -> None:
        self.decoder = self.model.transformer
        self.blocks, self.tokens, self.last_norm = self.decoder.h, self.decoder.word_embeddings, self.decoder.ln_f
        self.n_groups = groups_of(self.config)
        self.parallel = self.config.new_decoder_architecture or self.config.parallel_attn

    def projected(self, layer: int, kind: str, index: int, stream: Tensor) -> Tensor:
        block = self.blocks[layer]
        norm = block.ln_attn if hasattr(block, "ln_attn") else block.input_layernorm
        attention = block.self_attention
        heads = attention._split_heads(attention.query_key_value(norm(stream))[None])["qkv".index(kind)][0]
        # The stock module gives a key to every query head in the new models, one for all in the old.
        return heads[:, index if kind == "q" else index * heads.shape[1] // self.n_groups]

    def output(self, layer: int) -> Any:
        return self.blocks[layer].self_attention.dense

    def mlp(self, layer: int, stream: Tensor) -> Tensor:
        block = self.blocks[layer]
        if hasattr(block, "ln_mlp"):
            return block.mlp(block.ln_mlp(stream))
        return block.mlp((block.input_layernorm if self.parallel else block.post_attention_layernorm)(stream))


class PhiParts(LlamaParts):
    def place(self) -> None:
        self.decoder, self.parallel = self.model.model, self.config.model_type == "phi"
        self.blocks, self.tokens = self.decoder.layers, self.decoder.embed_tokens
        self.last_norm = self.decoder.final_layernorm

    def projected(self, layer: int, kind: str, index: int, stream: Tensor) -> Tensor:
        attention, normed = self.blocks[layer].self_attn, self.blocks[layer].input_layernorm(stream)
        if self.parallel:
            count = self.n_heads if kind == "q" else self.n_groups
            x = getattr(attention, f"{kind}_proj")(normed).chunk(count, -1)[index]
        else:
            x = attention._split_heads(attention.query_key_value(normed)[None])["qkv".index(kind)][0, :, index]
        return getattr(attention, f"{kind}_layernorm")(x) if self.config.qk_layernorm and kind != "v" else x

    def output(self, layer: int) -> Any:
        return self.blocks[layer].self_attn.dense

    def mlp(self, layer: int, stream: Tensor) -> Tensor:
        block = self.blocks[layer]
        return block.mlp((block.input_layernorm if self.parallel else block.post_attention_layernorm)(stream))


class OlmoParts(LlamaParts):
    def projected(self, layer: int, kind: str, index: int, stream: Tensor) -> Tensor:
        x, most = super().projected(layer, kind, index, stream), self.config.clip_qkv
        return x if most is None else torch.minimum(torch.maximum(x, x.new_tensor(-most)), x.new_tensor(most))


class CodeGenParts(GPTJParts):
    def projected(self, layer: int, kind: str, index: int, stream: Tensor) -> Tensor:
        fused, of_each = self.blocks[layer].attn.qkv_proj(self.blocks[layer].ln_1(stream)), self.n_heads // 4
        part = fused.chunk(4, -1)[index // of_each].chunk(3, -1)["qvk".index(kind)]
        return part.chunk(of_each, -1)[index % of_each]


class CTRLParts(LlamaParts):
    def place(self) -> None:
        self.decoder = self.model.transformer
        self.blocks, self.last_norm = self.decoder.h, self.decoder.layernorm
        self.tokens = lambda ids: self.decoder.w(ids) * self.config.n_embd**0.5

    def constant(self, n_tokens: int) -> Tensor | None:
        return self.decoder.pos_encoding[:n_tokens].to(self.decoder.w.weight.dtype)

    def projected(self, layer: int, kind: str, index: int, stream: Tensor) -> Tensor:
        linear = getattr(self.blocks[layer].multi_head_attention, f"W{kind}")
        return linear(self.blocks[layer].layernorm1(stream)).chunk(self.n_heads, -1)[index]

    def turned(self, layer: int, x: Tensor) -> Tensor:
        return x

    def output(self, layer: int) -> Any:
        return self.blocks[layer].multi_head_attention.dense

    def mlp(self, layer: int, stream: Tensor) -> Tensor:
        return self.blocks[layer].ffn(self.blocks[layer].layernorm2(stream))


class FairseqParts(LlamaParts):
    def place(self) -> None:
        kind = self.config.model_type
        of_kind = {"xglm": "model", "biogpt": "biogpt", "opt": "model.decoder"}[kind]
        self.decoder = self.model.get_submodule(of_kind)
        self.blocks, self.tokens = self.decoder.layers, self.decoder.embed_tokens
        self.last_norm = self.decoder.final_layer_norm if kind == "opt" else self.decoder.layer_norm

    def constant(self, n_tokens: int) -> Tensor | None:
        table = self.decoder.embed_positions
        return (table.weights if self.config.model_type == "xglm" else table.weight)[2 : n_tokens + 2]

    def projected(self, layer: int, kind: str, index: int, stream: Tensor) -> Tensor:
        linear = getattr(self.blocks[layer].self_attn, f"{kind}_proj")
        return linear(self.blocks[layer].self_attn_layer_norm(stream)).chunk(self.n_heads, -1)[index]

    def turned(self, layer: int, x: Tensor) -> Tensor:
        return x

    def output(self, layer: int) -> Any:
        return self.blocks[layer].self_attn.out_proj

    def mlp(self, layer: int, stream: Tensor) -> Tensor:
        block = self.blocks[layer]
        return block.fc2(block.activation_fn(block.fc1(block.final_layer_norm(stream))))

    def logits(self, stream: Tensor) -> Tensor:
        return self.model.get_output_embeddings()(self.last_norm(stream))


class NanoChatParts(LlamaParts):
    def place(self) -> None:
        super().place()
        self.tokens = lambda ids: self.decoder.norm(self.decoder.embed_tokens(ids))

    def projected(self, layer: int, kind: str, index: int, stream: Tensor) -> Tensor:
        block, count = self.blocks[layer], self.n_heads if kind == "q" else self.n_groups
        return getattr(block.self_attn, f"{kind}_proj")(block.input_layernorm(stream)).chunk(count, -1)[index]

    def turned(self, layer: int, x: Tensor) -> Tensor:
        cos, sin = self.decoder.rotary_emb(x, torch.arange(len(x))[None])
        half = cos.shape[-1] // 2  # the other way round: a pair's second number turns towards the first
        points = ((i + half, i, cos[0, :, i], sin[0, :, i]) for i in range(half))
        return self.blocks[layer].self_attn.q_norm(turned(x, points))  # that of keys is the same, without weights

    def logits(self, stream: Tensor) -> Tensor:
        return 15 * torch.tanh(super().logits(stream) / 15)


class ModernBertParts(LlamaParts):
    def place(self) -> None:
        self.decoder = self.model.model
        self.blocks, self.tokens = self.decoder.layers, self.decoder.embeddings
        self.last_norm = self.decoder.final_norm

    def projected(self, layer: int, kind: str, index: int, stream: Tensor) -> Tensor:
        block = self.blocks[layer]
        return getattr(block.attn, f"{kind}_proj")(block.attn_norm(stream)).chunk(self.n_heads, -1)[index]

    def turned(self, layer: int, x: Tensor) -> Tensor:
        places = torch.arange(len(x))[None]
        cos, sin = self.decoder.rotary_emb(x, places, self.config.layer_types[layer])
        half = cos.shape[-1] // 2
        return turned(x, ((i, i + half, cos[0, :, i], sin[0, :, i]) for i in range(half)))

    def sees(self, layer: int, token: int, other: int) -> bool:
        full = self.config.layer_types[layer] == "full_attention"
        return full or token - other < self.config.local_attention // 2

    def output(self, layer: int) -> Any:
        return self.blocks[layer].attn.Wo

    def mlp(self, layer: int, stream: Tensor) -> Tensor:
        return self.blocks[layer].mlp(self.blocks[layer].mlp_norm(stream))

    def logits(self, stream: Tensor) -> Tensor:
        return self.model.decoder(self.model.lm_head(self.last_norm(stream)))


PARTS: dict[str, type[LlamaParts]] = {
    "gpt_neo": GPTNeoParts,
    "gpt_bigcode": GPTBigCodeParts,
    "falcon": FalconParts,
    "phi": PhiParts,
    "persimmon": PhiParts,
    "olmo": OlmoParts,
    "codegen": CodeGenParts,
    "ctrl": CTRLParts,
    "xglm": FairseqParts,
    "biogpt": FairseqParts,
    "opt": FairseqParts,
    "nanochat": NanoChatParts,
    "modernbert-decoder": ModernBertParts,
}


def groups_of(config: Any) -> int:
    """How many K/V groups a model of this config has, of any family; Falcon does not call them as others do."""
    if config.model_type == "falcon" and config.new_decoder_architecture:
        return config.num_kv_heads
    if config.model_type == "falcon" and config.multi_query:
        return 1
    return getattr(config, "num_key_value_heads", None) or config.num_attention_heads
