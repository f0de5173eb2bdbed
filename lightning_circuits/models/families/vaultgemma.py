"""VaultGemma: Gemma with other names for its norms, sliding windows, and logits that are capped softly.

A config may have the scores of the attention capped, too. Those are not read; the released model has none.
"""

from __future__ import annotations

from typing import Any

from torch import Tensor

from lightning_circuits.models.families.gemma import GemmaCircuitModel
from lightning_circuits.models.families.gemma2 import capped
from lightning_circuits.pages import see_page


class VaultGemmaCircuitModel(GemmaCircuitModel):
    """Raises ValueError for a model with ``attn_logit_softcapping``."""

    model_types = ("vaultgemma",)

    where = GemmaCircuitModel.where._replace(mlp_norm="pre_feedforward_layernorm")

    def __init__(self, model: Any, kv: str = "head", freeze: bool = True) -> None:
        if model.config.attn_logit_softcapping is not None:
            raise ValueError(
                "VaultGemma with attn_logit_softcapping is not supported: the scores of its attention are capped. "
                f"The released model is without {see_page('own-model', 'From Hugging Face')}"
            )
        super().__init__(model, kv, freeze)

    def head(self, x: Tensor) -> Tensor:
        return capped(super().head(x), self.model.config.final_logit_softcapping)
