"""What stands in the way of architectures that are not read: one reason each, by ``config.model_type``.

Each was found by reading the model's file in `transformers`; where a module shows it, a test looks for that module in a
model of the architecture (`tests/models/test_every_architecture.py`).
"""

from __future__ import annotations

REASONS: dict[str, tuple[str, ...]] = {
    "its layers are state-space blocks, or some of them, in place of attention": (
        *("bamba", "falcon_h1", "falcon_mamba", "granitemoehybrid", "jamba", "mamba", "mamba2", "nemotron_h"),
        *("zamba", "zamba2"),
    ),
    "its layers have linear or recurrent attention, or some of them, which mixes no tokens by weights that sum to 1": (
        *("bailing_hybrid", "minimax", "olmo_hybrid", "qwen3_5", "qwen3_5_moe", "qwen3_5_moe_text", "qwen3_5_text"),
        *("qwen3_next", "qwen4_exp", "qwen4_exp_text", "kimi_linear", "recurrent_gemma", "rwkv", "xlstm"),
    ),
    "some of its layers are convolutions in place of attention, or have them within": (
        *("inkling2_text", "inkling_text", "lfm2", "lfm2_moe", "lfm3", "zaya"),
    ),
    "it has cross-attention, to an encoder or to images": (
        *("bart", "bigbird_pegasus", "blenderbot", "blenderbot-small", "marian", "mbart", "mllama", "mvp"),
        *("mllama_text_model", "musicgen", "musicgen_melody", "pegasus", "plbart", "prophetnet", "trocr", "whisper"),
    ),
    "its norms stand on the sums, so that no stream goes through the model unchanged": (
        *("bert", "bert-generation", "big_bird", "camembert", "data2vec-text", "electra", "ernie", "git"),
        *("openai-gpt", "rembert", "roberta", "roc_bert", "roformer", "xlm", "xlm-roberta", "xlnet", "xmod"),
    ),
    "its attention and MLP add the stream within the modules that write, as BERT's do": (
        *("megatron-bert", "roberta-prelayernorm", "xlm-roberta-xl"),
    ),
    "its attention is latent: keys and values, or queries, go through a narrow layer and a norm first": (
        *("axk1", "axk2", "deepseek_v2", "deepseek_v3", "deepseek_v32", "deepseek_v4", "dots3_note"),
        *("dots3_note_text", "glm4_moe_lite", "glm_moe_dsa", "hy_v4", "longcat_flash", "minicpm3", "youtu"),
    ),
    "what its norms after attention and MLP put out is multiplied": ("hyperclovax",),
    "each of its heads has a sink, a score that no token has": (
        *("flint", "granite_swa", "granitemoe_swa", "mimo_v2_flash"),
    ),
    "what its heads mix goes through a gate that reads the stream too": ("afmoe", "beam", "hrm_text", "laguna"),
    "its scores have a bias by the distance of tokens": ("bloom", "cpmant", "mpt"),
    "its attention is differential: what one head mixes is taken off another's": ("diffllama",),
    "which keys a token sees hangs on the values, or on scores of an indexer": ("doge", "minimax_m3_vl_text"),
    "a norm over all heads stands before the output of its attention": ("bitnet",),
    "its attention has experts, each with queries and outputs of its own": ("jetmoe",),
    "two modules stand in the place of its MLP": ("granitemoeshared",),
    "its mixtures give back more than what they write": ("llama4", "llama4_text"),
    "its rotary positions are of several dimensions": ("cohere_compass_text",),
    "its projections are wrapped in modules of their own": ("moshi",),
    "its attention is by hashes, in chunks": ("reformer",),
    "it reads bytes in patches, each part by a model of its own": ("blt",),
    "some layers take their keys and values from others, or their inputs from beside the stream": (
        *("gemma3n", "gemma3n_text", "gemma4", "gemma4_assistant", "gemma4_text", "gemma4_unified"),
        *("gemma4_unified_assistant", "gemma4_unified_text"),
    ),
    "its language model stands inside of one for images": ("fuyu",),
}
"""Ends of the sentence "... is not supported: "."""


def reason_of(model_type: str | None) -> str | None:
    """Why models of this type are not read; None where it is not known."""
    return next((reason for reason, types in REASONS.items() if model_type in types), None)
