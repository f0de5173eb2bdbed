"""How each Hugging Face family is read as writers and readers: one small file per family, and a registry."""

from lightning_circuits.models.base import CircuitModel, Context
from lightning_circuits.models.registry import wrap

__all__ = ["CircuitModel", "Context", "wrap"]
