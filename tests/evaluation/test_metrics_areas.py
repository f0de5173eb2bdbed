"""Areas under curves of faithfulness: against sums in plain Python, and from prompts."""

from __future__ import annotations

import math
from itertools import pairwise
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from lightning_circuits.evaluation.metrics import CMD, CPR, CircuitFaithfulness, LogArea, area_under, cmd, cpr, log_area
from lightning_circuits.evaluation.metrics.areas import Numbers

MIB = [0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1.0]
curves = st.lists(  # sizes a little apart, so that logarithms differ too
    st.tuples(st.integers(1, 1000).map(lambda n: n / 1000), st.floats(-3.0, 12.0)),
    min_size=2,
    max_size=12,
    unique_by=lambda point: point[0],
)


def by_hand(points: list[tuple[float, float]]) -> float:
    """The trapezoids one by one."""
    return sum((x2 - x1) * (y1 + y2) / 2 for (x1, y1), (x2, y2) in pairwise(sorted(points)))


@given(curves)
def test_areas_are_sums_of_trapezoids(points: list[tuple[float, float]]) -> None:
    sizes, f = zip(*points, strict=True)
    assert cpr(sizes, f).item() == pytest.approx(by_hand(points), abs=1e-9)
    assert cmd(sizes, f).item() == pytest.approx(by_hand([(x, abs(1 - y)) for x, y in points]), abs=1e-9)
    logs = [(math.log(x), y) for x, y in points]
    width = max(logs)[0] - min(logs)[0]
    assert log_area(sizes, f).item() * width == pytest.approx(by_hand(logs), abs=1e-9)


def test_a_model_at_every_size_has_the_areas_that_mib_gives_it() -> None:
    """Nothing is added before the first size: MIB's best CPR without overshoot is .999."""
    ones = torch.ones(len(MIB))
    assert cpr(torch.tensor(MIB), ones).item() == pytest.approx(0.999)
    assert cmd(MIB, ones) == 0
    assert log_area(MIB, ones).item() == pytest.approx(1)


def test_each_tenfold_of_size_counts_alike_in_the_log_area() -> None:
    assert log_area([0.01, 0.1, 1.0], [0.0, 1.0, 1.0]).item() == pytest.approx(0.75)
    assert cpr([0.01, 0.1, 1.0], [0.0, 1.0, 1.0]).item() == pytest.approx(0.945)


@given(curves, st.integers(0, 10_000))
def test_sizes_may_come_in_any_order(points: list[tuple[float, float]], seed: int) -> None:
    x, y = torch.tensor(points, dtype=torch.float64).unbind(1)
    order = torch.randperm(len(points), generator=torch.Generator().manual_seed(seed))
    assert torch.equal(area_under(x[order], y[order]), area_under(x, y))


def test_a_hole_in_the_curve_is_a_hole_in_the_area() -> None:
    for area in (cpr, cmd, log_area):
        assert area([0.1, 0.5, 1.0], [0.5, math.nan, 1.0]).isnan()


@pytest.mark.parametrize(
    ("sizes", "f", "message"),
    [
        ([0.1, 1.0], [1.0], r"a value for each size, got shapes \(2,\) and \(1,\)"),
        ([], [], "two different sizes"),
        ([0.5], [1.0], "two different sizes"),
        ([0.5, 0.5], [1.0, 1.0], "two different sizes"),
        ([[0.1], [1.0]], [[1.0], [1.0]], "a value for each size"),
    ],
)
def test_what_has_no_area_is_refused(sizes: Numbers, f: Numbers, message: str) -> None:
    for area in (cpr, cmd, log_area):
        with pytest.raises(ValueError, match=message):
            area(sizes, f)


def test_a_size_of_zero_has_no_logarithm() -> None:
    with pytest.raises(ValueError, match=r"lie above 0, got \[0.0, 1.0\]"):
        log_area([0.0, 1.0], [0.0, 1.0])
    assert cpr([0.0, 1.0], [0.0, 1.0]).item() == 0.5


# ---- over prompts --------------------------------------------------------------------------------------------------


def prompts(n: int, seed: int) -> dict[str, Tensor]:
    """Logits of the full and the empty model, whose logit differences are apart, and of circuits in between."""
    full, empty, noise = torch.randn(3, n, 5, generator=torch.Generator().manual_seed(seed))
    full[:, 0] += 8.0
    words = {"answers": torch.zeros(n, 1, dtype=torch.int64), "distractors": torch.ones(n, 1, dtype=torch.int64)}
    return {"full_logits": full, "empty_logits": empty, "noise": noise, **words}


def at(batch: dict[str, Tensor], share: float) -> dict[str, Any]:
    """What `update` takes for a circuit that keeps about this share of the behaviour."""
    noise = batch["noise"]
    circuit = share * batch["full_logits"] + (1 - share) * batch["empty_logits"] + 0.3 * noise
    logits = {name: batch[name] for name in ("full_logits", "empty_logits")}
    return {"circuit_logits": circuit, **logits, "batch": batch}


@pytest.mark.parametrize(("metric", "area"), [(CPR, cpr), (CMD, cmd), (LogArea, log_area)])
def test_the_area_of_prompts_is_that_of_the_ratios_of_means(metric: type[CPR], area: object) -> None:
    sizes, kept, batches = [0.01, 0.1, 1.0], [0.2, 1.4, 1.0], [prompts(5, 1), prompts(2, 2)]
    found, f = metric(sizes), []
    for size, share in zip(sizes, kept, strict=True):
        one = CircuitFaithfulness()
        for batch in batches:
            found.update(size, **at(batch, share))
            one.update(**at(batch, share))
        f.append(one.compute()["faithfulness"].item())
    assert f[1] > 1 > f[0]
    assert found.compute().item() == pytest.approx(area(sizes, f).item(), rel=1e-6)  # type: ignore[operator]


def test_a_size_without_prompts_and_one_that_nobody_announced_are_refused() -> None:
    metric = CPR([0.1, 0.5, 1.0])
    metric.update(0.5, **at(prompts(2, 0), 0.5))
    with pytest.raises(ValueError, match=r"no process has seen a prompt for the sizes \[0.1, 1.0\]"):
        metric.compute()
    with pytest.raises(ValueError, match=r"size 0\.2 is none of those"):
        metric.update(0.2, **at(prompts(2, 0), 0.5))
    with pytest.raises(ValueError, match="two different sizes"):
        CPR([0.1])
    with pytest.raises(ValueError, match="above 0"):
        LogArea([0.0, 1.0])


def test_where_full_and_empty_are_one_the_area_is_nan() -> None:
    batch = prompts(3, 0)
    batch["empty_logits"] = batch["full_logits"]
    metric = CMD([0.1, 1.0])
    for size in (0.1, 1.0):
        metric.update(size, **at(batch, 0.5))
    assert metric.compute().isnan()


def test_reset_forgets() -> None:
    metric = CPR([0.1, 1.0])
    for share in (0.3, 0.6):
        metric.reset()
        for size in (0.1, 1.0):
            metric.update(size, **at(prompts(40, 0), share))
        assert metric.compute().item() == pytest.approx(0.9 * share, abs=0.03)
