"""A training run of somebody's own, with a language model in it."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from lightning_circuits.callbacks import CircuitProbe
from lightning_circuits.datamodules import IOIDataModule
from lightning_circuits.models.loading import load_model
from lightning_circuits.namespace import pl

QUIET: dict[str, Any] = dict(
    accelerator="cpu", logger=False, enable_checkpointing=False, enable_progress_bar=False, enable_model_summary=False
)


class Mine(pl.LightningModule):
    """A project's own module around a language model, trained to go on with the sentence."""

    def __init__(self, language_model: nn.Module, lr: float = 1e-3) -> None:
        super().__init__()
        self.net = nn.ModuleDict({"lm": language_model})
        self.lr = lr

    def training_step(self, batch: dict[str, torch.Tensor], batch_idx: int) -> torch.Tensor:
        inputs = {"input_ids": batch["clean_ids"], "attention_mask": batch["attention_mask"]}
        return self.net["lm"](**inputs, labels=batch["clean_ids"]).loss

    def configure_optimizers(self) -> Any:
        return torch.optim.AdamW(self.parameters(), lr=self.lr)


def small(seed: int = 0, **sizes: int) -> IOIDataModule:
    return IOIDataModule("tiny-ioi", **{"n_train": 10, "n_val": 7, "n_test": 2, "batch_size": 4, **sizes}, seed=seed)


def trainable() -> nn.Module:
    return load_model("tiny-ioi").requires_grad_(True).train()


def fit(probe: CircuitProbe, module: pl.LightningModule, **options: Any) -> pl.Trainer:
    trainer = pl.Trainer(**{**QUIET, "max_steps": 2, "callbacks": [probe], **options})
    trainer.fit(module, small(seed=1).train_dataloader())
    return trainer


def start(script: Path, *arguments: str, **environment: str) -> str:
    """Run a script in a process group of its own. A deadlock fails the test, and leaves no process behind."""
    log = script.with_suffix(".log")
    with log.open("w") as output:
        process = subprocess.Popen(
            [sys.executable, str(script), *arguments],
            stdout=output,
            stderr=subprocess.STDOUT,
            start_new_session=True,
            env={**os.environ, **environment},
        )
        try:
            status = process.wait(timeout=240)
        except subprocess.TimeoutExpired:
            pytest.fail(f"no end after 240 s\n{log.read_text()[-3000:]}")
        finally:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)
    assert status == 0, log.read_text()[-3000:]
    return log.read_text()
