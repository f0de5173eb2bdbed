"""OLMo 2 and 3, FlexOlmo: norms *after* attention and MLP alone, one norm of all queries of a layer, one of all keys.

So a head's query depends on what the queries of the other heads read.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, ClassVar

import torch
from torch import Tensor

from lightning_circuits.models.context import Context
from lightning_circuits.models.families.llama import LlamaCircuitModel
from lightning_circuits.models.families.rotary_by_kind import RotaryByKind
from lightning_circuits.models.rotary import rotate


class Olmo2CircuitModel(LlamaCircuitModel):
    model_types: ClassVar[Sequence[str]] = ("olmo2", "flex_olmo")

    where = LlamaCircuitModel.where._replace(
        attention_norm=None,
        mlp_norm=None,
        norm_after_attention="post_attention_layernorm",
        norm_after_mlp="post_feedforward_layernorm",
    )

    def turn(self, layer: int, q: Tensor, k: Tensor, context: Context) -> tuple[Tensor, Tensor]:
        attention = self.attention_module(layer)
        return rotate(normed(attention.q_norm, q), context), rotate(normed(attention.k_norm, k), context)


class Olmo3CircuitModel(RotaryByKind, Olmo2CircuitModel):
    model_types = ("olmo3",)


def normed(norm: Any, x: Tensor) -> Tensor:
    """One RMS norm over the queries, or keys, of all readers of a layer, ``[readers, ..., d_head]``; readers of a K/V
    group have one gain."""
    wide = x.to(torch.promote_types(x.dtype, torch.float32))
    scale = (wide.square().mean((0, -1), keepdim=True) + norm.variance_epsilon).rsqrt()
    gain = norm.weight.view(-1, x.shape[-1])
    gain = gain.repeat_interleave(len(x) // len(gain), dim=0).view(len(x), *[1] * (x.ndim - 2), -1)
    return (wide * scale).to(x.dtype) * gain
