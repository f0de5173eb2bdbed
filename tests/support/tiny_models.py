"""Small random models of every family, but lively: attention far from uniform, norm gains and biases that matter."""

from __future__ import annotations

from collections.abc import Callable
from functools import cache
from types import MethodType
from typing import Any

import torch
from torch import Tensor, nn
from transformers import (
    AutoModelForCausalLM,
    Cohere2Config,
    CohereConfig,
    Exaone4Config,
    Gemma2Config,
    Gemma3TextConfig,
    GemmaConfig,
    GPT2Config,
    GPTJConfig,
    GPTNeoXConfig,
    GptOssConfig,
    GraniteConfig,
    LlamaConfig,
    MistralConfig,
    Olmo2Config,
    Olmo3Config,
    OlmoeConfig,
    Phi3Config,
    Qwen2Config,
    Qwen3Config,
    SmolLM3Config,
    StableLmConfig,
    Starcoder2Config,
)
from transformers.models.cohere import modeling_cohere
from transformers.models.cohere2 import modeling_cohere2
from transformers.models.gemma2 import modeling_gemma2

from tests.support import unlike_llama

VOCABULARY, WINDOW = 19, 3
SIZES: dict[str, Any] = dict(
    vocab_size=VOCABULARY, hidden_size=24, intermediate_size=20, num_hidden_layers=2, num_attention_heads=4,
    num_key_value_heads=4, max_position_embeddings=32, bos_token_id=None, eos_token_id=None,
)  # fmt: skip
GROUPED = SIZES | dict(num_key_value_heads=2)
YARN = dict(rope_type="yarn", rope_theta=10000.0, factor=4.0, original_max_position_embeddings=8)

SIZES_GPT2: dict[str, Any] = dict(
    vocab_size=VOCABULARY, n_embd=24, n_layer=2, n_head=2, n_positions=32, bos_token_id=None, eos_token_id=None
)

SIZES_NEOX: dict[str, Any] = {key: size for key, size in SIZES.items() if key != "num_key_value_heads"}
PARALLEL = SIZES_NEOX | dict(num_hidden_layers=3, num_attention_heads=3)
TURNING = dict(rope_type="default", rope_theta=100.0)
SIZES_GPTJ = SIZES_GPT2 | dict(n_layer=3, n_head=3, rotary_dim=4, n_inner=20)

FAMILIES: dict[str, Callable[..., Any]] = {
    "gpt2": lambda: GPT2Config(**SIZES_GPT2 | dict(n_layer=3, n_head=3)),
    "gpt2-scaled": lambda: GPT2Config(**SIZES_GPT2, scale_attn_by_inverse_layer_idx=True),
    "llama": lambda: LlamaConfig(**SIZES),
    "llama-gqa": lambda: LlamaConfig(**GROUPED),
    "llama-biases": lambda: LlamaConfig(
        **GROUPED, attention_bias=True, mlp_bias=True, head_dim=4, rope_parameters=YARN
    ),
    "mistral-window": lambda: MistralConfig(**GROUPED, sliding_window=WINDOW),
    "qwen2": lambda: Qwen2Config(**GROUPED, tie_word_embeddings=True),
    "qwen2-window": lambda: Qwen2Config(**SIZES, use_sliding_window=True, sliding_window=WINDOW, max_window_layers=1),
    "qwen3": lambda: Qwen3Config(**GROUPED, head_dim=10),
    "starcoder2": lambda: Starcoder2Config(**GROUPED, sliding_window=WINDOW, tie_word_embeddings=False),
    "phi3": lambda: Phi3Config(
        **GROUPED, pad_token_id=None, rope_parameters=dict(TURNING, partial_rotary_factor=0.7), sliding_window=WINDOW
    ),
    "smollm3": lambda: SmolLM3Config(
        **GROUPED,
        pad_token_id=None,
        no_rope_layers=[0, 1],
        use_sliding_window=True,
        sliding_window=WINDOW,
        tie_word_embeddings=False,
    ),
    "stablelm": lambda: StableLmConfig(
        **GROUPED, use_qkv_bias=True, rope_parameters=dict(TURNING, partial_rotary_factor=0.7)
    ),
    "stablelm-parallel": lambda: StableLmConfig(
        **SIZES | dict(num_attention_heads=3, num_key_value_heads=3), use_parallel_residual=True
    ),
    "gemma": lambda: GemmaConfig(**GROUPED, pad_token_id=None, head_dim=8, tie_word_embeddings=False),
    "gemma2": lambda: Gemma2Config(
        **GROUPED,
        pad_token_id=None,
        head_dim=8,
        query_pre_attn_scalar=10,
        attn_logit_softcapping=3.0,
        final_logit_softcapping=8.0,
        sliding_window=WINDOW,
        tie_word_embeddings=False,
    ),
    "gemma3": lambda: Gemma3TextConfig(
        **GROUPED,
        pad_token_id=None,
        head_dim=8,
        query_pre_attn_scalar=10,
        final_logit_softcapping=20.0,
        sliding_window=WINDOW,
        layer_types=["full_attention", "sliding_attention"],
        rope_parameters={"full_attention": TURNING, "sliding_attention": TURNING | dict(rope_theta=7.0)},
        tie_word_embeddings=False,
    ),
    "olmo2": lambda: Olmo2Config(**GROUPED, pad_token_id=None),
    "olmo3": lambda: Olmo3Config(
        **SIZES | dict(num_attention_heads=3, num_key_value_heads=3),
        pad_token_id=None,
        sliding_window=WINDOW,
        layer_types=["full_attention", "sliding_attention"],
        rope_parameters={"full_attention": TURNING, "sliding_attention": TURNING | dict(rope_theta=7.0)},
    ),
    "granite": lambda: GraniteConfig(
        **GROUPED,
        attention_bias=True,
        mlp_bias=True,
        embedding_multiplier=3.0,
        attention_multiplier=0.3,
        residual_multiplier=0.7,
        logits_scaling=0.5,
    ),
    "stablelm-head-norms": lambda: StableLmConfig(
        **GROUPED, qk_layernorm=True, rope_parameters=dict(TURNING, partial_rotary_factor=0.7)
    ),
    "cohere-head-norms": lambda: CohereConfig(**GROUPED, pad_token_id=None, use_qk_norm=True),
    "exaone4": lambda: Exaone4Config(
        **GROUPED,
        pad_token_id=None,
        sliding_window=WINDOW,
        sliding_window_pattern=2,
        layer_types=["sliding_attention", "full_attention"],
    ),
    "olmoe": lambda: OlmoeConfig(**GROUPED, pad_token_id=None, num_experts=4, num_experts_per_tok=2),
    "gpt-oss": lambda: GptOssConfig(
        **GROUPED,
        pad_token_id=None,
        head_dim=8,
        num_local_experts=4,
        num_experts_per_tok=2,
        sliding_window=WINDOW,
        rope_parameters=TURNING,
    ),
    "cohere": lambda: CohereConfig(**GROUPED, pad_token_id=None, attention_bias=True, logit_scale=2.0),
    "cohere2": lambda: Cohere2Config(
        **GROUPED,
        pad_token_id=None,
        logit_scale=0.7,
        sliding_window=WINDOW,
        layer_types=["full_attention", "sliding_attention"],
    ),
    "gpt-neox": lambda: GPTNeoXConfig(**PARALLEL, rope_parameters=dict(TURNING, partial_rotary_factor=0.5)),
    "gpt-neox-plain": lambda: GPTNeoXConfig(**PARALLEL, rope_parameters=TURNING, attention_bias=False),
    "gpt-neox-sequential": lambda: GPTNeoXConfig(**SIZES_NEOX, use_parallel_residual=False, rope_parameters=TURNING),
    "gptj": lambda: GPTJConfig(**SIZES_GPTJ),
    **unlike_llama.configs(SIZES, WINDOW),
}
"""Every family that is read, with what its members differ in."""

GEMMA_NORMS = ("GemmaRMSNorm", "Gemma2RMSNorm", "Gemma3RMSNorm")


@cache
def tiny_model(family: str, dtype: torch.dtype = torch.float32, seed: int = 0) -> nn.Module:
    """The stock Hugging Face model of a family with random weights; the same numbers in every dtype."""
    generator = torch.Generator().manual_seed(seed)
    # Mixtures multiply by experts in a loop: the fused product has no float64.
    model = AutoModelForCausalLM.from_config(FAMILIES[family](), experts_implementation="eager")
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            noise = torch.randn(parameter.shape, generator=generator, dtype=torch.float64)
            parameter.data = _lively(name, noise).to(dtype)  # parameters only: rotary buffers stay in float32
        for module in model.modules():
            if type(module).__name__ in GEMMA_NORMS:
                module.weight -= 1  # Gemma's weights are gains less one
    if dtype == torch.float64:
        # Hugging Face's RMS norm computes in float32 whatever the model's dtype. That caps the agreement of any two
        # float64 computations at 1e-7; so the stock module gets a norm that keeps the dtype: the same function. So does
        # GPT-J's attention with its scores.
        for module in model.modules():
            if type(module).__name__.endswith("RMSNorm"):
                gemma = type(module).__name__ in GEMMA_NORMS
                module.forward = MethodType(_gemma_norm if gemma else _rms_norm, module)
            if type(module).__name__ in ("CohereLayerNorm", "Cohere2LayerNorm"):
                module.forward = MethodType(_layer_norm, module)
            if type(module).__name__ == "GPTJAttention":
                module._attn = MethodType(_attention, module)
    unlike_llama.settle(model, dtype)
    return model.eval()


def _lively(name: str, noise: Tensor) -> Tensor:
    """Standard normal noise, scaled to what the parameter of this name is for."""
    owner, kind = name.split(".")[-2:]
    if kind == "bias":
        return 0.5 * noise
    if noise.ndim == 1 or owner in ("q_norm", "k_norm"):  # gains; those of queries and keys say how sharp attention is
        return (1.0 + 0.4 * noise) * (1.6 if owner in ("q_norm", "k_norm") else 1.0)
    if owner in ("wte", "embed_tokens", "embed_in", "wpe", "word_embeddings", "embed_positions", "tok_embeddings", "w"):
        return noise
    if owner == "c_attn":  # Conv1D: [in, out]; query and key are the first two thirds
        sharp = torch.ones(noise.shape[1], dtype=noise.dtype)
        sharp[: 2 * noise.shape[1] // 3] = 1.6
        return noise * sharp / noise.shape[0] ** 0.5
    if owner in ("query_key_value", "qkv_proj"):  # Linear: [out, in]; queries, keys and values
        return noise * 1.4 / noise.shape[1] ** 0.5
    fan_in = noise.shape[0] if owner in ("c_proj", "c_fc") else noise.shape[1]
    return noise * (1.6 if owner in ("q_proj", "k_proj") else 1.0) / fan_in**0.5


def _rms_norm(self: Any, x: Tensor) -> Tensor:
    return self.weight * x / (x.square().mean(-1, keepdim=True) + self.variance_epsilon).sqrt()


def _gemma_norm(self: Any, x: Tensor) -> Tensor:
    return (1 + self.weight) * x / (x.square().mean(-1, keepdim=True) + self.eps).sqrt()


def _layer_norm(self: Any, x: Tensor) -> Tensor:
    centred = x - x.mean(-1, keepdim=True)
    return self.weight * centred / (centred.square().mean(-1, keepdim=True) + self.variance_epsilon).sqrt()


def _turn_in_float64(modeling: Any) -> None:
    """Cohere turns queries and keys in float32 too; in float64 it is given the same function in that."""
    stock = modeling.apply_rotary_pos_emb

    def turned(q: Tensor, k: Tensor, cos: Tensor, sin: Tensor) -> Any:
        if q.dtype != torch.float64:
            return stock(q, k, cos, sin)
        return tuple(x * cos[:, None] + modeling.rotate_half(x) * sin[:, None] for x in (q, k))

    modeling.apply_rotary_pos_emb = turned


def _attend_in_float64(modeling: Any) -> None:
    """Eager attention takes its softmax in float32, and what its mask is filled with is infinite there."""
    stock = modeling.eager_attention_forward

    def attended(module: Any, query: Tensor, key: Tensor, value: Tensor, mask: Tensor, **options: Any) -> Any:
        if query.dtype != torch.float64:
            return stock(module, query, key, value, mask, **options)
        key, value = (modeling.repeat_kv(x, module.num_key_value_groups) for x in (key, value))
        scores = query @ key.mT * options["scaling"]
        if options.get("softcap") is not None:
            scores = options["softcap"] * (scores / options["softcap"]).tanh()
        weights = (scores + mask).softmax(-1)
        return (weights @ value).transpose(1, 2), weights

    modeling.eager_attention_forward = attended


_attend_in_float64(modeling_gemma2)
_turn_in_float64(modeling_cohere)
_turn_in_float64(modeling_cohere2)


def _attention(self: Any, query: Tensor, key: Tensor, value: Tensor, mask: Tensor) -> tuple[Tensor, Tensor]:
    weights = (query @ key.mT / self.scale_attn + mask).softmax(-1)
    return weights @ value, weights
