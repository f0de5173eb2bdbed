"""Measures: by name or a function of one's own, one for judging, training and attribution."""

from __future__ import annotations

import math
from functools import partial
from typing import Any

import pytest
import torch
from torch import Tensor

from lightning_circuits import EAP
from lightning_circuits.batch import Batch
from lightning_circuits.measures import (
    MEASURES,
    kl,
    kl_divergence,
    logit_difference,
    measure_name,
    probability_difference,
    values,
)
from lightning_circuits.models.loading import load_model
from lightning_circuits.objectives import OBJECTIVES, LogitDifference, Maximise, ProbabilityDifference

NAMES = ("logit_difference", "probability_difference", "kl")
BATCH: Any = {"answers": torch.tensor([[0, 2], [1, -100]]), "distractors": torch.tensor([[1, -100], [3, 2]])}
PROBABILITIES = [[0.4, 0.3, 0.2, 0.1], [0.05, 0.5, 0.25, 0.2]]
FULL = [[0.25, 0.25, 0.25, 0.25], [0.1, 0.6, 0.2, 0.1]]


def logits(probabilities: list[list[float]]) -> Tensor:
    return torch.tensor(probabilities, dtype=torch.float64).log() + 3.0  # logits have no zero


def test_each_measure_by_hand() -> None:
    log = math.log
    by_hand = {
        "logit_difference": [(log(0.4) + log(0.2)) / 2 - log(0.3), log(0.5) - (log(0.2) + log(0.25)) / 2],
        "probability_difference": [0.4 + 0.2 - 0.3, 0.5 - 0.2 - 0.25],
        "kl": [
            sum(p * log(p / q) for p, q in zip(full, here, strict=True))
            for full, here in zip(FULL, PROBABILITIES, strict=True)
        ],
    }
    assert MEASURES.names() == list(NAMES) == list(by_hand)
    for name, expected in by_hand.items():
        found = values(MEASURES.make(name), logits(PROBABILITIES), BATCH, logits(FULL))
        assert found.tolist() == pytest.approx(expected, abs=1e-12)
        assert measure_name(MEASURES.make(name)) == name


@pytest.mark.parametrize(("name", "sign"), [("logit_difference", -1), ("probability_difference", -1), ("kl", 1)])
def test_an_objective_goes_by_the_name_of_its_measure_and_is_it(name: str, sign: int) -> None:
    here, full = logits(PROBABILITIES), logits(FULL)
    loss = OBJECTIVES.make(name)(here, BATCH, full)
    assert torch.equal(loss, sign * values(MEASURES.make(name), here, BATCH, full))


def test_attribution_of_a_measure_is_that_of_its_objective() -> None:
    model = load_model("tiny-ioi")

    def scores(objective: Any) -> Tensor:
        from lightning_circuits.datamodules import IOIDataModule

        search = EAP(model, objective=objective)
        [batch] = IOIDataModule("tiny-ioi", n_train=2, n_val=4, n_test=2).val_dataloader()
        return search.attribute(batch)[0]

    def probability(here: Tensor, batch: Batch, full_logits: Tensor) -> Tensor:
        rows = torch.arange(len(here))
        p = here.exp() / here.exp().sum(-1, keepdim=True)
        return p[rows, batch["answers"][:, 0]] - p[rows, batch["distractors"][:, 0]]

    found = scores("probability_difference")
    assert torch.equal(found, scores(ProbabilityDifference()))
    assert torch.equal(found, scores(Maximise("probability_difference")))
    torch.testing.assert_close(found, scores(Maximise(probability)), rtol=1e-3, atol=1e-6)
    assert torch.equal(scores("logit_difference"), scores(LogitDifference()))


def test_one_of_your_own_is_taken_as_a_function_and_registered_by_its_name() -> None:
    @MEASURES.register
    def first_answer(here: Tensor, batch: Batch, full_logits: Tensor) -> Tensor:
        return here[torch.arange(len(here)), batch["answers"][:, 0]]

    assert MEASURES.make(first_answer) is first_answer is MEASURES.make("first-answer")
    here = logits(PROBABILITIES)
    assert torch.equal(Maximise("first_answer")(here, BATCH, here), -here[[0, 1], [0, 1]])


def mean_over_prompts(here: Tensor, batch: Batch, full_logits: Tensor) -> Tensor:
    return logit_difference(here, batch).mean()


def count(here: Tensor, batch: Batch, full_logits: Tensor) -> Tensor:
    return here.argmax(-1)


@pytest.mark.parametrize(
    ("measure", "got"),
    [(mean_over_prompts, r"torch.float64 \[\]"), (count, r"torch.int64 \[2\]"), (lambda *_: 1.0, "1.0")],
)
def test_a_measure_that_does_not_give_a_number_for_each_prompt_is_named(measure: Any, got: str) -> None:
    measure.__name__ = "mine"
    with pytest.raises(ValueError, match=f"the measure mine has to give .* the 2 prompts .* and gave {got}"):
        values(measure, logits(FULL), BATCH, logits(FULL))


def test_a_measure_needs_a_name_that_files_can_say() -> None:
    for nameless in (
        lambda here, batch, full: kl_divergence(here, full),
        partial(probability_difference, reduction="mean"),
    ):
        with pytest.raises(ValueError, match=r"a measure is named in every file, and .* has no name: write it"):
            measure_name(nameless)
    named: Any = partial(probability_difference, reduction="mean")
    named.__name__ = "mean_probability_difference"
    assert measure_name(named) == "mean_probability_difference"
    assert values(named, logits(FULL), BATCH, logits(FULL)).tolist() == pytest.approx([0.0, 0.6 - 0.15])


def test_what_is_no_measure_is_refused() -> None:
    with pytest.raises(ValueError, match="unknown measure 'logits'; choose one of logit_difference, probability"):
        MEASURES.make("logits")
    with pytest.raises(TypeError, match=r"measure takes a Measure or a name .*, got 3"):
        MEASURES.make(3, "measure")
    assert MEASURES.make("KL") is kl
