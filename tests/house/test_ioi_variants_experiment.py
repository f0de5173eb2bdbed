"""The experiment on IOI's variants, on a model whose answers are known: inflation, and what undoes it."""

from __future__ import annotations

from itertools import chain
from typing import Any

import pytest
import torch

from lightning_circuits.ablation import Ablation, GroupMeanAblation, InterchangeAblation
from lightning_circuits.circuit import Circuit
from lightning_circuits.datamodules import ioi
from lightning_circuits.evaluation.attention_by_role import Estimate, attention_by_role
from lightning_circuits.evaluation.per_prompt import measured
from lightning_circuits.layout import Layout
from lightning_circuits.models import CircuitModel, wrap
from tests.datamodules.test_ioi import tokenizer_that_knows
from tests.support.made_circuits import of_edges

pytestmark = pytest.mark.usefixtures("experiments")

BASE = [
    "input->a0.h0<k>@S1",
    "input->a0.h0<q>@S2",
    "a0.h0->a1.h0<k>@S2",
    "input->a1.h0<v>@S2",
    "a1.h0->logits@END",
]
"""The circuit of the toy on Base: the repeated name is seen at S2, looked at from END, and made less probable."""


def prompts(extra_io: int, n: int = 16, **options: Any) -> Any:
    import ioi_toy

    sizes = {"n_train": n, "n_val": 2, "n_test": n}
    return ioi_toy.ToyIOI(ioi_toy.tokenizer(), **sizes, extra_io=extra_io, batch_size=8, **options)


def toy(layout: Layout | None = None, dtype: torch.dtype = torch.float32) -> CircuitModel:
    import ioi_toy

    model = wrap(ioi_toy.by_hand().to(dtype))
    return model if layout is None else model.in_spans(layout.spans)


def circuit(extra_io: int) -> Circuit:
    """That of Base, found where a circuit of Base is, and taken to a variant."""
    import ioi_places

    on_base, on_variant = (toy().layout.in_spans(prompts(k).train_dataloader().span_names) for k in (0, extra_io))
    return ioi_places.carried(of_edges(on_base, *BASE), on_variant)


def group_means(extra_io: int) -> Ablation:
    ablation = GroupMeanAblation("corrupt", data=prompts(extra_io, 200, corruption="abc", seed=1))
    ablation.fit(toy(), ())
    return ablation


@pytest.mark.parametrize(
    ("extra_io", "at", "expected"),
    [
        (0, ["S2"], 1.0),
        (1, ["S2"], 2.0),
        (1, [], 0.0),
        (1, ["IO1", "IO2"], -2.0),
        (1, ["S2", "IO2"], 2.0),  # IO2 is seen to repeat IO only if IO is read
        (1, ["S2", "IO1", "IO2"], 1.0),
        (1, ["S2", "elsewhere"], 2.0),
        (2, ["S2"], 13 / 5),
        (2, ["S2", "IO1", "IO2"], 13 / 5 * (9 - 1) / 10),
        (2, ["S2", "IO1", "IO3"], 13 / 5 * (9 - 3) / 12),
        (2, ["S2", "IO1", "IO2", "IO3"], 1.0),
    ],
)
def test_s2_alone_inflates_and_the_other_mentions_undo_it(extra_io: int, at: list[str], expected: float) -> None:
    import ioi_places

    base = circuit(extra_io)
    opened = ioi_places.reopened(base, ["a0.h0"], at)
    batches, runs = prompts(extra_io).test_dataloader(), [Circuit.full(base.layout), opened]
    full, value = measured(toy(base.layout), batches, runs, group_means(extra_io)).mean(1).tolist()
    assert full == pytest.approx(4.0 * [1, 2 / 4, 5 / 13][extra_io], rel=1e-2)
    assert value / full == pytest.approx(expected, abs=1e-2)
    if at == ["S2"]:
        assert opened == base


def test_with_a_third_name_for_s2_nothing_is_inflated() -> None:
    """Under interchange the mentions of IO are as they were, whatever the circuit."""
    base = circuit(1)
    batches, runs = prompts(1).test_dataloader(), [Circuit.full(base.layout), base]
    full, value = measured(toy(base.layout, torch.float64), batches, runs, InterchangeAblation())
    torch.testing.assert_close(value, full)


def test_in_the_circuit_the_head_is_surer_of_s2_than_in_the_model() -> None:
    base = circuit(1)
    [row] = attention_by_role(
        toy(), prompts(1).test_dataloader(), base, "S2", "IO2", ablation=group_means(1), heads=["a1.h0"]
    )
    assert row.model_ratio.value == pytest.approx(3, rel=1e-2)
    assert row.circuit_right.value == pytest.approx(1, abs=1e-3) and row.circuit_wrong.value < 1e-3


def test_ways_through_a_head_are_those_that_go_through_it() -> None:
    import ioi_places

    layout = Layout(n_layers=3, n_heads=2, d_model=4).in_spans(["S1", "S2", "END"])
    through = ["input->m0@S2", "m0->a1.h0<q>@S2", "input->a1.h0<k>@S1", "a1.h0->m1@S2", "m1->a2.h1<k>@S2"]
    beside = ["input->a0.h1<v>@S1", "a0.h1->m1@END", "m1->logits@END", "input->a2.h0<q>@END"]
    joint = ["a2.h1->logits@END"]
    found = ioi_places.ways_through(of_edges(layout, *through, *beside, *joint), ["a1.h0"])
    assert set(layout.edge_names(found.nonzero()[:, 0])) == {*through, *joint}


def test_places_carry_over() -> None:
    """Every token before S2 that has no name of its own is elsewhere, on every variant."""
    names = [set(prompts(k).train_dataloader().span_names) for k in range(3)]
    assert names[0] == {"IO", "IO+1", "S1", "S1+1", "S2", "S2..END", "END", "elsewhere"}
    assert names[1] - names[0] == {"IO2"} and names[2] - names[1] == {"IO3"}
    assert names[0] < names[1] < names[2]


def test_places_of_the_real_prompts() -> None:
    import ioi_places

    data = ioi_places.PlacedIOI(tokenizer_that_knows(list(ioi.NAMES)), n_train=30, n_val=2, n_test=2, extra_io=1)
    loader = data.train_dataloader()
    assert {"IO", "IO+1", "S1", "S1+1", "IO2", "S2", "S2..END", "END", "elsewhere"} == set(loader.span_names)
    batch = next(iter(loader))
    for row, ids in zip(batch["spans"], batch["clean_ids"], strict=True):
        at = {name: ids[row == number].tolist() for number, name in enumerate(batch["span_names"])}
        assert at["IO"] == at["IO2"] and at["S1"] == at["S2"] and len(at["IO+1"]) > 0


@pytest.mark.parametrize(
    ("low", "high", "said"),
    [(0.2, 0.9, "inflation"), (-0.2, 0.9, "undecided"), (-0.9, -0.2, "none"), (0.0, 0.0, "none"), (1e-4, 2e-4, "none")],
)
def test_a_verdict_is_read_from_the_interval(low: float, high: float, said: str) -> None:
    import ioi_tables

    assert ioi_tables.verdict(Estimate((low + high) / 2, low, high)) == said


def test_judged_by_hand() -> None:
    import ioi_tables

    values = {"full": [1.0, 3.0, 2.0, 2.0], "empty": [0.0] * 4, "base circuit": [2.0, 6.0, -1.0, 5.0]}
    both, first = (ioi_tables.judge(values, "base circuit", order) for order in ("both", "io-first"))
    assert (both.full, both.value, both.ratio.value, both.difference.value) == (2.0, 3.0, 1.5, 1.0)
    assert (both.accuracy, both.full_accuracy, both.prompts) == (0.75, 1.0, 4)
    assert (first.full, first.value, first.faithfulness.value, first.prompts) == (2.0, 4.0, 2.0, 2)
    changed = ioi_tables.against(values, "base circuit", "full")
    assert changed.value == 1.0 and changed.low < 1.0 < changed.high
    assert list(chain(ioi_tables.places_of(values), ioi_tables.places_of({**values, "none": [], "S2 + IO1": []}))) == [
        "none",
        "S2",
        "S2 + IO1",
    ]
