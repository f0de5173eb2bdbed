"""Data modules, imported as `lightning_circuits.datamodules`: where pairs of clean and corrupt prompts come from."""

from lightning_circuits.datamodules.ioi import IOIDataModule
from lightning_circuits.datamodules.pairs import PairDataModule, PairLoader, PromptPair, PromptPairDataModule

__all__ = ["IOIDataModule", "PairDataModule", "PairLoader", "PromptPair", "PromptPairDataModule"]
