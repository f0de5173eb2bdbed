"""Real processes: other prompts on each, the same draws and gates on all, and what comes out is as of one process."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import pytest
import torch

from lightning_circuits.ablation import ABLATIONS
from lightning_circuits.datamodules import IOIDataModule
from lightning_circuits.models import wrap
from lightning_circuits.models.loading import load_model
from tests.support import processes

pytestmark = pytest.mark.slow

SCRIPT = """
import sys
import torch
from lightning_circuits import EdgePruning
from lightning_circuits.datamodules import IOIDataModule
from lightning_circuits.gates import HardConcrete, TopK
from lightning_circuits.namespace import pl
from lightning_circuits.objectives import KL
from lightning_circuits.gates import SizeRange, TargetSparsity

torch.set_num_threads(1)

# Sizes of all kinds from the first step on.
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


def start(tmp_path: Path, *arguments: str, script: str = SCRIPT) -> tuple[int, str]:
    """Exit status and what was printed."""
    file = tmp_path / "train.py"
    file.write_text(script)
    return processes.program(tmp_path / "log.txt", [sys.executable, file, *arguments, tmp_path]).end()


@pytest.mark.parametrize(("gate", "ablation"), [("TopK", "mean"), ("HardConcrete", "interchange")])
def test_gates_are_the_same_on_two_ranks_that_see_different_data(gate: str, ablation: str, tmp_path: Path) -> None:
    status, log = start(tmp_path, gate, ablation, "fine")
    assert status == 0, log[-3000:]
    ranks: list[dict[str, Any]] = [torch.load(tmp_path / f"rank{rank}.pt", weights_only=True) for rank in (0, 1)]
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
    for one, other in zip(ranks[0]["drawn"], ranks[1]["drawn"], strict=True):
        assert torch.equal(one, other)
    assert not torch.equal(*ranks[0]["drawn"][:2])

    if ablation == "mean":  # over the whole split on each rank, not over its share
        assert torch.equal(ranks[0]["means"], ranks[1]["means"])
        expected = ABLATIONS.make("mean")
        data = IOIDataModule("tiny-ioi", n_train=18, n_val=4, n_test=4, batch_size=4)
        expected.fit(wrap(load_model("tiny-ioi")), data.train_dataloader())
        torch.testing.assert_close(ranks[0]["means"], expected.means, atol=1e-6, rtol=1e-5)  # type: ignore[attr-defined]


def test_nan_on_one_rank_ends_both(tmp_path: Path) -> None:
    status, log = start(tmp_path, "TopK", "interchange", "broken")
    assert status != 0
    assert "the objective is nan at step 0" in log
    assert not list(tmp_path.glob("rank*.pt"))


# ---- a batch shared out --------------------------------------------------------------------------------------------

SHARED_OUT = """
import os, sys
import torch
from lightning_circuits import EdgePruning
from lightning_circuits.datamodules import IOIDataModule
from lightning_circuits.gates import HardConcrete, SizeRange, TargetSparsity, TopK
from lightning_circuits.namespace import pl

torch.set_num_threads(1)


def trained(devices, gate, **options):
    '''After two epochs and a bit, of 13 prompts: the last step of each has one, however many processes there are.'''
    search = EdgePruning("tiny-ioi", gate=gate, dtype="float64", lr=0.05)
    trainer = pl.Trainer(
        max_steps=7, accelerator="cpu", devices=devices, strategy="ddp" if devices > 1 else "auto", logger=False,
        enable_progress_bar=False, enable_model_summary=False, enable_checkpointing=False, num_sanity_val_steps=0,
        **options,
    )
    trainer.fit(search, IOIDataModule("tiny-ioi", n_train=13, n_val=4, n_test=4, batch_size=6 // devices))
    return {name: value.clone() for name, value in search.gate.state_dict().items()}


def run(devices):
    return {
        "TopK": trained(devices, TopK(SizeRange(warmup=0))),
        "HardConcrete": trained(devices, HardConcrete(TargetSparsity(0.9, warmup=0.3))),
        "accumulated": trained(devices, TopK(SizeRange(warmup=0)), accumulate_grad_batches=2),
    }


if __name__ == "__main__":
    devices, folder = int(sys.argv[1]), sys.argv[2]
    found = run(devices)
    torch.save(found, f"{folder}/rank{os.environ.get('LOCAL_RANK', 0)}.pt")
"""


@pytest.fixture(scope="module")
def shared_out(tmp_path_factory: pytest.TempPathFactory) -> dict[int, dict[str, Any]]:
    """The gates by the number of processes."""
    found = {}
    for devices in (1, 2, 3):
        folder = tmp_path_factory.mktemp(f"of{devices}")
        status, log = start(folder, str(devices), script=SHARED_OUT)
        assert status == 0, log[-3000:]
        found[devices] = torch.load(folder / "rank0.pt", weights_only=True)
    return found


@pytest.mark.parametrize("devices", [2, 3])
@pytest.mark.parametrize("kind", ["TopK", "HardConcrete", "accumulated"])
def test_a_batch_shared_out_is_the_run_of_one_process(kind: str, devices: int, shared_out: dict[int, Any]) -> None:
    one, several = shared_out[1][kind], shared_out[devices][kind]
    moved = (one["logits"] - one["logits"].mean()).abs().max()
    assert moved > 0.05
    for name, value in one.items():
        torch.testing.assert_close(several[name], value, rtol=0, atol=1e-5)


# ---- methods: one pair of processes runs them all ------------------------------------------------------------------

METHODS = """
import os, sys
import torch
from torch.utils.data import DataLoader, DistributedSampler
from lightning_circuits import EAP, ActivationPatching, Attribution, EdgePruning
from lightning_circuits.datamodules import IOIDataModule
from lightning_circuits.namespace import pl

torch.set_num_threads(1)
MODEL = "tiny-ioi"


def data(devices, n_train=13):
    return IOIDataModule(MODEL, n_train=n_train, n_val=4, n_test=4, batch_size=4 // devices)


def fit(devices, search, source, resume=None, **options):
    trainer = pl.Trainer(
        accelerator="cpu", devices=devices, strategy="ddp" if devices > 1 else "auto", logger=False,
        enable_progress_bar=False, enable_model_summary=False, num_sanity_val_steps=0,
        **dict(enable_checkpointing=False) | options,
    )
    trainer.fit(search, source, ckpt_path=resume, weights_only=True)
    return search


class Begun(pl.Callback):
    def on_train_start(self, trainer, pl_module):
        self.gates = pl_module.edge_scores().clone()


def warm(devices, method):
    begun = Begun()
    fit(devices, EdgePruning(MODEL, ablation="mean", warm_start=method), data(devices), max_steps=1, callbacks=[begun])
    return begun.gates


class Drawn(Attribution):
    '''Not the same on two processes, as with a kernel that adds up in another order each time.'''

    def attribute(self, batch):
        return torch.rand(self.layout.n_edges), None


def sampled(devices):
    '''A loader of one's own with a sampler there already. Of 13 rows it repeats one.'''
    [everything] = IOIDataModule(MODEL, n_train=13, n_val=4, n_test=4, batch_size=13).train_dataloader()
    rows = [{key: value[i] for key, value in everything.items()} for i in range(13)]
    sampler = DistributedSampler(rows, num_replicas=devices, rank=int(os.environ.get("LOCAL_RANK", 0)))
    return DataLoader(rows, batch_size=4 // devices, sampler=sampler)


def run(devices, checkpoint):
    torch.manual_seed(int(os.environ.get("LOCAL_RANK", 0)))
    found = {"warm": warm(devices, EAP(ablation="mean")), "drawn": warm(devices, Drawn())}
    for name, search, source, resume in (
        ("patched", ActivationPatching(MODEL, edges_per_batch=240), data(devices, n_train=3), None),
        ("sampled", EAP(MODEL), sampled(devices), None),
        ("resumed", EAP(MODEL), data(devices), checkpoint),
    ):
        fit(devices, search, source, resume)
        found[name] = {"scores": search.edge_scores(), "prompts": search.describe()["examples"]}
    return found


if __name__ == "__main__":
    checkpoint, folder = sys.argv[1:]
    found = run(2, checkpoint)
    torch.save(found, f"{folder}/rank{os.environ['LOCAL_RANK']}.pt")
"""


@pytest.fixture(scope="module")
def methods(tmp_path_factory: pytest.TempPathFactory) -> list[dict[str, Any]]:
    """What one process finds, and each of two. All resume the checkpoint of one, two steps into a pass of four."""
    folder = tmp_path_factory.mktemp("methods")
    here: dict[str, Any] = {"__name__": "methods"}
    exec(compile(METHODS, "methods.py", "exec"), here)
    keep = here["pl"].callbacks.ModelCheckpoint(folder, every_n_train_steps=1, save_top_k=-1, filename="{step}")
    here["fit"](1, here["EAP"]("tiny-ioi"), here["data"](1), callbacks=[keep], enable_checkpointing=True)
    checkpoint = folder / "step=2.ckpt"
    status, log = start(folder, str(checkpoint), script=METHODS)
    assert status == 0, log[-3000:]
    return [here["run"](1, checkpoint), *(torch.load(folder / f"rank{rank}.pt", weights_only=True) for rank in (0, 1))]


def test_gates_of_a_warm_start_begin_as_in_one_process(methods: list[dict[str, Any]]) -> None:
    one, *ranks = (found["warm"] for found in methods)
    assert all(torch.equal(gates, one) for gates in ranks)
    assert one.unique().numel() > 400, "gates that begin all alike: a test of nothing"


def test_gates_begin_alike_even_if_the_ranks_attribute_differently(methods: list[dict[str, Any]]) -> None:
    _, *ranks = (found["drawn"] for found in methods)
    assert torch.equal(*ranks)


@pytest.mark.parametrize(
    ("name", "prompts"),
    [
        ("patched", 3),  # an odd one: one process repeats a prompt
        ("sampled", 13),  # each once, although the loader's sampler repeats one
        ("resumed", 13),  # where one process was stopped
    ],
)
def test_scores_of_two_processes_are_those_of_one(name: str, prompts: int, methods: list[dict[str, Any]]) -> None:
    one, *ranks = (found[name] for found in methods)
    for rank in ranks:
        assert rank["prompts"] == one["prompts"] == prompts
        torch.testing.assert_close(rank["scores"], one["scores"], rtol=0, atol=1e-5 * one["scores"].abs().max().item())
