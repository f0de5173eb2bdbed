"""The smallest circuit that clears f: found on lines whose answer is known, and on a real model."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from lightning_circuits import EAP
from lightning_circuits.ablation import ABLATIONS
from lightning_circuits.circuit import Circuit
from lightning_circuits.datamodules import IOIDataModule
from lightning_circuits.evaluation import smallest
from lightning_circuits.evaluation.curve import Curve, CurvePlace
from lightning_circuits.evaluation.rows import Row, evaluate
from lightning_circuits.layout import Layout
from tests.support.made_curves import make_row

LAYOUT = Layout(n_layers=4, n_heads=4, d_model=8)
SCORED = Circuit(LAYOUT, torch.zeros(LAYOUT.n_edges, dtype=torch.bool), torch.rand(LAYOUT.n_edges))


def found(f_of: Callable[[int], float], monkeypatch: pytest.MonkeyPatch, **options: Any) -> smallest.Smallest:
    """What is found where the circuit of n edges has an f of ``f_of(n)``, and an interval of a tenth below it."""

    def judged(model: Any, batches: Any, circuits: Mapping[str, Any], *_: Any, **__: Any) -> list[Row]:
        assert all(int(members.sum()) == int(name) for name, members in circuits.items())
        return [make_row(name, "interchange", int(name), f_of(int(name))) for name in circuits]

    monkeypatch.setattr(smallest, "evaluate", judged)
    return smallest.smallest_circuit(SCORED, None, [], None, **options)  # type: ignore[arg-type]


@settings(max_examples=60, deadline=None)
@given(size=st.integers(1, LAYOUT.n_edges), sharpness=st.floats(0.01, 5))
def test_where_f_grows_it_is_the_first_that_clears(size: int, sharpness: float) -> None:
    with pytest.MonkeyPatch.context() as patch:
        result = found(lambda n: 0.9 * (n / size) ** sharpness, patch, f=0.9, bound="estimate")
    assert size <= result.circuit.n_edges <= max(size * smallest.CLOSE, size + 1)
    assert result.row.edges == result.circuit.n_edges
    counts = [row.edges for row in result.looked_at]
    assert counts == sorted(set(counts)) and len(counts) < 30


def test_of_a_line_that_goes_up_and_down_it_is_the_smallest_looked_at(monkeypatch: pytest.MonkeyPatch) -> None:
    result = found(lambda n: 1 + math.sin(n) / 3, monkeypatch, f=1.1, bound="estimate")
    clear = [row.edges for row in result.looked_at if row.faithfulness >= 1.1]
    assert result.circuit.n_edges == min(clear)


def test_the_interval_has_to_clear_f_unless_the_estimate_is_asked_for(monkeypatch: pytest.MonkeyPatch) -> None:
    def f_of(n: int) -> float:
        return n / LAYOUT.n_edges

    lower, estimate = (found(f_of, monkeypatch, f=0.5, bound=bound) for bound in ("lower", "estimate"))
    assert estimate.row.faithfulness >= 0.5 > estimate.row.faithfulness_low
    assert lower.row.faithfulness_low >= 0.5 and lower.row.edges > estimate.row.edges


def test_between_two_sizes_of_a_known_curve(monkeypatch: pytest.MonkeyPatch) -> None:
    wide, narrow = (
        found(lambda n: n / LAYOUT.n_edges, monkeypatch, f=0.5, bound="estimate", **options)
        for options in ({}, {"grid": (0.4, 0.6)})
    )
    assert len(narrow.looked_at) < len(wide.looked_at)
    assert narrow.looked_at[0].edges == round(0.4 * LAYOUT.n_edges)
    assert abs(narrow.circuit.n_edges - wide.circuit.n_edges) <= LAYOUT.n_edges / 100


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"grid": ()}, r"grid is \(\): it has to be shares of the edges"),
        ({"grid": (0.1, 1.5)}, r"grid is \(0.1, 1.5\): it has to be shares of the edges"),
        ({"f": 2.0, "grid": (0.1,)}, "up to .* edges, the largest of the grid: give it larger ones"),
        ({"f": 0.0}, "f is 0.0: it has to be above 0"),
        ({"f": 2.0}, "no circuit has an f of 2.0, nor the whole model"),
        ({"bound": "upper"}, "bound is one of 'lower', 'estimate'"),
    ],
)
def test_what_cannot_be_found_is_said(options: Any, message: str, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(ValueError, match=message):
        found(lambda n: 1.0, monkeypatch, **options)


def test_scores_are_needed() -> None:
    with pytest.raises(ValueError, match="has no scores to rank edges by"):
        smallest.smallest_circuit(Circuit.full(LAYOUT), None, [], None)  # type: ignore[arg-type]


def test_on_a_model_the_circuit_is_what_exact_ablation_says_it_is() -> None:
    data = IOIDataModule("tiny-ioi", n_train=16, n_val=16, n_test=1)
    search, ablation = EAP("tiny-ioi"), ABLATIONS.make("interchange")
    batches = list(data.val_dataloader())
    effects = torch.zeros(search.layout.n_edges)
    for batch in data.train_dataloader():
        effects += search.attribute(batch)[0].detach()
    scored = Circuit(search.layout, effects > 0, effects, {"ranking": "absolute"})
    result = smallest.smallest_circuit(scored, search.circuit_model, batches, ablation, f=0.8)
    [row] = [
        row
        for row in evaluate(search.circuit_model, batches, {"it": result.circuit}, [ablation], controls=False)
        if row.circuit == "it"
    ]
    assert row.faithfulness_low == result.row.faithfulness_low >= 0.8
    assert result.circuit.members.sum() == row.edges and scored.absolute
    kept = effects.abs()[result.circuit.members].min()
    assert (effects.abs()[~result.circuit.members] <= kept).all()


def test_a_curve_says_which_of_its_circuits_is_the_smallest() -> None:
    rows = [make_row("full", "interchange", 1000, 1.0), make_row("empty", "interchange", 0, 0.0)]
    places = {}
    for share, f in ((0.1, 0.6), (0.2, 0.92), (0.5, 0.7), (1.0, 1.0)):
        places[f"{share}"] = CurvePlace("signed", share)
        rows.append(make_row(f"{share}", "interchange", round(1000 * share), f))
    curve = Curve.of(rows, places, "EAP", "tiny", {})
    estimate, lower = (curve.smallest(0.9, bound) for bound in ("estimate", "lower"))
    assert estimate is not None and estimate.share == 0.2
    assert lower is not None and lower.faithfulness_low >= 0.9 and curve.smallest(3.0) is None
