"""Gradients accumulated over several batches to a step: the step that one batch of all their prompts would make."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor

from lightning_circuits import EdgePruning
from lightning_circuits.datamodules import IOIDataModule
from lightning_circuits.gates import HardConcrete, SizeRange, TargetSparsity, TopK
from lightning_circuits.namespace import pl
from tests.support.edge_pruning import as_loader
from tests.support.training import quiet_trainer

MADE = {
    "TopK": lambda: TopK(SizeRange(warmup=0)),
    "HardConcrete": lambda: HardConcrete(TargetSparsity(0.9, warmup=0.3)),
}
gates = pytest.mark.parametrize("gate", MADE)


class Record(pl.Callback):
    """Of every step: the gates' gradients and the learning rate that the optimizer is given; the gates after it."""

    def __init__(self) -> None:
        self.gradients: list[Tensor] = []
        self.rates: list[float] = []

    def on_before_optimizer_step(self, trainer: Any, pl_module: EdgePruning, optimizer: Any) -> None:
        self.gradients.append(torch.cat([each.grad.flatten() for each in pl_module.gate.parameters()]).clone())
        self.rates.append(optimizer.param_groups[0]["lr"])


def trained(gate: str, batches: Any, **options: Any) -> tuple[EdgePruning, Record, list[Tensor]]:
    """The search, what was seen of every step, and the values of the gates for every batch."""
    search, record = EdgePruning("tiny-ioi", gate=MADE[gate](), dtype="float64"), Record()
    drawn: list[Tensor] = []
    original = search.gate.forward
    search.gate.forward = lambda *args: drawn.append(original(*args)) or drawn[-1]  # type: ignore[method-assign]
    quiet_trainer(record, **options).fit(search, batches)
    return search, record, [values.detach() for values in drawn]


def assert_same_run(several: Any, one: Any, of_step: list[int]) -> None:
    """That two runs are one; ``of_step``: of the first one's batches, to which step each belongs."""
    (search, record, drawn), (expected, expected_record, expected_drawn) = several, one
    assert record.rates == expected_record.rates and len(set(record.rates)) > 1
    assert len(drawn) == len(of_step)
    torch.testing.assert_close(drawn, [expected_drawn[step] for step in of_step], rtol=0, atol=1e-5)
    for step, (found, wanted) in enumerate(zip(record.gradients, expected_record.gradients, strict=True)):
        torch.testing.assert_close(
            found, wanted, rtol=0, atol=1e-4 * float(wanted.abs().max()), msg=lambda m, s=step: f"step {s}: {m}"
        )
    for name, value in expected.gate.state_dict().items():
        torch.testing.assert_close(search.gate.state_dict()[name], value, rtol=0, atol=1e-5)
    assert not torch.equal(expected_drawn[0], expected_drawn[1]), "every step has another draw"


@gates
def test_several_batches_to_a_step_are_one_batch_of_all_their_prompts(gate: str) -> None:
    """Of 29 prompts: a step of 12, another, and one of 5 that are a batch of 4 and one of 1, a batch short."""

    def data(batch_size: int) -> IOIDataModule:
        return IOIDataModule("tiny-ioi", n_train=29, n_val=4, n_test=4, batch_size=batch_size)

    several = trained(gate, data(4), max_epochs=3, accumulate_grad_batches=3)
    one = trained(gate, data(12), max_epochs=3)
    assert_same_run(several, one, [3 * epoch + step for epoch in range(3) for step in (0, 0, 0, 1, 1, 1, 2, 2)])


@gates
def test_batches_of_a_loader_of_ones_own_count_by_their_prompts(gate: str) -> None:
    [everything] = IOIDataModule("tiny-ioi", n_train=16, n_val=4, n_test=4, batch_size=16).train_dataloader()
    rows = {key: value for key, value in everything.items() if isinstance(value, Tensor)}

    def loader(*ends: int) -> Any:
        starts = (0, *ends)
        return as_loader(
            [{key: value[start:end] for key, value in rows.items()} for start, end in zip(starts, ends, strict=False)]
        )

    several = trained(gate, loader(5, 6, 13, 16), max_epochs=3, accumulate_grad_batches=2)
    one = trained(gate, loader(6, 16), max_epochs=3)
    assert_same_run(several, one, [2 * epoch + step for epoch in range(3) for step in (0, 0, 1, 1)])
