"""The experiment on sequences: its short cuts and its controls are what its tables say."""

from __future__ import annotations

from collections import Counter
from typing import Any

import pytest
import torch

from lightning_circuits.ablation import InterchangeAblation
from lightning_circuits.circuit import Circuit
from lightning_circuits.datamodules import IOIDataModule
from lightning_circuits.evaluation.completeness import cut_edges
from lightning_circuits.evaluation.per_prompt import measured
from lightning_circuits.evaluation.rows import evaluate
from lightning_circuits.layout import Layout
from lightning_circuits.models import CircuitModel, wrap
from lightning_circuits.models.loading import load_model
from lightning_circuits.search.node_pruning import lower_of_both_nodes

pytestmark = pytest.mark.usefixtures("experiments")


@pytest.fixture(scope="module")
def model() -> CircuitModel:
    return wrap(load_model("tiny-ioi"))


@pytest.fixture(scope="module")
def prompts() -> list[Any]:
    return list(IOIDataModule("tiny-ioi", n_train=2, n_val=2, n_test=10, batch_size=4).test_dataloader())


def of_nodes(layout: Layout, names: list[str]) -> Circuit:
    """Every edge between the input, some nodes and the logits."""
    kept = torch.tensor([float(name in ("input", *names)) for name in layout.writer_names])
    return Circuit(layout, lower_of_both_nodes(layout, kept) == 1)


def test_circuits_of_nodes_are_judged_as_by_exact_ablation(model: CircuitModel, prompts: list[Any]) -> None:
    from sequence_tasks import judged_by_nodes

    names = {"found": ["a0.h0", "a0.h1", "a0.h2", "m0", "m1", "a3.h1"], "other": ["a1.h2", "m2"]}
    circuits = {name: of_nodes(model.layout, nodes) for name, nodes in names.items()}
    rows = judged_by_nodes(model, prompts, circuits)
    _, _, *expected = evaluate(model, prompts, circuits, [InterchangeAblation()], "test", controls=False)
    assert [row.circuit for row in rows] == ["full", "found", "other"] and 0.5 < rows[1].faithfulness < 1
    for row, other in zip(rows[1:], expected, strict=True):
        for name, value in other.to_dict().items():
            if name != "token_edges":
                same = pytest.approx(value, abs=1e-4) if isinstance(value, float) else value
                assert row.to_dict()[name] == same, name


def test_nodes_removed_from_the_model_are_edges_cut(model: CircuitModel, prompts: list[Any]) -> None:
    from sequence_tasks import without

    sets = [[], ["a0.h1"], ["a3.h1", "m0"]]
    members = [torch.tensor([name in some for name in model.layout.writer_names]) for some in sets]
    values, right = without(model, prompts, members)
    cut = [~cut_edges(model.layout, some) for some in sets]
    expected = measured(model, prompts, cut, InterchangeAblation())
    torch.testing.assert_close(values, expected, atol=1e-4, rtol=0)
    assert torch.equal(right, expected > 0)


def test_random_heads_are_as_many_of_each_layer_and_others() -> None:
    from sequence_continuation import drawn_like

    layout = Layout(n_layers=3, n_heads=4, d_model=8)
    heads = [layout.writer_names.index(name) for name in ("a0.h0", "a2.h1", "a2.h2", "a2.h3")]
    sets = drawn_like(heads, layout, 40)
    for drawn in sets:
        names = [layout.writer_names[i] for i in drawn]
        assert len(set(names)) == 4 and Counter(name[:2] for name in names) == {"a0": 1, "a2": 3}
    assert {drawn[0] for drawn in sets} == {2, 3, 4}, "not the head itself, where there are others"
    assert len({tuple(sorted(drawn[1:])) for drawn in sets}) == 4, "of three of four there are no others"


def test_the_control_of_a_circuit_has_its_mlps_and_as_many_heads_of_each_layer() -> None:
    from sequence_continuation import like

    layout = Layout(n_layers=3, n_heads=4, d_model=8)
    circuit = of_nodes(layout, ["a0.h0", "m0", "a2.h1", "a2.h2", "m2"])
    names = set(like(circuit).node_names())
    assert {"input", "m0", "m2", "logits"} < names and not {"a0.h0", "a2.h1", "a2.h2", "m1"} & names
    assert Counter(name[:2] for name in names if ".h" in name) == {"a0": 1, "a2": 2}
    assert like(circuit).n_edges == circuit.n_edges


def test_heads_of_all_circuits_or_of_most() -> None:
    from sequence_continuation import shared_heads

    counts = {"a0.h0": 5, "a1.h0": 5, "a2.h0": 4, "a3.h0": 2, "a4.h0": 1}
    assert shared_heads(counts, 5) == ["a0.h0", "a1.h0", "a2.h0"]
    assert shared_heads(counts | {"a5.h0": 5}, 5) == ["a0.h0", "a1.h0", "a5.h0"]


def test_what_is_left_and_how_seldom_random_heads_take_as_much() -> None:
    from sequence_tables import Removed

    full, shared = [4.0, 2.0, 4.0, 2.0], [1.0, 0.5, 1.0, 0.5]
    on_all = {"values": [full, shared], "right": [[True] * 4, [True, False, True, False]]}
    few = [full[:2], shared[:2], [4.0, 2.0], [1.0, 0.0], [2.0, 1.0]]
    found = Removed.of(on_all, {"values": few})
    assert (found.model, found.right, found.still_right, found.prompts, found.few) == (3.0, 1.0, 0.5, 4, 2)
    assert found.share == pytest.approx(0.25) and found.interval == pytest.approx((0.25, 0.25))
    assert found.drawn == pytest.approx((1 + 1 / 6 + 0.5) / 3) and found.p == pytest.approx(2 / 4)
