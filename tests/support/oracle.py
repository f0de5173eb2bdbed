"""A second opinion on the masked computation: the same forward written again, slowly, with plain loops and names.

What `lightning_circuits.masked` does in a few matrix products is done here one prompt, one reader, one writer, one
token at a time, on prompts whose padding is cut off, by calling Hugging Face's own modules. Nothing of
`lightning_circuits` is used: edges are found by name, masks and positions are made here. Plain autograd goes through.

    >>> model = tiny_model("llama-gqa", torch.float64)
    >>> batch = pairs("left")
    >>> reference = oracle(model, ALL_OPEN, batch.corrupt_ids, batch).writers
    >>> gates["a0.h1->m1"] = 0.0
    >>> oracle(model, gates, batch.clean_ids, batch, reference).logits
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from tests.support.stock_parts import parts_of
from tests.support.tiny_models import VOCABULARY


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


def batch_of(padding: str = "ragged") -> Any:
    """The same, each prompt with an answer and a distractor of its own."""
    prompts = pairs(padding)
    n = len(prompts.positions)
    return vars(prompts) | {"answers": torch.arange(n)[:, None], "distractors": 5 + torch.arange(n)[:, None]}


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
            heads = {f"a{layer}.h{head}": written for head, written in enumerate(self.heads(layer))}
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

    def heads(self, layer: int) -> list[Tensor]:
        """``[T, d]`` each: what the heads of a layer write, every query, key and value reading a stream each."""
        parts, seen = self.parts, defaultdict[str, list[Tensor]](list)
        for head in range(parts.n_heads):
            group = head * parts.n_groups // parts.n_heads
            of_kv = f"h{head}" if self.kv == "head" or parts.n_groups == parts.n_heads else f"g{group}"
            for kind, index, reader in (("q", head, f"h{head}"), ("k", group, of_kv), ("v", group, of_kv)):
                stream = self.stream(f"a{layer}.{reader}<{kind}>")
                seen[kind].append(parts.projected(layer, kind, index, stream))
        turned = ([parts.turned(layer, x) for x in parts.across(layer, kind, seen[kind])] for kind in "qk")
        mixed = [self.mixed(layer, h, *of_head) for h, of_head in enumerate(zip(*turned, seen["v"], strict=True))]
        bias = self.write(layer, None)
        alone = [self.write(layer, head, z) - bias for head, z in enumerate(mixed)]
        return parts.shares(layer, alone)

    def mixed(self, layer: int, head: int, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        """``[T, d_head]``: the values of one head, mixed token by token."""
        parts, mixed = self.parts, []
        scale = parts.scale(layer, q.shape[-1])
        for t in range(len(q)):
            keys = [s for s in range(t + 1) if parts.sees(layer, t, s)]
            weights = parts.weights(layer, head, torch.stack([scale * (q[t] * k[s]).sum() for s in keys]))
            self.attention.append(weights.detach())
            mixed.append(sum(weight * v[s] for weight, s in zip(weights, keys, strict=True)))
        return torch.stack(mixed)

    def write(self, layer: int, head: int | None, z: Tensor | None = None) -> Tensor:
        """``[T, d]``: the output projection of one head's values, all other heads zero; without a head, its bias."""
        module, n_heads = self.parts.output(layer), self.parts.n_heads
        width = getattr(module, "in_features", len(module.weight)) // n_heads  # GPT-2's Conv1D is [in, out]
        nothing = self.writers["input"].new_zeros(len(self.ids), width)
        written = module(torch.cat([z if i == head else nothing for i in range(n_heads)], -1))
        return self.parts.multiplier * written
