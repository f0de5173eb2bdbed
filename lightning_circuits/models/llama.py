"""The Llama line: Llama, Mistral, Qwen2 (biases on q, k, v) and Qwen3 (norms on q and k).

Rotary positions, RMS norms before attention and MLP, grouped-query attention, optionally a sliding window. The norms
of Qwen3 act on a head's query and key after the projection: they change what a head does, not what it reads.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from lightning_circuits.models.base import CircuitModel, of_readers, project
from lightning_circuits.models.context import Context, PromptLimit, causal_mask, position_ids
from lightning_circuits.models.rotary import angles, rotary_limit, rotate
from lightning_circuits.models.where import Where


class LlamaCircuitModel(CircuitModel):
    model_types = ("llama", "mistral", "qwen2", "qwen3")

    where = Where(
        decoder="model",
        token_embedding="embed_tokens",
        blocks="layers",
        final_norm="norm",
        attention_norm="input_layernorm",
        attention="self_attn",
        output="o_proj",
        mlp_norm="post_attention_layernorm",
        mlp="mlp",
    )

    def __init__(self, model: Any, kv: str = "head", freeze: bool = True) -> None:
        super().__init__(model, kv, freeze)
        config = model.config
        self.window: int | None = getattr(config, "sliding_window", None)
        # Mistral says one window for all layers, Qwen says for each layer whether it has one.
        layer_types = getattr(config, "layer_types", None) or ["sliding_attention"] * self.layout.n_layers
        self.windowed = [self.window is not None and kind == "sliding_attention" for kind in layer_types]

    @property
    def prompt_limit(self) -> PromptLimit | None:
        return rotary_limit(self.backbone.rotary_emb)

    def context(self, attention_mask: Tensor) -> Context:
        positions = position_ids(attention_mask)
        return Context(
            mask=causal_mask(attention_mask),
            window_mask=causal_mask(attention_mask, self.window) if any(self.windowed) else None,
            position_ids=positions,
            rotary=angles(self.backbone.rotary_emb, positions, self.dtype),
        )

    def layer_mask(self, layer: int, context: Context) -> Tensor:
        return context.window_mask if self.windowed[layer] else context.mask  # type: ignore[return-value]

    def projections(self, layer: int) -> list[tuple[Tensor, Tensor | None]]:
        attention, groups = self.attention_module(layer), self.n_groups
        linears = (attention.q_proj, self.layout.n_heads), (attention.k_proj, groups), (attention.v_proj, groups)
        return [
            (linear.weight.unflatten(0, (blocks, -1)).mT, None if linear.bias is None else linear.bias.view(blocks, -1))
            for linear, blocks in linears
        ]

    def query_key_value(self, layer: int, x: Tensor, context: Context) -> tuple[Tensor, Tensor, Tensor]:
        norm = self.read_norm(self.attention_norm(layer))
        split = (self.layout.n_heads, self.layout.n_kv_readers, self.layout.n_kv_readers)
        weights, biases = zip(*self.projections(layer), strict=True)
        q, k, v = _NormedProjection.apply(x, split, norm.gain, norm.epsilon, *weights)
        if biases[0] is not None:
            q, k, v = (t + of_readers(bias, len(t)) for t, bias in zip((q, k, v), biases, strict=True))
        return q, k, v

    def turn(self, layer: int, q: Tensor, k: Tensor, context: Context) -> tuple[Tensor, Tensor]:
        attention = self.attention_module(layer)
        if hasattr(attention, "q_norm"):
            q, k = attention.q_norm(q), attention.k_norm(k)
        return rotate(q, context), rotate(k, context)


class _NormedProjection(torch.autograd.Function):
    """RMS norm of every reader's stream, then its block of the query, key or value projection.

    A layer has some 30 streams, and plain autograd would pass over all of them a dozen times for the norm alone. With
    ``s = 1 / rms(x)`` a number per token, ``(x * s * g) @ W = s * (x @ (g W))``: the norm never touches a stream, only
    the weights and the narrow outputs. Backward, with ``y = s * (x @ (g W))``,

        dx = (s dy) @ (g W)^T - x * s^2 / d * <dy, y>.
    """

    @staticmethod
    def forward(ctx: Any, x: Tensor, split: tuple[int, int, int], gain: Tensor, eps: float, *weights: Tensor) -> Any:
        wide = torch.promote_types(x.dtype, torch.float32)  # the mean of squares overflows and rounds in 16 bits
        mean_square = torch.linalg.vector_norm(x, dim=-1, keepdim=True, dtype=wide).square() / x.shape[-1]
        scale = (mean_square + eps).rsqrt().to(x.dtype)
        outputs = [
            project(streams, gain[:, None] * weight) * s
            for streams, s, weight in zip(x.split(split), scale.split(split), weights, strict=True)
        ]
        ctx.save_for_backward(x, scale, gain, *weights, *outputs)
        ctx.split = split
        return tuple(outputs)

    @staticmethod
    def backward(ctx: Any, *dys: Tensor) -> tuple[Tensor | None, ...]:
        x, scale, gain, *rest = ctx.saved_tensors
        weights, outputs = rest[:3], rest[3:]
        dx, along = torch.empty_like(x), torch.empty_like(scale)
        for d, a, s, y, dy, weight in zip(
            dx.split(ctx.split), along.split(ctx.split), scale.split(ctx.split), outputs, dys, weights, strict=True
        ):
            streams = (dy * s).reshape(len(weight), -1, weight.shape[-1])
            torch.bmm(streams, (gain[:, None] * weight).mT, out=d.view(len(weight), -1, weight.shape[1]))
            a.copy_((dy * y).sum(-1, keepdim=True) * s.square() / x.shape[-1])
        return dx.addcmul_(x, along, value=-1), None, None, None, None, None, None
