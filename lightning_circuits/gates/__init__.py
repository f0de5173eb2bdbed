"""Learned gates, what open ones cost, and the sizes they are trained for."""

from lightning_circuits.gates.base import GATES, Gate
from lightning_circuits.gates.hard_concrete import HardConcrete
from lightning_circuits.gates.penalties import SPARSITIES, L0Penalty, Sparsity, TargetSparsity
from lightning_circuits.gates.sizes import SizeRange
from lightning_circuits.gates.top_k import TopK

__all__ = [
    "GATES",
    "SPARSITIES",
    "Gate",
    "HardConcrete",
    "L0Penalty",
    "SizeRange",
    "Sparsity",
    "TargetSparsity",
    "TopK",
]
