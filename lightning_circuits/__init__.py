"""Circuits in frozen language models, found by a PyTorch Lightning run and checked by exact ablation.

    from lightning_circuits import Circuit, EdgePruning

Names are looked up when they are asked for: the numerical core can be used without loading Lightning.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from lightning_circuits.circuit import Circuit as Circuit
    from lightning_circuits.search.activation_patching import ActivationPatching as ActivationPatching
    from lightning_circuits.search.base import CircuitSearch as CircuitSearch
    from lightning_circuits.search.eap import EAP as EAP
    from lightning_circuits.search.eap_ig import EAPIG as EAPIG
    from lightning_circuits.search.eap_ig import CleanCorrupted as CleanCorrupted
    from lightning_circuits.search.eap_ig_activations import EAPIGActivations as EAPIGActivations
    from lightning_circuits.search.edge_pruning import EdgePruning as EdgePruning
    from lightning_circuits.search.information_flow import InformationFlowRoutes as InformationFlowRoutes
    from lightning_circuits.search.one_pass import Attribution as Attribution
    from lightning_circuits.search.plug_in import from_lightning_module as from_lightning_module
    from lightning_circuits.search.random_scores import RandomScores as RandomScores
    from lightning_circuits.search.saved import SavedCircuit as SavedCircuit

_HOMES = {
    "ActivationPatching": "lightning_circuits.search.activation_patching",
    "Attribution": "lightning_circuits.search.one_pass",
    "Circuit": "lightning_circuits.circuit",
    "CircuitSearch": "lightning_circuits.search.base",
    "CleanCorrupted": "lightning_circuits.search.eap_ig",
    "EAP": "lightning_circuits.search.eap",
    "EAPIG": "lightning_circuits.search.eap_ig",
    "EAPIGActivations": "lightning_circuits.search.eap_ig_activations",
    "EdgePruning": "lightning_circuits.search.edge_pruning",
    "InformationFlowRoutes": "lightning_circuits.search.information_flow",
    "RandomScores": "lightning_circuits.search.random_scores",
    "SavedCircuit": "lightning_circuits.search.saved",
    "from_lightning_module": "lightning_circuits.search.plug_in",
}


def __getattr__(name: str) -> Any:
    if name in _HOMES:
        return getattr(import_module(_HOMES[name]), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted([*globals(), *_HOMES])
