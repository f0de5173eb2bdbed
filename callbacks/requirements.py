"""What callbacks require of the run they are in."""

from __future__ import annotations

from lightning_circuits.namespace import pl, refuse_mixture
from lightning_circuits.pages import see_page
from lightning_circuits.search.base import CircuitSearch


def require_search(callback: pl.Callback, trainer: pl.Trainer, module: pl.LightningModule) -> CircuitSearch:
    """The module, if it is a search.

    Raises:
        TypeError: it is none, or the Trainer is of the other of Lightning's two names.
    """
    refuse_mixture(callback, trainer)
    if not isinstance(module, CircuitSearch):
        raise TypeError(
            f"{type(callback).__name__} judges searches for circuits, and {type(module).__name__} is none: it has to "
            f"be a subclass of lightning_circuits.CircuitSearch {see_page('extending', 'A method')}"
        )
    return module
