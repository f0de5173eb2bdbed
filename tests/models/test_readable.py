"""Models whose weights cannot be read are refused with the module's name and the way on, before anything is read."""

from __future__ import annotations

from collections.abc import Callable
from copy import deepcopy
from types import SimpleNamespace
from typing import Any

import peft
import pytest
import torch
from torch import nn

from lightning_circuits.models import wrap
from lightning_circuits.models.readable import refuse_packed_weights
from tests.support.tiny_models import tiny_model


def fresh(family: str = "llama-gqa") -> nn.Module:
    return deepcopy(tiny_model(family))


# ---- adapters --------------------------------------------------------------------------------------------------------


def adapted(config: Any) -> Any:
    return peft.get_peft_model(fresh(), config)


MERGEABLE = {
    "LoRA": lambda: peft.LoraConfig(task_type="CAUSAL_LM"),
    "LoRA and a head": lambda: peft.LoraConfig(task_type="CAUSAL_LM", modules_to_save=["lm_head"]),
    "IA3": lambda: peft.IA3Config(task_type="CAUSAL_LM"),
}
BESIDE_THE_WEIGHTS = {
    "PROMPT_TUNING": lambda: peft.PromptTuningConfig(task_type="CAUSAL_LM", num_virtual_tokens=3),
    "PREFIX_TUNING": lambda: peft.PrefixTuningConfig(task_type="CAUSAL_LM", num_virtual_tokens=3),
    "P_TUNING": lambda: peft.PromptEncoderConfig(task_type="CAUSAL_LM", num_virtual_tokens=3),
    "ADAPTION_PROMPT": lambda: peft.AdaptionPromptConfig(task_type="CAUSAL_LM", adapter_len=3, adapter_layers=1),
}


@pytest.mark.parametrize("config", MERGEABLE)
def test_an_adapter_is_told_to_be_merged_by_a_method_that_it_has(config: str) -> None:
    model = adapted(MERGEABLE[config]())
    with pytest.raises(
        ValueError, match=r"not merged into its weights, at base_model.* model = model.merge_and_unload"
    ):
        wrap(model)
    wrap(model.merge_and_unload())


@pytest.mark.parametrize("kind", BESIDE_THE_WEIGHTS)
def test_what_no_weight_can_take_in_is_not_told_to_be_merged(kind: str) -> None:
    model = adapted(BESIDE_THE_WEIGHTS[kind]())
    with pytest.raises(
        ValueError, match=rf"learned prompts or prefixes .*\({kind}\).*model.get_base_model\(\)"
    ) as caught:
        wrap(model)
    assert "merge_and_unload" not in str(caught.value)
    if kind != "ADAPTION_PROMPT":
        wrap(model.get_base_model())


def test_a_model_that_holds_an_adapter_but_cannot_merge_it_is_told_another_way() -> None:
    model = fresh()
    model.add_adapter(peft.LoraConfig(task_type="CAUSAL_LM"))
    with pytest.raises(ValueError, match=r"model.layers.0.self_attn.q_proj: .*PeftModel.from_pretrained\(") as caught:
        wrap(model)
    assert "model = model.merge" not in str(caught.value)


# ---- compiled --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("where", ["model.layers.0", "model.layers.1.mlp", "model"])
@pytest.mark.parametrize("in_place", [True, False])
def test_parts_that_are_compiled_by_themselves_are_named(where: str, in_place: bool) -> None:
    model = fresh()
    if in_place:
        model.get_submodule(where).compile()
    else:
        owner, _, name = where.rpartition(".")
        setattr(model.get_submodule(owner), name, torch.compile(model.get_submodule(where)))
    with pytest.raises(ValueError, match=f"^{where} of this LlamaForCausalLM is compiled by itself"):
        wrap(model)


def test_a_model_that_is_compiled_as_a_whole_is_read() -> None:
    in_place = fresh()
    in_place.compile()
    wrap(in_place)
    wrap(torch.compile(fresh()))


# ---- quantised, absent -----------------------------------------------------------------------------------------------


class Packed(nn.Module):
    """As in the packages for quantised models: a linear layer without a plain weight."""

    def __init__(self, **tensors: torch.Tensor) -> None:
        super().__init__()
        for name, tensor in tensors.items():
            self.register_buffer(name, tensor)


class Subclassed(torch.Tensor):
    """As in torchao: claims to be in float32."""


PACKED: dict[str, Callable[[], nn.Module]] = {
    r"\(Packed\) are in int32": lambda: Packed(qweight=torch.zeros(4, 4, dtype=torch.int32)),
    r"\(Packed\) are in uint8": lambda: Packed(W_q=torch.zeros(4, 4, dtype=torch.uint8)),
    r"\(Packed\) are in float8_e4m3fn": lambda: Packed(weight=torch.zeros(4, 4).to(torch.float8_e4m3fn)),
    r"\(Packed\) are of the class Subclassed": lambda: Packed(weight=torch.zeros(4, 4).as_subclass(Subclassed)),
}


@pytest.mark.parametrize("form", PACKED)
@pytest.mark.parametrize("where", ["self_attn.q_proj", "mlp.down_proj"])
def test_quantised_layers_are_named_with_the_form_of_their_weights(where: str, form: str) -> None:
    model = fresh()
    owner, _, name = where.rpartition(".")
    setattr(model.model.layers[1].get_submodule(owner), name, PACKED[form]())
    with pytest.raises(ValueError, match=rf"the weights of model.layers.1.{where} {form}.*without quantisation"):
        wrap(model)


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("family", ["gpt2", "llama-gqa"])
def test_quantised_by_torch(family: str) -> None:
    model = torch.ao.quantization.quantize_dynamic(fresh(family), {nn.Linear}, dtype=torch.qint8)
    with pytest.raises(
        ValueError, match=r"the weights of (lm_head|model.layers.0.self_attn.q_proj) \(Linear\) are packed"
    ):
        wrap(model)


def test_masks_and_positions_are_no_packed_weights() -> None:
    refuse_packed_weights(Packed(bias=torch.ones(4, 4, dtype=torch.bool), position_ids=torch.arange(4)[None]))


def test_weights_that_are_not_there() -> None:
    with pytest.raises(ValueError, match=r"lm_head\.weight of this LlamaForCausalLM has a shape but no numbers"):
        wrap(fresh().to("meta"))


def test_checkpointed_gradients_do_not_matter() -> None:
    model = fresh()
    model.gradient_checkpointing_enable()
    wrap(model.train())


def test_what_holds_a_model_is_told_where() -> None:
    """A pipeline of transformers; a module around it."""
    for outer, name in ((SimpleNamespace(model=fresh()), "model"), (nn.ModuleDict({"lm": fresh()}), "lm")):
        with pytest.raises(TypeError, match=rf"got {type(outer).__name__}, which holds one: give its \.{name}\."):
            wrap(outer)
