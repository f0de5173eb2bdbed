"""OPT and Galactica: learned positions, a norm before attention and MLP, an MLP without a module.

The one size with norms after them (350M, where token embeddings have a width of their own too) is not read.
"""

from __future__ import annotations

from typing import Any

from torch import Tensor

from lightning_circuits.models.base import CircuitModel
from lightning_circuits.models.families.biogpt import BioGptCircuitModel
from lightning_circuits.pages import see_page


class OPTCircuitModel(BioGptCircuitModel):
    """Raises ValueError for a model with norms after its parts, without the last norm, or with a projection of its
    token embeddings."""

    model_types = ("opt",)

    where = BioGptCircuitModel.where._replace(decoder="model.decoder", final_norm="final_layer_norm")

    def __init__(self, model: Any, kv: str = "head", freeze: bool = True) -> None:
        config = model.config
        lacking = {
            "do_layer_norm_before=False, that is with norms after attention and MLP": not config.do_layer_norm_before,
            "word_embed_proj_dim, that is with token embeddings of another width than the stream's": (
                config.word_embed_proj_dim != config.hidden_size
            ),
            "_remove_final_layer_norm, that is without a norm before the head": config._remove_final_layer_norm,
        }
        for what, holds in lacking.items():
            if holds:
                raise ValueError(
                    f"OPT with {what}, is not supported. Models without are, all sizes but 350M "
                    f"{see_page('own-model', 'From Hugging Face')}"
                )
        super().__init__(model, kv, freeze)

    def head(self, x: Tensor) -> Tensor:
        return CircuitModel.head(self, x)
