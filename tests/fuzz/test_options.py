"""Options of which one is anything: the object is made, or one error names the option."""

from __future__ import annotations

import inspect
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from lightning_circuits import callbacks
from lightning_circuits.ablation import ABLATIONS
from lightning_circuits.datamodules import IOIDataModule
from lightning_circuits.gates import GATES, SizeRange, TargetSparsity
from lightning_circuits.models.loading import load_model
from lightning_circuits.objectives import OBJECTIVES
from lightning_circuits.search import METHODS, InformationFlowRoutes, NodePruning, RandomScores
from tests.support.mutations import NESTED, NUMBERS, WORDS, read_or_refused

VALUES = st.sampled_from(
    [
        *NUMBERS,
        *WORDS,
        *NESTED,
        2**64,
        -(10**400),
        np.float32("nan"),
        np.int64(-1),
        np.bool_(True),
        torch.zeros(3),
        object,
    ]
)
MODEL = load_model("tiny-ioi")
NEEDED: dict[str, Any] = {"CircuitProbe": {"data": IOIDataModule("tiny-ioi", n_train=2, n_val=2, n_test=2)}}
REGISTERED = [registry[name] for registry in (GATES, ABLATIONS, OBJECTIVES) for name in registry]
CLASSES = [*REGISTERED, *(getattr(callbacks, name) for name in callbacks.__all__), SizeRange, TargetSparsity]
SETTLED = {
    InformationFlowRoutes: {"ablation", "objective", "absolute"},
    NodePruning: {"objective", "spans"},
    RandomScores: {"ablation", "objective", "absolute"},
}
"""Searches that take fewer options than their base classes, and which they leave out."""
SEARCHES = [METHODS[name] for name in METHODS if name != "SavedCircuit"]


def parameters(kind: type) -> list[str]:
    """The names of all that a class is made with, of its base classes' too."""
    every = (inspect.signature(cls).parameters.values() for cls in kind.__mro__[:4] if "__init__" in vars(cls))
    kinds = inspect.Parameter.KEYWORD_ONLY, inspect.Parameter.POSITIONAL_OR_KEYWORD
    settled = {"self", "model", *SETTLED.get(kind, ())}
    return sorted({one.name for several in every for one in several if one.kind in kinds} - settled)


@pytest.mark.parametrize("kind", [kind for kind in CLASSES if parameters(kind)])
@given(data=st.data())
@settings(suppress_health_check=[*HealthCheck])
def test_an_option_of_anything(kind: type, data: st.DataObject) -> None:
    name = data.draw(st.sampled_from(parameters(kind)))
    options = NEEDED.get(kind.__name__, {}) | {name: data.draw(VALUES)}
    read_or_refused(lambda _: kind(**options), Path(), word_for(name))


@pytest.mark.parametrize("kind", SEARCHES)
@given(data=st.data())
@settings(suppress_health_check=[*HealthCheck])
def test_an_option_of_a_search(kind: type, data: st.DataObject) -> None:
    name = data.draw(st.sampled_from(parameters(kind) or ["kv"]))
    read_or_refused(lambda _: kind(MODEL, **{name: data.draw(VALUES)}), Path(), word_for(name))


def word_for(name: str) -> str:
    """An option's name without its end: of `sizes` a size, of `final_temperature` the temperatures, and so on."""
    last = name.rpartition("_")[2]
    return last[:-1] if len(last) > 3 else last
