"""A short training of gates in somebody else's model: nothing of that is touched, and what cannot be trained is said.

That its circuits are those of a Trainer: `tests/callbacks/test_probe.py`.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
import torch
from torch import Tensor

from lightning_circuits import EdgePruning
from lightning_circuits.ablation.base import InterchangeAblation
from lightning_circuits.batch import Batch
from lightning_circuits.evaluation.rows import evaluate
from lightning_circuits.models import wrap
from lightning_circuits.namespace import pl
from lightning_circuits.search.short_training import briefly_trained
from lightning_circuits.selection import top_n
from tests.support.training import QUIET, small, trainable


def borrowed(**options: Any) -> EdgePruning:
    search = EdgePruning(**options)
    search.borrow_model(wrap(trainable(), freeze=False), "another")
    return search


def train(search: EdgePruning, steps: int, loader: Any = None) -> Tensor:
    return briefly_trained(search, steps, loader or small().train_dataloader, small().val_dataloader)


def test_no_parameter_of_the_model_gets_a_gradient() -> None:
    search = borrowed(warm_start=None)
    lm = search.model
    for parameter in lm.parameters():
        parameter.grad = torch.ones_like(parameter)
    before = [(each.clone(), each._version) for each in lm.parameters()]
    with torch.inference_mode():  # in whatever mode the run is
        scores = train(search, 2)
    assert scores.dtype == torch.float32 and scores.unique().numel() > 100
    for parameter, (value, version) in zip(lm.parameters(), before, strict=True):
        assert torch.equal(parameter, value) and parameter._version == version and parameter.requires_grad
        assert parameter.grad is not None and bool((parameter.grad == 1).all())


def test_it_learns() -> None:
    """From the ranking of EAP-IG, on other prompts: a small circuit comes nearer to the model."""
    found = []
    for steps in (1, 50):
        search = borrowed()
        members = {"circuit": top_n(train(search, steps, small(n_train=24, batch_size=8).train_dataloader), 10)}
        rows = evaluate(
            search.circuit_model,
            small(seed=1, n_val=24).val_dataloader(),
            members,
            [InterchangeAblation()],
            controls=False,
        )
        found.append(rows[-1].kl)
    assert found[1] < 0.9 * found[0]


def test_an_objective_that_is_not_finite_ends_it() -> None:
    def broken(logits: Tensor, batch: Batch, full_logits: Tensor) -> Tensor:
        return logits.sum(-1) / 0

    with pytest.raises(FloatingPointError, match=r"objective of EdgePruning is (nan|-?inf) at step 0 of 3"):
        train(borrowed(objective=broken, warm_start=None), 3)


def test_a_pass_without_batches_does_not_go_on_for_ever() -> None:
    exhausted: Iterator[Batch] = iter(list(small().train_dataloader()))
    with pytest.raises(ValueError, match="pass 2 over the training prompts has no batch"):
        train(borrowed(warm_start=None), 9, lambda: exhausted)


def test_without_a_model_it_is_not_fitted() -> None:
    with pytest.raises(ValueError, match="EdgePruning has no language model: it may be left out only where another is"):
        pl.Trainer(**QUIET, max_steps=1).fit(EdgePruning(), small())
