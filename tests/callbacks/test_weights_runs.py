"""WeightValidation in runs that are killed and go on, and in runs of two processes: what they leave is the same."""

from __future__ import annotations

import csv
import json
import os
import re
import signal
import time
from pathlib import Path
from typing import Any

import pytest
import torch

from lightning_circuits import WeightPruning
from lightning_circuits.callbacks import WeightValidation
from lightning_circuits.namespace import pl
from lightning_circuits.weights.weight_circuit import WeightCircuit
from tests.support import processes
from tests.support.babble import Babble, ioi
from tests.support.drift import files
from tests.support.training import quiet_trainer

pytestmark = pytest.mark.slow


class Kill(pl.Callback):
    """At the beginning of a step, without a word to anybody."""

    def __init__(self, step: int) -> None:
        self.step = step

    def on_train_batch_start(self, trainer: pl.Trainer, *_: Any) -> None:
        if trainer.global_step == self.step:
            os.kill(os.getpid(), signal.SIGKILL)


def run(folder: Path, resume: Path | None = None, kill: int | None = None) -> None:
    """Six steps, the circuit judged and the run saved after every other one."""
    torch.manual_seed(time.time_ns())  # the global generator is another one each time
    keep = pl.callbacks.ModelCheckpoint(folder / "kept", "{step}", every_n_train_steps=2, save_top_k=-1)
    validation = WeightValidation(folder / "files", every_n_steps=2, monitor="text_nll", save_top_k=2)
    callbacks = [validation, keep, *([Kill(kill)] if kill else [])]
    trainer = quiet_trainer(*callbacks, max_steps=6, max_epochs=-1, enable_checkpointing=True)
    trainer.fit(WeightPruning("tiny-ioi", Babble(), density=0.3), ioi(), ckpt_path=resume, weights_only=True)


def test_a_killed_run_leaves_whole_files_and_in_the_end_those_of_an_unkilled_one(tmp_path: Path) -> None:
    killed, whole = tmp_path / "killed", tmp_path / "whole"
    status, printed = processes.call(tmp_path / "log.txt", run, killed, kill=5).end()
    assert status == -signal.SIGKILL, printed[-3000:]
    steps = {f"circuit-step{step:06d}-30pct.safetensors" for step in (2, 4)}
    assert files(killed / "files") == {*steps, "circuit-last-30pct.safetensors", "weights.json", "weights.csv"}
    assert WeightCircuit.load(killed / "files" / "circuit-last-30pct.safetensors").metadata["step"] == 4

    run(whole)
    run(killed, resume=killed / "kept" / "step=4.ckpt")
    assert files(killed / "files") == files(whole / "files")
    for name in files(whole / "files"):
        assert (killed / "files" / name).read_bytes() == (whole / "files" / name).read_bytes(), name
    last = WeightCircuit.load(whole / "files" / "circuit-last-30pct.safetensors")
    assert last.metadata["step"] == 6 and len(files(whole / "files")) == 5


def judged(folder: Path, devices: int) -> None:
    """Training that moves next to nothing; the rows that each process has."""
    torch.set_num_threads(1)
    validation = WeightValidation(folder / "files", every_n_steps=2)
    strategy = "ddp" if devices > 1 else "auto"
    logger = pl.loggers.CSVLogger(folder, name="", version="")
    options = {"devices": devices, "strategy": strategy, "num_sanity_val_steps": 0, "logger": logger}
    trainer = quiet_trainer(validation, max_steps=4, max_epochs=-1, **options)
    trainer.fit(WeightPruning("tiny-ioi", Babble(), lr=1e-12), ioi(n_train=16, n_val=9))
    rows = [row.to_dict() for row in validation.rows]
    (folder / f"rows-{trainer.global_rank}.json").write_text(json.dumps(rows))


def test_two_processes_measure_and_leave_what_one_does(tmp_path: Path) -> None:
    one, two = tmp_path / "one", tmp_path / "two"
    for devices, folder in enumerate((one, two), start=1):
        folder.mkdir()
        processes.together(folder, devices, judged, folder, devices)
    assert files(one / "files") == files(two / "files") and len(files(one / "files")) == 4
    for name in files(one / "files"):  # each says in how many processes it was made, and is else the same
        bytes_of = [(folder / "files" / name).read_bytes() for folder in (one, two)]
        assert re.sub(rb'("processes\\*": )1', rb"\g<1>2", bytes_of[0]) == bytes_of[1], name
    expected, *ranks = (json.loads(path.read_text()) for path in (one / "rows-0.json", *sorted(two.glob("rows-*"))))
    assert ranks == [expected, expected] and {row["prompts"] for row in expected} == {9}
    with (two / "metrics.csv").open() as file:
        steps = [int(row["step"]) for row in csv.DictReader(file) if row["val/zero/50%/agreement"]]
    assert steps == [2, 4]
