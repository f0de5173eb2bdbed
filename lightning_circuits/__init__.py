"""Circuits in frozen language models, found by a PyTorch Lightning run and checked by exact ablation.

    from lightning_circuits import Circuit, EdgePruning

Names are looked up when they are asked for: the numerical core can be used without loading Lightning.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from lightning_circuits.circuit import Circuit as Circuit
    from lightning_circuits.search.base import CircuitSearch as CircuitSearch
    from lightning_circuits.search.edge_pruning import EdgePruning as EdgePruning
    from lightning_circuits.search.saved import SavedCircuit as SavedCircuit

_HOMES = {
    "Circuit": "lightning_circuits.circuit",
    "CircuitSearch": "lightning_circuits.search.base",
    "EdgePruning": "lightning_circuits.search.edge_pruning",
    "SavedCircuit": "lightning_circuits.search.saved",
}


def __getattr__(name: str) -> Any:
    if name in _HOMES:
        return getattr(import_module(_HOMES[name]), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted([*globals(), *_HOMES])
