"""Families that are Llama but for a little: read without it they are refused, and so is what is not read of them."""

from __future__ import annotations

from copy import deepcopy
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from transformers import AutoModelForCausalLM, Olmo2Config, OlmoeConfig

from lightning_circuits.models import CircuitModel, Norm, wrap
from lightning_circuits.models.families.cohere import CohereCircuitModel
from lightning_circuits.models.families.gemma import GemmaCircuitModel
from lightning_circuits.models.families.gemma2 import Gemma2CircuitModel
from lightning_circuits.models.families.gemma3 import Gemma3CircuitModel
from lightning_circuits.models.families.gpt_oss import GptOssCircuitModel
from lightning_circuits.models.families.granite import GraniteCircuitModel
from lightning_circuits.models.families.llama import LlamaCircuitModel
from lightning_circuits.models.families.olmo2 import Olmo2CircuitModel
from lightning_circuits.models.families.phi3 import Phi3CircuitModel
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


class NotCapped(Gemma2CircuitModel):
    caps_scores = False


class LogitsNotCapped(Gemma2CircuitModel):
    head = CircuitModel.head


class NoNormAfter(Gemma2CircuitModel):
    where = Gemma2CircuitModel.where._replace(norm_after_attention=None)


class NoNormAfterMLP(Gemma2CircuitModel):
    where = Gemma2CircuitModel.where._replace(norm_after_mlp=None)


class SeesAll(Gemma2CircuitModel):
    def layer_mask(self, layer: int, context: Any) -> Tensor:
        return context.mask


class KeysNotNormed(Olmo2CircuitModel):
    def turn(self, layer: int, q: Tensor, k: Tensor, context: Any) -> tuple[Tensor, Tensor]:
        return super().turn(layer, q, k, context)[0], rotate(k, context)


class OneKindOfAngles(Gemma3CircuitModel):
    turn = LlamaCircuitModel.turn


class NoSinks(GptOssCircuitModel):
    attention_weights = CircuitModel.attention_weights


class GainsOfOneHead(CohereCircuitModel):
    def head_norms(self, layer: int) -> Any:
        queries, keys = self.attention_module(layer).q_norm, self.attention_module(layer).k_norm
        of_first = (Norm(norm.weight[:1].expand_as(norm.weight), 1e-5, centres=True) for norm in (queries, keys))
        return tuple(of_first)


MISREAD: dict[str, tuple[str, type[CircuitModel], str]] = {
    "another order of the fused projection": ("phi3", KeysAsQueries, "the attention of layer 0"),
    "rotary positions in every layer": ("smollm3", LlamaCircuitModel, "the attention of layer 0"),
    "gains less one taken for gains": ("gemma", GainsAsTheyAre, "the norm before the attention of layer 0"),
    "a norm that does not centre": ("cohere", Uncentred, "the norm before the attention of layer 0"),
    "halves for pairs": ("cohere", Halves, "the attention of layer 0"),
    "rotary positions without a window": ("cohere2", TurnedEverywhere, "the attention of layer 0"),
    "what is written not multiplied": ("granite", Unmultiplied, "the residual stream before the MLP of layer 0"),
    "the embedding not multiplied": ("granite", AsEmbedded, "the residual stream before the attention of layer 0"),
    "scores not capped": ("gemma2", NotCapped, "the attention of layer 0"),
    "logits not capped": ("gemma2", LogitsNotCapped, "the logits of Gemma2ForCausalLM are not what its head puts out"),
    "no norm behind the attention": ("gemma2", NoNormAfter, "the residual stream before the MLP of layer 0"),
    "no norm behind the MLP": ("gemma2", NoNormAfterMLP, "the residual stream before the attention of layer 1"),
    "no window": ("gemma2", SeesAll, "the attention of layer 0"),
    "one kind of angles": ("gemma3", OneKindOfAngles, "the attention of layer 1"),
    "keys not normed": ("olmo2", KeysNotNormed, "the attention of layer 0"),
    "no sinks": ("gpt-oss", NoSinks, "the attention of layer 0"),
    "all heads normed as the first": ("cohere-head-norms", GainsOfOneHead, "the attention of layer 0"),
    "positions where there are none": ("exaone4", Olmo2CircuitModel, "the attention of layer"),
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
        (OlmoeConfig(**SIZES, pad_token_id=None, num_experts=4, clip_qkv=1.0), "OLMoE with clip_qkv is not supported"),
        (
            Olmo2Config(**SIZES, pad_token_id=None, attention_bias=True),
            "layer 0 has an output bias and a norm behind it",
        ),
    ],
    ids=["clip", "bias"],
)
def test_what_is_not_read_is_refused_by_name(config: Any, reason: str) -> None:
    with pytest.raises(ValueError, match=reason):
        wrap(AutoModelForCausalLM.from_config(config))


@pytest.mark.parametrize("family", ["granite", "gemma"])
def test_what_stands_in_for_the_embedding_is_what_goes_into_the_stream(family: str) -> None:
    """As on the paths between prompts of EAP-IG: after the model's multiplier, and after the module's own."""
    model, batch = wrap(tiny_model(family, torch.float64)), pairs("left")
    prompts = batch.attention_mask, batch.positions
    embedded = model.run(model.embed(batch.clean_ids), *prompts)
    torch.testing.assert_close(embedded, model.run(batch.clean_ids, *prompts), atol=1e-9, rtol=1e-9)
