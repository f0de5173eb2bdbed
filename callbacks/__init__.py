"""Trainer callbacks, imported as `lightning_circuits.callbacks`: circuits judged and written while a search trains."""

from lightning_circuits.callbacks.curve import FaithfulnessCurve
from lightning_circuits.callbacks.export import CircuitExport
from lightning_circuits.callbacks.faithfulness import FaithfulnessValidation
from lightning_circuits.callbacks.probe import CircuitProbe
from lightning_circuits.callbacks.report import CircuitReport
from lightning_circuits.callbacks.step_progress import StepProgressBar
from lightning_circuits.callbacks.task_check import TaskCheck
from lightning_circuits.callbacks.weights import WeightValidation

__all__ = [
    "CircuitExport",
    "CircuitProbe",
    "CircuitReport",
    "FaithfulnessCurve",
    "FaithfulnessValidation",
    "StepProgressBar",
    "TaskCheck",
    "WeightValidation",
]
