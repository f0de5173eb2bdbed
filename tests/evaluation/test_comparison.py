"""Curves side by side: which compare, what a reader is told, and which circuits nothing betters."""

from __future__ import annotations

import math
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lightning_circuits.evaluation.comparison import comparable, lines_of, measured_on, pareto_points, shared_part
from lightning_circuits.evaluation.curve import Curve
from tests.support.made_curves import BETTER, F, in_spans, make_curve


def test_lines_have_a_ranking_in_their_name_only_where_there_are_two() -> None:
    both, one = make_curve({"signed": F, "absolute": F}), make_curve({"signed": F}, ablations=("interchange", "mean"))
    lines = lines_of({"EAP": both, "gates": one})
    assert list(lines) == ["EAP, signed", "EAP, absolute", "gates", "random edges"]
    assert lines["random edges"].curve is one  # that of most ablations


def test_what_was_measured_under_an_ablation_of_one_alone_is_left_out() -> None:
    one, other = make_curve({"signed": F}, ablations=("mean", "interchange")), make_curve({"signed": F}, prompts=1234)
    shared = shared_part({"one": one, "other": other})
    assert shared["one"] == make_curve({"signed": F}) and shared["other"] == other
    assert measured_on(shared) == "test split, 50 or 1,234 prompts"


def test_other_models_and_ablations_are_refused() -> None:
    gpt2 = make_curve({"signed": F})
    with pytest.raises(ValueError, match=r"different models.*a: gpt2, 1,000 edges; b: llama"):
        comparable({"a": gpt2, "b": make_curve({"signed": F}, model="llama")})
    with pytest.raises(ValueError, match=r"different ablations, none of them in common .*b: mean"):
        comparable({"a": gpt2, "b": make_curve({"signed": F}, ablations=("mean",))})


def test_edges_in_other_spans_are_refused_whatever_their_number() -> None:
    plain = make_curve({"signed": F})
    placed = [in_spans(plain, "S2", "END"), in_spans(plain, "S1", "END")]
    assert comparable({"a": placed[0], "b": placed[0]}) == []
    for other in (plain, placed[1]):
        with pytest.raises(ValueError, match=r"a share .*a: S2, END; b: (none|S1, END)\. .*--x token-edges"):
            comparable({"a": placed[0], "b": other})


def test_edges_in_other_spans_compare_by_token_edges_and_each_kind_has_its_random_circuits() -> None:
    plain = make_curve({"signed": F})
    curves = {"a": plain, "b": in_spans(plain, "S2", "END"), "c": in_spans(plain, "S2", "END")}
    (note,) = comparable(curves, "token-edges")
    assert note == "different spans: a: none; b: S2, END; c: S2, END; shares and areas are of the edges of each"
    lines = lines_of(curves)
    assert list(lines) == ["a", "b", "c", "random edges", "random edges in spans"]
    assert lines["random edges"].curve is plain and lines["random edges in spans"].curve is not plain
    with pytest.raises(ValueError, match="different models"):
        comparable(curves | {"d": in_spans(make_curve({"signed": F}, model="llama"), "S2")}, "token-edges")
    rows = [replace(row, token_edges=math.nan) for row in plain.rows]
    with pytest.raises(ValueError, match="not counted yet when old was measured"):
        comparable(curves | {"old": replace(plain, rows=rows)}, "token-edges")


def test_what_makes_a_comparison_less_than_fair_is_noted() -> None:
    data = {"data": "IOIDataModule", "seed": 0}
    one = make_curve({"signed": F}, metadata={"data": data})
    assert comparable({"a": one, "b": make_curve({"signed": BETTER}, metadata={"data": data})}) == []
    other = make_curve(
        {"signed": {0.1: 0.7, 1.0: 1.0}},
        ablations=("interchange", "mean"),
        prompts=20,
        metadata={"data": data | {"seed": 1}},
    )
    notes = comparable({"a": one, "b": other})
    assert notes == [
        "b was measured under mean ablation too, not all others were: left out",
        "different numbers of prompts: a: 50; b: 20",
        "different data: a: seed 0; b: seed 1",
        "different sizes, so that CPR, CMD and log-x area are over different ranges: a: 1%, 10%, 50%, 100%; "
        "b: 10%, 100%",
    ]


@given(
    st.lists(st.dictionaries(st.sampled_from([0.01, 0.02, 0.1, 0.5, 1.0]), st.floats(-2, 3), min_size=2), max_size=4)
)
def test_the_front_is_what_nothing_else_betters(curves: list[dict[float, float]]) -> None:
    made: dict[str, Curve] = {f"run {i}": make_curve({"signed": f}, random=i == 0) for i, f in enumerate(curves)}
    points = pareto_points(made, "interchange", "edges", "faithfulness")
    assert len(points) == sum(map(len, curves))
    for point in points:
        dominated = point.distance >= 1 or any(  # where the empty circuit is
            other.row.edges <= point.row.edges
            and other.distance <= point.distance
            and (other.row.edges, other.distance) != (point.row.edges, point.distance)
            for other in points
        )
        if dominated:
            assert not point.front
        else:  # of equals, one
            equals = [p for p in points if (p.row.edges, p.distance) == (point.row.edges, point.distance)]
            assert sum(p.front for p in equals) == 1


def test_metadata_of_a_file_may_be_anything() -> None:
    odd = [make_curve({"signed": F}, metadata={"data": data, "model_hash": ["x"]}) for data in ([1], "x", 3, None)]
    odd.append(make_curve({"signed": F}, metadata={"spans": "x", "model_hash": ["x"]}))
    assert comparable({f"run {i}": curve for i, curve in enumerate(odd)}) == []


def test_no_line_hides_another_of_its_name() -> None:
    one, two = make_curve({"signed": F}), make_curve({"signed": F, "absolute": F})
    lines = lines_of({"EAP, signed": one, "EAP": two, "random edges": one})
    assert list(lines) == ["EAP, signed", "EAP, signed (2)", "EAP, absolute", "random edges", "random edges (2)"]
    assert lines["random edges (2)"].ranking == "random"
