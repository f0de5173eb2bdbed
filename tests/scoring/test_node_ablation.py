"""Nodes removed by a plain forward: exact ablation without the edges that leave them, whatever was run before."""

from __future__ import annotations

from functools import cache

import pytest
import torch
from torch import Tensor

from lightning_circuits.ablation import ABLATIONS, Ablation
from lightning_circuits.batch import Batch
from lightning_circuits.components import Component
from lightning_circuits.evaluation.completeness import cut_edges
from lightning_circuits.evaluation.exact import ExactAblation
from lightning_circuits.models import CircuitModel, wrap
from lightning_circuits.scoring.node_ablation import NodeAblation
from tests.support.oracle import oracle, pairs, stock_logits
from tests.support.tiny_models import tiny_model

FAMILIES = [
    ("gpt2", "head"),
    ("llama-gqa", "group"),
    ("llama-biases", "head"),
    ("mistral-window", "head"),
    ("qwen2", "group"),
    ("qwen3", "head"),
    ("gpt-neox", "head"),
    ("gptj", "head"),
    ("gpt-neo", "head"),
    ("falcon-groups", "group"),
    ("phi-normed", "head"),
    ("olmo-clipped", "head"),
    ("opt", "head"),
    ("nanochat", "group"),
    ("modernbert", "head"),
    ("granite", "group"),
    ("cohere2", "head"),
    ("gemma2", "group"),
    ("olmo2", "group"),
]


@cache
def wrapped(family: str, kv: str) -> CircuitModel:
    return wrap(tiny_model(family, torch.float64), kv)


def batch_of(padding: str, seed: int = 0) -> Batch:
    prompts = pairs(padding, seed)
    n = len(prompts.positions)
    return vars(prompts) | {"answers": torch.ones(n, 1, dtype=torch.int64), "distractors": torch.full((n, 1), 2)}


def fitted(name: str, model: CircuitModel) -> Ablation:
    ablation = ABLATIONS.make(name)
    ablation.fit(model, [batch_of("none", seed) for seed in (1, 2)] if ablation.needs_data else ())
    return ablation


def some_nodes(model: CircuitModel, share: float, seed: int) -> Tensor:
    drawn = torch.rand(model.layout.n_writers, generator=torch.Generator().manual_seed(seed)) < share
    drawn[0] = False
    return drawn


def cut(model: CircuitModel, batch: Batch, ablation: Ablation, removed: Tensor) -> Tensor:
    """The same by the masked computation, an edge at a time."""
    names = [name for name, gone in zip(model.layout.writer_names, removed.tolist(), strict=True) if gone]
    full_logits, corrupt = model.run_pair(batch)
    return ExactAblation(model, batch, full_logits, ablation, corrupt).logits(~cut_edges(model.layout, names))


@pytest.mark.parametrize("padding", ["left", "ragged"])
@pytest.mark.parametrize(("family", "kv"), FAMILIES)
def test_it_is_exact_ablation_without_the_edges_that_leave_the_nodes(family: str, kv: str, padding: str) -> None:
    model, batch = wrapped(family, kv), batch_of(padding)
    ablation = ABLATIONS.make("interchange")
    for seed, share in enumerate((0.1, 0.5, 0.9, 1.0)):
        removed = some_nodes(model, share, seed)
        found = NodeAblation(model, batch, ablation).logits(removed)
        torch.testing.assert_close(found, cut(model, batch, ablation, removed), atol=1e-9, rtol=1e-9)


@pytest.mark.parametrize("name", ["zero", "mean", "mean-positional"])
def test_every_ablation(name: str) -> None:
    model, batch = wrapped("gpt2", "head"), batch_of("none")
    ablation, removed = fitted(name, model), some_nodes(model, 0.5, seed=0)
    found = NodeAblation(model, batch, ablation).logits(removed)
    torch.testing.assert_close(found, cut(model, batch, ablation, removed), atol=1e-9, rtol=1e-9)
    assert not torch.allclose(found, cut(model, batch, fitted("interchange", model), removed)), "no matter which"


def test_the_oracle_agrees() -> None:
    model, batch, prompts = wrapped("llama-gqa", "head"), batch_of("left"), pairs("left")
    gone = ["a0.h1", "m0", "a1.h2"]
    layout = model.layout
    gates = {edge: float(edge.split("->")[0] not in gone) for edge in layout.edge_names(range(layout.n_edges))}
    removed = torch.tensor([name in gone for name in layout.writer_names])
    expected = oracle(model.model, gates, prompts.clean_ids, prompts).logits
    found = NodeAblation(model, batch, ABLATIONS.make("zero")).logits(removed)
    torch.testing.assert_close(found, expected, atol=1e-9, rtol=1e-9)


@pytest.mark.parametrize(("family", "kv"), FAMILIES)
def test_without_any_it_is_the_stock_model(family: str, kv: str) -> None:
    model, batch = wrapped(family, kv), batch_of("ragged")
    run = NodeAblation(model, batch, ABLATIONS.make("interchange"))
    found = run.logits(torch.zeros(model.layout.n_writers, dtype=torch.bool))
    expected = stock_logits(model.model, batch["clean_ids"], pairs("ragged"))
    torch.testing.assert_close(found, expected, atol=1e-9, rtol=1e-9)
    torch.testing.assert_close(run.full_logits, expected, atol=1e-9, rtol=1e-9)


def test_what_was_run_or_settled_before_changes_nothing() -> None:
    """Nodes go and come back, above and below those that stay out; streams that are kept are the right ones."""
    model, batch, ablation = wrapped("gpt2", "head"), batch_of("none"), ABLATIONS.make("interchange")
    run = NodeAblation(model, batch, ablation)
    for seed in range(12):
        removed = some_nodes(model, 0.4, seed)
        torch.testing.assert_close(run.logits(removed), cut(model, batch, ablation, removed), atol=1e-9, rtol=1e-9)
        if seed % 3 == 0:
            run.settle()
            assert torch.equal(run.removed, removed)
            removed[:] = True  # of the caller's, not of the run's


@pytest.mark.parametrize(
    ("family", "expected"),
    [
        ("gpt2", {"m2": ["m2"], "a2.h0": ["a2", "m2"], "m1": ["m1", "a2", "m2"]}),
        ("gpt-neox", {"m2": ["a2", "m2"], "a2.h0": ["a2", "m2"], "m1": ["a1", "m1", "a2", "m2"]}),
    ],
)
def test_only_what_is_read_after_the_node_is_run(
    family: str, expected: dict[str, list[str]], monkeypatch: pytest.MonkeyPatch
) -> None:
    """And what stands beside it, of a parallel block."""
    model, batch = wrapped(family, "head"), batch_of("none")
    run, seen = NodeAblation(model, batch, ABLATIONS.make("zero")), list[str]()
    written = run._written

    def noted(component: Component, *rest: Tensor) -> Tensor:
        seen.append(f"{component.kind[0]}{component.layer}")
        return written(component, *rest)

    monkeypatch.setattr(run, "_written", noted)
    for name, components in expected.items():
        seen.clear()
        run.logits(torch.tensor([writer == name for writer in model.layout.writer_names]))
        assert seen == components


def test_the_input_stays() -> None:
    model = wrapped("gpt2", "head")
    run = NodeAblation(model, batch_of("none"), ABLATIONS.make("zero"))
    with pytest.raises(ValueError, match="the input cannot be removed"):
        run.logits(torch.ones(model.layout.n_writers, dtype=torch.bool))


def test_edges_in_spans_are_refused() -> None:
    with pytest.raises(ValueError, match="the removal of nodes knows no spans"):
        NodeAblation(wrapped("gpt2", "head").in_spans(["A", "B"]), batch_of("none"), ABLATIONS.make("zero"))
