"""Attention by role: against loops over the stock model's and the oracle's patterns, and a model weighted by hand."""

from __future__ import annotations

import json
import math
import random
import statistics
from collections.abc import Sequence
from copy import deepcopy
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor
from transformers import GPT2Config, GPT2LMHeadModel

from lightning_circuits.ablation import ABLATIONS
from lightning_circuits.circuit import Circuit
from lightning_circuits.datamodules import IOIDataModule
from lightning_circuits.evaluation.attention_by_role import (
    LEAST_ATTENTION,
    attention_by_role,
    attention_deviation,
    attention_to,
    ratio_of_means,
)
from lightning_circuits.evaluation.metrics.bootstrap import mean_estimate
from lightning_circuits.models import CircuitModel, wrap
from lightning_circuits.models.loading import load_model
from tests.support.oracle import ALL_OPEN, oracle, pairs
from tests.support.tiny_models import tiny_model


def looks(rows: Sequence[Sequence[float]], spans: Sequence[str], query: str, role: str) -> float:
    """Of one prompt without padding: for each token, what it gives to each token from the first one on."""
    per_token = []
    for weights, place in zip(rows, spans, strict=True):
        if place == query:
            per_token.append(sum(weight for weight, at in zip(weights, spans, strict=False) if at == role))
    return statistics.fmean(per_token)


def named(batch: Any, prompt: int) -> list[str]:
    """The span of every token of a prompt, without padding."""
    return [batch["span_names"][i] for i in batch["spans"][prompt].tolist() if i >= 0]


@pytest.mark.parametrize(("role", "query"), [("S2", "END"), ("IO", "END"), ("S1", "S2"), ("..IO", "S2..END")])
def test_in_the_model_it_is_what_loops_make_of_the_stock_patterns(role: str, query: str) -> None:
    data = IOIDataModule("tiny-ioi", n_train=2, n_val=7, n_test=2, batch_size=3, padding_side="left", spans="roles")
    stock = load_model("tiny-ioi")
    model = wrap(deepcopy(stock))
    stock.set_attn_implementation("eager")
    found = attention_to(model, data.val_dataloader(), role, query)
    expected: dict[str, list[float]] = {name: [] for name in found}
    for batch in data.val_dataloader():
        for i, (ids, mask) in enumerate(zip(batch["clean_ids"], batch["attention_mask"], strict=True)):
            with torch.no_grad():
                layers = stock(ids[mask.bool()][None], output_attentions=True, use_cache=False).attentions
            for layer, weights in enumerate(layers):
                for head, rows in enumerate(weights[0].tolist()):
                    expected[f"a{layer}.h{head}"].append(looks(rows, named(batch, i), query, role))
    assert list(found) == [name for name in model.layout.writer_names if name.startswith("a")]
    for name, values in expected.items():
        assert found[name].dtype == torch.float64 and found[name].tolist() == pytest.approx(values, abs=1e-5)


RAGGED = torch.tensor([[-1, 0, 0, 3, -1], [0, 2, 3, 3, -1], [-1, -1, -1, 0, 3]])


@pytest.mark.parametrize("ablation", ["interchange", "zero"])
@pytest.mark.parametrize("in_spans", [False, True])
@pytest.mark.parametrize("family", ["gpt2", "llama-gqa"])
def test_in_a_circuit_it_is_what_loops_make_of_the_oracle_s(family: str, in_spans: bool, ablation: str) -> None:
    stock, prompts = deepcopy(tiny_model(family, torch.float64)), pairs("ragged", seed=1)
    batch: Any = {**vars(prompts), "spans": RAGGED, "span_names": ("S", "nowhere", "S..END", "END")}
    batch |= dict.fromkeys(("answers", "distractors"), torch.full((3, 1), -100))
    model = wrap(stock)
    layout = model.layout.in_spans(["S", "S..END", "END"]) if in_spans else model.layout
    circuit = Circuit.random(layout, layout.n_edges // 2, seed=2)
    names = layout.edge_names(torch.arange(layout.n_edges))
    gates = dict(zip(names, circuit.members.double().tolist(), strict=True))
    spans = [[batch["span_names"][i] if i >= 0 else None for i in row] for row in RAGGED.tolist()] if in_spans else None
    corrupt = oracle(stock, ALL_OPEN, prompts.corrupt_ids, prompts).writers
    reference = corrupt if ablation == "interchange" else None
    patterns = iter(oracle(stock, gates, prompts.clean_ids, prompts, reference, spans=spans).attention)

    batches = [{k: v if k == "span_names" else v[rows] for k, v in batch.items()} for rows in (slice(2), slice(2, 3))]
    made = ABLATIONS.make(ablation)
    for plain in (model, model.in_spans(["END"])):  # the circuit's layout counts
        found = attention_to(plain, batches, "S", circuit=circuit, ablation=made)
        rows = {row.head: row for row in attention_by_role(plain, batches, circuit, "S", "END", "END", made)}
        assert [row.circuit_right.value for row in rows.values()] == [found[head].mean().item() for head in rows]
        assert {(row.ablation, row.prompts, row.split) for row in rows.values()} == {(ablation, 3, "val")}
    for prompt in range(3):
        places = named(batch, prompt)
        for name in found:
            weights = [next(patterns).tolist() for _ in places]
            assert found[name][prompt].item() == pytest.approx(looks(weights, places, "END", "S"), abs=1e-6)
    assert next(patterns, None) is None


def test_a_full_circuit_looks_exactly_as_the_model() -> None:
    data = IOIDataModule("tiny-ioi", n_train=2, n_val=6, n_test=2, batch_size=4, spans="roles")
    model = wrap(load_model("tiny-ioi"))
    for full in (Circuit.full(model.layout), Circuit.full(model.layout.in_spans(["S2", "S2..END", "END"]))):
        rows = attention_by_role(model, data.val_dataloader(), full, "S2", "IO", split="test")
        assert len(rows) == model.layout.n_layers * 4 and {row.split for row in rows} == {"test"}
        for row in rows:
            assert row.circuit_ratio == row.model_ratio or math.isnan(row.model_ratio.value)
            assert not row.changes_sides
            for f, attention in ((row.faithfulness_right, row.model_right), (row.faithfulness_wrong, row.model_wrong)):
                assert f == (1.0, 1.0, 1.0) if attention.value >= LEAST_ATTENTION else math.isnan(f.value)


# ---- a model weighted by hand ----------------------------------------------------------------------------------------

WEIGHTS = [2.0, 3.0, 2.0, 5.0, 1.0, 1.0, 1.0, 4.0]
"""How much is looked at each token, wherever it stands, before what a query gives is shared out."""
PROMPTS: Any = {
    "clean_ids": torch.tensor([[0, 1, 1, 7], [2, 3, 3, 7]]),
    "corrupt_ids": torch.tensor([[0, 1, 4, 7], [2, 3, 4, 7]]),
    "attention_mask": torch.ones(2, 4, dtype=torch.int64),
    "positions": torch.tensor([3, 3]),
    "answers": torch.tensor([[0], [2]]),
    "distractors": torch.tensor([[1], [3]]),
    "spans": torch.arange(4).repeat(2, 1),
    "span_names": ("IO", "S1", "S2", "END"),
}


@pytest.fixture(scope="module")
def weighted() -> CircuitModel:
    """One head, whose query is a constant and whose key is the logarithm of the token's weight."""
    d = len(WEIGHTS)
    config = GPT2Config(vocab_size=d, n_embd=d, n_layer=1, n_head=1, n_positions=8, bos_token_id=None)
    stock = GPT2LMHeadModel(config).eval()
    with torch.no_grad():
        for name, parameter in stock.named_parameters():
            parameter.zero_() if "ln" not in name or name.endswith("bias") else parameter.fill_(1.0)
        stock.transformer.wte.weight.copy_(1e3 * torch.eye(d))
        spread = math.sqrt(1 / d - 1 / d**2)  # the norm divides a one-hot vector by it
        attention = stock.transformer.h[0].attn.c_attn
        attention.bias[0] = 1.0
        attention.weight[:, d] = torch.tensor(WEIGHTS).log() * spread * math.sqrt(d)
    return wrap(stock)


def test_a_head_weighted_by_hand_changes_sides(weighted: CircuitModel) -> None:
    layout = weighted.layout
    members = torch.ones(layout.n_edges, dtype=torch.bool)
    members[layout.edge_index("input->a0.h0<k>")] = False  # S2 looks as the third name does
    circuit = Circuit(layout, members)
    at_s2 = torch.ones(layout.in_spans(["S2", "END"]).n_edges, dtype=torch.bool)
    at_s2[layout.in_spans(["S2", "END"]).edge_index("input->a0.h0<k>@S2")] = False
    for cut in (circuit, circuit.in_spans(["S2", "END"]), Circuit(layout.in_spans(["S2", "END"]), at_s2)):
        [row] = attention_by_role(weighted, [PROMPTS], cut, "S2", "IO")
        assert row.model_right.value == pytest.approx((3 / 12 + 5 / 16) / 2)
        assert row.model_wrong.value == pytest.approx((2 / 12 + 2 / 16) / 2)
        assert row.circuit_right.value == pytest.approx((1 / 10 + 1 / 12) / 2)
        assert row.model_ratio == pytest.approx((27 / 14, 3 / 2, 5 / 2), rel=1e-5)
        assert row.circuit_ratio == pytest.approx((1 / 2, 1 / 2, 1 / 2), rel=1e-5)
        assert row.faithfulness_right == pytest.approx((44 / 135, 4 / 15, 2 / 5), rel=1e-5)
        assert row.faithfulness_wrong == pytest.approx((44 / 35, 6 / 5, 4 / 3), rel=1e-5)
        assert row.changes_sides
    [turned] = attention_by_role(weighted, [PROMPTS], circuit, "IO", "S2")
    assert turned.changes_sides and turned.circuit_ratio.value == pytest.approx(2.0)
    [same] = attention_by_role(weighted, [PROMPTS], circuit, "S1", "IO")  # preferred in both
    assert not same.changes_sides and same.circuit_ratio.low > 1 < same.model_ratio.low


def test_a_row_is_plain_data(weighted: CircuitModel) -> None:
    [row] = attention_by_role(weighted, [PROMPTS], Circuit.empty(weighted.layout), "S2", "END", "S1", heads=["a0.h0"])
    found = json.loads(json.dumps(row.to_dict(), allow_nan=False))  # S1 sees neither S2 nor END
    assert (found["model_right"], found["model_ratio"], found["faithfulness_right_low"]) == (0.0, None, None)
    assert (found["head"], found["query"], found["right"], found["wrong"]) == ("a0.h0", "S1", "S2", "END")
    assert (found["prompts"], found["ablation"], found["changes_sides"]) == (2, "interchange", False)


# ---- the measures ----------------------------------------------------------------------------------------------------


def bootstrapped(draw: Any, n: int = 4_000) -> list[float]:
    drawn = [draw() for _ in range(n)]
    return [statistics.quantiles(drawn, n=40)[i] for i in (0, -1)]


def test_intervals_are_those_of_a_bootstrap_in_loops() -> None:
    numbers = torch.rand(2, 50, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    a, b = (numbers * torch.tensor([[0.8], [0.4]])).tolist()
    base, rows, dice = [x / 2 for x in b[:20]], list(zip(a, b, strict=True)), random.Random(0)

    def of_pairs() -> float:
        drawn = dice.choices(rows, k=50)
        return sum(one for one, _ in drawn) / sum(other for _, other in drawn)

    def apart() -> float:
        return statistics.fmean(dice.choices(a, k=50)) - statistics.fmean(dice.choices(base, k=20))

    for found, value, draw in (
        (mean_estimate(torch.tensor(a)), statistics.fmean(a), lambda: statistics.fmean(dice.choices(a, k=50))),
        (ratio_of_means(torch.tensor(a), torch.tensor(b)), sum(a) / sum(b), of_pairs),
        (
            attention_deviation(torch.tensor(a), torch.tensor(base)),
            statistics.fmean(a) - statistics.fmean(base),
            apart,
        ),
    ):
        assert found.value == pytest.approx(value, rel=1e-6)
        low, high = bootstrapped(draw)
        assert [found.low, found.high] == pytest.approx([low, high], abs=0.08 * (high - low))


@given(st.lists(st.tuples(*[st.floats(0, 0.03)] * 2), min_size=1, max_size=6))
def test_a_ratio_of_two_nothings_is_absent(pairs_of: list[tuple[float, float]]) -> None:
    a, b = torch.tensor(pairs_of, dtype=torch.float64).T
    means = [statistics.fmean(values) for values in zip(*pairs_of, strict=True)]
    found, other = ratio_of_means(a, b), ratio_of_means(b, a)
    if max(means) < 0.0099 or means[1] == 0:
        assert all(map(math.isnan, found))
    elif max(means) > 0.0101:
        assert found.value == pytest.approx(means[0] / means[1])
        if means[0]:
            assert other.value == pytest.approx(1 / found.value)


# ---- what is refused -------------------------------------------------------------------------------------------------


def test_bad_input_is_said(weighted: CircuitModel, monkeypatch: pytest.MonkeyPatch) -> None:
    full = Circuit.full(weighted.layout)
    bare: Any = {key: value for key, value in PROMPTS.items() if not key.startswith("span")}
    with monkeypatch.context() as patched:  # before anything is run
        patched.setattr(type(weighted), "run_pair", None)
        with pytest.raises(ValueError, match=r"these have no spans: give data that name them.*spans='roles'"):
            attention_to(weighted, [bare], "S2")
        for query, role in (("END", "S3"), ("S3", "END")):
            with pytest.raises(ValueError, match=r"no span 'S3': they have IO, S1, S2, END$"):
                attention_to(weighted, [PROMPTS], role, query)
        with pytest.raises(ValueError, match="no span 'IO2': they have"):
            attention_by_role(weighted, [PROMPTS], full, "S2", "IO2")
        with pytest.raises(ValueError, match=r"no head 'a1\.h0'"):
            attention_by_role(weighted, [PROMPTS], full, "S2", "IO", heads=["a1.h0"])
        with pytest.raises(ValueError, match="no head is in the circuit"):
            attention_by_role(weighted, [PROMPTS], Circuit.empty(weighted.layout), "S2", "IO")
        with pytest.raises(ValueError, match="the circuit is of another layout"):
            attention_to(weighted, [PROMPTS], "S2", circuit=Circuit.full(wrap(tiny_model("llama")).layout))
        with pytest.raises(ValueError, match="no batches to look at"):
            attention_to(weighted, [], "S2")
    lacking = {**PROMPTS, "spans": torch.tensor([[0, 1, 2, 3], [0, 1, 1, 3]])}
    for query, role in (("END", "S2"), ("S2", "IO")):
        with pytest.raises(ValueError, match="prompt 3 has no token in the span 'S2': it has IO, S1, END"):
            attention_to(weighted, [PROMPTS, lacking], role, query)
    with pytest.raises(ValueError, match=r"of the same prompts, got \[2\] and \[3\]"):
        ratio_of_means(torch.ones(2), torch.ones(3))


def test_order_and_batches_do_not_matter(weighted: CircuitModel) -> None:
    def part(rows: list[int]) -> Any:
        return {key: value[rows] if isinstance(value, Tensor) else value for key, value in PROMPTS.items()}

    cut = Circuit.random(weighted.layout, 4, seed=0)
    [whole], [apart] = (
        attention_by_role(weighted, batches, cut, "S2", "IO", heads=["a0.h0"])
        for batches in ([PROMPTS], [part([1]), part([0])])
    )
    assert whole.model_ratio == pytest.approx(apart.model_ratio) and whole.circuit_ratio == pytest.approx(
        apart.circuit_ratio
    )
