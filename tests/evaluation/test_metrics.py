"""Faithfulness, its interval, KL, accuracy and agreement against plain loops; every metric from one process and two."""

from __future__ import annotations

import json
import math
import random
import statistics
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from lightning_circuits.circuit import Circuit
from lightning_circuits.evaluation.metrics import (
    CMD,
    CPR,
    RESOLUTION,
    CircuitFaithfulness,
    EdgeAUROC,
    EdgeIoU,
    KLDivergence,
    LogArea,
    NodeIoU,
    TokenEdges,
    faithfulness_interval,
)
from lightning_circuits.evaluation.metrics import faithfulness as faithfulness_function
from lightning_circuits.layout import Layout
from tests.support import processes

V = 7
INTERVAL = ("faithfulness_low", "faithfulness_high")  # of random draws, so tested by themselves
RATIO = ("ratio", "ratio_low", "ratio_high", "difference_low", "difference_high")  # tests/evaluation/test_ratio.py


def random_batch(n: int, seed: int, distractors: bool = True) -> dict[str, Tensor]:
    """Logits of three models and words of 1 to 2 tokens, no token twice in a row."""
    generator = torch.Generator().manual_seed(seed)
    words = torch.stack([torch.randperm(V, generator=generator)[:4] for _ in range(n)]).view(n, 2, 2)
    words[torch.rand(n, 2, generator=generator) < 0.5, 1] = -100
    logits = torch.randn(3, n, V, generator=generator) * 2
    return {
        "circuit_logits": logits[0],
        "full_logits": logits[1],
        "empty_logits": logits[2],
        "answers": words[:, 0],
        "distractors": words[:, 1] if distractors else torch.full((n, 2), -100),
    }


def by_hand(batch: dict[str, Tensor]) -> dict[str, float]:
    """The definitions, prompt by prompt, in Python's own numbers."""
    rows = []
    for row in range(len(batch["answers"])):
        answers, distractors = ([t for t in batch[k][row].tolist() if t >= 0] for k in ("answers", "distractors"))
        models = [batch[f"{name}_logits"][row].tolist() for name in ("circuit", "full", "empty")]
        m = [
            sum(x[t] for t in answers) / len(answers)
            - (sum(x[t] for t in distractors) / len(distractors) if distractors else 0)
            for x in models
        ]
        first = [max(range(V), key=x.__getitem__) for x in models]
        if distractors:
            right = [max(x[t] for t in answers) > max(x[t] for t in distractors) for x in models]
            agrees = right[0] == right[1]
        else:
            right = [token in answers for token in first]
            agrees = first[0] == first[1]
        p, q = ([math.exp(v) / sum(map(math.exp, x)) for v in x] for x in (models[1], models[0]))
        rows.append((m, right, agrees, sum(a * math.log(a / b) for a, b in zip(p, q, strict=True))))
    mean = [statistics.fmean(m[i] for m, *_ in rows) for i in range(3)]
    ratios = [(m[0] - m[2]) / (m[1] - m[2]) for m, *_ in rows if abs(m[1] - m[2]) >= RESOLUTION]
    q1, median, q3 = statistics.quantiles(ratios, method="inclusive") if len(ratios) > 1 else ratios * 3

    def share(flags: list[bool]) -> float:
        return sum(flags) / len(flags) if flags else math.nan

    return {
        "faithfulness": (mean[0] - mean[2]) / (mean[1] - mean[2]),
        "faithfulness_q1": q1,
        "faithfulness_median": median,
        "faithfulness_q3": q3,
        "value": mean[0],
        "difference": mean[0] - mean[1],
        "kl": statistics.fmean(kl for *_, kl in rows),
        "accuracy": share([right[0] for _, right, *_ in rows]),
        "agreement_when_right": share([agrees for _, right, agrees, _ in rows if right[1]]),
        "agreement_when_wrong": share([agrees for _, right, agrees, _ in rows if not right[1]]),
        "logit_difference": mean[0],
        "prompts": len(rows),
    }


def logits_of(batch: dict[str, Tensor]) -> list[Tensor]:
    return [batch[f"{name}_logits"] for name in ("circuit", "full", "empty")]


def computed(*batches: dict[str, Tensor]) -> dict[str, float]:
    metric = CircuitFaithfulness()
    for batch in batches:
        metric.update(*logits_of(batch), batch)
    return {name: value.item() for name, value in metric.compute().items()}


@given(n=st.integers(1, 12), seed=st.integers(0, 10_000), distractors=st.booleans())
def test_it_is_what_the_definitions_say(n: int, seed: int, distractors: bool) -> None:
    batch = random_batch(n, seed, distractors)
    found = computed(batch)
    assert [name for name in found if name not in by_hand(batch)] == [*INTERVAL, *RATIO]
    found = {name: value for name, value in found.items() if name not in (*INTERVAL, *RATIO)}
    assert found == pytest.approx(by_hand(batch), rel=1e-3, abs=1e-5, nan_ok=True)


def some_prompts(n: int, seed: int) -> Tensor:
    """Logit differences ``[3, n]`` of circuit, full and empty model such as one meets."""
    noise = torch.randn(3, n, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    return torch.tensor([[3.0], [4.0], [0.5]]) + noise * torch.tensor([[1.0], [1.5], [0.7]])


def test_the_interval_is_a_bootstrap_over_prompts() -> None:
    """Against one drawn with Python's own random numbers; two such of 1,000 resamples differ by a few per cent."""
    prompts = some_prompts(60, seed=0)
    rows, draw = prompts.T.tolist(), random.Random(0)
    ratios = []
    for _ in range(4_000):
        c, f, e = (statistics.fmean(column) for column in zip(*draw.choices(rows, k=len(rows)), strict=True))
        ratios.append((c - e) / (f - e))
    low, high = (statistics.quantiles(ratios, n=40)[i] for i in (0, -1))
    found = faithfulness_interval(*prompts)
    assert found.tolist() == pytest.approx([low, high], abs=0.08 * (high - low))


def test_the_interval_holds_the_true_value_in_about_95_of_100_data_sets() -> None:
    true = (3.0 - 0.5) / (4.0 - 0.5)
    held = 0
    for seed in range(400):
        low, high = faithfulness_interval(*some_prompts(80, seed)).tolist()
        held += low <= true <= high
    assert 0.91 <= held / 400 <= 0.98  # 95 % +- 3 standard errors, and a percentile interval is a little narrow


@given(n=st.integers(1, 40), seed=st.integers(0, 10_000))
def test_the_interval_does_not_depend_on_the_order_of_prompts_nor_on_global_random_numbers(n: int, seed: int) -> None:
    prompts = some_prompts(n, seed)
    state = torch.get_rng_state()
    found = faithfulness_interval(*prompts)
    assert torch.equal(torch.get_rng_state(), state)
    shuffled = prompts[:, torch.randperm(n, generator=torch.Generator().manual_seed(seed))]
    assert torch.equal(faithfulness_interval(*shuffled), found)
    torch.testing.assert_close(faithfulness_interval(*shuffled, seed=1), found, rtol=0.5, atol=1)


def test_prompts_that_all_say_the_same_leave_no_width() -> None:
    one = some_prompts(1, seed=3)
    f = faithfulness_function(*one)
    torch.testing.assert_close(faithfulness_interval(*one), f.expand(2))
    torch.testing.assert_close(faithfulness_interval(*one.expand(3, 9)), f.expand(2))


def test_more_prompts_give_a_narrower_interval() -> None:
    widths = [faithfulness_interval(*some_prompts(n, seed=4)).diff().item() for n in (100, 10_000)]
    assert widths[0] / widths[1] == pytest.approx(10, rel=0.35)


@given(n=st.integers(2, 12), seed=st.integers(0, 10_000), cut=st.integers(1, 11))
def test_batches_of_any_size_give_the_same(n: int, seed: int, cut: int) -> None:
    batch = random_batch(n, seed)
    parts = [{k: v[part] for k, v in batch.items()} for part in (slice(0, min(cut, n - 1)), slice(min(cut, n - 1), n))]
    assert computed(*parts) == pytest.approx(computed(batch), nan_ok=True)


def test_the_ratio_of_means_is_not_ruled_by_a_prompt_without_effect() -> None:
    """Full and empty differ by 2, 2 and .001; the circuit keeps half, half, and 1.2 more than there was."""
    empty = torch.zeros(3, V)
    full, circuit = empty.clone(), empty.clone()
    full[:, 0] = torch.tensor([2.0, 2.0, 0.001])
    circuit[:, 0] = torch.tensor([1.0, 1.0, 1.2])
    words = {"answers": torch.zeros(3, 1, dtype=torch.int64), "distractors": torch.ones(3, 1, dtype=torch.int64)}
    found = computed({"circuit_logits": circuit, "full_logits": full, "empty_logits": empty, **words})
    assert found["faithfulness"] == pytest.approx(3.2 / 4.001)
    assert found["faithfulness_median"] == pytest.approx(0.5)
    assert found["faithfulness_q3"] > 100


def test_where_nothing_lies_between_full_and_empty_faithfulness_is_nan() -> None:
    batch = random_batch(4, seed=1)
    batch["empty_logits"] = batch["full_logits"] + 1e-6 * torch.arange(V)  # equal, as two ways of computing it give it
    found = computed(batch)
    assert [name for name, value in found.items() if math.isnan(value)][:6] == [
        "faithfulness",
        *INTERVAL,
        "faithfulness_q1",
        "faithfulness_median",
        "faithfulness_q3",
    ]
    assert found["kl"] > 0 and found["prompts"] == 4
    # One such prompt among others is left out of the quartiles alone.
    other = random_batch(5, seed=2)
    mixed = {key: torch.cat([other[key], batch[key][:1]]) for key in other}
    assert computed(mixed)["faithfulness_median"] == pytest.approx(computed(other)["faithfulness_median"])
    assert not math.isnan(computed(mixed)["faithfulness"])


def test_a_model_that_is_always_right_has_no_agreement_where_it_is_wrong() -> None:
    batch = random_batch(4, seed=3)
    batch["full_logits"] = torch.zeros(4, V).scatter(1, batch["answers"][:, :1], 5.0)
    found = computed(batch)
    assert math.isnan(found["agreement_when_wrong"])
    assert found["agreement_when_right"] == found["accuracy"]


def test_half_precision_logits_are_judged_in_float32() -> None:
    batch = random_batch(6, seed=4)
    rounded = {k: v.bfloat16() if v.is_floating_point() else v for k, v in batch.items()}
    widened = {k: v.float() if v.is_floating_point() else v for k, v in rounded.items()}
    assert computed(rounded) == pytest.approx(computed(widened), nan_ok=True)


@pytest.mark.filterwarnings("ignore:The ``compute`` method of metric")
def test_without_prompts_there_is_nothing_to_measure() -> None:
    with pytest.raises(ValueError):
        CircuitFaithfulness().compute()


LAYOUT = Layout(2, 2, 8)


def everything(batches: list[dict[str, Tensor]], circuits: list[tuple[Circuit, Circuit]]) -> dict[str, float]:
    """What every metric says about some batches and some pairs of circuits."""
    found = computed(*batches)
    for area in (CPR, CMD, LogArea):
        curve = area([0.1, 1.0])
        for batch in batches:
            curve.update(0.1, *logits_of(batch), batch)
            curve.update(1.0, batch["full_logits"], *logits_of(batch)[1:], batch)
        found[area.__name__] = curve.compute().item()
    kl, overlaps, auroc = KLDivergence(), [EdgeIoU(), NodeIoU()], EdgeAUROC()
    for batch in batches:
        kl.update(batch["circuit_logits"], batch["full_logits"])
    tokens = TokenEdges()
    for circuit, other in circuits:
        for overlap in overlaps:
            overlap.update(circuit, other)
        auroc.update(torch.arange(LAYOUT.n_edges) % 7, circuit)
        tokens.update(circuit, torch.tensor([[3, circuit.n_edges]]))
    return found | {type(metric).__name__: metric.compute().item() for metric in (kl, *overlaps, auroc, tokens)}


def compute_as(rank: int, file: Path, shares: list[list[tuple[list[dict[str, Tensor]], list[Any]]]]) -> None:
    torch.distributed.init_process_group("gloo", init_method=f"file://{file}", rank=rank, world_size=2)
    results = [everything(*share[rank]) for share in shares]
    Path(f"{file}.{rank}").write_text(json.dumps(results))
    torch.distributed.destroy_process_group()


@pytest.mark.filterwarnings("ignore:The ``compute`` method of metric")
def test_two_processes_with_uneven_shares_give_the_result_of_one(tmp_path: Path) -> None:
    first, second = random_batch(5, seed=5), random_batch(2, seed=6)
    pairs = [(Circuit.random(LAYOUT, n, 0), Circuit.random(LAYOUT, 20, 1)) for n in (10, 20, 30)]
    # Five prompts and two, in this order and in the other; then everything on one process, and nothing on the other.
    shares = [
        [([first], pairs[:1]), ([second], pairs[1:])],
        [([second], pairs[2:]), ([first], pairs[:2])],
        [([first, second], pairs), ([], [])],
    ]
    file = tmp_path / "meeting"
    both = [processes.call(tmp_path / f"{rank}.log", compute_as, rank, file, shares) for rank in range(2)]
    for process in both:
        status, printed = process.end()
        assert status == 0, printed[-3000:]
    alone = everything([first, second], pairs)
    for rank in range(2):
        for found in json.loads(Path(f"{file}.{rank}").read_text()):
            assert found == pytest.approx(alone, nan_ok=True)
