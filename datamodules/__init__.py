"""Data modules, imported as `lightning_circuits.datamodules`: where pairs of clean and corrupt prompts come from."""

from lightning_circuits.datamodules.base import PairDataModule
from lightning_circuits.datamodules.ioi import IOIDataModule
from lightning_circuits.datamodules.jsonl import PromptPairDataModule
from lightning_circuits.datamodules.loader import PairLoader
from lightning_circuits.datamodules.sequence import SequenceDataModule
from lightning_circuits.datamodules.tasks import TaskDataModule
from lightning_circuits.datamodules.tokenising import PromptPair

__all__ = [
    "IOIDataModule",
    "PairDataModule",
    "PairLoader",
    "PromptPair",
    "PromptPairDataModule",
    "SequenceDataModule",
    "TaskDataModule",
]
