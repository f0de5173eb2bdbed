"""A run that is killed in the middle and resumed ends where an unkilled one does, to the bit."""

from __future__ import annotations

import os
import signal
import time
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from lightning_circuits import EdgePruning
from lightning_circuits.batch import Batch
from lightning_circuits.datamodules import IOIDataModule
from lightning_circuits.gates import HardConcrete, TargetSparsity, TopK
from lightning_circuits.namespace import pl
from tests.support import processes
from tests.support.training import quiet_trainer

pytestmark = pytest.mark.slow

GATES = {"TopK": TopK, "HardConcrete": lambda: HardConcrete(TargetSparsity(0.9, warmup=0.3))}


class Kill(pl.Callback):
    """Between the backward pass and the optimizer's step, without a word to anybody."""

    def __init__(self, step: int) -> None:
        self.step = step

    def on_before_optimizer_step(self, trainer: pl.Trainer, *_: Any) -> None:
        if trainer.global_step == self.step:
            os.kill(os.getpid(), signal.SIGKILL)


class Record(pl.Callback):
    def __init__(self) -> None:
        self.batches: list[tuple[int, Tensor]] = []

    def on_train_batch_start(self, trainer: pl.Trainer, pl_module: Any, batch: Batch, batch_idx: int) -> None:
        self.batches.append((trainer.global_step, batch["clean_ids"]))


def run(
    gate: str, ablation: str, folder: Path, every: int, resume: Path | None = None, kill: int | None = None
) -> dict[str, Any]:
    """Train for 22 steps; what came out."""
    torch.manual_seed(time.time_ns())  # the global generator is another one each time
    record = Record()
    keep = pl.callbacks.ModelCheckpoint(folder, every_n_train_steps=every, save_top_k=-1, filename="{step}")
    trainer = quiet_trainer(
        *(keep, record, *([Kill(kill)] if kill else [])), max_steps=22, max_epochs=99, enable_checkpointing=True
    )
    search = EdgePruning("tiny-ioi", gate=GATES[gate](), ablation=ablation)
    data = IOIDataModule("tiny-ioi", n_train=16, n_val=4, n_test=4, batch_size=4)
    trainer.fit(search, data, ckpt_path=resume, weights_only=True)
    return {
        "gate": search.gate.state_dict(),
        "optimizer": trainer.optimizers[0].state_dict()["state"],
        "batches": record.batches,
        "step": trainer.global_step,
    }


def equal(a: Any, b: Any) -> bool:
    """To the bit, tensors within dicts and lists."""
    if isinstance(a, torch.Tensor):
        return torch.equal(a, b)
    if isinstance(a, dict):
        return a.keys() == b.keys() and all(equal(a[key], b[key]) for key in a)
    if isinstance(a, (list, tuple)):
        return len(a) == len(b) and all(map(equal, a, b))
    return bool(a == b)


@pytest.mark.parametrize(
    ("gate", "ablation", "every", "last"),
    [
        ("TopK", "mean-group", 5, 15),  # in the middle of an epoch of 4 steps
        ("HardConcrete", "interchange", 6, 12),  # at the end of one
    ],
)
def test_a_killed_run_resumes_to_the_same_bits(gate: str, ablation: str, every: int, last: int, tmp_path: Path) -> None:
    killed = tmp_path / "killed"
    status, printed = processes.call(tmp_path / "log.txt", run, gate, ablation, killed, every, kill=17).end()
    assert status == -signal.SIGKILL, printed[-3000:]
    assert {path.name for path in killed.iterdir()} == {f"step={step}.ckpt" for step in range(every, 17, every)}

    whole = run(gate, ablation, tmp_path / "whole", every)
    resumed = run(gate, ablation, tmp_path / "resumed", every, resume=killed / f"step={last}.ckpt")
    again = run(gate, ablation, tmp_path / "again", every, resume=tmp_path / "whole" / f"step={last}.ckpt")

    assert whole["step"] == resumed["step"] == 22
    assert [step for step, _ in resumed["batches"]] == list(range(last, 22))
    assert equal(resumed["batches"], whole["batches"][last:])
    assert equal(resumed["gate"], whole["gate"])
    assert equal(resumed["optimizer"], whole["optimizer"])
    assert equal(again["gate"], whole["gate"])
    assert ("sparsity.multipliers" in whole["gate"]) is (gate == "HardConcrete")
    if gate == "HardConcrete":
        assert whole["gate"]["sparsity.multipliers"].abs().min() > 0

    # The killed run was no other one, and what is compared does change between the checkpoint and the end.
    middle = [torch.load(folder / f"step={last}.ckpt", weights_only=True) for folder in (killed, tmp_path / "whole")]
    assert equal(middle[0]["state_dict"], middle[1]["state_dict"])
    assert not torch.equal(middle[0]["state_dict"]["gate.logits"], whole["gate"]["logits"])
