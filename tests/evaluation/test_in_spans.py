"""Circuits in spans of tokens, judged by exact ablation: controls, pruning, and prompts that do not have the spans."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

from lightning_circuits.ablation import ABLATIONS
from lightning_circuits.batch import Batch
from lightning_circuits.circuit import Circuit
from lightning_circuits.drawing.circuit import save_figure
from lightning_circuits.drawing.page import save_page
from lightning_circuits.evaluation.attention import attention_patterns
from lightning_circuits.evaluation.exact import ExactAblation
from lightning_circuits.evaluation.per_prompt import measured
from lightning_circuits.evaluation.rows import evaluate
from lightning_circuits.models import CircuitModel
from tests.support.gated import wrapped
from tests.support.oracle import pairs

NAMES = ("BEFORE", "S2", "S2..END", "END")
LIVE = NAMES[1:]
"""Those in which clean and corrupt prompts differ, or that come after one in which they do."""


def prompts() -> Batch:
    """Two prompts that are the same up to their second token."""
    ragged = pairs("left")
    ids = ragged.corrupt_ids.clone()
    ids[0, :1], ids[1, :3] = ragged.clean_ids[0, :1], ragged.clean_ids[1, :3]
    ids[0, 1], ids[1, 3] = (ragged.clean_ids[0, 1] + 1) % 19, (ragged.clean_ids[1, 3] + 1) % 19
    batch: Any = vars(ragged) | {"corrupt_ids": ids, "positions": torch.tensor([4, 4])}
    answers = {"answers": torch.tensor([[1], [3]]), "distractors": torch.tensor([[2], [4]])}
    spans = torch.tensor([[0, 1, 2, 2, 3], [-1, -1, 0, 1, 3]])
    return batch | answers | {"spans": spans, "span_names": NAMES}


@pytest.fixture(scope="module")
def model() -> CircuitModel:
    return wrapped("llama-gqa", "head", torch.float64).in_spans(LIVE)


def test_rows_count_and_control_span_by_span(model: CircuitModel) -> None:
    layout = model.layout
    members = torch.rand(layout.n_edges, generator=torch.Generator().manual_seed(0)) < torch.tensor(
        [0.1, 0.3, 0.6]
    ).repeat_interleave(layout.plain.n_edges)
    circuit = Circuit(layout, members)
    rows = {row.circuit: row for row in evaluate(model, [prompts()], {"it": circuit}, [ABLATIONS.make("interchange")])}
    assert rows["full"].edges == layout.n_edges and rows["full"].faithfulness == 1.0
    assert (
        rows["it"].edges == rows["it random"].edges == circuit.n_edges == layout.n_edges - rows["it complement"].edges
    )
    in_each = [each.sum(1).tolist() for each in (layout.each_span(c.members) for c in (circuit, circuit.rival(3)))]
    assert in_each[0] == in_each[1] and len(set(in_each[0])) == 3
    assert circuit.rival(3) != circuit.rival(4)


@pytest.mark.parametrize(("ablation", "tokens"), [("interchange", [4, 3]), ("zero", [5, 3])])
def test_token_edges_are_edges_times_the_tokens_that_may_differ(ablation: str, tokens: list[int]) -> None:
    """Two prompts, padded by none and two, whose first one and none of the real tokens are the same in both."""
    plain, batch = wrapped("llama-gqa", "head", torch.float64), prompts()
    batch["corrupt_ids"][1, 2] = (batch["clean_ids"][1, 2] + 1) % 19
    members = torch.rand(plain.layout.n_edges, generator=torch.Generator().manual_seed(2)) < 0.3
    (row,) = evaluate(plain, [batch], {"it": members}, [ABLATIONS.make(ablation)], controls=False)[2:3]
    assert row.token_edges == row.edges * sum(tokens) / 2

    model = plain.in_spans(NAMES)
    members = torch.rand(model.layout.n_edges, generator=torch.Generator().manual_seed(3)) < 0.3
    (row,) = evaluate(model, [batch], {"it": members}, [ABLATIONS.make(ablation)], controls=False)[2:3]
    by_hand = 0
    for ids, first in [([0, 1, 2, 2, 3], 1), ([-1, -1, 0, 1, 3], 2)]:
        for name in Circuit(model.layout, members).edge_names():
            span = NAMES.index(name.split("@")[1])
            live = [t for t, s in enumerate(ids) if s == span and (t >= first or ablation == "zero")]
            by_hand += len(live)
    assert row.token_edges == by_hand / 2


@pytest.mark.parametrize("family", ["gpt2", "llama-gqa", "qwen2-window"])
@pytest.mark.parametrize("kv", ["head", "group"])
def test_pruning_changes_no_output_under_interchange(family: str, kv: str) -> None:
    model, batch = wrapped(family, kv, torch.float64).in_spans(LIVE), prompts()
    full, corrupt = model.run_pair(batch)
    run = ExactAblation(model, batch, full, ABLATIONS.make("interchange"), corrupt)
    smaller = 0
    for seed in range(12):
        members = torch.rand(model.layout.n_edges, generator=torch.Generator().manual_seed(seed)) < 0.03 * (1 + seed)
        circuit = Circuit(model.layout, members)
        pruned = circuit.prune()
        torch.testing.assert_close(run.logits(pruned.members), run.logits(members), atol=1e-9, rtol=1e-9)
        smaller += pruned != circuit
    assert smaller > 6


def test_the_same_edges_in_all_spans_are_the_circuit_without_spans(model: CircuitModel) -> None:
    plain = wrapped("llama-gqa", "head", torch.float64)
    circuit = Circuit.random(plain.layout, 60, seed=1)
    one = measured(plain, [prompts()], [circuit], ABLATIONS.make("interchange"))
    other = measured(model, [prompts()], [circuit.in_spans(LIVE)], ABLATIONS.make("interchange"))
    torch.testing.assert_close(one, other, atol=1e-9, rtol=1e-9)
    assert circuit.in_spans(LIVE).without_spans("any") == circuit.in_spans(LIVE).without_spans("all") == circuit


@pytest.mark.parametrize(
    ("ablation", "change", "message"),
    [
        (
            "zero",
            {},
            "differs under this ablation at token 0, in the span BEFORE, .* in the spans S2, S2..END, END alone",
        ),
        (
            "interchange",
            {"spans": torch.full((2, 5), -1), "span_names": ()},
            "the span S2, and the prompts have no spans",
        ),
        ("interchange", {"span_names": ("A", "S2", "S2..END", "B")}, "the span END, and .* spans A, S2, S2..END, B"),
        ("interchange", {"spans": torch.tensor([[0, 0, 2, 2, 3]] * 2)}, "token 1, in the span BEFORE"),
        ("interchange", {"spans": torch.tensor([[0, -1, 2, 2, 3]] * 2)}, "token 1, in no span"),
    ],
)
def test_prompts_whose_places_are_others_are_refused(
    model: CircuitModel, ablation: str, change: dict[str, Any], message: str
) -> None:
    batch: Any = prompts() | change
    with pytest.raises(ValueError, match=message):
        evaluate(model, [batch], {"it": Circuit.full(model.layout)}, [ABLATIONS.make(ablation)])


def test_a_circuit_in_other_spans_is_of_another_layout(model: CircuitModel) -> None:
    for layout in (model.layout.plain, model.layout.in_spans(["S2", "END"])):
        with pytest.raises(ValueError, match="is of another layout: spans"):
            evaluate(model, [prompts()], {"it": Circuit.full(layout)}, [ABLATIONS.make("interchange")])


def test_spans_of_circuits_come_and_go() -> None:
    plain = Circuit.random(wrapped("gpt2", "head", torch.float64).layout, 5, seed=0)
    placed = plain.in_spans(["S2", "END"])
    with pytest.raises(ValueError, match="in the spans S2, END already"):
        placed.in_spans(["S2"])
    with pytest.raises(ValueError, match="'any' span or of 'all', not of 'some'"):
        placed.without_spans("some")  # type: ignore[arg-type]
    one = placed.members.clone()
    one[int(plain.members.nonzero()[0, 0])] = False
    half = Circuit(placed.layout, one)
    assert half.without_spans("any") == plain and half.without_spans("all").n_edges == 4


def test_attention_in_all_spans_is_that_without_spans(model: CircuitModel) -> None:
    plain = wrapped("llama-gqa", "head", torch.float64)
    circuit, heads = Circuit.random(plain.layout, 60, seed=1), ["a0.h1", "a1.h0"]
    one = attention_patterns(plain, prompts(), circuit, heads=heads)
    other = attention_patterns(model, prompts(), circuit.in_spans(LIVE), heads=heads)
    for mine, theirs in ((other.full, one.full), (other.circuit, one.circuit)):
        torch.testing.assert_close(mine, theirs, atol=1e-6, rtol=0)


def test_figure_and_page_name_the_spans(tmp_path: Path) -> None:
    circuit = Circuit.random(wrapped("gpt2", "head", torch.float64).layout, 20, seed=0).in_spans(["S2", "END"])
    scored = Circuit(circuit.layout, circuit.members, torch.rand(circuit.layout.n_edges))
    save_page(scored, tmp_path / "page.html")
    save_figure(scored, tmp_path / "figure.svg")
    assert all(name in (tmp_path / "figure.svg").read_text() for name in ("S2", "END"))
