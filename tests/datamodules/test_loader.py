"""The loader: padding, order, sharing out among processes, and taking up a killed run inside an epoch."""

from __future__ import annotations

import json
import random
import warnings
from collections import Counter
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.utils.data import DataLoader

from lightning_circuits.batch import SharedLoader, require_batch, unshared
from lightning_circuits.datamodules import IOIDataModule, PairLoader
from lightning_circuits.datamodules.tokenising import TokenPair
from lightning_circuits.namespace import pl


def make_pairs(count: int, seed: int = 0) -> list[TokenPair]:
    """Pairs of random lengths; clean[0] numbers the pair."""
    rng = random.Random(seed)
    pairs = []
    for number in range(count):
        rest = [rng.randrange(1, 50) for _ in range(rng.randrange(1, 7))]
        answers = [rng.randrange(50) for _ in range(rng.randrange(1, 4))]
        pairs.append(TokenPair([1000 + number, *rest], [2000 + number, *rest], answers, [7]))
    return pairs


def numbers(loader: PairLoader) -> list[list[int]]:
    """Which pairs each batch holds."""
    return [[row[row >= 1000][0].item() - 1000 for row in batch["clean_ids"]] for batch in loader]


@settings(max_examples=50, deadline=None)
@given(count=st.integers(1, 20), batch_size=st.integers(1, 8), side=st.sampled_from(["right", "left"]))
def test_batches_hold_the_pairs_whatever_the_padding(count: int, batch_size: int, side: str) -> None:
    pairs = make_pairs(count)
    rows = []
    for batch in PairLoader(pairs, batch_size, pad_id=999, padding_side=side):
        assert all(value.dtype == torch.int64 for value in batch.values())
        for row in range(len(batch["positions"])):
            mask = batch["attention_mask"][row].bool()
            assert set(batch["clean_ids"][row][~mask].tolist()) <= {999}
            assert batch["positions"][row] == mask.nonzero()[-1]
            ids = [batch[key][row] for key in ("clean_ids", "corrupt_ids")]
            words = [batch[key][row] for key in ("answers", "distractors")]
            rows.append(TokenPair(*[x[mask].tolist() for x in ids], *[x[x != -100].tolist() for x in words]))
        if side == "left":
            assert batch["attention_mask"][:, -1].all()
    assert rows == pairs


@settings(max_examples=50, deadline=None)
@given(groups=st.lists(st.sampled_from(["", "ABBA", "BABA", "other"]), min_size=1, max_size=12), size=st.integers(1, 5))
def test_batches_say_of_which_group_each_prompt_is(groups: list[str], size: int) -> None:
    pairs = [replace(pair, group=name) for pair, name in zip(make_pairs(len(groups)), groups, strict=True)]
    found = []
    for batch in PairLoader(pairs, size):
        require_batch(batch, 3000)
        assert ("groups" in batch) == any(groups)
        names = (*batch.get("group_names", ()), "")
        found += [names[number] for number in batch.get("groups", torch.full((len(batch["positions"]),), -1))]
    assert found == groups


@settings(max_examples=50, deadline=None)
@given(count=st.integers(1, 30), batch_size=st.integers(1, 5), replicas=st.integers(1, 4), epoch=st.integers(0, 3))
def test_ranks_share_out_the_order_of_one_process(count: int, batch_size: int, replicas: int, epoch: int) -> None:
    pairs = make_pairs(count)
    loaders = [PairLoader(pairs, batch_size, seed=3, replicas=replicas, rank=rank) for rank in range(replicas)]
    whole = PairLoader(pairs, batch_size * replicas, seed=3)
    for loader in (*loaders, whole):
        loader.set_epoch(epoch)
    shares = [numbers(loader) for loader in loaders]
    # Every rank does the same amount of work, in as many batches as it said.
    assert {len(loader) for loader in loaders} == {len(share) for share in shares}
    assert len({tuple(map(len, share)) for share in shares}) == 1
    # Step by step, the ranks together see what one process sees; only the last step may repeat rows.
    for step, expected in enumerate(numbers(whole)):
        together = [pair for share in shares for pair in share[step]]
        assert set(expected) <= set(together)
        if len(expected) == batch_size * replicas:
            assert sorted(together) == sorted(expected)
    seen = Counter(pair for share in shares for batch in share for pair in batch)
    assert set(seen) == set(range(count))
    assert sum(seen.values()) - count < replicas


def test_a_loader_that_shares_out_can_be_asked_for_the_whole_split() -> None:
    whole, share = (PairLoader(make_pairs(9), 4, seed=2, replicas=replicas) for replicas in (1, 2))
    assert isinstance(share, SharedLoader)
    assert numbers(unshared(share)) == numbers(unshared(whole)) == numbers(whole) != numbers(share)
    others = DataLoader([1, 2])
    assert unshared(others) is others


def test_order_is_a_function_of_seed_and_epoch() -> None:
    pairs = make_pairs(40)

    def order(seed: int | None, epoch: int) -> list[list[int]]:
        loader = PairLoader(pairs, 8, seed=seed)
        loader.set_epoch(epoch)
        return numbers(loader)

    assert order(0, 1) == order(0, 1)
    assert len({str(order(seed, epoch)) for seed in range(3) for epoch in range(3)}) == 9
    assert order(None, 5) == [list(range(start, start + 8)) for start in range(0, 40, 8)]
    # Written down once: the same on every machine, Python and torch.
    assert numbers(PairLoader(make_pairs(8), 8, seed=0)) == [[3, 1, 5, 7, 6, 0, 4, 2]]


def test_iterating_leaves_the_global_generators_alone() -> None:
    torch.manual_seed(1)
    random.seed(1)
    before = torch.get_rng_state(), random.getstate()
    numbers(PairLoader(make_pairs(9), 4, seed=0))
    assert torch.equal(before[0], torch.get_rng_state())
    assert before[1] == random.getstate()


@settings(max_examples=50, deadline=None)
@given(seen=st.integers(0, 7), epoch=st.integers(0, 2))
def test_resumes_after_the_batches_seen(seen: int, epoch: int) -> None:
    def fresh() -> PairLoader:
        loader = PairLoader(make_pairs(20), 3, seed=0)
        loader.set_epoch(epoch)
        return loader

    expected, killed = numbers(fresh()), fresh()
    iterator = iter(killed)
    for _ in range(seen):
        next(iterator)
    resumed = PairLoader(make_pairs(20), 3, seed=0)
    resumed.load_state_dict(killed.state_dict())
    assert resumed.state_dict() == killed.state_dict()  # a checkpoint before the first batch is as good
    iterator = iter(resumed)  # Lightning makes the iterator first, and says the epoch afterwards
    resumed.set_epoch(epoch)
    assert numbers(iterator) == expected[seen:]
    resumed.set_epoch(epoch)
    assert numbers(resumed) == expected  # only the first iteration is cut short


def test_an_ended_epoch_does_not_cut_the_next_one_short() -> None:
    ended = PairLoader(make_pairs(20), 3, seed=0)
    numbers(ended)
    resumed = PairLoader(make_pairs(20), 3, seed=0)
    resumed.load_state_dict(ended.state_dict())
    resumed.set_epoch(1)
    assert len(numbers(resumed)) == len(resumed) == 7


def test_refuses_to_go_on_in_another_order() -> None:
    killed = PairLoader(make_pairs(20), 3, seed=0)
    next(iter(killed))
    others = [PairLoader(make_pairs(20), 4, seed=0), PairLoader(make_pairs(20), 3, seed=1)]
    others += [PairLoader(make_pairs(3), 3, seed=0)]  # whose epoch has no more batches than have been seen
    for other in others:
        with pytest.raises(ValueError, match="in the middle of an epoch"):
            other.load_state_dict(killed.state_dict())
    # The same steps, shared out among three processes.
    PairLoader(make_pairs(20), 1, seed=0, replicas=3).load_state_dict(killed.state_dict())


# ----------------------------------------------------------------------------------------------------------------------
# With a real Trainer


def ioi() -> IOIDataModule:
    return IOIDataModule("tiny-ioi", n_train=28, n_val=6, n_test=2, batch_size=4, seed=5)


class Recorder(pl.LightningModule):
    """Notes what it is given, and where."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = torch.nn.Parameter(torch.zeros(()))
        self.batches: list[str] = []
        self.validated: list[str] = []

    def training_step(self, batch: dict[str, torch.Tensor], _: int) -> torch.Tensor:
        self.batches.append(f"{self.current_epoch} {batch['clean_ids'].tolist()}")
        return self.weight**2

    def validation_step(self, batch: dict[str, torch.Tensor], _: int) -> None:
        self.validated.append(str(batch["clean_ids"].tolist()))

    def on_train_end(self) -> None:
        noted = {"batches": self.batches, "validated": self.validated}
        Path(self.trainer.default_root_dir, f"rank{self.global_rank}.json").write_text(json.dumps(noted))

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return torch.optim.SGD(self.parameters(), lr=0.1)


def run(folder: Path, resume: Path | None = None, saves: dict | None = None, **options: object) -> list[dict]:
    """Three epochs of 7 batches; what each rank has seen. Checkpoints are named after the batches seen by then."""
    saver = pl.callbacks.ModelCheckpoint(
        folder, filename="{step}", save_top_k=-1, **saves or {"every_n_train_steps": 1}
    )
    folder.mkdir(exist_ok=True)
    quiet = {"logger": False, "enable_progress_bar": False, "enable_model_summary": False}
    defaults = {"max_epochs": 3, "accelerator": "cpu", "callbacks": [saver], "default_root_dir": folder, **quiet}
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore")
        warnings.filterwarnings("error", message=".*(not resumable|does not have many workers).*")
        pl.Trainer(**defaults | options).fit(Recorder(), datamodule=ioi(), ckpt_path=resume)
    return [json.loads(file.read_text()) for file in sorted(folder.glob("rank*.json"))]


@pytest.mark.parametrize(
    ("saves", "options"),
    [
        ({"every_n_train_steps": 1}, {}),
        ({"every_n_train_steps": 1}, {"val_check_interval": 3}),
        ({"every_n_train_steps": 1}, {"limit_train_batches": 5}),
        ({"every_n_epochs": 1}, {"val_check_interval": 3}),  # at the end of a validation inside the epoch
        ({"every_n_epochs": 1}, {}),  # at the end of the validation that ends the epoch
        ({"every_n_epochs": 1, "save_on_train_epoch_end": True}, {}),
    ],
    ids=str,
)
def test_a_run_resumed_anywhere_sees_the_same_batches(tmp_path: Path, saves: dict, options: dict) -> None:
    [whole] = run(tmp_path / "whole", saves=saves, **options)
    batches = whole["batches"]
    assert len(set(batches)) == len(batches) == 3 * options.get("limit_train_batches", 7)
    checkpoints = {int(file.stem.removeprefix("step=")): file for file in (tmp_path / "whole").glob("*.ckpt")}
    checkpoints.pop(len(batches), None)  # nothing is left to do from there
    assert len(checkpoints) >= 2
    for seen, checkpoint in checkpoints.items():
        [resumed] = run(tmp_path / checkpoint.stem, checkpoint, saves, **options)
        assert resumed["batches"] == batches[seen:], checkpoint.name


def test_validation_is_the_whole_split_in_order(tmp_path: Path) -> None:
    [noted] = run(tmp_path, max_epochs=2, num_sanity_val_steps=0)
    assert noted["validated"] == 2 * [str(batch["clean_ids"].tolist()) for batch in ioi().val_dataloader()]


def test_overfitting_sees_the_same_batches_every_epoch(tmp_path: Path) -> None:
    [noted] = run(tmp_path, overfit_batches=2, limit_val_batches=0)
    assert [batch[2:] for batch in noted["batches"]] == 3 * [batch[2:] for batch in noted["batches"][:2]]


@pytest.mark.skipif(torch.cuda.is_available(), reason="processes are forked, which CUDA does not survive")
@pytest.mark.parametrize("use_distributed_sampler", [True, False])
def test_two_processes_share_training_out_and_resume(tmp_path: Path, use_distributed_sampler: bool) -> None:
    options = {"devices": 2, "strategy": "ddp_fork", "use_distributed_sampler": use_distributed_sampler}
    options |= {"num_sanity_val_steps": 0}
    whole = run(tmp_path / "whole", **options)
    for epoch in range(3):
        shares = [[batch for batch in rank["batches"] if batch[0] == str(epoch)] for rank in whole]
        assert [len(share) for share in shares] == [4, 4]
        rows = [str(row) for share in shares for batch in share for row in unpadded(json.loads(batch[2:]))]
        expected = ioi().train_dataloader()
        assert sorted(rows) == sorted(str(row) for b in expected for row in unpadded(b["clean_ids"].tolist()))
    # Every rank validates on all prompts: whoever evaluates shares them out, without repeating any.
    assert (
        whole[0]["validated"]
        == whole[1]["validated"]
        == 3 * [str(b["clean_ids"].tolist()) for b in ioi().val_dataloader()]
    )
    resumed = run(tmp_path / "resumed", tmp_path / "whole" / "step=6.ckpt", **options)
    assert [rank["batches"] for rank in resumed] == [rank["batches"][6:] for rank in whole]


def unpadded(rows: list[list[int]]) -> list[list[int]]:
    return [[token for token in row if token != 0] for row in rows]
