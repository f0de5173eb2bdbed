"""Every public constructor with wrong types: one error that names the argument, before a model is loaded."""

from __future__ import annotations

import inspect
from typing import Any

import pytest

from lightning_circuits import METHODS, Attribution, EdgePruning, SavedCircuit
from lightning_circuits.ablation import ABLATIONS
from lightning_circuits.datamodules import IOIDataModule, PairDataModule, PromptPairDataModule
from lightning_circuits.gates import GATES, SPARSITIES, SizeRange
from lightning_circuits.objectives import OBJECTIVES
from lightning_circuits.search import CircuitSearch, frozen_model

WRONG = [object(), ["zero"], {"a": 1}, "no such thing", 3.5, -7]
"""For each argument some of these are wrong. Left out below are those that fit, or are merely out of range."""
MODEL = "tiny-ioi"

FITS: dict[str, list[Any]] = {
    "threshold": [3.5], "attention": ["no such thing"],
    "lr": [3.5], "seed": [-7], "steps": [-7], "edges_per_batch": [], "start_at": [3.5, -7], "temperature": [3.5, -7],
    "final_temperature": [3.5, -7], "weight": [3.5], "multiplier_lr": [3.5], "path": ["no such thing"],
    "tokenizer": ["no such thing"], **{of: ["no such thing", ["zero"]] for of in ("train", "val", "test")},
}  # fmt: skip


def constructors() -> list[Any]:
    """Every method, gate, sparsity, objective and ablation, what a gate is made with, and the data modules.

    Those of the callbacks: tests/callbacks/test_options.py.
    """
    registries = (METHODS, GATES, SPARSITIES, OBJECTIVES, ABLATIONS)
    classes = [registry[name] for registry in registries for name in registry.names()]
    return [pytest.param(cls, id=cls.__name__) for cls in (SizeRange, IOIDataModule, PromptPairDataModule, *classes)]


def arguments(cls: type) -> list[str]:
    """What a class is made with: its own arguments, and where it hands options on, those of its base."""
    parameters = inspect.signature(cls).parameters
    names = [name for name, each in parameters.items() if each.kind not in (each.VAR_KEYWORD, each.VAR_POSITIONAL)]
    if any(each.kind is each.VAR_KEYWORD for each in parameters.values()):
        names += [name for name in arguments(cls.__mro__[1]) if name not in names]
    return names


@pytest.mark.parametrize("cls", constructors())
def test_a_wrong_type_is_an_error_that_names_the_argument(cls: type, monkeypatch: pytest.MonkeyPatch) -> None:
    def load(*args: Any) -> None:
        raise AssertionError("a model was loaded")

    monkeypatch.setattr(frozen_model, "load_model", load)
    needed = {"model": MODEL} if issubclass(cls, CircuitSearch) else {}
    needed |= {"path": "circuit.json"} if cls is SavedCircuit else {}
    needed |= {"tokenizer": MODEL} if issubclass(cls, PairDataModule) else {}
    needed |= {"train": "pairs.jsonl"} if cls is PromptPairDataModule else {}
    for name in arguments(cls):
        for wrong in WRONG:
            if wrong in FITS.get(name, []) or (name == "model" and isinstance(wrong, str)):
                continue
            with pytest.raises((TypeError, ValueError)) as said:
                cls(**needed | {name: wrong})
            assert any(word in str(said.value) for word in (name, name.replace("_", " "))), (name, wrong, said.value)


@pytest.mark.parametrize("name", METHODS.names())
def test_everything_after_the_model_goes_by_its_name(name: str) -> None:
    cls = METHODS[name]
    with pytest.raises(TypeError, match="positional argument"):
        cls(MODEL, "zero")
    with pytest.raises(TypeError, match="unexpected keyword argument 'objectiv'"):
        cls(MODEL, objectiv="KL", **{"path": "circuit.json"} if cls is SavedCircuit else {})


def test_what_is_given_by_name_is_what_is_given_as_an_object() -> None:
    from lightning_circuits import EAPIG
    from lightning_circuits.ablation import ZeroAblation
    from lightning_circuits.gates import HardConcrete
    from lightning_circuits.objectives import LogitDifference

    by_name = EdgePruning(MODEL, ablation="zero", objective="LogitDifference", gate="HardConcrete", warm_start="EAPIG")
    by_object = EdgePruning(
        MODEL, ablation=ZeroAblation(), objective=LogitDifference(), gate=HardConcrete(), warm_start=EAPIG()
    )
    assert by_name.describe() == by_object.describe()
    assert by_name.describe()["warm_start"]["method"] == "EAPIG"


def test_a_method_of_ones_own_is_a_warm_start_by_its_name() -> None:
    @METHODS.register
    class Mine(Attribution):
        pass

    assert EdgePruning(MODEL, warm_start="mine").describe()["warm_start"]["method"] == "Mine"


@pytest.mark.parametrize(
    ("start", "message"),
    [
        ("EAPIGG", "warm_start is neither an attribution method .*EAPIG.* nor a file.*'EAPIGG'"),
        ("EdgePruning", "warm_start is neither an attribution method .* nor a file.*'EdgePruning'"),
        (7, "warm_start takes an attribution method"),
    ],
)
def test_a_warm_start_that_is_none_is_refused(start: Any, message: str) -> None:
    with pytest.raises((ValueError, TypeError), match=message):
        EdgePruning(MODEL, warm_start=start)
