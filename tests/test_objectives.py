"""Objectives against loops over prompts and tokens, and against torch.distributions."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor
from torch.distributions import Categorical
from torch.distributions import kl_divergence as kl_of

from lightning_circuits.measures import correct, kl_divergence, logit_difference
from lightning_circuits.objectives import (
    KL,
    CrossEntropy,
    LogitDifference,
    MatchDecision,
    MatchLogitDifference,
    Objective,
    ProbabilityDifference,
)

VOCABULARY = 13


@st.composite
def batches(draw: Any, min_distractors: int = 0) -> dict[str, Any]:
    """Logits of some prompts, and for each its answers and distractors, as lists and as padded tensors."""
    n = draw(st.integers(1, 5))
    noise = torch.Generator().manual_seed(draw(st.integers(0, 10_000)))
    tokens = st.lists(st.integers(0, VOCABULARY - 1), min_size=3 + min_distractors, max_size=8, unique=True)
    answers, distractors = [], []
    for row in (draw(tokens) for _ in range(n)):
        cut = draw(st.integers(1, 3))
        answers.append(row[:cut])
        distractors.append(row[cut:] if draw(st.booleans()) or min_distractors else [])
    width = max(map(len, answers + distractors))

    def padded(rows: list[list[int]]) -> Tensor:
        return torch.tensor([row + [-100] * (width - len(row)) for row in rows])

    return {
        "logits": 3 * torch.randn(n, VOCABULARY, generator=noise, dtype=torch.float64),
        "full": 3 * torch.randn(n, VOCABULARY, generator=noise, dtype=torch.float64),
        "lists": (answers, distractors),
        "tensors": {"answers": padded(answers), "distractors": padded(distractors)},
    }


def mean(values: list[float]) -> float:
    return sum(values) / len(values) if values else 0.0


@given(batches())
def test_logit_difference_is_a_difference_of_means_over_the_tokens_given(case: dict[str, Any]) -> None:
    found = logit_difference(case["logits"], case["tensors"])
    answers, distractors = case["lists"]
    for i, row in enumerate(case["logits"].tolist()):
        expected = mean([row[t] for t in answers[i]]) - mean([row[t] for t in distractors[i]])
        assert found[i].item() == pytest.approx(expected, abs=1e-12)
    loss = LogitDifference()(case["logits"], case["tensors"], case["full"])
    assert torch.equal(loss, -found)


@given(batches())
def test_kl_is_that_of_torch_distributions_from_the_full_model(case: dict[str, Any]) -> None:
    found = kl_divergence(case["logits"], case["full"])
    expected = kl_of(Categorical(logits=case["full"]), Categorical(logits=case["logits"]))
    torch.testing.assert_close(found, expected, atol=1e-12, rtol=1e-10)
    assert torch.equal(KL()(case["logits"], case["tensors"], case["full"]), found)


@given(batches(min_distractors=1), st.floats(0, 5))
def test_a_decision_is_between_the_best_answer_and_the_best_distractor_alone(
    case: dict[str, Any], weight: float
) -> None:
    found = MatchDecision(weight)(case["logits"], case["tensors"], case["full"])
    answers, distractors = case["lists"]
    kl = kl_of(Categorical(logits=case["full"]), Categorical(logits=case["logits"]))
    for i in range(len(found)):
        here, full = (
            Categorical(logits=torch.stack([max(row[t] for t in of[i]) for of in (answers, distractors)]))
            for row in (case["logits"][i], case["full"][i])
        )
        assert found[i].item() == pytest.approx(kl[i].item() + weight * kl_of(full, here).item(), abs=1e-9)
    same = MatchDecision(weight)(case["full"], case["tensors"], case["full"])
    torch.testing.assert_close(same, torch.zeros_like(same), atol=1e-12, rtol=0)


def test_without_a_distractor_nothing_is_decided() -> None:
    logits = torch.tensor([[1.0, 0.0, 2.0, 0.0], [0.0, 3.0, 1.0, 0.0]], requires_grad=True)
    batch: Any = {"answers": torch.tensor([[0], [1]]), "distractors": torch.tensor([[2], [-100]])}
    full = torch.zeros(2, 4)
    found, kl = MatchDecision()(logits, batch, full), KL()(logits, batch, full)
    assert found[0] > kl[0] and found[1] == kl[1]
    found.sum().backward()
    assert logits.grad is not None and logits.grad.isfinite().all()


@given(batches(), st.floats(0, 5))
def test_matching_adds_how_far_the_logit_difference_is_from_the_full_models(
    case: dict[str, Any], weight: float
) -> None:
    found = MatchLogitDifference(weight)(case["logits"], case["tensors"], case["full"])
    answers, distractors = case["lists"]
    kl = kl_of(Categorical(logits=case["full"]), Categorical(logits=case["logits"]))
    for i in range(len(found)):
        here, full = (
            mean([row[t] for t in answers[i]]) - mean([row[t] for t in distractors[i]])
            for row in (case["logits"][i].tolist(), case["full"][i].tolist())
        )
        assert found[i].item() == pytest.approx(kl[i].item() + weight * abs(here - full), abs=1e-9)
    same = MatchLogitDifference(weight)(case["full"], case["tensors"], case["full"])
    torch.testing.assert_close(same, torch.zeros_like(same), atol=1e-12, rtol=0)  # no reward for more than the model


def test_kl_in_nats_by_hand() -> None:
    full, circuit = torch.tensor([[0.5, 0.5]]).log(), torch.tensor([[0.25, 0.75]]).log()
    assert kl_divergence(circuit, full).item() == pytest.approx(0.5 * math.log(2) + 0.5 * math.log(2 / 3))
    assert kl_divergence(full, circuit).item() == pytest.approx(0.25 * math.log(0.5) + 0.75 * math.log(1.5))
    assert kl_divergence(full, full).item() == 0.0
    assert kl_divergence(full + 7.0, full).item() == pytest.approx(0.0, abs=1e-6)  # logits have no zero


@given(batches())
def test_the_gradient_of_kl_is_the_difference_of_the_distributions(case: dict[str, Any]) -> None:
    logits = case["logits"].clone().requires_grad_()
    KL()(logits, case["tensors"], case["full"]).sum().backward()
    torch.testing.assert_close(logits.grad, logits.detach().softmax(-1) - case["full"].softmax(-1))


@given(batches())
def test_cross_entropy_takes_the_answers_together(case: dict[str, Any]) -> None:
    found = CrossEntropy()(case["logits"], case["tensors"], case["full"])
    for i, row in enumerate(case["logits"].tolist()):
        total = sum(math.exp(x) for x in row)
        expected = -math.log(sum(math.exp(row[t]) for t in case["lists"][0][i]) / total)
        assert found[i].item() == pytest.approx(expected, abs=1e-9)


@given(batches(), st.sampled_from(["sum", "mean"]))
def test_probability_difference_is_between_sets_of_tokens_after_a_plain_softmax(
    case: dict[str, Any], reduction: str
) -> None:
    found = ProbabilityDifference(reduction)(case["logits"], case["tensors"], case["full"])
    for i, row in enumerate(case["logits"].tolist()):
        total = sum(math.exp(x) for x in row)
        right, wrong = ([math.exp(row[t]) / total for t in tokens[i]] for tokens in case["lists"])
        expected = sum(wrong) - sum(right) if reduction == "sum" else mean(wrong) - mean(right)
        assert found[i].item() == pytest.approx(expected, abs=1e-12)


@settings(max_examples=25)
@given(batches(), st.sampled_from(["sum", "mean"]))
def test_the_gradient_of_probability_difference_is_that_of_finite_differences(
    case: dict[str, Any], reduction: str
) -> None:
    objective, step = ProbabilityDifference(reduction), 1e-5
    logits = case["logits"].clone().requires_grad_()
    objective(logits, case["tensors"], case["full"]).sum().backward()
    for token, way in enumerate(step * torch.eye(VOCABULARY, dtype=torch.float64)):
        above, below = (objective(case["logits"] + by, case["tensors"], case["full"]) for by in (way, -way))
        torch.testing.assert_close(logits.grad[:, token], (above - below) / (2 * step), atol=1e-9, rtol=0)


@given(batches())
def test_correct_compares_the_best_answer_with_the_best_rival(case: dict[str, Any]) -> None:
    found = correct(case["logits"], case["tensors"])
    assert found.dtype == torch.bool
    answers, distractors = case["lists"]
    for i, row in enumerate(case["logits"].tolist()):
        best = max(row[t] for t in answers[i])
        # Without distractors, the whole vocabulary is the rival.
        expected = best > max(row[t] for t in distractors[i]) if distractors[i] else best == max(row)
        assert bool(found[i]) is expected


def test_correct_by_hand() -> None:
    logits = torch.tensor([[1.0, 3.0, 2.0, 9.0]] * 4)
    answers = torch.tensor([[1, -100], [2, -100], [3, -100], [0, 1]])
    distractors = torch.tensor([[2, 0], [1, -100], [-100, -100], [-100, -100]])
    batch: Any = {"answers": answers, "distractors": distractors}
    assert correct(logits, batch).tolist() == [True, False, True, False]


def test_a_tie_is_not_correct() -> None:
    logits = torch.tensor([[1.0, 1.0]])
    batch: Any = {"answers": torch.tensor([[0]]), "distractors": torch.tensor([[1]])}
    assert correct(logits, batch).tolist() == [False]


@pytest.mark.parametrize("narrow", [torch.bfloat16, torch.float16])
@pytest.mark.parametrize(
    "objective",
    [KL(), LogitDifference(), MatchLogitDifference(), MatchDecision(), CrossEntropy(), ProbabilityDifference()],
    ids=lambda o: type(o).__name__,
)
def test_narrow_logits_are_measured_in_float32(objective: Objective, narrow: torch.dtype) -> None:
    noise = torch.Generator().manual_seed(0)
    logits, full = (30 * torch.randn(4, 2000, generator=noise) for _ in range(2))
    batch = {
        "answers": torch.randint(0, 2000, (4, 3), generator=noise),
        "distractors": torch.randint(0, 2000, (4, 3), generator=noise),
    }
    found = objective(logits.to(narrow), batch, full.to(narrow))
    assert found.dtype == torch.float32
    exact = objective(logits.to(narrow).double(), batch, full.to(narrow).double())
    torch.testing.assert_close(found.double(), exact, rtol=1e-5, atol=1e-5)


def test_float64_is_not_narrowed() -> None:
    logits = torch.randn(2, 5, dtype=torch.float64)
    assert kl_divergence(logits, logits.flip(0)).dtype == torch.float64


def test_large_logits_do_not_overflow() -> None:
    logits = torch.tensor([[1e4, 0.0, -1e4]])
    assert kl_divergence(logits.flip(-1), logits).item() == pytest.approx(2e4)
    assert kl_divergence(logits, logits).item() == 0.0


def test_an_objective_of_ones_own_that_says_nothing_is_named() -> None:
    class Mine(Objective):
        pass

    with pytest.raises(NotImplementedError, match="Mine"):
        Mine()(torch.zeros(1, 2), {}, torch.zeros(1, 2))


@pytest.mark.parametrize("weight", [-0.1, math.nan])
@pytest.mark.parametrize("objective", [MatchLogitDifference, MatchDecision])
def test_a_negative_weight_is_refused(objective: type[Objective], weight: float) -> None:
    with pytest.raises(ValueError, match="must not be negative"):
        objective(weight)  # type: ignore[call-arg]


def test_another_reduction_of_probabilities_is_refused() -> None:
    with pytest.raises(ValueError, match="got 'max'"):
        ProbabilityDifference("max")
