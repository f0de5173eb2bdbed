"""Expected gradients: each prompt at its own points, and in expectation the integral, whatever their number."""

from __future__ import annotations

from functools import cache
from typing import Any

import pytest
import torch
from torch import Tensor

from lightning_circuits import EAPIG, EdgePruning, ExpectedGradients
from lightning_circuits.ablation import ABLATIONS
from lightning_circuits.datamodules import IOIDataModule
from lightning_circuits.models import wrap
from lightning_circuits.objectives import KL, LogitDifference
from lightning_circuits.scoring.draws import drawn_points
from lightning_circuits.scoring.gradients import gradient_scores
from lightning_circuits.scoring.paths import PathPoint, integral
from tests.support.oracle import batch_of
from tests.support.tiny_models import tiny_model
from tests.support.training import quiet_trainer, small

SEEDS = 100


@pytest.mark.parametrize("ablation", ["interchange", "zero"])
@pytest.mark.parametrize("family", ["gpt2", "llama-gqa"])
def test_each_prompt_is_attributed_at_points_of_its_own(family: str, ablation: str) -> None:
    model, batch, cut = wrap(tiny_model(family, torch.float64)), batch_of(), ABLATIONS.make(ablation)
    at = torch.tensor([[0.2, 0.7, 1.0], [0.0, 0.9, 0.5]], dtype=torch.float64)  # [points, B]
    found = gradient_scores(model, batch, cut, KL(), [PathPoint(at[0], 0.25), PathPoint(at[1], 0.75)])
    edges, writers = torch.zeros_like(found.edges), torch.zeros_like(found.writers)
    for row in range(3):
        own = {name: value[row : row + 1] for name, value in batch.items()}
        points = [PathPoint(float(at[0, row]), 0.25), PathPoint(float(at[1, row]), 0.75)]
        alone = gradient_scores(model, own, cut, KL(), points)
        edges, writers = edges + alone.edges, writers + alone.writers
    torch.testing.assert_close(found.edges, edges, atol=1e-9, rtol=1e-7)
    torch.testing.assert_close(found.writers, writers, atol=1e-9, rtol=1e-7)


@cache
def over_seeds(steps: int) -> tuple[Tensor, Tensor]:
    """Scores of the 30 edges that are worth most, by every seed ``[SEEDS, 30]``, and by the integral ``[30]``."""
    model, batch, cut = wrap(tiny_model("gpt2", torch.float64)), batch_of(), ABLATIONS.make("interchange")
    exact = gradient_scores(model, batch, cut, KL(), integral("gauss-legendre", 40)).edges
    best = exact.abs().topk(30).indices
    drawn = [gradient_scores(model, batch, cut, KL(), drawn_points(batch, steps, seed)).edges for seed in range(SEEDS)]
    return torch.stack(drawn)[:, best], exact[best]


@pytest.mark.parametrize("steps", [1, 3])
def test_the_mean_over_many_draws_is_the_integral(steps: int) -> None:
    drawn, exact = over_seeds(steps)
    error = drawn.std(0) / SEEDS**0.5
    off = (drawn.mean(0) - exact) / error
    assert off.abs().max() < 4 and off.square().mean() < 3


def test_a_rule_with_as_many_points_is_off_by_more_than_chance_would_be() -> None:
    """So the test above could fail: it would tell the left rule from the integral."""
    model, batch, cut = wrap(tiny_model("gpt2", torch.float64)), batch_of(), ABLATIONS.make("interchange")
    drawn, exact = over_seeds(3)
    fine = gradient_scores(model, batch, cut, KL(), integral("gauss-legendre", 40)).edges
    rule = gradient_scores(model, batch, cut, KL(), integral("left", 3)).edges[fine.abs().topk(30).indices]
    assert ((rule - exact) / (drawn.std(0) / SEEDS**0.5)).abs().max() > 5


def test_points_spread_over_the_line_vary_less_than_as_many_drawn_from_all_of_it() -> None:
    one, spread = (over_seeds(steps)[0].var(0).sum() for steps in (1, 3))
    assert 0 < spread < 0.6 * one / 3


def test_in_expectation_it_is_eap_ig_with_many_steps() -> None:
    def scores(search: Any) -> Tensor:
        return fit_on(search, n_train=10).edge_scores()

    exact = scores(EAPIG("tiny-ioi", steps=20, rule="gauss-legendre"))
    drawn = torch.stack([scores(ExpectedGradients("tiny-ioi", steps=2, seed=seed)) for seed in range(8)])
    error = (drawn.mean(0) - exact).norm() / exact.norm()
    assert error < 0.7 * ((drawn - exact).norm(dim=1) / exact.norm()).mean()
    assert drawn.isfinite().all()


def fit_on(search: Any, n_train: int, **options: Any) -> Any:
    quiet_trainer(**options).fit(search, IOIDataModule("tiny-ioi", n_train=n_train, n_val=4, n_test=4, batch_size=4))
    return search


def test_it_is_a_warm_start_by_its_name() -> None:
    search = EdgePruning("tiny-ioi", warm_start="ExpectedGradients")
    quiet_trainer(max_steps=1).fit(search, small())
    assert search.describe()["warm_start"]["steps"] == ExpectedGradients().steps


def test_less_than_one_step_is_refused() -> None:
    with pytest.raises(ValueError, match="at least 1 step, got 0"):
        ExpectedGradients("tiny-ioi", steps=0)


def test_the_loss_is_asked_for_once_at_each_point() -> None:
    asked: list[int] = []

    class Noted(LogitDifference):
        def __call__(self, logits: Tensor, batch: Any, full_logits: Tensor) -> Tensor:
            asked.append(len(logits))
            return super().__call__(logits, batch, full_logits)

    data = IOIDataModule("tiny-ioi", n_train=8, n_val=1, n_test=1, batch_size=4)
    ExpectedGradients("tiny-ioi", steps=3, objective=Noted()).scores_over(data.train_dataloader)
    assert asked == [4] * 6
