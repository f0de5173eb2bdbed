"""The plain ratio and difference beside f, against a bootstrap of loops; f under each measure, against the logits."""

from __future__ import annotations

import math
import random
import statistics
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from lightning_circuits.evaluation.metrics import (
    FLOOR,
    CircuitFaithfulness,
    LogArea,
    beside_the_model,
)


def some_prompts(n: int, seed: int, mean: float = 4.0) -> tuple[Tensor, Tensor]:
    """Scores of circuit and model, which go together."""
    noise = torch.randn(2, n, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    full = mean + 1.5 * noise[0]
    return 0.7 * full + 0.4 + 0.8 * noise[1], full


def found(circuit: Tensor, full: Tensor) -> dict[str, float]:
    return {name: value.item() for name, value in beside_the_model(circuit, full).items()}


def test_ratio_and_difference_have_the_interval_of_a_bootstrap() -> None:
    circuit, full = some_prompts(60, seed=0)
    rows, draw = list(zip(circuit.tolist(), full.tolist(), strict=True)), random.Random(0)
    ratios, differences = [], []
    for _ in range(4_000):
        c, f = (statistics.fmean(column) for column in zip(*draw.choices(rows, k=len(rows)), strict=True))
        ratios.append(c / f)
        differences.append(c - f)
    values = found(circuit, full)
    c, f = (statistics.fmean(column) for column in zip(*rows, strict=True))
    for name, point, drawn in (("ratio", c / f, ratios), ("difference", c - f, differences)):
        low, high = (statistics.quantiles(drawn, n=40)[i] for i in (0, -1))
        assert values[name] == pytest.approx(point)
        assert [values[f"{name}_low"], values[f"{name}_high"]] == pytest.approx([low, high], abs=0.08 * (high - low))


@given(n=st.integers(1, 30), seed=st.integers(0, 10_000), mean=st.floats(-1.0, 1.0))
def test_the_ratio_is_absent_where_the_model_is_not_told_from_none(n: int, seed: int, mean: float) -> None:
    circuit, full = some_prompts(n, seed, mean)
    values = found(circuit, full)
    deviation = statistics.pstdev(full.tolist())
    absent = abs(statistics.fmean(full.tolist())) <= FLOOR * deviation / math.sqrt(n)
    assert [math.isnan(values[name]) for name in ("ratio", "ratio_low", "ratio_high")] == [absent] * 3
    assert values["difference_low"] <= values["difference"] + 1e-12 <= values["difference_high"] + 2e-12
    scaled = found(circuit * 1e-3, full * 1e-3)  # a measure has its own unit
    assert scaled["ratio"] == pytest.approx(values["ratio"], nan_ok=True)
    assert scaled["difference_low"] == pytest.approx(values["difference_low"] * 1e-3)


def test_a_model_of_zero_has_no_ratio() -> None:
    values = found(torch.tensor([0.5, 0.25]), torch.zeros(2))
    assert math.isnan(values["ratio"]) and math.isnan(values["ratio_low"])
    assert (values["difference"], values["difference_low"], values["difference_high"]) == (0.375, 0.25, 0.5)


WORDS: Any = {"answers": torch.tensor([[0], [1], [2]]), "distractors": torch.tensor([[1], [2], [0]])}


def margin(logits: Tensor, batch: Any, full_logits: Tensor) -> Tensor:
    """Of one's own: how far the answer stands above all others."""
    answer = logits.gather(1, batch["answers"])[:, 0]
    return answer - logits.scatter(1, batch["answers"], -math.inf).amax(1)


def by_hand(name: str, logits: list[float], full: list[float], answer: int, distractor: int) -> float:
    p, q = ([math.exp(x) / sum(map(math.exp, row)) for x in row] for row in (full, logits))
    return {
        "logit_difference": logits[answer] - logits[distractor],
        "probability_difference": q[answer] - q[distractor],
        "kl": sum(a * math.log(a / b) for a, b in zip(p, q, strict=True)),
        "margin": logits[answer] - max(x for token, x in enumerate(logits) if token != answer),
    }[name]


@pytest.mark.parametrize("measure", ["logit_difference", "probability_difference", "kl", margin])
def test_f_of_each_measure_is_what_its_definition_makes_of_the_logits(measure: Any) -> None:
    name = measure if isinstance(measure, str) else "margin"
    circuit, full, empty = torch.randn(3, 3, 5, generator=torch.Generator().manual_seed(1))
    full[torch.arange(3), WORDS["answers"][:, 0]] += 4
    means = [
        statistics.fmean(
            by_hand(name, row, whole, int(answer), int(distractor))
            for row, whole, answer, distractor in zip(
                each.tolist(), full.tolist(), WORDS["answers"], WORDS["distractors"], strict=True
            )
        )
        for each in (circuit, full, empty)
    ]
    metric, area = CircuitFaithfulness(measure), LogArea([0.1, 1.0], measure)
    metric.update(circuit, full, empty, WORDS)
    for size in (0.1, 1.0):
        area.update(size, circuit, full, empty, WORDS)
    values = metric.compute()
    f = (means[0] - means[2]) / (means[1] - means[2])
    assert values["faithfulness"].item() == pytest.approx(f, rel=1e-5) == pytest.approx(area.compute().item(), rel=1e-5)
    assert values["value"].item() == pytest.approx(means[0], rel=1e-5)
    assert values["difference"].item() == pytest.approx(means[0] - means[1], rel=1e-5)
    if name == "kl":
        assert f == pytest.approx(1 - means[0] / means[2]) and values["ratio"].isnan()
        assert values["value"].item() == pytest.approx(values["kl"].item())
    else:
        assert values["ratio"].item() == pytest.approx(means[0] / means[1], rel=1e-5)
    plain = CircuitFaithfulness()
    plain.update(circuit, full, empty, WORDS)
    untouched = ("kl", "accuracy", "agreement_when_right", "logit_difference")
    assert all(torch.equal(values[each], plain.compute()[each]) for each in untouched)


def test_a_measure_that_is_none_is_refused_before_anything_is_run() -> None:
    for metric in (CircuitFaithfulness, lambda measure: LogArea([0.1, 1.0], measure)):
        with pytest.raises(ValueError, match="unknown measure 'logits'; choose one of"):
            metric("logits")
        with pytest.raises(TypeError, match=r"measure takes a Measure or a name"):
            metric(3)
