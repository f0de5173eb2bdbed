"""Circuits in frozen language models, found by a PyTorch Lightning run and checked by exact ablation.

    from lightning_circuits import Circuit, EdgePruning              # a Lightning run
    from lightning_circuits import evaluate, load, score, show       # a notebook, without one
    from lightning_circuits import ExtractedModel, extract           # a circuit as a model of its own

Names are looked up when they are asked for: the numerical core can be used without loading Lightning.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from lightning_circuits.circuit import Circuit as Circuit
    from lightning_circuits.extracted import ExtractedModel as ExtractedModel
    from lightning_circuits.extracted import extract as extract
    from lightning_circuits.notebook import evaluate as evaluate
    from lightning_circuits.notebook import load as load
    from lightning_circuits.notebook import score as score
    from lightning_circuits.notebook import show as show
    from lightning_circuits.search import *  # noqa: F403

NOTEBOOK = ("evaluate", "load", "score", "show")
EXTRACTED = ("ExtractedModel", "extract")


def __getattr__(name: str) -> Any:
    if name == "Circuit":
        return import_module("lightning_circuits.circuit").Circuit
    if name in NOTEBOOK:
        return getattr(import_module("lightning_circuits.notebook"), name)
    if name in EXTRACTED:
        return getattr(import_module("lightning_circuits.extracted"), name)
    # A module, which is in lower case, is asked for here before it is imported: that must not bring Lightning.
    if name == "from_lightning_module" or name[:1].isupper():
        search = import_module("lightning_circuits.search")
        if hasattr(search, name):
            return getattr(search, name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__() -> list[str]:
    of_search = [name for name in vars(import_module("lightning_circuits.search")) if name[:1].isupper()]
    return sorted([*globals(), "Circuit", "from_lightning_module", *NOTEBOOK, *EXTRACTED, *of_search])
