"""Models by their shape, with random weights: what a step costs does not depend on what the weights say."""

from __future__ import annotations

import torch
from torch import Tensor
from transformers import AutoModelForCausalLM, GPT2Config, LlamaConfig, PreTrainedModel

from lightning_circuits.models.loading import load_model


def llama(layers: int, heads: int, groups: int, width: int, mlp: int, vocabulary: int) -> LlamaConfig:
    return LlamaConfig(
        num_hidden_layers=layers,
        num_attention_heads=heads,
        num_key_value_heads=groups,
        hidden_size=width,
        intermediate_size=mlp,
        vocab_size=vocabulary,
    )


SHAPES = {
    "gpt2": GPT2Config(),
    "smollm2-135m": llama(30, 9, 3, 576, 1536, 49152),
    "llama-3.1-8b": llama(32, 32, 8, 4096, 14336, 128256),
    "llama-2-7b": llama(32, 32, 32, 4096, 11008, 32000),
    "llama-2-13b": llama(40, 40, 40, 5120, 13824, 32000),
    "tiny": llama(3, 4, 2, 32, 48, 100),
}


def build(name: str, device: str, dtype: str) -> PreTrainedModel:
    """A shape by name with random weights, else a model by id or folder."""
    if name not in SHAPES:
        return load_model(name, dtype).to(device)
    with torch.device(device):
        return AutoModelForCausalLM.from_config(SHAPES[name], dtype=getattr(torch, dtype))


def random_batch(vocabulary: int, prompts: int, length: int, device: str) -> dict[str, Tensor]:
    """Random tokens in the form that every data module yields, unpadded, asked at the last one."""
    shape = (prompts, length)
    return {
        "clean_ids": torch.randint(vocabulary, shape, device=device),
        "corrupt_ids": torch.randint(vocabulary, shape, device=device),
        "attention_mask": torch.ones(shape, dtype=torch.int64, device=device),
        "positions": torch.full((prompts,), length - 1, device=device),
        "answers": torch.zeros(prompts, 1, dtype=torch.int64, device=device),
        "distractors": torch.ones(prompts, 1, dtype=torch.int64, device=device),
    }
