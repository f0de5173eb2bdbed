"""Families that are Llama but for a little: read without it they are refused, and so is what is not read of them."""

from __future__ import annotations

from copy import deepcopy
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from transformers import AutoModelForCausalLM, CohereConfig, StableLmConfig

from lightning_circuits.models import CircuitModel, Norm, wrap
from lightning_circuits.models.cohere import CohereCircuitModel
from lightning_circuits.models.gemma import GemmaCircuitModel
from lightning_circuits.models.granite import GraniteCircuitModel
from lightning_circuits.models.llama import LlamaCircuitModel
from lightning_circuits.models.phi3 import Phi3CircuitModel
from lightning_circuits.models.rotary import rotate
from lightning_circuits.models.verify import verify
from tests.support.oracle import pairs
from tests.support.tiny_models import SIZES, tiny_model


class KeysAsQueries(Phi3CircuitModel):
    def projections(self, layer: int) -> list[tuple[Tensor, Tensor | None]]:
        weights = self.attention_module(layer).qkv_proj.weight.unflatten(0, (8, -1)).mT
        return [(weights[4:], None), (weights[:2], None), (weights[2:4], None)]


class GainsAsTheyAre(GemmaCircuitModel):
    @staticmethod
    def read_norm(norm: Any) -> Norm:
        return Norm(norm.weight, norm.eps)


class Uncentred(CohereCircuitModel):
    @staticmethod
    def read_norm(norm: nn.Module) -> Norm:
        return CircuitModel.read_norm(norm)  # takes it for an RMS norm, whose epsilon it has


class Halves(CohereCircuitModel):
    def turn(self, layer: int, q: Tensor, k: Tensor, context: Any) -> tuple[Tensor, Tensor]:
        return rotate(q, context), rotate(k, context)


class TurnedEverywhere(CohereCircuitModel):
    def turn(self, layer: int, q: Tensor, k: Tensor, context: Any) -> tuple[Tensor, Tensor]:
        return super().turn(1, q, k, context)


class Unmultiplied(GraniteCircuitModel):
    def __init__(self, model: Any) -> None:
        super().__init__(model)
        self.residual_multiplier = 1.0


class AsEmbedded(GraniteCircuitModel):
    def __init__(self, model: Any) -> None:
        super().__init__(model)
        self.embedding_multiplier = 1.0


class Unscaled(GraniteCircuitModel):
    def head(self, x: Tensor) -> Tensor:
        return CircuitModel.head(self, x)


MISREAD: dict[str, tuple[str, type[CircuitModel], str]] = {
    "another order of the fused projection": ("phi3", KeysAsQueries, "the attention of layer 0"),
    "rotary positions in every layer": ("smollm3", LlamaCircuitModel, "the attention of layer 0"),
    "gains less one taken for gains": ("gemma", GainsAsTheyAre, "the norm before the attention of layer 0"),
    "a norm that does not centre": ("cohere", Uncentred, "the norm before the attention of layer 0"),
    "halves for pairs": ("cohere", Halves, "the attention of layer 0"),
    "rotary positions without a window": ("cohere2", TurnedEverywhere, "the attention of layer 0"),
    "what is written not multiplied": ("granite", Unmultiplied, "the residual stream before the MLP of layer 0"),
    "the embedding not multiplied": ("granite", AsEmbedded, "the residual stream before the attention of layer 0"),
    "logits not scaled": ("granite", Unscaled, "the logits of GraniteForCausalLM are not what its head puts out"),
}


@pytest.mark.parametrize("mistake", MISREAD)
def test_what_a_family_differs_in_is_missed_if_it_is_left_out(mistake: str) -> None:
    family, misread, place = MISREAD[mistake]
    with pytest.raises(ValueError, match=place):
        verify(misread(deepcopy(tiny_model(family))))


@pytest.mark.parametrize(
    ("config", "reason"),
    [
        (
            StableLmConfig(**SIZES, qk_layernorm=True),
            r"StableLM with qk_layernorm is not .*StableLM 2 1\.6B",
        ),
        (CohereConfig(**SIZES, pad_token_id=None, use_qk_norm=True), "Cohere with use_qk_norm .* such as Command R "),
    ],
    ids=["stablelm", "cohere"],
)
def test_norms_of_single_heads_are_refused_by_name(config: Any, reason: str) -> None:
    with pytest.raises(ValueError, match=reason):
        wrap(AutoModelForCausalLM.from_config(config))


@pytest.mark.parametrize("family", ["granite", "gemma"])
def test_what_stands_in_for_the_embedding_is_what_goes_into_the_stream(family: str) -> None:
    """As on the paths between prompts of EAP-IG: after the model's multiplier, and after the module's own."""
    model, batch = wrap(tiny_model(family, torch.float64)), pairs("left")
    prompts = batch.attention_mask, batch.positions
    embedded = model.run(model.embed(batch.clean_ids), *prompts)
    torch.testing.assert_close(embedded, model.run(batch.clean_ids, *prompts), atol=1e-9, rtol=1e-9)
