"""A tiny random model of every architecture that ``AutoModelForCausalLM`` of the installed transformers knows.

One recipe for all: a config's sizes are set by the names that configs have for them; what is odd about one stands in
`TO_BE_BUILT` and `TO_SHOW`. Then every parameter is made lively, by its name and by what it was made as: gains that
differ (of norms that scale by ``1 + weight``, too), biases that matter, attention far from uniform.

    >>> model = build("mixtral")                                                               # doctest: +SKIP
    >>> build("dots3_note_text")                                                               # doctest: +SKIP
    CannotBeBuilt: 38,239,296 weights, most of them in model.layers.2.self_attn.kv_b_proj.weight
"""

from __future__ import annotations

import dataclasses
from functools import lru_cache
from typing import Any

import torch
from torch import Tensor, nn
from transformers import AutoModelForCausalLM, PreTrainedConfig
from transformers.models.auto.configuration_auto import CONFIG_MAPPING
from transformers.models.auto.modeling_auto import MODEL_FOR_CAUSAL_LM_MAPPING_NAMES

from tests.support.tiny_models import VOCABULARY, WINDOW

ARCHITECTURES: dict[str, str] = dict(MODEL_FOR_CAUSAL_LM_MAPPING_NAMES)
"""By ``model_type`` the name of the class."""

MOST_WEIGHTS = 5_000_000
"""A model with more is not made: it would have been loaded with sizes that nobody has set."""

LAYERS, WIDTH, HEADS, GROUPS, D_HEAD, INNER = 3, 24, 4, 2, 6, 32

SIZES: dict[str, Any] = {
    **dict.fromkeys(("vocab_size", "vocab_size_per_layer_input"), VOCABULARY),
    **dict.fromkeys(("num_hidden_layers", "n_layer", "n_layers", "num_layers", "decoder_layers"), LAYERS),
    **dict.fromkeys(("hidden_size", "n_embd", "d_model", "emb_dim", "embedding_size"), WIDTH),
    **dict.fromkeys(("num_attention_heads", "n_head", "n_heads", "num_heads", "decoder_attention_heads"), HEADS),
    **dict.fromkeys(("intermediate_size", "ffn_dim", "decoder_ffn_dim", "n_inner", "dim_ff"), INNER),
    **dict.fromkeys(("max_position_embeddings", "n_positions", "max_seq_len", "original_max_position_embeddings"), 32),
    **dict.fromkeys(("bos_token_id", "eos_token_id", "pad_token_id"), None),
    **dict.fromkeys(("encoder_layers", "num_encoder_layers"), 1),
    **dict.fromkeys(("encoder_attention_heads", "num_encoder_attention_heads"), 2),
    **dict.fromkeys(("encoder_ffn_dim", "intermediate_size_mlp", "feed_forward_size"), INNER),
    "num_key_value_heads": GROUPS,
    "head_dim": D_HEAD,
    "sliding_window": WINDOW,
    **dict.fromkeys(("is_decoder", "attention_bias", "mlp_bias", "qkv_bias", "use_qkv_bias", "use_bias"), True),
    **dict.fromkeys(("attention_out_bias", "lm_head_bias"), True),
    # mixtures
    **dict.fromkeys(("num_experts", "num_local_experts", "n_routed_experts", "moe_num_experts"), 4),
    **dict.fromkeys(("num_experts_per_tok", "moe_topk", "top_k_experts"), 2),
    **dict.fromkeys(("moe_intermediate_size", "shared_expert_intermediate_size", "shared_intermediate_size"), 16),
    **dict.fromkeys(("n_group", "topk_group", "n_shared_experts", "first_k_dense_replace"), 1),
    # latent attention
    **dict.fromkeys(("q_lora_rank", "kv_lora_rank"), 8),
    **dict.fromkeys(("qk_rope_head_dim", "qk_nope_head_dim", "v_head_dim", "index_head_dim"), 4),
    **dict.fromkeys(("index_n_heads", "index_topk"), 2),
    # linear attention and state spaces
    **dict.fromkeys(("linear_num_key_heads", "linear_num_value_heads", "mamba_n_heads", "n_mamba_heads"), 2),
    **dict.fromkeys(("linear_key_head_dim", "linear_value_head_dim", "mamba_d_state", "state_size"), 4),
}
"""What is set, of whatever a config has."""

SIDE: dict[str, Any] = {
    **dict.fromkeys(("hidden_size", "intermediate_size", "out_hidden_size", "mlp_dim", "output_channels"), 8),
    **dict.fromkeys(("num_hidden_layers", "depth", "num_layers", "encoder_layers", "num_global_layers"), 1),
    **dict.fromkeys(("num_attention_heads", "num_heads", "encoder_attention_heads", "num_key_value_heads"), 2),
    **dict.fromkeys(("d_model", "encoder_ffn_dim"), 8),
    **dict.fromkeys(("image_size", "patch_size"), 8),
}
"""The same for what stands beside a language model, such as a tower for images."""


def _all(*model_types: str, **odd: Any) -> dict[str, dict[str, Any]]:
    return dict.fromkeys(model_types, odd)


_TURNING = dict(rope_type="default", rope_theta=100.0)
_MULTIPLIED = dict(embedding_multiplier=3.0, attention_multiplier=0.3, residual_multiplier=0.7, logits_scaling=0.5)

TO_BE_BUILT: dict[str, dict[str, Any]] = {
    **_all("camembert", "data2vec-text", "roberta", "roberta-prelayernorm", pad_token_id=1),
    **_all("xlm-roberta", "xlm-roberta-xl", pad_token_id=1),
    **_all("axk1", "axk2", "deepseek_v2", "deepseek_v3", head_dim=4, num_key_value_heads=HEADS),
    **_all("deepseek_v32", "glm4_moe_lite", "glm_moe_dsa", "longcat_flash", head_dim=4, num_key_value_heads=HEADS),
    **_all("minicpm3", "youtu", head_dim=4, num_key_value_heads=HEADS),
    **_all("codegen", "gptj", rotary_dim=4),
    **_all(
        "gemma2", "gemma3_text", "olmo2", "olmo3", "flex_olmo", attention_bias=False
    ),  # no bias before a norm is read
    **_all("persimmon", "phi", hidden_size=32),
    **_all("gemma4", "gemma4_unified", text_config=dict(pad_token_id=0)),
    **_all("lfm2", "lfm2_moe", layer_types=["full_attention", "conv", "full_attention"]),
    "cohere_compass_text": dict(
        layer_types=["full_attention"] * LAYERS,
        rope_parameters=dict(full_attention=_TURNING | dict(mrope_section=[1, 1, 1])),
    ),
    "ctrl": dict(dff=INNER),
    "cwm": dict(bos_token_id=0),
    "dbrx": dict(
        attn_config=dict(rope_theta=100.0, kv_n_heads=GROUPS, clip_qkv=2.5),
        ffn_config=dict(hidden_size=WIDTH, ffn_hidden_size=16, moe_num_experts=4, moe_top_k=2),
    ),
    "deepseek_v4": dict(head_dim=8),
    "dots3_note_text": dict(num_key_value_heads=HEADS),
    "emu3": dict(text_config=dict(pad_token_id=0, bos_token_id=0, eos_token_id=0)),
    "gemma3": dict(
        text_config=dict(
            attention_bias=False,
            query_pre_attn_scalar=4,
            layer_types=["full_attention", "sliding_attention", "full_attention"],
        )
    ),
    "fuyu": dict(text_config=dict(hidden_size=32)),
    "gemma3n_text": dict(num_kv_shared_layers=0),
    "gpt_neo": dict(attention_types=[[["global", "local", "local"], 1]], window_size=WINDOW),
    "mamba2": dict(num_heads=4, head_dim=12, n_groups=2),
    "mllama": dict(text_config=dict(bos_token_id=0, cross_attention_layers=[1])),
    "modernbert-decoder": dict(pad_token_id=0, bos_token_id=0, eos_token_id=0, cls_token_id=0, sep_token_id=0),
    "prophetnet": dict(pad_token_id=0, num_decoder_layers=LAYERS, num_decoder_attention_heads=HEADS),
    "reformer": dict(
        attn_layers=["local", "lsh", "local"],
        axial_pos_embds_dim=[8, 16],
        axial_pos_shape=[4, 8],
        attention_head_size=D_HEAD,
    ),
    "roc_bert": dict.fromkeys(
        ("shape_vocab_size", "pronunciation_vocab_size", "shape_embed_dim", "pronunciation_embed_dim"), VOCABULARY
    ),
    "xlm": dict(pad_index=0, causal=True),
    "xlnet": dict(d_inner=INNER),
    "xmod": dict(pad_token_id=1, default_language="en_XX"),
    "zamba": dict(layers_block_type=["mamba", "hybrid", "hybrid"]),
    "zaya": dict(num_experts_per_tok=1),
}
"""What a config wants besides, or otherwise."""

TO_SHOW: dict[str, dict[str, Any]] = {
    "granite": _MULTIPLIED,
    "granitemoe": _MULTIPLIED,
    **_all("qwen2", "qwen3", "qwen2_moe", "qwen3_moe", use_sliding_window=True, max_window_layers=1),
    "cohere": dict(logit_scale=2.0),
    "cohere2": dict(logit_scale=0.7, layer_types=["full_attention", "sliding_attention", "full_attention"]),
    "cohere2_moe": dict(
        logit_scale=0.7,
        layer_types=["full_attention", "sliding_attention", "full_attention"],
        mlp_layer_types=["dense", "sparse", "sparse"],
        prefix_dense_sliding_window_pattern=1,
    ),
    "dots1": dict(max_window_layers=1),
    **_all("exaone_moe", "kolibri1", layer_types=["sliding_attention", "full_attention", "sliding_attention"]),
    "gemma2": dict(query_pre_attn_scalar=4),
    "gemma3_text": dict(query_pre_attn_scalar=4, final_logit_softcapping=5.0),
    "glm4_moe": dict(use_qk_norm=True),
    "gpt_oss": dict(rope_parameters=_TURNING),
    "minimax_m3_vl_text": dict(layer_types=["full_attention", "minimax_m3_sparse", "minimax_m3_sparse"]),
    "ministral3": dict(rope_parameters=_TURNING | dict(llama_4_scaling_beta=0.5, original_max_position_embeddings=2)),
    "smollm3": dict(no_rope_layers=[1, 0, 1], use_sliding_window=True),
    "stablelm": dict(rope_parameters=_TURNING | dict(partial_rotary_factor=0.7)),
    "vaultgemma": dict(attn_logit_softcapping=None, final_logit_softcapping=5.0, query_pre_attn_scalar=4),
}
"""What makes an architecture differ from others in five tokens, where by default it would not."""


class CannotBeBuilt(Exception):
    """Why there is no tiny model of an architecture."""


def config_of(model_type: str) -> Any:
    """The config of a tiny model."""
    made, odd = CONFIG_MAPPING[model_type], TO_BE_BUILT.get(model_type, {}) | TO_SHOW.get(model_type, {})
    inner = {}  # of what consists of several models, the config of each
    for name, part in vars(made()).items():
        if isinstance(part, PreTrainedConfig):
            sizes = SIZES if name == "text_config" else SIDE
            inner[name] = _sized(type(part), sizes) | {"model_type": part.model_type} | odd.get(name, {})
    return made(**_sized(made, SIZES) | odd | inner)


def _sized(made: Any, sizes: dict[str, Any]) -> dict[str, Any]:
    return {name: size for name, size in sizes.items() if name in _names(made)}


def _names(made: Any) -> set[str]:
    return {field.name for field in dataclasses.fields(made)} | set(made.attribute_map)


@lru_cache(maxsize=1)  # whoever asks for a model asks for it a few times, and then for the next
def build(model_type: str) -> Any:
    """The stock model, float32, lively, in eval mode.

    Raises:
        CannotBeBuilt: its config, the model or its forward did not go through, or it is not small.
    """
    try:
        config = config_of(model_type)
        with torch.device("meta"):
            shapes = AutoModelForCausalLM.from_config(config)
    except Exception as error:  # whatever transformers comes to, on sizes that it has not been tried with
        raise CannotBeBuilt(_first_line(error)) from error
    sizes = {name: parameter.numel() for name, parameter in shapes.named_parameters()}
    if sum(sizes.values()) > MOST_WEIGHTS:
        raise CannotBeBuilt(f"{sum(sizes.values()):,} weights, most of them in {max(sizes, key=sizes.__getitem__)}")
    try:
        model = AutoModelForCausalLM.from_config(config_of(model_type))  # a model may have changed its config
        make_lively(model.eval())
        with torch.no_grad():
            model(input_ids=torch.arange(5)[None], use_cache=False)
    except Exception as error:
        raise CannotBeBuilt(_first_line(error)) from error
    return model


@torch.no_grad()
def make_lively(model: nn.Module, seed: int = 0) -> None:
    """Random weights of the size of what each is for, in place; what was made as 1 or as 0 moves around that."""
    generator = torch.Generator().manual_seed(seed)
    for name, parameter in model.named_parameters():
        if parameter.is_floating_point():
            noise = torch.randn(parameter.shape, generator=generator)
            parameter.copy_(_lively(name, noise, float(parameter.float().mean())))


def _lively(name: str, noise: Tensor, made_as: float) -> Tensor:
    owner, kind = ("", *name.split("."))[-2:]
    if noise.ndim < 2:
        gain = 1.6 if owner in ("q_norm", "k_norm", "query_layernorm", "key_layernorm") and made_as == 1 else 1.0
        return 0.5 * noise if "bias" in kind else (made_as + 0.4 * noise) * gain
    if "emb" in owner or owner in ("wte", "wpe", "w"):
        return noise
    sharp = 1.6 if owner in ("q_proj", "k_proj", "query_key_value", "c_attn", "qkv_proj", "Wqkv") else 1.0
    return sharp * noise / noise.shape[-1] ** 0.5


def _first_line(error: Exception) -> str:
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return f"{type(error).__name__}: {' '.join(lines[:2])}"[:160]
