"""Tokens at which nothing differs are left out of the products, and no number changes."""

from __future__ import annotations

from types import SimpleNamespace
from typing import cast

import pytest
import torch
from torch import Tensor

from lightning_circuits.ablation import ABLATIONS, Ablation
from lightning_circuits.batch import Batch
from lightning_circuits.evaluation.exact import ExactAblation
from lightning_circuits.layout import Layout
from lightning_circuits.masked import masked_logits
from lightning_circuits.models import CircuitModel
from lightning_circuits.objectives import OBJECTIVES
from lightning_circuits.places import Places
from lightning_circuits.scoring.gradients import gradient_scores
from lightning_circuits.scoring.paths import integral
from lightning_circuits.search.gated_loss import gated_losses
from tests.support.gated import assert_close, random_gates, weighted, wrapped
from tests.support.oracle import PADDINGS, Pairs, pairs, stock_logits
from tests.support.tiny_models import VOCABULARY

CASES = [("gpt2", "head"), ("llama-gqa", "group"), ("qwen2-window", "head"), ("gpt-neox", "head")]
families = pytest.mark.parametrize(("family", "kv"), CASES)
SHARED = {
    "prefixes": [2, 1, 3],
    "nothing": [0, 0, 0],
    "one prompt": [2, 9, 1],
    "all but one": [9, 9, 2],
    "everything": [9, 9, 9],
}
"""Of three prompts, how many tokens from the first on are the same in both of a pair."""
shared = pytest.mark.parametrize("shared", SHARED.values(), ids=SHARED)


def batch(padding: str, shared: list[int], seed: int = 0) -> Batch:
    given = pairs(padding, seed)
    start = given.attention_mask.argmax(1)
    for row, n in enumerate(shared[: len(start)]):
        same = slice(int(start[row]), int(start[row]) + n)
        given.corrupt_ids[row, same] = given.clean_ids[row, same]
        if n < int(given.attention_mask[row].sum()):  # the first token behind them differs
            given.corrupt_ids[row, same.stop] = (given.clean_ids[row, same.stop] + 1) % VOCABULARY
    answers, distractors = torch.randint(0, VOCABULARY, (2, len(start), 1), generator=torch.Generator().manual_seed(3))
    return cast(Batch, vars(given) | {"answers": answers, "distractors": distractors})


def both(model: CircuitModel, gates: Tensor, given: Batch, ablation: Ablation, places: Places) -> tuple[Tensor, Tensor]:
    """Logits and gradient of a gated run."""
    gates = gates.clone().requires_grad_()
    prompts = given["clean_ids"], given["attention_mask"], given["positions"]
    reference = ablation.reference(given, model.run_pair(given)[1])
    logits = masked_logits(model, gates, *prompts, reference, places=places)
    return logits.detach(), torch.autograd.grad(weighted(logits), gates)[0]


def stock(model: CircuitModel, given: Batch) -> Tensor:
    return stock_logits(model.model, given["clean_ids"], cast(Pairs, SimpleNamespace(**given)))


def exact_ablation(model: CircuitModel, given: Batch, ablation: Ablation) -> ExactAblation:
    full, corrupt = model.run_pair(given)
    return ExactAblation(model, given, full, ablation, corrupt)


# ---- which tokens --------------------------------------------------------------------------------------------------


LAYOUT = Layout(n_layers=1, n_heads=1, d_model=2)


def left_in(name: str, given: Batch) -> list[str]:
    places = ABLATIONS.make(name).places(LAYOUT, given)
    return ["".join("x" if token else "." for token in row) for row in places.tokens(0).tolist()]


def test_under_interchange_tokens_count_from_the_first_that_differs() -> None:
    assert left_in("interchange", batch("ragged", [2, 9, 0])) == ["...x.", ".....", "...xx"]
    assert left_in("interchange", batch("left", [3, 1])) == ["...xx", "...xx"]


def test_under_other_ablations_all_tokens_count_but_padding() -> None:
    assert left_in("zero", batch("ragged", [2, 9, 0])) == PADDINGS["ragged"]


def test_where_all_tokens_count_they_stand_in_order() -> None:
    assert ABLATIONS.make("interchange").places(LAYOUT, batch("none", [0, 0])).order is None
    assert ABLATIONS.make("zero").places(LAYOUT, batch("none", [9, 9])).order is None


# ---- no number changes ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize("ablation", ["interchange", "zero"])
@pytest.mark.parametrize("padding", ["left", "right", "ragged"])
@shared
@families
def test_logits_and_gradients_are_those_of_all_tokens(
    family: str, kv: str, shared: list[int], padding: str, ablation: str
) -> None:
    model, given = wrapped(family, kv, torch.float64), batch(padding, shared)
    made, gates = ABLATIONS.make(ablation), random_gates(model, "mixed")
    left_out = made.places(model.layout, given)
    assert left_out.order is not None
    every = Places.in_order(given["positions"], given["clean_ids"].shape[1])
    found, expected = (both(model, gates, given, made, places) for places in (left_out, every))
    assert_close(found[0], expected[0], 1e-9)
    assert_close(found[1], expected[1], 1e-9)


def fitted(model: CircuitModel, given: Batch) -> Ablation:
    made = ABLATIONS.make("mean")
    made.fit(model, [given])
    return made


@families
def test_means_leave_out_padding_alone(family: str, kv: str) -> None:
    model, given = wrapped(family, kv, torch.float64), batch("ragged", [2, 9, 1])
    made, gates = fitted(model, given), random_gates(model, "mixed")
    places = made.places(model.layout, given)
    assert torch.equal(places.tokens(0), given["attention_mask"].bool())
    every = Places.in_order(given["positions"], given["clean_ids"].shape[1])
    found, expected = (both(model, gates, given, made, each) for each in (places, every))
    assert_close(found[0], expected[0], 1e-9)
    assert_close(found[1], expected[1], 1e-9)


@families
def test_a_prompt_that_is_its_own_corrupt_one_gives_the_stock_models_logits(family: str, kv: str) -> None:
    model, given = wrapped(family, kv, torch.float64), batch("ragged", [2, 9, 1])
    made, gates = ABLATIONS.make("interchange"), random_gates(model, "mixed")
    logits, _ = both(model, gates, given, made, made.places(model.layout, given))
    off = (logits - stock(model, given)).abs().amax(1)
    assert off[1] < 1e-9 and off[0] > 1e-3 and off[2] > 1e-3


# ---- no token differs ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["mixed", "binary", "sparse"])
@families
def test_where_no_token_differs_every_circuit_is_the_model_and_no_gate_matters(family: str, kv: str, kind: str) -> None:
    model, given = wrapped(family, kv, torch.float64), batch("ragged", [9, 9, 9])
    made, gates = ABLATIONS.make("interchange"), random_gates(model, kind)
    places = made.places(model.layout, given)
    assert places.order is not None and len(places.order) == 0
    logits, dgates = both(model, gates, given, made, places)
    assert_close(logits, stock(model, given), 1e-9)
    assert not dgates.any()


@pytest.mark.parametrize("skip_closed", [False, True])
@families
def test_where_no_token_differs_nothing_is_lost_nor_learned(family: str, kv: str, skip_closed: bool) -> None:
    model, given = wrapped(family, kv, torch.float64), batch("left", [9, 9])
    gates = random_gates(model, "mixed").requires_grad_()
    losses = gated_losses(model, gates, given, ABLATIONS.make("interchange"), OBJECTIVES.make("KL"), skip_closed)
    assert_close(losses.detach(), torch.zeros(2, dtype=losses.dtype), 1e-9)
    (dgates,) = torch.autograd.grad(losses.sum(), gates)
    assert not dgates.any()


@families
def test_where_no_token_differs_exact_ablation_and_attribution_find_nothing(family: str, kv: str) -> None:
    model, given = wrapped(family, kv, torch.float64), batch("ragged", [9, 9, 9])
    made = ABLATIONS.make("interchange")
    exact = exact_ablation(model, given, made)
    for share in (0.02, 0.3, 0.9):
        drawn = torch.rand(model.layout.n_edges, generator=torch.Generator().manual_seed(0))
        assert_close(exact.logits(drawn < share), stock(model, given), 1e-9)
    assert_close(exact.empty_logits, stock(model, given), 1e-9)
    for path in ((), (integral("left", 3),)):
        scores = gradient_scores(model, given, made, OBJECTIVES.make("LogitDifference"), *path)
        assert scores.edges.abs().max() < 1e-9 and scores.writers.abs().max() < 1e-9


@shared
@families
def test_attribution_is_minus_the_gradient_at_open_gates_with_tokens_left_out(
    family: str, kv: str, shared: list[int]
) -> None:
    model, given = wrapped(family, kv, torch.float64), batch("ragged", shared)
    made, objective = ABLATIONS.make("interchange"), OBJECTIVES.make("LogitDifference")
    gates = torch.ones(model.layout.n_edges, dtype=torch.float64, requires_grad=True)
    every = Places.in_order(given["positions"], given["clean_ids"].shape[1])
    (dgates,) = torch.autograd.grad(gated_losses(model, gates, given, made, objective, places=every).sum(), gates)
    scores = gradient_scores(model, given, made, objective)
    assert_close(scores.edges, -dgates, 1e-9)


@shared
@families
def test_exact_ablation_is_the_gated_run_over_all_tokens(family: str, kv: str, shared: list[int]) -> None:
    model, given = wrapped(family, kv, torch.float64), batch("ragged", shared)
    every = Places.in_order(given["positions"], given["clean_ids"].shape[1])
    for name in ("interchange", "zero"):
        made = ABLATIONS.make(name)
        exact = exact_ablation(model, given, made)
        for share in (0.02, 0.5):
            drawn = torch.rand(model.layout.n_edges, generator=torch.Generator().manual_seed(1))
            members = drawn < share
            expected, _ = both(model, members.double(), given, made, every)
            assert_close(exact.logits(members), expected, 1e-9)


def test_where_no_token_is_in_a_span_every_circuit_puts_out_what_the_references_make() -> None:
    model, given = wrapped("gpt2", "head", torch.float64), batch("left", [0, 0])
    places = Places.of_spans(torch.full_like(given["clean_ids"], -1), given["positions"], n_spans=2)
    gates = random_gates(model, "mixed", n_spans=2)
    logits, dgates = both(model, gates, given, ABLATIONS.make("interchange"), places)
    assert_close(logits, exact_ablation(model, given, ABLATIONS.make("interchange")).empty_logits, 1e-9)
    assert not dgates.any()


def test_places_where_logits_are_read_everywhere() -> None:
    mask = torch.tensor([[0, 1, 1], [1, 1, 0]])
    values = torch.arange(6.0).view(2, 3, 1)
    places = Places.everywhere(mask)
    assert places.at_read(values)[:, 0].tolist() == places.take(values[None])[0, :, 0].tolist() == [1, 2, 3, 4]
    assert places.only_padding and places.spread(places.take(values[None]))[0, :, :, 0].tolist() == [
        [0, 1, 2],
        [3, 4, 0],
    ]
    whole = Places.everywhere(torch.ones_like(mask))
    assert whole.order is None and torch.equal(whole.at_read(values), values.flatten(0, 1))
