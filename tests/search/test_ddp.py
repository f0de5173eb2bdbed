"""Several processes: other prompts on each, the same draws and gates on all, and what comes out is as of one process.

Most are forked, and told which they are as by torchrun; the run that fails is started by Lightning itself.
"""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.utils.data import DataLoader, DistributedSampler

from lightning_circuits import EAP, ActivationPatching, Attribution, EdgePruning
from lightning_circuits.ablation import ABLATIONS
from lightning_circuits.batch import Batch
from lightning_circuits.datamodules import IOIDataModule
from lightning_circuits.gates import Gate, HardConcrete, SizeRange, TargetSparsity, TopK
from lightning_circuits.models import wrap
from lightning_circuits.models.loading import load_model
from lightning_circuits.namespace import pl
from lightning_circuits.objectives import KL
from tests.support import processes
from tests.support.training import quiet_trainer

pytestmark = pytest.mark.slow


def trainer_of(devices: int, *callbacks: pl.Callback, **options: Any) -> pl.Trainer:
    strategy = "ddp" if devices > 1 else "auto"
    return quiet_trainer(*callbacks, **{"devices": devices, "strategy": strategy, "num_sanity_val_steps": 0} | options)


def data_of(devices: int, n_train: int = 13, batch_size: int = 4) -> IOIDataModule:
    return IOIDataModule("tiny-ioi", n_train=n_train, n_val=4, n_test=4, batch_size=batch_size // devices)


def on_each(folder: Path, world: int, function: Any, *arguments: Any) -> list[Any]:
    """What a function returns in each of so many processes."""
    processes.together(folder, world, _kept, folder, function, *arguments)
    return [torch.load(folder / f"rank{rank}.pt", weights_only=True) for rank in range(world)]


def _kept(folder: Path, function: Any, *arguments: Any) -> None:
    torch.save(function(*arguments), folder / f"rank{os.environ['LOCAL_RANK']}.pt")


# Sizes of all kinds from the first step on.
MADE = {
    "TopK": lambda: TopK(SizeRange(warmup=0)),
    "HardConcrete": lambda: HardConcrete(TargetSparsity(0.9, warmup=0.3)),
}


class Record(pl.Callback):
    def __init__(self) -> None:
        self.batches: list[Tensor] = []
        self.gates: list[dict[str, Tensor]] = []

    def on_train_batch_start(self, trainer: Any, pl_module: Any, batch: Batch, batch_idx: int) -> None:
        self.batches.append(batch["clean_ids"])

    def on_train_batch_end(self, trainer: Any, pl_module: EdgePruning, *_: Any) -> None:
        self.gates.append({name: value.clone() for name, value in pl_module.gate.state_dict().items()})


class BreaksOnOneRank(KL):
    def __call__(self, logits: Tensor, batch: Batch, full_logits: Tensor) -> Tensor:
        loss = super().__call__(logits, batch, full_logits)
        return loss * float("nan") if torch.distributed.get_rank() == 1 else loss


def recorded(gate: str, ablation: str, objective: KL) -> dict[str, Any]:
    record = Record()
    search = EdgePruning("tiny-ioi", gate=MADE[gate](), ablation=ablation, objective=objective)
    drawn: list[Tensor] = []
    original = search.gate.forward
    search.gate.forward = lambda *args: drawn.append(original(*args)) or drawn[-1]  # type: ignore[method-assign]
    trainer = trainer_of(2, record, max_steps=6)
    trainer.fit(search, data_of(1, n_train=18))
    return {
        "gates": record.gates,
        "batches": record.batches,
        "drawn": [values.detach() for values in drawn],
        "means": getattr(search.ablation, "means", None),
        "world": trainer.world_size,
    }


@pytest.mark.parametrize(("gate", "ablation"), [("TopK", "mean"), ("HardConcrete", "interchange")])
def test_gates_are_the_same_on_two_ranks_that_see_different_data(gate: str, ablation: str, tmp_path: Path) -> None:
    ranks = on_each(tmp_path, 2, recorded, gate, ablation, KL())
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
        expected.fit(wrap(load_model("tiny-ioi")), data_of(1, n_train=18).train_dataloader())
        torch.testing.assert_close(ranks[0]["means"], expected.means, atol=1e-6, rtol=1e-5)  # type: ignore[attr-defined]


FAILS = """
from tests.search.test_ddp import BreaksOnOneRank, recorded
recorded("TopK", "interchange", BreaksOnOneRank())
print("went on")
"""


def test_nan_on_one_rank_ends_both(tmp_path: Path) -> None:
    script = tmp_path / "train.py"
    script.write_text(FAILS)
    root = str(Path(__file__).parents[2])
    status, log = processes.program(tmp_path / "log.txt", [sys.executable, script], PYTHONPATH=root).end()
    assert status != 0
    assert "the objective is nan at step 0" in log and "went on" not in log


# ---- a batch shared out --------------------------------------------------------------------------------------------


def shared_out_among(devices: int) -> dict[str, dict[str, Tensor]]:
    """Gates after two epochs and a bit, of 13 prompts: the last step of each has one, however many processes."""

    def trained(gate: Gate, **options: Any) -> dict[str, Tensor]:
        search = EdgePruning("tiny-ioi", gate=gate, dtype="float64", lr=0.2)
        trainer_of(devices, max_steps=7, **options).fit(search, data_of(devices, batch_size=6))
        return {name: value.clone() for name, value in search.gate.state_dict().items()}

    return {
        **{name: trained(make()) for name, make in MADE.items()},
        "accumulated": trained(MADE["TopK"](), accumulate_grad_batches=2),
    }


@pytest.fixture(scope="module")
def shared_out(tmp_path_factory: pytest.TempPathFactory) -> dict[int, dict[str, Any]]:
    """The gates by the number of processes."""
    several = {
        devices: on_each(tmp_path_factory.mktemp("of"), devices, shared_out_among, devices) for devices in (2, 3)
    }
    return {1: shared_out_among(1), **{devices: ranks[0] for devices, ranks in several.items()}}


@pytest.mark.parametrize("devices", [2, 3])
@pytest.mark.parametrize("kind", ["TopK", "HardConcrete", "accumulated"])
def test_a_batch_shared_out_is_the_run_of_one_process(kind: str, devices: int, shared_out: dict[int, Any]) -> None:
    one, several = shared_out[1][kind], shared_out[devices][kind]
    moved = (one["logits"] - one["logits"].mean()).abs().max()
    assert moved > 0.05
    for name, value in one.items():
        torch.testing.assert_close(several[name], value, rtol=0, atol=1e-5)


# ---- methods: one pair of processes runs them all ------------------------------------------------------------------


class Begun(pl.Callback):
    def on_train_start(self, trainer: Any, pl_module: EdgePruning) -> None:
        self.gates = pl_module.edge_scores().clone()


def warm(devices: int, method: Attribution) -> Tensor:
    begun = Begun()
    search = EdgePruning("tiny-ioi", ablation="mean", warm_start=method)
    trainer_of(devices, begun, max_steps=1).fit(search, data_of(devices))
    return begun.gates


class Drawn(Attribution):
    """Not the same on two processes, as with a kernel that adds up in another order each time."""

    def attribute(self, batch: Batch) -> tuple[Tensor, None]:
        return torch.rand(self.layout.n_edges), None


def sampled(devices: int) -> DataLoader[Any]:
    """A loader of one's own with a sampler there already. Of 13 rows it repeats one."""
    [everything] = data_of(1, batch_size=13).train_dataloader()
    tensors = {key: value for key, value in everything.items() if isinstance(value, Tensor)}
    rows: Any = [{key: value[i] for key, value in tensors.items()} for i in range(13)]
    sampler = DistributedSampler(rows, num_replicas=devices, rank=int(os.environ.get("LOCAL_RANK", 0)))
    return DataLoader(rows, batch_size=4 // devices, sampler=sampler)


def every_method(devices: int, checkpoint: Path) -> dict[str, Any]:
    torch.manual_seed(int(os.environ.get("LOCAL_RANK", 0)))
    found: dict[str, Any] = {"warm": warm(devices, EAP(ablation="mean")), "drawn": warm(devices, Drawn())}
    runs: list[tuple[str, Attribution, Any, Path | None]] = [
        ("patched", ActivationPatching("tiny-ioi", edges_per_batch=240), data_of(devices, n_train=3), None),
        ("sampled", EAP("tiny-ioi"), sampled(devices), None),
        ("resumed", EAP("tiny-ioi"), data_of(devices), checkpoint),
    ]
    for name, search, source, resume in runs:
        trainer_of(devices).fit(search, source, ckpt_path=resume, weights_only=True)
        found[name] = {"scores": search.edge_scores(), "prompts": search.describe()["examples"]}
    return found


@pytest.fixture(scope="module")
def methods(tmp_path_factory: pytest.TempPathFactory) -> list[dict[str, Any]]:
    """What one process finds, and each of two. All resume the checkpoint of one, two steps into a pass of four."""
    folder = tmp_path_factory.mktemp("methods")
    keep = pl.callbacks.ModelCheckpoint(folder, every_n_train_steps=1, save_top_k=-1, filename="{step}")
    trainer_of(1, keep, enable_checkpointing=True).fit(EAP("tiny-ioi"), data_of(1))
    checkpoint = folder / "step=2.ckpt"
    return [every_method(1, checkpoint), *on_each(folder, 2, every_method, 2, checkpoint)]


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
