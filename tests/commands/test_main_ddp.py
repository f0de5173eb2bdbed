"""Two processes through the command line, started as users start them: they measure what one does, and one writes.

Nine validation prompts in batches of two are five batches, the last one smaller: two processes cannot share them
evenly. The learning rate is next to nothing and the ranking given, so that the circuits are the same in all runs.
"""

from __future__ import annotations

import csv
import json
import os
import sys
from pathlib import Path
from typing import Any

import pytest
import torch

from lightning_circuits.circuit import Circuit
from lightning_circuits.models import wrap
from lightning_circuits.models.loading import load_model
from tests.support import processes
from tests.support.offline_run import OfflineRun

pytestmark = pytest.mark.slow

CONFIG = """
trainer:
  max_steps: 4
  accelerator: cpu
  enable_progress_bar: false
  logger:
    - class_path: CSVLogger
      init_args: {save_dir: runs, name: own, version: one}
    - class_path: WandbLogger
      init_args: {save_dir: runs, project: own}
  callbacks:
    - class_path: FaithfulnessValidation
      init_args: {every_n_steps: 2, sizes: [0.1], ablations: [interchange, mean]}
    - class_path: FaithfulnessCurve
      init_args: {sizes: [0.05, 0.2]}
    - class_path: CircuitExport
      init_args: {formats: [json, png]}
    - class_path: CircuitReport
    - class_path: ModelCheckpoint
      init_args: {save_last: true, every_n_train_steps: 2}
"""
PROGRAM = [sys.executable, "-m", "lightning_circuits.commands.main"]
LAUNCHERS = {
    "one": [*PROGRAM, "fit", "--config=quickstart.yaml", "--config=with/ddp.yaml", "--config=test.yaml"],
    "lightning": [*PROGRAM, "fit", "--config=quickstart.yaml", "--config=with/ddp.yaml", "--config=test.yaml"],
    "fsdp": [*PROGRAM, "fit", "--config=quickstart.yaml", "--config=with/fsdp.yaml", "--config=test.yaml"],
    "torchrun": [
        *(sys.executable, "-m", "torch.distributed.run", "--nproc-per-node=2", "--standalone", "--no-python"),
        *(*PROGRAM, "fit", "--config=quickstart.yaml", "--config=with/ddp.yaml", "--config=test.yaml"),
    ],
    "slurm": [
        *("bash", str(Path(__file__).parents[2] / "examples" / "slurm" / "circuit.sbatch")),
        *("--config=quickstart.yaml", "--config=test.yaml"),
    ],
}
# SLURM's own part: as many processes as were asked for, each told which one it is.
SRUN = """#!/bin/bash
for rank in $(seq 0 $((SLURM_NTASKS - 1))); do SLURM_PROCID=$rank SLURM_LOCALID=$rank "$@" & tasks="$tasks $!"; done
for task in $tasks; do wait "$task" || exit 1; done
"""
SLURM = {
    **{f"SLURM_{name}": "2" for name in ("NTASKS", "NTASKS_PER_NODE")},
    **{f"SLURM_{name}": "localhost" for name in ("NODELIST", "JOB_NODELIST")},
    **{"SLURM_JOB_NUM_NODES": "1", "SLURM_NODEID": "0", "SLURM_JOB_ID": "1", "SLURM_JOB_NAME": "circuit"},
}
OPTIONS = "--data.n_train=9 --data.n_val=9 --data.n_test=9 --data.batch_size=2 --model.lr=1e-12".split()


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """The folder of each run, by how it was launched."""
    folders = {}
    layout = wrap(load_model("tiny-ioi")).layout
    order = torch.randperm(layout.n_edges, generator=torch.Generator().manual_seed(0)).float()
    for name, command in LAUNCHERS.items():
        folder = folders[name] = tmp_path_factory.mktemp(name)
        (folder / "test.yaml").write_text(CONFIG)
        start = Circuit(layout, torch.ones(layout.n_edges, dtype=torch.bool), order).save(folder / "start.safetensors")
        devices = 1 if name == "one" else 2
        programs = folder / "bin"
        programs.mkdir()
        (programs / "srun").write_text(SRUN)
        (programs / "lightning-circuits").write_text(f'#!/bin/bash\nexec {" ".join(PROGRAM)} "$@"\n')
        for program in programs.iterdir():
            program.chmod(0o755)
        path = os.pathsep.join([str(programs), os.environ["PATH"]])
        command = [*command, *OPTIONS, f"--model.warm_start={start}", f"--trainer.devices={devices}"]
        environment = {"WANDB_MODE": "offline", "WANDB_DATA_DIR": str(folder)}
        if name == "slurm":
            environment |= SLURM | {"PATH": path}
        status, printed = processes.program(folder / "log.txt", command, folder, **environment).end()
        assert status == 0, printed[-3000:]
    return folders


def read(folder: Path) -> dict[str, Any]:
    """What a run has left: rows measured, the curve, metrics by step, names of the files beside the checkpoints."""
    run = folder / "runs" / "own" / "one"
    [last] = run.glob("circuit-last-*.json")
    with (run / "metrics.csv").open() as file:
        metrics = [{key: float(v) for key, v in row.items() if v} for row in csv.DictReader(file)]
    return {
        "rows": Circuit.load(last).metadata["measured"],
        "members": Circuit.load(last).members,
        "curve": json.loads((run / "curve.json").read_text())["rows"],
        "metrics": [row for row in metrics if "val/interchange/10%/kl" in row],
        "files": sorted(path.name for path in run.iterdir()),  # a checkpoint's name has the epoch, shorter with two
    }


@pytest.mark.parametrize("name", ["lightning", "fsdp", "torchrun", "slurm"])
def test_two_processes_measure_and_leave_what_one_does(name: str, runs: dict[str, Path]) -> None:
    one, two = read(runs["one"]), read(runs[name])
    assert torch.equal(one["members"], two["members"])
    assert {row["prompts"] for row in two["rows"]} == {9}  # each once
    for key in ("rows", "curve"):
        assert len(one[key]) == len(two[key]) > 1
        for expected, found in zip(one[key], two[key], strict=True):
            assert found.keys() == expected.keys()
            for field, value in expected.items():
                number = isinstance(value, float)
                assert found[field] == (pytest.approx(value, rel=1e-4, abs=1e-5) if number else value), field
    assert [row["step"] for row in two["metrics"]] == [row["step"] for row in one["metrics"]] == [2, 4]
    assert two["files"] == one["files"]


@pytest.mark.parametrize("name", list(LAUNCHERS))
def test_the_first_process_alone_tells_and_prints(name: str, runs: dict[str, Path]) -> None:
    run = OfflineRun.read(runs[name] / "runs")  # fails if there are two
    assert len(run.logged("val/interchange/10%/kl")) == 2
    assert len([artifact for artifact in run.artifacts if artifact.type == "circuit"]) == 2
    printed = (runs[name] / "log.txt").read_text()
    assert printed.count("Circuits by exact ablation") == printed.count("Circuits: ") == 1
