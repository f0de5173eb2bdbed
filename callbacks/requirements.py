"""What callbacks require of the run they are in."""

from __future__ import annotations

from lightning_circuits.namespace import pl, refuse_mixture
from lightning_circuits.pages import see_page
from lightning_circuits.search.base import CircuitSearch
from lightning_circuits.search.weight_search import WeightSearch


def require_search(callback: pl.Callback, trainer: pl.Trainer, module: pl.LightningModule) -> CircuitSearch:
    """The module, if it is a search.

    Raises:
        TypeError: it is none, or one for weights; the Trainer is of the other of Lightning's two names.
    """
    refuse_mixture(callback, trainer)
    if isinstance(module, WeightSearch):
        raise TypeError(
            f"{type(callback).__name__} is for circuits of edges, and {type(module).__name__} has one of weights: give "
            f"the Trainer WeightValidation in its place {see_page('weights', 'From the command line')}"
        )
    if not isinstance(module, CircuitSearch):
        raise TypeError(
            f"{type(callback).__name__} judges searches for circuits, and {type(module).__name__} is none: it has to "
            f"be a subclass of lightning_circuits.CircuitSearch {see_page('extending', 'A method')}"
        )
    return module


def require_weight_search(callback: pl.Callback, trainer: pl.Trainer, module: pl.LightningModule) -> WeightSearch:
    """The module, if it is a search for a circuit of weights.

    Raises:
        TypeError: it is none, or one for edges; the Trainer is of the other of Lightning's two names.
    """
    refuse_mixture(callback, trainer)
    if not isinstance(module, WeightSearch):
        others = "FaithfulnessValidation and CircuitExport" if isinstance(module, CircuitSearch) else "another callback"
        raise TypeError(
            f"{type(callback).__name__} is for circuits of weights, and {type(module).__name__} has none: give it "
            f"WeightPruning, or the Trainer {others} in its place {see_page('weights', 'From the command line')}"
        )
    return module
