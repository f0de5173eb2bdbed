"""GLM 4 (``glm``, the 9B of 2024), Helium and ERNIE 4.5: Llama whose rotary positions turn neighbouring numbers.

Their module gives the angles in halves, as Llama's does, and each is then taken for two neighbours. ERNIE's mixtures
are read as its dense models are.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, ClassVar

from torch import Tensor

from lightning_circuits.models.context import Context
from lightning_circuits.models.families.llama import LlamaCircuitModel
from lightning_circuits.models.rotary import rotate_pairs


class GlmCircuitModel(LlamaCircuitModel):
    model_types: ClassVar[Sequence[str]] = ("glm", "helium", "ernie4_5", "ernie4_5_moe")

    def rotary(self, positions: Tensor) -> dict[str, Any]:
        cos, sin = (
            table.chunk(2, -1)[0].repeat_interleave(2, dim=-1).to(self.dtype)  # ERNIE's are in float32
            for table in super().rotary(positions)["rotary"]
        )
        return {"rotary": (cos, sin)}

    def turn(self, layer: int, q: Tensor, k: Tensor, context: Context) -> tuple[Tensor, Tensor]:
        return rotate_pairs(q, context), rotate_pairs(k, context)


class Glm4CircuitModel(GlmCircuitModel):
    """GLM-4-0414: norms after attention and MLP besides."""

    model_types = ("glm4",)

    where = GlmCircuitModel.where._replace(
        norm_after_attention="post_self_attn_layernorm", norm_after_mlp="post_mlp_layernorm"
    )
