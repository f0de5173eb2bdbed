"""A second opinion on the masked computation: the same forward written again, slowly, with plain loops and names.

What `lightning_circuits.masked` does in a few matrix products is done here one prompt, one reader, one writer, one
token at a time, on prompts whose padding is cut off, by calling Hugging Face's own modules. Nothing of
`lightning_circuits` is used: edges are found by name, masks and positions are made here. Plain autograd goes through.

    >>> model = tiny_model("llama-gqa", torch.float64)
    >>> batch = pairs("left")
    >>> reference = oracle(model, ALL_OPEN, batch.corrupt_ids, batch).writers
    >>> gates["a0.h1->m1"] = 0.0
    >>> oracle(model, gates, batch.clean_ids, batch, reference).logits

The models are small and random, but lively: attention far from uniform, norm gains and biases that matter.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from types import MethodType
from typing import Any

import torch
from torch import Tensor, nn
from transformers import (
    AutoModelForCausalLM,
    Cohere2Config,
    CohereConfig,
    GemmaConfig,
    GPT2Config,
    GPTJConfig,
    GPTNeoXConfig,
    GraniteConfig,
    LlamaConfig,
    MistralConfig,
    Phi3Config,
    Qwen2Config,
    Qwen3Config,
    SmolLM3Config,
    StableLmConfig,
    Starcoder2Config,
)
from transformers.models.cohere import modeling_cohere
from transformers.models.cohere2 import modeling_cohere2

from tests.support import unlike_llama
from tests.support.stock_parts import parts_of

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
    "granite": lambda: GraniteConfig(
        **GROUPED,
        attention_bias=True,
        mlp_bias=True,
        embedding_multiplier=3.0,
        attention_multiplier=0.3,
        residual_multiplier=0.7,
        logits_scaling=0.5,
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


@cache
def tiny_model(family: str, dtype: torch.dtype = torch.float32, seed: int = 0) -> nn.Module:
    """The stock Hugging Face model of a family with random weights; the same numbers in every dtype."""
    generator = torch.Generator().manual_seed(seed)
    model = AutoModelForCausalLM.from_config(FAMILIES[family]())
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            noise = torch.randn(parameter.shape, generator=generator, dtype=torch.float64)
            parameter.data = _lively(name, noise).to(dtype)  # parameters only: rotary buffers stay in float32
        for module in model.modules():
            if type(module).__name__ == "GemmaRMSNorm":
                module.weight -= 1  # Gemma's weights are gains less one
    unlike_llama.settle(model, dtype)
    if dtype == torch.float64:
        # Hugging Face's RMS norm computes in float32 whatever the model's dtype. That caps the agreement of any two
        # float64 computations at 1e-7; so the stock module gets a norm that keeps the dtype: the same function. So does
        # GPT-J's attention with its scores.
        for module in model.modules():
            if type(module).__name__.endswith("RMSNorm"):
                gemma = type(module).__name__ == "GemmaRMSNorm"
                module.forward = MethodType(_gemma_norm if gemma else _rms_norm, module)
            if type(module).__name__ in ("CohereLayerNorm", "Cohere2LayerNorm"):
                module.forward = MethodType(_layer_norm, module)
            if type(module).__name__ == "GPTJAttention":
                module._attn = MethodType(_attention, module)
    return model.eval()


def _lively(name: str, noise: Tensor) -> Tensor:
    """Standard normal noise, scaled to what the parameter of this name is for."""
    owner, kind = name.split(".")[-2:]
    if kind == "bias":
        return 0.5 * noise
    if noise.ndim == 1:  # norm gains; those of queries and keys decide how sharp Qwen3's attention is
        return (1.0 + 0.4 * noise) * (1.6 if owner in ("q_norm", "k_norm") else 1.0)
    if owner in ("wte", "embed_tokens", "embed_in", "wpe", "word_embeddings", "embed_positions", "w"):
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


_turn_in_float64(modeling_cohere)
_turn_in_float64(modeling_cohere2)


def _attention(self: Any, query: Tensor, key: Tensor, value: Tensor, mask: Tensor) -> tuple[Tensor, Tensor]:
    weights = (query @ key.mT / self.scale_attn + mask).softmax(-1)
    return weights @ value, weights


@dataclass(frozen=True)
class Pairs:
    """A batch of random prompts: ids ``[B, T]``, ``attention_mask`` ``[B, T]``, ``positions`` ``[B]``."""

    clean_ids: Tensor
    corrupt_ids: Tensor
    attention_mask: Tensor
    positions: Tensor

    def row(self, i: int) -> Pairs:
        """Prompt i alone, its padding cut off."""
        real = self.attention_mask[i].bool()
        return Pairs(
            self.clean_ids[i, real][None],
            self.corrupt_ids[i, real][None],
            torch.ones(1, int(real.sum()), dtype=torch.int64),
            self.positions[i : i + 1] - int(real.int().argmax()),
        )


PADDINGS: dict[str, list[str]] = {
    "none": ["xxxxx", "xxxxx"],
    "left": ["xxxxx", "..xxx"],
    "right": ["xxxxx", "xxx.."],
    "ragged": [".xxx.", "xxxx.", "...xx"],
}


def pairs(padding: str, seed: int = 0) -> Pairs:
    """Random clean and corrupt prompts. Logits are read at the last real token, in the second prompt one before it."""
    generator = torch.Generator().manual_seed(seed)
    mask = torch.tensor([[int(token == "x") for token in row] for row in PADDINGS[padding]])
    clean, corrupt = torch.randint(0, VOCABULARY, (2, *mask.shape), generator=generator)
    last = torch.tensor([row.rindex("x") for row in PADDINGS[padding]])
    last[1] -= 1
    return Pairs(clean, corrupt, mask, last)


def stock_logits(model: Any, input_ids: Tensor, batch: Pairs) -> Tensor:
    """``[B, V]``: Hugging Face's model, called the ordinary way."""
    mask = batch.attention_mask
    positions = (mask.cumsum(-1) - 1).clamp(min=0)
    with torch.no_grad():
        logits = model(input_ids=input_ids, attention_mask=mask, position_ids=positions, use_cache=False).logits
    return torch.stack([logits[i, p] for i, p in enumerate(batch.positions.tolist())])


# ---- the gated forward, in loops ---------------------------------------------------------------------------------

ALL_OPEN: Mapping[str, float] = defaultdict(lambda: 1.0)


@dataclass(frozen=True)
class Run:
    """``logits`` ``[B, V]``; ``writers``: name to ``[B, T, d]``, zero at padding; ``edges``: the names that were asked
    for, in order; ``attention``: the weights of every head at every token, ``[keys]`` each."""

    logits: Tensor
    writers: dict[str, Tensor]
    edges: list[str]
    attention: list[Tensor]


def oracle(
    model: Any,
    gates: Mapping[str, Any],
    input_ids: Tensor,
    batch: Pairs,
    reference: Mapping[str, Tensor] | None = None,
    kv: str = "head",
    spans: Sequence[Sequence[str | None]] | None = None,
) -> Run:
    """The model with gated edges.

    Args:
        gates: by the names of edges, floats or scalar tensors; with spans, by names such as ``a0.h1->m2@END``.
        input_ids: ``[B, T]``.
        batch: where the padding is, and the positions to read.
        reference: what closed edges carry, by the names of writers, ``[B, T, d]``. None: zeros.
        kv: the edges' convention, ``"head"`` or ``"group"``.
        spans: of every prompt the name of the span of every token, padding included; None for a token in none, at
            which every edge is closed.
    """
    runs = []
    for i, position in enumerate(batch.positions.tolist()):
        real = batch.attention_mask[i].nonzero().flatten().tolist()
        values = None if reference is None else {name: value[i, real] for name, value in reference.items()}
        of_tokens = gates if spans is None else _AtTokens(gates, [spans[i][t] for t in real])
        runs.append((real, _Prompt(model, of_tokens, input_ids[i, real], values, kv).run(real.index(position))))
    writers = {}
    for name, output in runs[0][1].writers.items():
        writers[name] = torch.zeros(*input_ids.shape, output.shape[-1], dtype=output.dtype)
        for i, (real, run) in enumerate(runs):
            writers[name][i, real] = run.writers[name].detach()
    attention = [weights for _, run in runs for weights in run.attention]
    return Run(torch.stack([run.logits for _, run in runs]), writers, runs[0][1].edges, attention)


class _AtTokens(dict[str, Tensor]):
    """Gates in spans, by the names of edges alone: a column ``[T, 1]``, the gate of every token's span."""

    def __init__(self, gates: Mapping[str, Any], spans: Sequence[str | None]) -> None:
        self.gates, self.spans = gates, spans

    def __missing__(self, edge: str) -> Tensor:
        column = [0.0 if span is None else self.gates[f"{edge}@{span}"] for span in self.spans]
        return torch.stack([torch.as_tensor(gate, dtype=torch.float64) for gate in column])[:, None]


class _Prompt:
    """One prompt ``[T]`` without padding, from the bottom of the model to the top."""

    def __init__(
        self, model: Any, gates: Mapping[str, Any], ids: Tensor, reference: dict[str, Tensor] | None, kv: str
    ) -> None:
        self.parts, self.gates, self.ids, self.reference, self.kv = parts_of(model), gates, ids, reference, kv
        self.writers: dict[str, Tensor] = {}
        self.constants: list[Tensor] = []
        self.edges: list[str] = []
        self.attention: list[Tensor] = []

    def run(self, position: int) -> Run:
        parts = self.parts
        self.writers["input"] = parts.tokens(self.ids)
        positions = parts.constant(len(self.ids))
        self.constants += [] if positions is None else [positions]
        for layer in range(len(parts.blocks)):
            heads = {f"a{layer}.h{head}": self.head(layer, head) for head in range(parts.n_heads)}
            if parts.parallel:
                mlp = parts.mlp(layer, self.stream(f"m{layer}"))
            self.writers.update(heads)  # only now: heads of one layer do not read each other
            self.constants.append(self.write(layer, None))
            self.writers[f"m{layer}"] = mlp if parts.parallel else parts.mlp(layer, self.stream(f"m{layer}"))
        logits = parts.logits(self.stream("logits"))[position]
        return Run(logits, self.writers, self.edges, self.attention)

    def stream(self, reader: str) -> Tensor:
        """``[T, d]``: what a reader sees of the writers so far."""
        total = sum(self.constants, torch.zeros_like(self.writers["input"]))
        for name, output in self.writers.items():
            edge = f"{name}->{reader}"
            self.edges.append(edge)
            instead = torch.zeros_like(output) if self.reference is None else self.reference[name]
            total = total + self.gates[edge] * output + (1 - self.gates[edge]) * instead
        return total

    def head(self, layer: int, head: int) -> Tensor:
        """``[T, d]``: what one head writes, its query, key and value reading a stream each."""
        parts = self.parts
        group = head * parts.n_groups // parts.n_heads
        of_kv = f"h{head}" if self.kv == "head" or parts.n_groups == parts.n_heads else f"g{group}"
        q = parts.query_key_value(layer, "q", head, self.stream(f"a{layer}.h{head}<q>"))
        k = parts.query_key_value(layer, "k", group, self.stream(f"a{layer}.{of_kv}<k>"))
        v = parts.query_key_value(layer, "v", group, self.stream(f"a{layer}.{of_kv}<v>"))
        scale, mixed = parts.scale(layer, q.shape[-1]), []
        for t in range(len(q)):
            keys = [s for s in range(t + 1) if parts.sees(layer, t, s)]
            scores = torch.stack([scale * (q[t] * k[s]).sum() for s in keys])
            weights = scores.exp() / scores.exp().sum()
            self.attention.append(weights.detach())
            mixed.append(sum(weight * v[s] for weight, s in zip(weights, keys, strict=True)))
        return self.write(layer, head, torch.stack(mixed)) - self.write(layer, None)

    def write(self, layer: int, head: int | None, z: Tensor | None = None) -> Tensor:
        """``[T, d]``: the output projection of one head's values, all other heads zero; without a head, its bias."""
        module, n_heads = self.parts.output(layer), self.parts.n_heads
        width = getattr(module, "in_features", len(module.weight)) // n_heads  # GPT-2's Conv1D is [in, out]
        nothing = self.writers["input"].new_zeros(len(self.ids), width)
        written = module(torch.cat([z if i == head else nothing for i in range(n_heads)], -1))
        return self.parts.multiplier * written
