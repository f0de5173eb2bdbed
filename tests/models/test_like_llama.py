"""What families of `like_llama` differ from Llama in: read without it they are refused, and so is what is not read."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor
from transformers import AutoModelForCausalLM

from lightning_circuits.memory import MemoryPlan
from lightning_circuits.models import CircuitModel, wrap
from lightning_circuits.models.families.cohere import CohereCircuitModel
from lightning_circuits.models.families.dbrx import DbrxCircuitModel
from lightning_circuits.models.families.gemma import GemmaCircuitModel
from lightning_circuits.models.families.gpt_neox import GPTNeoXCircuitModel
from lightning_circuits.models.families.gpt_neox_japanese import GPTNeoXJapaneseCircuitModel
from lightning_circuits.models.families.llama import LlamaCircuitModel
from lightning_circuits.models.families.vaultgemma import VaultGemmaCircuitModel
from lightning_circuits.models.verify import verify
from tests.support.every_architecture import build, config_of


class Uncut(DbrxCircuitModel):
    mix = LlamaCircuitModel.mix


class Uncapped(VaultGemmaCircuitModel):
    head = GemmaCircuitModel.head


class WithoutBias(GPTNeoXJapaneseCircuitModel):
    output_bias = GPTNeoXCircuitModel.output_bias


MISREAD: dict[str, tuple[str, type[CircuitModel], str]] = {
    "halves for neighbours": ("glm", LlamaCircuitModel, "the attention of layer 0"),
    "halves for neighbours, in float32": ("ernie4_5_moe", LlamaCircuitModel, "the attention of layer 0"),
    "norms after the turn": ("hunyuan_v1_dense", LlamaCircuitModel, "the attention of layer 0"),
    "turned without a window": ("exaone_moe", LlamaCircuitModel, "the attention of layer 1"),
    "queries that grow": ("ministral3", LlamaCircuitModel, "the attention of layer 0"),
    "not turned in a mixture": ("cohere2_moe", CohereCircuitModel, "the attention of layer 2"),
    "what is cut off": ("dbrx", Uncut, "the attention of layer 0"),
    "the bias of the last layer": ("gpt_neox_japanese", WithoutBias, "the residual stream before the MLP of layer 2"),
    "the cap of the logits": ("vaultgemma", Uncapped, "the logits of VaultGemmaForCausalLM are not what its head"),
}


@pytest.mark.parametrize("mistake", MISREAD)
def test_what_a_family_differs_in_is_missed_if_it_is_left_out(mistake: str) -> None:
    model_type, misread, place = MISREAD[mistake]
    with pytest.raises(ValueError, match=place):
        verify(misread(build(model_type)))


def test_capped_scores_are_refused_by_name() -> None:
    """Below the cap they hardly differ, so that no comparison would find them."""
    config = config_of("vaultgemma")
    config.attn_logit_softcapping = 50.0
    with pytest.raises(ValueError, match=r"VaultGemma with attn_logit_softcapping is not supported: .* are capped"):
        wrap(AutoModelForCausalLM.from_config(config))


def test_norms_of_the_kind_that_coheres_mixture_may_have_are_read() -> None:
    config = config_of("cohere2_moe")
    config.rms_norm_eps = 1e-5
    torch.manual_seed(0)
    model: Any = AutoModelForCausalLM.from_config(config)
    assert type(model.model.norm).__name__ == "Cohere2MoeRMSNorm"
    assert not wrap(model).read_norm(model.model.norm).centres


def test_experts_are_chosen_by_what_the_circuit_lets_through() -> None:
    """Router and experts see one stream, and there is no edge of theirs: an MLP has one reader and one writer."""
    model = wrap(build("mixtral"))
    x = torch.randn(1, 4, model.layout.d_model, generator=torch.Generator().manual_seed(0))
    gate = model.mlp_module(0).gate
    chosen = []
    with gate.register_forward_hook(lambda _gate, _inputs, output: chosen.append(output[2])):
        model.mlp(0, x)
        model.mlp(0, -x)
    assert not torch.equal(*chosen)
    assert [name for name in model.layout.writer_names if name.startswith("m")] == ["m0", "m1", "m2"]


@pytest.mark.parametrize("model_type", ["aria_text", "dbrx", "granitemoe", "hunyuan_v1_moe", "mixtral", "qwen2_moe"])
def test_what_is_planned_for_a_mixture_is_about_what_it_keeps(model_type: str) -> None:
    model = wrap(build(model_type))
    mlp, plan = model.mlp_module(0), MemoryPlan.of(model, batch=2, length=5)

    def kept(tokens: int) -> int:
        """Numbers that autograd keeps, weights aside."""
        found: dict[int, int] = {}

        def pack(saved: Tensor) -> Tensor:
            found[saved.untyped_storage()._cdata] = saved.untyped_storage().nbytes() // 4
            return held.setdefault(id(saved), saved)

        held: dict[int, Tensor] = {}
        x = torch.randn(1, tokens, model.layout.d_model, requires_grad=True)
        with torch.enable_grad(), torch.autograd.graph.saved_tensors_hooks(pack, lambda saved: saved):
            written = mlp(model.mlp_norm(0)(x))
        assert written.requires_grad
        return sum(found.values())

    of_a_token = (kept(200) - kept(100)) / 100  # the weights fall out
    assert 0.6 * plan.mlp_graph < of_a_token < 1.2 * plan.mlp_graph
