"""How each model family is read as writers and readers: one small file per family, and a registry."""

from lightning_circuits.models.base import CircuitModel, Dimensions
from lightning_circuits.models.context import Context
from lightning_circuits.models.norms import Norm
from lightning_circuits.models.registry import register, wrap
from lightning_circuits.models.where import Where

__all__ = ["CircuitModel", "Context", "Dimensions", "Norm", "Where", "register", "wrap"]
