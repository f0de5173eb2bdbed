"""A run on a device that is too small: what is said before the first step, and in the error."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor

from lightning_circuits import EdgePruning
from lightning_circuits.batch import Batch
from lightning_circuits.memory import MemoryPlan
from lightning_circuits.objectives import KL
from lightning_circuits.search import edge_pruning
from tests.support.edge_pruning import data, fit


class _Full(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        return x.clone()

    @staticmethod
    def backward(ctx: Any, dx: Tensor) -> Tensor:
        raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 96.00 MiB. GPU 0 has ...")


class RunsOut(KL):
    """Of memory, at a step, forward or backward."""

    def __init__(self, step: int, backward: bool) -> None:
        self.left, self.backward = step, backward

    def __call__(self, logits: Tensor, batch: Batch, full_logits: Tensor) -> Tensor:
        self.left -= 1
        if self.left < 0 and not self.backward:
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 96.00 MiB. GPU 0 has ...")
        return super().__call__(_Full.apply(logits) if self.left < 0 else logits, batch, full_logits)


@pytest.fixture
def as_on_a_gpu(monkeypatch: pytest.MonkeyPatch) -> int:
    """...that has so many bytes left, fewer than a step on 8 prompts needs."""
    free = 3_000_000
    monkeypatch.setattr(edge_pruning, "free_memory", lambda device: free)
    return free


@pytest.mark.parametrize("backward", [False, True])
def test_a_step_that_runs_out_of_memory_says_what_to_lower(backward: bool, as_on_a_gpu: int) -> None:
    search = EdgePruning("tiny-ioi", objective=RunsOut(1, backward))
    with pytest.raises(torch.OutOfMemoryError) as raised:
        fit(search, 3, data(batch_size=8))
    _, batch, *_ = data(batch_size=8).train_dataloader()
    length = batch["clean_ids"].shape[1]
    plan = MemoryPlan.of(search.circuit_model, 8, length)
    said = str(raised.value)
    assert said.startswith(f"CUDA out of memory. Tried to allocate 96.00 MiB. A step on 8 prompts of {length} tokens ")
    assert 0 < plan.largest_batch(as_on_a_gpu) < 8
    assert f"lower the batch size from 8 to {plan.largest_batch(as_on_a_gpu)} and accumulate gradients" in said


def test_without_knowing_what_was_free_the_order_is_said() -> None:
    search = EdgePruning("tiny-ioi", objective=RunsOut(0, backward=True))
    with pytest.raises(torch.OutOfMemoryError, match=r"lower the batch size and accumulate .* then the block"):
        fit(search, 1)


@pytest.fixture
def printed(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """What the first process says in a run of three steps."""
    said: list[str] = []
    monkeypatch.setattr(edge_pruning.pl.utilities, "rank_zero_info", said.append)
    fit(EdgePruning("tiny-ioi"), 3, data(batch_size=8))
    return said


def test_the_plan_is_printed_once_before_the_first_step_on_a_gpu(as_on_a_gpu: int, printed: list[str]) -> None:
    [said] = printed
    assert said.startswith("A step on 8 prompts of ") and "3.0 MB are free: at most " in said


def test_elsewhere_nothing_is_printed(printed: list[str]) -> None:
    assert printed == []
