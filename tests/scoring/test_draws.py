"""What a prompt draws is its own: of its tokens and the seed, and of nothing else."""

from __future__ import annotations

from typing import Any

import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from lightning_circuits.scoring.draws import drawn_points, generators_of

PROMPTS = [([5, 6, 7], [5, 9, 7]), ([1], [2]), ([5, 6, 7, 8], [5, 9, 7, 8]), ([0, 0], [0, 3]), ([5, 6, 7], [5, 9, 8])]


def batch_of(order: list[int], before: list[int], fill: int) -> Any:
    """Prompts in some order, each with so much padding before it, and behind it what makes them equally long."""
    width = max(len(PROMPTS[i][0]) + n for i, n in zip(order, before, strict=True))
    made: dict[str, Tensor] = {name: torch.full((len(order), width), fill) for name in ("clean_ids", "corrupt_ids")}
    made["attention_mask"] = torch.zeros(len(order), width, dtype=torch.int64)
    for row, (i, start) in enumerate(zip(order, before, strict=True)):
        real = slice(start, start + len(PROMPTS[i][0]))
        for name, ids in zip(("clean_ids", "corrupt_ids"), PROMPTS[i], strict=True):
            made[name][row, real] = torch.tensor(ids)
        made["attention_mask"][row, real] = 1
    return made


def points(batch: Any, steps: int = 3, seed: int = 0) -> Tensor:
    """``[B, steps]``."""
    return torch.stack([torch.as_tensor(point.at) for point in drawn_points(batch, steps, seed)], -1)


ALL = points(batch_of([0, 1, 2, 3, 4], [0] * 5, fill=0))


@settings(max_examples=40)
@given(data=st.data(), order=st.lists(st.integers(0, 4), min_size=1, max_size=6), fill=st.integers(0, 9))
def test_a_prompt_draws_the_same_in_all_company(data: st.DataObject, order: list[int], fill: int) -> None:
    before = data.draw(st.lists(st.integers(0, 3), min_size=len(order), max_size=len(order)))
    assert torch.equal(points(batch_of(order, before, fill)), ALL[order])


def test_other_prompts_and_other_seeds_draw_otherwise() -> None:
    batch = batch_of([0, 1, 2, 3, 4], [0] * 5, fill=0)
    drawn = torch.cat([ALL, points(batch, seed=1)])
    assert len(drawn[:, 0].unique()) == 10


def test_one_point_lies_in_each_part_of_the_line_and_anywhere_in_it() -> None:
    batch = batch_of([0, 1, 2, 3, 4], [0] * 5, fill=0)
    drawn = torch.stack([points(batch, 4, seed) for seed in range(400)])  # [seeds, B, steps]
    assert torch.equal((4 * drawn).floor().long(), torch.arange(4).expand(400, 5, 4))
    within = (4 * drawn - torch.arange(4)).flatten().sort().values
    even = torch.linspace(0, 1, len(within))
    assert (within - even).abs().max() < 1.95 / len(within) ** 0.5  # Kolmogorov-Smirnov, p = .001
    together = (4 * drawn - torch.arange(4) - 0.5).flatten(0, 1).T.corrcoef() - torch.eye(4)
    assert together.abs().max() < 4 / 2000**0.5  # the parts draw independently


def test_rows_that_read_on_in_an_answer_draw_with_their_prompt() -> None:
    batch = batch_of([0, 2, 1], [0, 0, 0], fill=0) | {"continues": torch.tensor([0, 1, 0])}
    drawn = points(batch)
    assert torch.equal(drawn, ALL[[0, 0, 1]]) and len(generators_of(batch, 0)) == 2
