"""Trainer callbacks, imported as `lightning_circuits.callbacks`: circuits judged and written while a search trains."""

from lightning_circuits.callbacks.export import CircuitExport
from lightning_circuits.callbacks.faithfulness import FaithfulnessValidation

__all__ = ["CircuitExport", "FaithfulnessValidation"]
