"""A training run of somebody's own, with a language model in it."""

from __future__ import annotations

from typing import Any

import torch
from torch import nn
from transformers import AutoModelForCausalLM, BloomConfig

from lightning_circuits.callbacks import CircuitProbe
from lightning_circuits.datamodules import IOIDataModule
from lightning_circuits.models.loading import load_model
from lightning_circuits.namespace import pl

QUIET: dict[str, Any] = dict(
    accelerator="cpu", logger=False, enable_checkpointing=False, enable_progress_bar=False, enable_model_summary=False
)


def quiet_trainer(*callbacks: pl.Callback, **options: Any) -> pl.Trainer:
    """A Trainer on the CPU that writes and prints nothing of its own; what is given goes before."""
    return pl.Trainer(**QUIET | options, callbacks=[*callbacks])


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


def bloom() -> nn.Module:
    """Of a family that is not read."""
    sizes = dict(vocab_size=19, hidden_size=16, n_layer=1, n_head=2)
    return AutoModelForCausalLM.from_config(BloomConfig(**sizes, bos_token_id=None, eos_token_id=None))
