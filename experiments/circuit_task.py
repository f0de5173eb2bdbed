"""What the tasks of experiments have in common: their prompts, the model, and circuits by attribution."""

from __future__ import annotations

import argparse
from collections.abc import Callable
from dataclasses import replace
from functools import cached_property
from typing import Any

from stages import Run, located

from lightning_circuits import Attribution, Circuit
from lightning_circuits.batch import Batch
from lightning_circuits.datamodules import TaskDataModule
from lightning_circuits.models import wrap


class CircuitTask:
    """The prompts of a task and its circuits.

    Args:
        name: of the task.
        data: makes its prompts.
        language_model: from Hugging Face.
        args: of the command line: ``model``, ``train``, ``prompts``, ``pairs``, ``share``.
        run: that keeps the stages.
    """

    batch_size: int
    """Of all its prompts; there are as many to validate on."""

    def __init__(
        self, name: str, data: Callable[..., TaskDataModule], language_model: Any, args: argparse.Namespace, run: Run
    ) -> None:
        self.name, self.args, self.run = name, args, run
        self.language_model, self.model = language_model, wrap(language_model)
        n = self.batch_size
        self.data = data(located(args.model), n_train=args.train, n_val=n, n_test=args.prompts, batch_size=n, seed=0)

    @cached_property
    def train(self) -> list[Batch]:
        return list(self.data.train_dataloader())

    @cached_property
    def test(self) -> list[Batch]:
        return list(self.data.test_dataloader())

    def pairs(self, seed: int) -> list[Batch]:
        """The training pairs that attribution sees: others for each seed."""
        each = self.args.pairs // self.batch_size
        return self.train[seed * each : (seed + 1) * each]

    def by_attribution(self, search: Attribution, seed: int) -> Circuit:
        """What a method of attribution finds on the pairs of a seed."""
        search.scores_over(lambda: self.pairs(seed))
        found = search.circuit(size=self.args.share)
        return replace(found, metadata={**found.metadata, "data": self.data.describe(), "seed": seed})
