"""A search for weights on the embedded model, in seconds, with a text that needs no tokenizer."""

from __future__ import annotations

from typing import Any

import torch

from lightning_circuits.batch import TextBatch, TextSource
from lightning_circuits.datamodules import IOIDataModule


class Babble(TextSource):
    """Random tokens, in sentences of eight."""

    def __init__(self, seed: int = 0) -> None:
        self.seed = seed

    def describe(self) -> dict[str, Any]:
        return {"text": "babble", "seed": self.seed}

    def batch(self, number: int) -> TextBatch:
        generator = torch.Generator().manual_seed(self.seed * 1000 + number)
        ids = torch.randint(5, 220, (3, 8), generator=generator)
        return {"input_ids": ids, "attention_mask": torch.ones_like(ids)}

    def held_out(self, split: str) -> list[TextBatch]:
        return [self.batch({"val": 999, "test": 998}[split])]


def ioi(**options: Any) -> IOIDataModule:
    return IOIDataModule("tiny-ioi", **{"n_train": 24, "n_val": 16, "n_test": 8, "batch_size": 8, **options})
