"""Data modules, imported as `lightning_circuits.datamodules`: where pairs of clean and corrupt prompts come from."""

from lightning_circuits.datamodules.base import PairDataModule
from lightning_circuits.datamodules.country_capital import CountryCapitalDataModule
from lightning_circuits.datamodules.facts import Fact, FactsDataModule, FactToEdit
from lightning_circuits.datamodules.gender_bias import GenderBiasDataModule
from lightning_circuits.datamodules.greater_than import GreaterThanDataModule
from lightning_circuits.datamodules.hypernymy import HypernymyDataModule
from lightning_circuits.datamodules.ioi import IOIDataModule
from lightning_circuits.datamodules.jsonl import PromptPairDataModule
from lightning_circuits.datamodules.loader import PairLoader
from lightning_circuits.datamodules.reading import read_pairs
from lightning_circuits.datamodules.sequence import SequenceDataModule
from lightning_circuits.datamodules.subject_verb_agreement import SubjectVerbAgreementDataModule
from lightning_circuits.datamodules.tasks import TaskDataModule
from lightning_circuits.datamodules.text import TextLines
from lightning_circuits.datamodules.tokenising import PromptPair

__all__ = [
    "CountryCapitalDataModule",
    "Fact",
    "FactToEdit",
    "FactsDataModule",
    "GenderBiasDataModule",
    "GreaterThanDataModule",
    "HypernymyDataModule",
    "IOIDataModule",
    "PairDataModule",
    "PairLoader",
    "PromptPair",
    "PromptPairDataModule",
    "SequenceDataModule",
    "SubjectVerbAgreementDataModule",
    "TaskDataModule",
    "TextLines",
    "read_pairs",
]
