"""What holds for all learned gates."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from lightning_circuits.gates import Gate, HardConcrete, TopK
from tests.support.gates import generator, spread, with_logits

GATES: dict[str, Callable[[], Gate]] = {
    "hard-concrete": HardConcrete,
    "top-k, soft": lambda: TopK(hard_from=1.0),
    "top-k, hard": lambda: TopK(hard_from=0.0),
}
every_gate = pytest.mark.parametrize("make", GATES.values(), ids=GATES)


@every_gate
def test_values_are_one_float32_per_edge_within_zero_and_one(make: Callable[[], Gate]) -> None:
    gate = make()
    gate.start(500, generator())
    with torch.no_grad():
        gate.logits += 3 * spread(500)
    values = gate(generator(1), 1, 0.5)
    assert values.shape == (500,) and values.dtype == torch.float32
    assert values.min() >= 0 and values.max() <= 1
    assert values.max() > values.min()


@every_gate
def test_generator_and_number_alone_decide_the_values(make: Callable[[], Gate]) -> None:
    gate = with_logits(make(), spread(300))
    first = gate(generator(7), 7, 0.3)
    torch.rand(5)  # the global generator plays no part
    assert torch.equal(first, gate(generator(7), 7, 0.3))
    assert not torch.equal(first, gate(generator(8), 8, 0.3))


@every_gate
def test_the_start_depends_on_the_generator_alone(make: Callable[[], Gate]) -> None:
    starts = []
    for seed in (3, 3):
        torch.rand(3)
        gate = make()
        gate.start(50, generator(seed))
        starts.append(gate.logits.detach())
    assert torch.equal(*starts)


@every_gate
@given(seed=st.integers(0, 1000), n=st.integers(2, 60), scale=st.sampled_from([1e-6, 1.0, 1e6]))
def test_a_start_from_scores_keeps_their_ranks_and_nothing_else(
    make: Callable[[], Gate], seed: int, n: int, scale: float
) -> None:
    scores = scale * torch.randn(n, generator=generator(seed))
    gate = make()
    gate.start(n, generator())
    gate.start_from(scores)
    assert gate.edge_scores().dtype == torch.float32
    assert gate.edge_scores().argsort().tolist() == scores.argsort().tolist()
    other = make()
    other.start(n, generator(1))
    other.start_from(scores / 1024)  # exact in binary: the same ranks
    assert torch.equal(gate.logits, other.logits)


@every_gate
def test_a_start_from_scores_opens_the_best_and_leaves_all_gates_movable(make: Callable[[], Gate]) -> None:
    gate = make()
    gate.start(200, generator())
    gate.start_from(torch.arange(200.0))
    drawn = torch.stack([gate(generator(seed), seed, 0.0) for seed in range(100)]).mean(0)
    assert drawn[-20:].mean() > drawn[:20].mean() + 0.05
    assert gate.logits.requires_grad and gate.logits.is_leaf


def test_edge_scores_are_the_logits_without_their_graph() -> None:
    gate = with_logits(TopK(), spread(9))
    assert torch.equal(gate.edge_scores(), gate.logits) and not gate.edge_scores().requires_grad


@every_gate
def test_gates_closed_for_good_do_not_need_their_gradient(make: Callable[[], Gate]) -> None:
    """Where a gate says so, whatever comes back to a value of 0 moves nothing, and may be left out; else it moves."""
    moved, moved_by_others = [], []
    for garbage in (0.0, 100.0):
        for found, said_alone in ((moved, True), (moved_by_others, False)):
            gate = with_logits(make(), 3 * spread(400))
            values = gate(generator(3), 3, 0.5)
            said = gate.closed_for_good(0.5)
            at_zero = values.detach() == 0
            good = said if isinstance(said, Tensor) else at_zero & said
            assert not (good & ~at_zero).any()
            values.backward(spread(400, seed=1).masked_fill(good if said_alone else at_zero & ~good, garbage))
            found.append(gate.logits.grad)
    assert 50 < at_zero.sum() < 400
    assert torch.equal(*moved)
    assert torch.equal(*moved_by_others) is torch.equal(good, at_zero), "some that could move are said not to"
