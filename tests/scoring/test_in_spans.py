"""Scores of edges in spans of tokens: against gates in spans, edges cut one by one, and the scores without spans."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from lightning_circuits.ablation import ABLATIONS
from lightning_circuits.batch import Batch
from lightning_circuits.masked import masked_logits
from lightning_circuits.models import CircuitModel
from lightning_circuits.objectives import KL, LogitDifference
from lightning_circuits.places import Places
from lightning_circuits.scoring.exact_patching import ExactPatching, chunks
from lightning_circuits.scoring.gradients import gradient_scores
from lightning_circuits.scoring.information_flow import information_flow_scores
from lightning_circuits.scoring.one_component import one_component_scores
from lightning_circuits.scoring.paths import integral
from tests.support.gated import SPANS, random_spans, wrapped
from tests.support.oracle import pairs

cases = pytest.mark.parametrize(
    ("family", "kv", "padding"),
    [
        ("gpt2", "head", "left"),
        ("llama-gqa", "group", "right"),
        ("mistral-window", "head", "ragged"),
        ("gpt-neox", "head", "left"),
    ],
)


def in_spans(family: str, kv: str, padding: str) -> tuple[CircuitModel, CircuitModel, Batch]:
    """A model without and with spans, and prompts whose every token is in one."""
    model, prompts = wrapped(family, kv, torch.float64), pairs(padding)
    n = len(prompts.positions)
    batch: Any = vars(prompts) | {
        "answers": torch.ones(n, 1, dtype=torch.int64),
        "distractors": torch.full((n, 1), 2),
        "spans": random_spans(prompts, least=0),
        "span_names": SPANS,
    }
    return model, model.in_spans(SPANS), batch


@cases
@pytest.mark.parametrize("ablation", ["interchange", "zero"])
def test_eap_in_spans_is_minus_the_gradient_of_open_gates(family: str, kv: str, padding: str, ablation: str) -> None:
    _, model, batch = in_spans(family, kv, padding)
    cut = ABLATIONS.make(ablation)
    full, corrupt = model.run_pair(batch)
    gates = torch.ones(model.layout.n_edges, dtype=torch.float64, requires_grad=True)
    prompts = batch["clean_ids"], batch["attention_mask"], batch["positions"]
    places = Places.of(model.layout, batch, cut.live(batch))
    logits = masked_logits(model, gates, *prompts, cut.reference(batch, corrupt), places=places)
    (gradient,) = torch.autograd.grad(LogitDifference()(logits, batch, full).sum(), gates)
    scores = gradient_scores(model, batch, cut, LogitDifference()).edges
    torch.testing.assert_close(scores, -gradient, atol=1e-9, rtol=1e-9)
    assert gradient.abs().max() > 1e-3


@cases
@pytest.mark.parametrize("method", ["inputs", "pooled", "per-writer", "information-flow"])
def test_scores_of_all_spans_add_up_to_those_without_spans(family: str, kv: str, padding: str, method: str) -> None:
    plain, model, batch = in_spans(family, kv, padding)
    cut, objective = ABLATIONS.make("interchange"), LogitDifference()

    def scores(model: CircuitModel) -> torch.Tensor:
        if method == "inputs":
            return gradient_scores(model, batch, cut, objective, integral("left", 3)).edges
        if method == "information-flow":
            return information_flow_scores(model, batch)
        return one_component_scores(model, batch, cut, objective, 2, pooled=method == "pooled").edges

    of_spans, whole = model.layout.each_span(scores(model)), scores(plain)
    torch.testing.assert_close(of_spans.sum(0), whole, atol=1e-9, rtol=1e-9)
    assert all((each - whole / 3).abs().max() > 1e-3 for each in of_spans), "all spans alike: a test of nothing"


@cases
def test_an_exact_score_is_what_cutting_the_edge_in_its_span_does(family: str, kv: str, padding: str) -> None:
    _, model, batch = in_spans(family, kv, padding)
    layout, cut, objective = model.layout, ABLATIONS.make("interchange"), KL()
    full, corrupt = model.run_pair(batch)
    prompts = batch["clean_ids"], batch["attention_mask"], batch["positions"]
    places = Places.of(layout, batch, cut.live(batch))
    patching = ExactPatching(model, batch, cut, objective)
    found = torch.full((layout.n_edges, len(full)), torch.nan, dtype=torch.float64)
    for part in chunks(layout, 7):
        found[part] = patching.scores(part)
    assert not found.isnan().any()
    some = torch.randperm(layout.n_edges, generator=torch.Generator().manual_seed(0))[:60]
    for edge in [*some.tolist(), int(found.sum(1).argmax())]:
        gates = torch.ones(layout.n_edges, dtype=torch.float64)
        gates[edge] = 0.0
        with torch.no_grad():
            logits = masked_logits(model, gates, *prompts, corrupt.clone(), places=places)
        torch.testing.assert_close(found[edge], objective(logits, batch, full), atol=1e-9, rtol=1e-9)
    assert found.max() > 1e-3
