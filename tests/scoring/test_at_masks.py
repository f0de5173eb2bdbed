"""Gradients at masks, against plain autograd through the oracle, prompt by prompt, at the very masks."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from lightning_circuits.ablation import ABLATIONS
from lightning_circuits.objectives import KL, LogitDifference
from lightning_circuits.scoring.at_masks import masked_gradient_scores
from lightning_circuits.scoring.gradients import gradient_scores
from tests.support.gated import SPANS, random_spans, wrapped
from tests.support.oracle import ALL_OPEN, batch_of, oracle, pairs
from tests.support.tiny_models import tiny_model

CASES = [
    ("gpt2", "head", "ragged"),
    ("llama-gqa", "group", "left"),
    ("gpt-neox", "head", "right"),
    ("gemma2", "head", "left"),
]
cases = pytest.mark.parametrize(("family", "kv", "padding"), CASES)


def random_masks(n_masks: int, n_prompts: int, n_edges: int) -> Tensor:
    noise = torch.rand(n_masks, n_prompts, n_edges, generator=torch.Generator().manual_seed(0))
    shares = torch.tensor([0.1, 0.6, 0.3, 0.9, 0.5, 0.02]).repeat(n_masks)[: n_masks * n_prompts]
    return (noise < shares.view(n_masks, n_prompts, 1)).double()


@cases
@pytest.mark.parametrize("ablation", ["interchange", "zero"])
def test_they_are_minus_the_gradient_through_the_oracle(family: str, kv: str, padding: str, ablation: str) -> None:
    model, stock, prompts = wrapped(family, kv, torch.float64), tiny_model(family, torch.float64), pairs(padding)
    batch, cut = batch_of(padding), ABLATIONS.make(ablation)
    names = model.layout.edge_names(range(model.layout.n_edges))
    masks = random_masks(2, len(prompts.positions), len(names))
    found = masked_gradient_scores(model, batch, cut, LogitDifference(), masks)
    theirs = torch.zeros_like(found)
    for mask in masks:
        for i, of_prompt in enumerate(mask):
            row = prompts.row(i)
            carried = (
                oracle(stock, ALL_OPEN, row.corrupt_ids, row, kv=kv).writers if ablation == "interchange" else None
            )
            gates = {name: gate.clone().requires_grad_() for name, gate in zip(names, of_prompt, strict=True)}
            [logits] = oracle(stock, gates, row.clean_ids, row, carried, kv).logits
            loss = logits[batch["distractors"][i, 0]] - logits[batch["answers"][i, 0]]
            gradients = torch.autograd.grad(loss, list(gates.values()), allow_unused=True)
            theirs -= torch.stack([torch.zeros(()) if each is None else each for each in gradients])
    assert (theirs != 0)[(masks == 0).all(0).any(0)].any()  # cut edges have scores, too
    torch.testing.assert_close(found, theirs, atol=1e-9 * theirs.abs().max().item(), rtol=1e-7)


@cases
@pytest.mark.parametrize("ablation", ["interchange", "zero", "mean"])
def test_with_all_edges_open_they_are_eap(family: str, kv: str, padding: str, ablation: str) -> None:
    model, batch, cut = wrapped(family, kv, torch.float64), batch_of(padding), ABLATIONS.make(ablation)
    cut.fit(model, [batch])
    every = torch.ones(1, len(batch["positions"]), model.layout.n_edges, dtype=torch.float64)
    found = masked_gradient_scores(model, batch, cut, LogitDifference(), every)
    theirs = gradient_scores(model, batch, cut, LogitDifference()).edges
    torch.testing.assert_close(found, theirs, atol=1e-9 * theirs.abs().max().item(), rtol=1e-7)


@cases
def test_prompts_do_not_see_each_others_masks_nor_spans_each_others(family: str, kv: str, padding: str) -> None:
    """A batch of prompts in spans, against each prompt alone."""
    prompts = pairs(padding)
    model = wrapped(family, kv, torch.float64).in_spans(SPANS)
    batch = batch_of(padding) | {"spans": random_spans(prompts, least=0), "span_names": SPANS}
    masks, cut = random_masks(2, len(prompts.positions), model.layout.n_edges), ABLATIONS.make("zero")
    found = masked_gradient_scores(model, batch, cut, KL(), masks)
    alone = torch.zeros_like(found)
    for i in range(len(prompts.positions)):
        own = {key: value[i : i + 1] if isinstance(value, Tensor) else value for key, value in batch.items()}
        alone += masked_gradient_scores(model, own, cut, KL(), masks[:, i : i + 1])
    torch.testing.assert_close(found, alone, atol=1e-9 * alone.abs().max().item(), rtol=1e-7)


def test_no_mask_is_refused() -> None:
    with pytest.raises(ValueError, match="no mask"):
        masked_gradient_scores(
            wrapped("gpt2", "head", torch.float64), batch_of("left"), ABLATIONS.make("zero"), KL(), []
        )
