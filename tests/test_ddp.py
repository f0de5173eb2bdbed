"""Two real processes: different data and draws on each, the same gates on both."""

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

from lightning_circuits.ablation import make_ablation
from lightning_circuits.datamodules import IOIDataModule
from lightning_circuits.models import wrap
from lightning_circuits.pretrained import load_model

pytestmark = pytest.mark.slow

SCRIPT = """
import sys
import torch
from lightning_circuits import EdgePruning
from lightning_circuits.datamodules import IOIDataModule
from lightning_circuits.gates import HardConcrete, TopK
from lightning_circuits.lightning import pl
from lightning_circuits.objectives import KL
from lightning_circuits.sparsity import SizeRange, TargetSparsity

torch.set_num_threads(1)

# Sizes of all kinds from the first step on, so that ranks differ in what they draw.
GATES = {
    "TopK": lambda: TopK(SizeRange(warmup=0)),
    "HardConcrete": lambda: HardConcrete(TargetSparsity(0.9, warmup=0.3)),
}


class Record(pl.Callback):
    def __init__(self):
        self.batches, self.gates = [], []

    def on_train_batch_start(self, trainer, pl_module, batch, batch_idx):
        self.batches.append(batch["clean_ids"])

    def on_train_batch_end(self, trainer, pl_module, *_):
        self.gates.append({name: value.clone() for name, value in pl_module.gate.state_dict().items()})


class BreaksOnOneRank(KL):
    def __call__(self, logits, batch, full_logits):
        loss = super().__call__(logits, batch, full_logits)
        return loss * float("nan") if torch.distributed.get_rank() == 1 else loss


gate, ablation, objective, folder = sys.argv[1:]
record = Record()
search = EdgePruning(
    "tiny-ioi", gate=GATES[gate](), ablation=ablation, objective=KL() if objective == "fine" else BreaksOnOneRank()
)
drawn = []
original = search.gate.forward
search.gate.forward = lambda *args: drawn.append(original(*args)) or drawn[-1]
trainer = pl.Trainer(
    max_steps=6, accelerator="cpu", devices=2, strategy="ddp", logger=False, enable_progress_bar=False,
    enable_model_summary=False, enable_checkpointing=False, callbacks=[record],
)
trainer.fit(search, IOIDataModule("tiny-ioi", n_train=18, n_val=4, n_test=4, batch_size=4))
torch.save(
    {
        "gates": record.gates, "batches": record.batches, "drawn": [values.detach() for values in drawn],
        "means": getattr(search.ablation, "means", None), "world": trainer.world_size,
    },
    f"{folder}/rank{trainer.global_rank}.pt",
)
"""


def start(tmp_path: Path, *arguments: str) -> tuple[int, str]:
    """Exit status and what was printed. A deadlock fails the test, and leaves no process behind."""
    script, log = tmp_path / "train.py", tmp_path / "log.txt"
    script.write_text(SCRIPT)
    command = [sys.executable, str(script), *arguments, str(tmp_path)]
    # To a file, not a pipe: a pipe would be waited on until the last process has closed it.
    with log.open("w") as output:
        process = subprocess.Popen(command, stdout=output, stderr=subprocess.STDOUT, start_new_session=True)
        try:
            status = process.wait(timeout=240)
        except subprocess.TimeoutExpired:
            pytest.fail(f"deadlock: no end after 240 s\n{log.read_text()[-3000:]}")
        finally:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)
    return status, log.read_text()


@pytest.mark.parametrize(("gate", "ablation"), [("TopK", "mean"), ("HardConcrete", "interchange")])
def test_gates_are_the_same_on_two_ranks_that_see_different_data(gate: str, ablation: str, tmp_path: Path) -> None:
    status, log = start(tmp_path, gate, ablation, "fine")
    assert status == 0, log[-3000:]
    ranks: list[dict[str, Any]] = [torch.load(tmp_path / f"rank{rank}.pt") for rank in (0, 1)]
    assert [rank["world"] for rank in ranks] == [2, 2]
    assert [len(rank["gates"]) for rank in ranks] == [6, 6]

    for step, (one, other) in enumerate(zip(ranks[0]["gates"], ranks[1]["gates"], strict=True)):
        assert one.keys() == other.keys() and "logits" in one
        assert ("sparsity.multipliers" in one) is (gate == "HardConcrete")
        for name in one:
            assert torch.equal(one[name], other[name]), f"{name} differs after step {step}"
    assert not torch.equal(ranks[0]["gates"][0]["logits"], ranks[0]["gates"][-1]["logits"])

    for one, other in zip(ranks[0]["batches"], ranks[1]["batches"], strict=True):
        assert one.shape != other.shape or not torch.equal(one, other)
    # Two small hard circuits may be of the same size by chance: the draws of most steps differ, and the first one's.
    alike = [torch.equal(one, other) for one, other in zip(ranks[0]["drawn"], ranks[1]["drawn"], strict=True)]
    assert sum(alike) <= 2 and not alike[0]

    if ablation == "mean":  # over the whole split on each rank, not over its share
        assert torch.equal(ranks[0]["means"], ranks[1]["means"])
        expected = make_ablation("mean")
        data = IOIDataModule("tiny-ioi", n_train=18, n_val=4, n_test=4, batch_size=4)
        expected.fit(wrap(load_model("tiny-ioi")), data.train_dataloader())
        torch.testing.assert_close(ranks[0]["means"], expected.means, atol=1e-6, rtol=1e-5)  # type: ignore[attr-defined]


def test_nan_on_one_rank_ends_both(tmp_path: Path) -> None:
    status, log = start(tmp_path, "TopK", "interchange", "broken")
    assert status != 0
    assert "the objective is nan at step 0" in log
    assert not list(tmp_path.glob("rank*.pt"))
