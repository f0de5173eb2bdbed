"""Families that are not like Llama: read without what makes them odd they are refused, and so is what is not read."""

from __future__ import annotations

from copy import deepcopy
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor
from transformers import AutoModelForCausalLM, BioGptModel, FalconConfig, OPTConfig

from lightning_circuits.layout import Layout
from lightning_circuits.models import CircuitModel, Dimensions, Norm, wrap
from lightning_circuits.models.context import Context, causal_mask
from lightning_circuits.models.families.biogpt import BioGptCircuitModel
from lightning_circuits.models.families.codegen import CodeGenCircuitModel
from lightning_circuits.models.families.ctrl import CTRLCircuitModel
from lightning_circuits.models.families.fairseq import XGLMCircuitModel
from lightning_circuits.models.families.falcon import FalconCircuitModel
from lightning_circuits.models.families.gpt2 import GPT2CircuitModel
from lightning_circuits.models.families.gpt_bigcode import GPTBigCodeCircuitModel
from lightning_circuits.models.families.gpt_neo import GPTNeoCircuitModel
from lightning_circuits.models.families.gptj import GPTJCircuitModel
from lightning_circuits.models.families.llama import LlamaCircuitModel
from lightning_circuits.models.families.modernbert_decoder import ModernBertDecoderCircuitModel
from lightning_circuits.models.families.nanochat import NanoChatCircuitModel
from lightning_circuits.models.families.nemotron import NemotronCircuitModel
from lightning_circuits.models.families.olmo import OlmoCircuitModel
from lightning_circuits.models.families.opt import OPTCircuitModel
from lightning_circuits.models.families.persimmon import PersimmonCircuitModel
from lightning_circuits.models.families.phi import PhiCircuitModel
from lightning_circuits.models.heads import of_groups
from lightning_circuits.models.registry import family_of
from lightning_circuits.models.verify import verify
from tests.support.oracle import pairs
from tests.support.tiny_models import WINDOW, tiny_model


class ScaledScores(GPTNeoCircuitModel):
    def scaling(self, layer: int) -> float:
        return 8**-0.5


class NoWindow(GPTNeoCircuitModel):
    def layer_mask(self, layer: int, context: Context) -> Tensor:
        return context.mask


class WindowTooWide(GPTNeoCircuitModel):
    def context(self, attention_mask: Tensor) -> Context:
        wide = causal_mask(attention_mask, WINDOW + 1)
        return Context(causal_mask(attention_mask), super().context(attention_mask).position_ids, wide)


class KeyForValue(GPTBigCodeCircuitModel):
    def projections(self, layer: int) -> list[tuple[Tensor, Tensor | None]]:
        query, key, value = super().projections(layer)
        return [query, value, key]


class HeadByHead(GPTBigCodeCircuitModel):
    """As if queries came between the keys and values of other heads."""

    def projections(self, layer: int) -> list[tuple[Tensor, Tensor | None]]:
        query, key, value = super().projections(layer)
        return [(query[0].flip(0), query[1].flip(0)), key, value]


class KindByKind(FalconCircuitModel):
    """All queries, all keys, all values, and not group by group."""

    def projections(self, layer: int) -> list[tuple[Tensor, Tensor | None]]:
        fused, counts = self.attention_module(layer).query_key_value, (4, 2, 2)
        weights = fused.weight.unflatten(0, (8, -1)).mT.split(counts)
        return list(zip(weights, fused.bias.unflatten(0, (8, -1)).split(counts), strict=True))


class OneNorm(FalconCircuitModel):
    def mlp_norm(self, layer: int) -> Any:
        return self.attention_norm(layer)


class NormsNotForHeads(PhiCircuitModel):
    def turn(self, layer: int, q: Tensor, k: Tensor, context: Context) -> tuple[Tensor, Tensor]:
        return LlamaCircuitModel.turn(self, layer, q, k, context)


class NormOfQueriesForKeys(PersimmonCircuitModel):
    def turn(self, layer: int, q: Tensor, k: Tensor, context: Context) -> tuple[Tensor, Tensor]:
        attention = self.attention_module(layer)
        return LlamaCircuitModel.turn(self, layer, attention.q_layernorm(q), attention.q_layernorm(k), context)


class Sequential(PhiCircuitModel):
    @staticmethod
    def read_dimensions(model: Any) -> Dimensions:
        return CircuitModel.read_dimensions(model)


class GainsAsTheyAre(NemotronCircuitModel):
    @staticmethod
    def read_norm(norm: Any) -> Norm:
        return CircuitModel.read_norm(norm)


class Uncentred(OlmoCircuitModel):
    @staticmethod
    def read_norm(norm: Any) -> Norm:
        return Norm(None, epsilon=1e-5)


class Unclipped(OlmoCircuitModel):
    mix = CircuitModel.mix


class ValuesUnclipped(OlmoCircuitModel):
    def mix(self, layer: int, q: Tensor, k: Tensor, v: Tensor, context: Context, units: Tensor | None = None) -> Tensor:
        most = self.model.config.clip_qkv
        return CircuitModel.mix(self, layer, q.clamp(-most, most), k.clamp(-most, most), v, context, units)


class KeysBeforeValues(CodeGenCircuitModel):
    def projections(self, layer: int) -> list[tuple[Tensor, Tensor | None]]:
        query, key, value = super().projections(layer)
        return [query, value, key]


class InOnePart(CodeGenCircuitModel):
    def projections(self, layer: int) -> list[tuple[Tensor, Tensor | None]]:
        query, value, key = self.attention_module(layer).qkv_proj.weight.unflatten(0, (3, 8, -1)).mT
        return [(query, None), (key, None), (value, None)]


class AsEmbedded(CTRLCircuitModel):
    def __init__(self, model: Any) -> None:
        super().__init__(model)
        self.embedding_multiplier = 1.0


class WithoutPositions(CTRLCircuitModel):
    def position_embedding(self, context: Context) -> Tensor | None:
        return None


class FromTheFirstRow(XGLMCircuitModel):
    def position_embedding(self, context: Context) -> Tensor | None:
        return self.backbone.embed_positions.weights[context.position_ids]


class LearnedFromTheFirstRow(OPTCircuitModel):
    def position_embedding(self, context: Context) -> Tensor | None:
        return F.embedding(context.position_ids, self.backbone.embed_positions.weight)


class WithoutBiases(OPTCircuitModel):
    def projections(self, layer: int) -> list[tuple[Tensor, Tensor | None]]:
        return [(weight, None) for weight, _ in super().projections(layer)]


class WithoutOutputBias(BioGptCircuitModel):
    def output_bias(self, layer: int) -> Tensor | None:
        return None


class TheOtherWayRound(NanoChatCircuitModel):
    def rotary(self, positions: Tensor) -> dict[str, Any]:
        return LlamaCircuitModel.rotary(self, positions)


class EmbeddingNotNormed(NanoChatCircuitModel):
    def place(self) -> None:
        LlamaCircuitModel.place(self)


class Uncapped(NanoChatCircuitModel):
    def head(self, x: Tensor) -> Tensor:
        return CircuitModel.head(self, x)


class NormBeforeTheFirst(ModernBertDecoderCircuitModel):
    def attention_norm(self, layer: int) -> Any:
        return self.mlp_norm(layer) if layer == 0 else super().attention_norm(layer)


class OneKind(ModernBertDecoderCircuitModel):
    def turn(self, layer: int, q: Tensor, k: Tensor, context: Context) -> tuple[Tensor, Tensor]:
        return LlamaCircuitModel.turn(self, layer, q, k, context)


class WithoutHiddenLayer(ModernBertDecoderCircuitModel):
    def head(self, x: Tensor) -> Tensor:
        return self.model.decoder(x)


ATTENTION, MLP, NORM = "the attention of layer ", "the MLP of layer 0", "the norm before the attention of layer 0"
EMBEDDED, ABOVE = "the residual stream before the attention of layer 0", "the residual stream before the MLP of layer 0"

MISREAD: dict[str, tuple[str, type[CircuitModel], str]] = {
    "scores that are scaled": ("gpt-neo", ScaledScores, f"{ATTENTION}0"),
    "a window that is left out": ("gpt-neo", NoWindow, f"{ATTENTION}1"),
    "a window of a token too many": ("gpt-neo", WindowTooWide, f"{ATTENTION}1"),
    "a key for a value": ("gpt-bigcode", KeyForValue, f"{ATTENTION}0"),
    "queries in another order": ("gpt-bigcode", HeadByHead, f"{ATTENTION}0"),
    "a projection kind by kind": ("falcon-groups", KindByKind, f"{ATTENTION}0"),
    "one norm for two": ("falcon-groups", OneNorm, MLP),
    "queries and keys not normed": ("phi-normed", NormsNotForHeads, f"{ATTENTION}0"),
    "blocks one after the other": ("phi", Sequential, ABOVE),
    "one norm for queries and keys": ("persimmon", NormOfQueriesForKeys, f"{ATTENTION}0"),
    "gains less one taken for gains": ("nemotron", GainsAsTheyAre, NORM),
    "a norm that does not centre": ("olmo", Uncentred, NORM),
    "nothing clipped": ("olmo-clipped", Unclipped, f"{ATTENTION}0"),
    "values not clipped": ("olmo-clipped", ValuesUnclipped, f"{ATTENTION}0"),
    "keys before values": ("codegen", KeysBeforeValues, f"{ATTENTION}0"),
    "a projection that is in one part": ("codegen", InOnePart, f"{ATTENTION}0"),
    "the embedding not scaled": ("ctrl", AsEmbedded, EMBEDDED),
    "no positions": ("ctrl", WithoutPositions, EMBEDDED),
    "sinusoids from the first row on": ("xglm", FromTheFirstRow, EMBEDDED),
    "positions from the first row on": ("opt", LearnedFromTheFirstRow, EMBEDDED),
    "no biases": ("opt", WithoutBiases, f"{ATTENTION}0"),
    "turned the other way round": ("nanochat", TheOtherWayRound, f"{ATTENTION}0"),
    "the embedding not normed": ("nanochat", EmbeddingNotNormed, EMBEDDED),
    "a norm before the first attention": ("modernbert", NormBeforeTheFirst, EMBEDDED),
    "the angles of other layers": ("modernbert", OneKind, f"{ATTENTION}1"),
    "no output bias": ("biogpt", WithoutOutputBias, ABOVE),
}


@pytest.mark.parametrize("mistake", MISREAD)
def test_what_a_family_differs_in_is_missed_if_it_is_left_out(mistake: str) -> None:
    family, misread, place = MISREAD[mistake]
    with pytest.raises(ValueError, match=f"^{place} of this "):
        verify(misread(deepcopy(tiny_model(family))))


@pytest.mark.parametrize(
    ("family", "misread"), [("nanochat", Uncapped), ("modernbert", WithoutHiddenLayer)], ids=["nanochat", "modernbert"]
)
def test_so_is_what_a_head_does_besides(family: str, misread: type[CircuitModel]) -> None:
    with pytest.raises(ValueError, match=r"^the logits of \w+ are not what its head puts out"):
        verify(misread(deepcopy(tiny_model(family))))


@pytest.mark.parametrize(("family", "misread"), [("gpt-neo", GPT2CircuitModel), ("codegen", GPTJCircuitModel)])
def test_families_that_others_are_made_from_do_not_read_them(family: str, misread: type[CircuitModel]) -> None:
    with pytest.raises(AttributeError):
        verify(misread(deepcopy(tiny_model(family))))


FALCON: dict[str, Any] = dict(vocab_size=19, hidden_size=16, num_hidden_layers=1, num_attention_heads=2)
OPT: dict[str, Any] = FALCON | dict(ffn_dim=8, max_position_embeddings=8)


@pytest.mark.parametrize(
    ("config", "reason"),
    [
        (FalconConfig(**FALCON, alibi=True), "^Falcon with alibi is not supported: .* such as Falcon 7B"),
        (OPTConfig(**OPT, do_layer_norm_before=False), "^OPT with do_layer_norm_before=False, .* all sizes but 350M"),
        (OPTConfig(**OPT, word_embed_proj_dim=8), "^OPT with word_embed_proj_dim, .* of another width"),
        (OPTConfig(**OPT, _remove_final_layer_norm=True), "^OPT with _remove_final_layer_norm, .* before the head"),
    ],
    ids=["falcon", "opt-after", "opt-projected", "opt-no-last-norm"],
)
def test_what_is_not_read_of_a_family_is_refused_by_name(config: Any, reason: str) -> None:
    with pytest.raises(ValueError, match=reason):
        wrap(AutoModelForCausalLM.from_config(config))


@pytest.mark.parametrize(
    ("family", "layout"),
    [
        ("falcon", Layout(2, 4, 24, 1, parallel=True)),
        ("falcon-groups", Layout(2, 4, 24, 2, parallel=True)),
        ("falcon-heads", Layout(2, 4, 24)),
        ("gpt-bigcode", Layout(2, 4, 24, 1)),
        ("gpt-bigcode-heads", Layout(2, 3, 24)),
    ],
)
def test_one_key_for_all_heads_is_one_group(family: str, layout: Layout) -> None:
    assert wrap(tiny_model(family), kv="group").layout == layout


@pytest.mark.parametrize(
    ("family", "tokens"),
    [("gpt-neo", 32), ("gpt-bigcode", 32), ("opt", 32), ("biogpt", 32), ("ctrl", 32), ("codegen", 32)],
)
def test_a_prompt_beyond_the_positions_is_refused(family: str, tokens: int) -> None:
    model, ids = wrap(tiny_model(family)), torch.zeros(1, tokens + 1, dtype=torch.int64)
    model.run(ids[:, 1:], torch.ones_like(ids[:, 1:]), torch.tensor([tokens - 1]))
    with pytest.raises(ValueError, match=f"{tokens + 1} tokens, more than the {tokens} "):
        model.run(ids, torch.ones_like(ids), torch.tensor([tokens]))


def test_sinusoids_go_on_beyond_the_positions_of_the_config() -> None:
    model, ids = wrap(deepcopy(tiny_model("xglm"))), torch.arange(40)[None] % 19
    model.run(ids, torch.ones_like(ids), torch.tensor([39]))
    assert model.position_embedding(model.context(torch.ones_like(ids))).shape == (1, 40, 24)


def test_a_head_of_another_name_is_a_head() -> None:
    model = deepcopy(tiny_model("biogpt"))
    assert family_of(model) is BioGptCircuitModel
    assert family_of(model.biogpt) is None
    with pytest.raises(TypeError, match=r"with its head.*got BioGptModel"):
        wrap(BioGptModel(model.config))


def test_a_fused_projection_is_cut_group_by_group() -> None:
    fused = torch.nn.Linear(5, 8 * 3)
    fused.weight.data.copy_(torch.arange(8.0).repeat_interleave(3)[:, None].expand(-1, 5))
    fused.bias.data.copy_(fused.weight[:, 0])
    for groups, blocks in (
        (1, ([0, 1, 2, 3, 4, 5], [6], [7])),
        (2, ([0, 1, 4, 5], [2, 6], [3, 7])),
    ):
        for (weight, bias), numbers in zip(of_groups(fused, len(blocks[0]), groups), blocks, strict=True):
            expected = torch.tensor(numbers).float()
            assert torch.equal(weight, expected[:, None, None].expand(-1, 5, 3))
            assert torch.equal(bias, expected[:, None].expand(-1, 3))


@pytest.mark.parametrize("family", ["ctrl", "xglm", "nanochat", "modernbert"])
def test_what_stands_in_for_the_embedding_is_what_goes_into_the_stream(family: str) -> None:
    model, batch = wrap(tiny_model(family, torch.float64)), pairs("left")
    prompts = batch.attention_mask, batch.positions
    embedded = model.run(model.embed(batch.clean_ids), *prompts)
    torch.testing.assert_close(embedded, model.run(batch.clean_ids, *prompts), atol=1e-9, rtol=1e-9)
