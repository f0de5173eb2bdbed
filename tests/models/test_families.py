"""Which class reads which model, and what a class of one's own has to say to be registered."""

from __future__ import annotations

from copy import deepcopy

import pytest
from torch import nn

from lightning_circuits.models import CircuitModel, register, wrap
from lightning_circuits.models.families.gpt2 import GPT2CircuitModel
from lightning_circuits.models.families.llama import LlamaCircuitModel
from lightning_circuits.models.registry import FAMILIES, family_of, supported
from tests.support.tiny_models import tiny_model


def another_gpt2(name: str = "AnotherGPT2") -> type[CircuitModel]:
    return type(name, (GPT2CircuitModel,), {})


def test_families_are_found_by_model_type() -> None:
    assert family_of(tiny_model("gpt2")) is GPT2CircuitModel
    assert family_of(tiny_model("qwen3")) is LlamaCircuitModel
    assert family_of(tiny_model("gpt2").transformer) is None, "without its head"
    assert family_of(nn.Linear(2, 2)) is None
    names = supported().split(", ")
    assert names == sorted({name for family in FAMILIES.names() for name in FAMILIES[family].model_types})
    assert {"gpt2", "gpt_neox", "gemma2", "llama", "qwen3", "opt"} <= set(names)


def test_of_two_that_read_a_model_the_later_one_does() -> None:
    ours = FAMILIES.names()
    later = register(another_gpt2())
    assert type(wrap(deepcopy(tiny_model("gpt2")))) is later
    again = register(another_gpt2())  # a notebook's cell, run again
    assert type(wrap(deepcopy(tiny_model("gpt2")))) is again
    assert FAMILIES.names() == [*ours, "AnotherGPT2"]


def test_a_class_reads_models_by_their_own_class() -> None:
    class Wrapped(nn.Module): ...

    @register
    class WrappedCircuits(CircuitModel):
        module_types = (Wrapped,)

    assert family_of(Wrapped()) is WrappedCircuits
    assert supported().startswith("Wrapped, apertus")


def test_what_does_not_say_what_it_reads_is_refused_and_not_kept() -> None:
    class Silent(CircuitModel): ...

    ours = FAMILIES.names()

    with pytest.raises(TypeError, match="Silent does not say which models it reads"):
        register(Silent)
    with pytest.raises(TypeError, match="a registered model family is a subclass of CircuitModel, got"):
        register(nn.Linear)  # type: ignore[type-var]
    assert FAMILIES.names() == ours
