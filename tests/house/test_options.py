"""Every argument of a constructor is kept under its own name, so that files say how a thing was made."""

from __future__ import annotations

import inspect
import json
from pathlib import Path
from typing import Any

import pytest
import torch

from lightning_circuits import METHODS, Circuit, CircuitSearch, SavedCircuit
from lightning_circuits.ablation import ABLATIONS
from lightning_circuits.arguments import UNKNOWN, options_of
from lightning_circuits.datamodules import IOIDataModule
from lightning_circuits.gates import GATES, SPARSITIES, L0Penalty, SizeRange
from lightning_circuits.layout import Layout
from lightning_circuits.models.loading import EMBEDDED, load_model
from lightning_circuits.objectives import OBJECTIVES
from lightning_circuits.search.one_pass import Attribution

MODEL = load_model(EMBEDDED)
REGISTRIES = (METHODS, GATES, SPARSITIES, OBJECTIVES, ABLATIONS)
OTHER: dict[str, Any] = {
    "ablation": "zero", "objective": "CrossEntropy", "absolute": False, "gate": "HardConcrete", "lr": 0.7, "seed": 3,
    "warm_start": torch.arange(479.0), "steps": 3, "rule": "midpoint", "pooled": False, "edges_per_batch": 7,
    "sizes": SizeRange(0.01), "temperature": 0.7, "final_temperature": 0.07, "anneal_from": 0.1, "hard_from": 0.9,
    "average_from": 0.5, "sparsity": L0Penalty(), "start_at": 1.0, "target": 0.7, "warmup": 0.2, "multiplier_lr": 3.0,
    "threshold": 0.7, "order": "random", "measure": "probability_difference", "masks": 3, "methods": ["EAP", "RelP"],
    "weight": 0.3, "reduction": "mean", "low": 0.01, "high": 0.3, "law": "uniform",
    "prompts": "corrupt", "data": IOIDataModule(EMBEDDED, n_train=2, n_val=2, n_test=2),
}  # fmt: skip
"""For each argument a value that is not its default."""
RECORDED_ELSEWHERE = {"model", "kv", "dtype"}
"""What is recorded of the language model itself: weights, layout and dtype."""
CHANGES_NOTHING = {"capture", "attention"}
"""How the same numbers are computed: a run goes on with another value."""


def classes() -> list[Any]:
    ours = [registry[name] for registry in REGISTRIES for name in registry.names()]
    ours = [cls for cls in ours if cls.__module__.startswith("lightning_circuits")]
    return [pytest.param(cls, id=cls.__name__) for cls in (SizeRange, *ours)]


def arguments(cls: type) -> list[str]:
    """What a class is made with: its own arguments, and where it hands options on, those of its base."""
    parameters = inspect.signature(cls).parameters.values()
    names = [each.name for each in parameters if each.kind not in (each.VAR_KEYWORD, each.VAR_POSITIONAL)]
    if any(each.kind is each.VAR_KEYWORD for each in parameters):
        names += [name for name in arguments(cls.__mro__[1]) if name not in names]
    return names


@pytest.mark.parametrize("cls", classes())
def test_two_that_differ_in_one_argument_differ_in_what_is_recorded(cls: type, tmp_path: Path) -> None:
    needed: dict[str, Any] = {"model": MODEL} if issubclass(cls, CircuitSearch) else {}
    if cls is SavedCircuit:
        paths = [tmp_path / "one.json", tmp_path / "other.json"]
        for seed, path in enumerate(paths):
            Circuit.random(Layout(4, 4, 64), 50, seed).save(path)
        needed["path"], OTHER["path"] = paths

    def recorded(**options: Any) -> dict[str, Any]:
        made = cls(**needed | options)
        said = made._record()["search"] if isinstance(made, CircuitSearch) else options_of(made)
        assert UNKNOWN not in json.dumps(said)
        return said

    default = recorded()
    assert default == recorded()
    for name in arguments(cls):
        if name not in RECORDED_ELSEWHERE | CHANGES_NOTHING:
            assert name in default, f"{cls.__name__} does not keep {name} as self.{name}"
            there = recorded(**{name: not default[name] if name in ("absolute", "spans") else OTHER[name]})
            assert [key for key in default if default[key] != there[key]] == [name]


def test_an_attribution_as_a_warm_start_is_recorded_with_its_options() -> None:
    from lightning_circuits import EAPIG, EdgePruning

    starts: list[Attribution] = [EAPIG(), EAPIG(steps=3), EAPIG(ablation="zero"), EAPIG(absolute=False)]
    said = [json.dumps(EdgePruning(MODEL, warm_start=start)._record()["search"]) for start in starts]
    assert len(set(said)) == len(starts)
