"""Figures of curves: what is drawn is what was measured, in grey too, and the same bytes each time."""

from __future__ import annotations

import itertools
import math
import xml.etree.ElementTree as ET
from dataclasses import replace
from pathlib import Path

import pytest
from matplotlib.colors import to_rgb
from matplotlib.figure import Figure

from lightning_circuits.drawing.curves import curve_figure, pareto_figure
from lightning_circuits.drawing.style import N_COLOURS, N_STYLES, RANDOM_STYLE, line_style, save
from lightning_circuits.evaluation.comparison import ParetoPoint
from tests.support.made_curves import in_spans, make_curve

EAP = make_curve({"signed": {0.01: 0.2, 0.1: 0.7, 1.0: 1.0}, "absolute": {0.01: 0.1, 0.1: 0.8, 1.0: 1.0}})
GATES = make_curve({"signed": {0.01: 0.9, 0.1: 1.2, 1.0: 1.0}}, "EdgePruning", ablations=("interchange", "mean"))


def xy(axes, label_of) -> dict:
    return {tuple(map(tuple, line.get_xydata().tolist())): line for line in axes.get_lines() if label_of(line)}


def test_each_line_is_its_points_under_its_ablation() -> None:
    figure = curve_figure({"EAP": EAP, "gates": GATES}, ("faithfulness",))
    left, right = figure.axes
    drawn = xy(left, lambda line: len(line.get_xydata()) == 3)
    expected = {
        ((0.01, 0.2), (0.1, 0.7), (1.0, 1.0)),
        ((0.01, 0.1), (0.1, 0.8), (1.0, 1.0)),
        ((0.01, 0.9), (0.1, 1.2), (1.0, 1.0)),
        ((0.01, 0.05), (0.1, 0.05), (1.0, 0.05)),  # random, once for both
    }
    assert set(drawn) == expected
    assert len(xy(right, lambda line: len(line.get_xydata()) == 3)) == 2  # EAP was not measured under mean ablation
    assert left.get_xscale() == "log" and left.get_ylabel() == "faithfulness f"
    assert left.get_title(loc="left") == "interchange ablation, test split, 50 prompts"
    assert [text.get_text() for text in figure.legends[0].get_texts()] == [
        "EAP, signed",
        "EAP, absolute",
        "gates",
        "random edges",
        "full model",
        "empty circuit",
    ]


def test_the_axis_names_the_measure_where_it_is_not_the_logit_difference() -> None:
    by_kl = replace(GATES, rows=[replace(row, measure="kl") for row in GATES.rows])
    faithfulness, kl, _ = curve_figure({"gates": by_kl}, ("faithfulness", "kl", "accuracy")).axes[:3]
    assert faithfulness.get_ylabel() == "faithfulness f\nby kl" and kl.get_ylabel() == "KL from the full model (nats)"


def test_a_circuit_of_no_edges_has_no_place_on_the_axis() -> None:
    """A share of a small model may be none: the rest is drawn as it is without."""
    some = {0.01: 0.9, 0.1: 1.2, 1.0: 1.0}
    with_none, without = (
        curve_figure({"gates": make_curve({"signed": line}, random=False)}, ("faithfulness", "kl"))
        for line in ({0.0001: 0.0, **some}, some)  # of a thousand edges none
    )
    for figure in (with_none, without):
        figure.draw_without_rendering()
    for one, other in zip(with_none.axes, without.axes, strict=True):
        assert one.get_xlim() == other.get_xlim()
        assert one.get_position().bounds == pytest.approx(other.get_position().bounds)


def test_size_may_be_counted_in_edges_and_several_numbers_have_panels() -> None:
    figure = curve_figure({"gates": GATES}, ("faithfulness", "kl", "accuracy"), x="edges")
    assert len(figure.axes) == 6
    faithfulness, kl = figure.axes[:2]
    assert ((10, 0.9), (100, 1.2), (1000, 1.0)) in xy(faithfulness, lambda line: True)
    points = [row.kl for row in GATES.points("interchange", "signed")]
    assert tuple(zip((10, 100, 1000), points, strict=True)) in xy(kl, lambda line: True)
    assert figure.axes[-1].get_xlabel() == "edges kept (of 1,000)" and "nats" in kl.get_ylabel()


def luminance(colour: str) -> float:
    """How light a colour is in a grey print, 0 to 1."""
    red, green, blue = to_rgb(colour)
    return 0.299 * red + 0.587 * green + 0.114 * blue


def marker(style: dict) -> tuple[str, bool]:
    """Shape, and whether it is hollow."""
    return style["marker"], style["markerfacecolor"] == "white"


def test_curves_in_spans_and_without_stand_over_their_token_edges() -> None:
    plain = make_curve({"signed": {0.01: 0.9, 0.1: 1.2, 1.0: 1.0}}, random=False)
    figure = curve_figure({"a": plain, "b": in_spans(plain, "S2", "END")}, x="token-edges")
    drawn = [line.get_xdata().tolist() for line in figure.axes[0].get_lines()[:2]]
    edges = [row.edges for row in plain.points("interchange", "signed")]
    assert drawn == [[7.5 * n for n in edges], [3 * n for n in edges]]
    assert figure.axes[0].get_xlabel() == "token-edges kept, in the mean over prompts"


def test_twelve_lines_can_be_told_apart_in_colour_and_in_grey() -> None:
    styles = [line_style(i) for i in range(N_COLOURS)]
    assert N_COLOURS == len({style["color"] for style in styles}) == len(set(map(marker, styles))) == 12
    for one, other in itertools.pairwise(styles):
        assert abs(luminance(one["color"]) - luminance(other["color"])) > 0.2
        assert one["linestyle"] != other["linestyle"]


def test_beyond_twelve_lines_marker_and_dashes_still_tell_and_then_it_is_refused() -> None:
    styles = [line_style(i) for i in range(N_STYLES)]
    assert len({(*marker(style), style["linestyle"]) for style in styles}) == N_STYLES == 36
    with pytest.raises(ValueError, match="more than 36 lines in one figure cannot be told apart"):
        line_style(N_STYLES)


def test_random_edges_look_like_no_method() -> None:
    for i in range(N_STYLES):
        for key, value in line_style(i).items():
            assert RANDOM_STYLE.get(key) != value


def test_a_method_keeps_its_style_when_others_come_after_it() -> None:
    def drawn(figure: Figure) -> list[tuple]:
        return [(line.get_color(), line.get_marker()) for line in figure.axes[0].get_lines()]

    few, more = (curve_figure({f"run {i}": GATES for i in range(n)}) for n in (2, 5))
    assert drawn(few)[:2] == drawn(more)[:2]
    random = [line for line in more.axes[0].get_lines() if line.get_color() == RANDOM_STYLE["color"]]
    assert len(random) == 1


def test_what_lies_far_outside_is_marked_and_does_not_flatten_the_rest() -> None:
    curve = make_curve({"signed": {0.01: -30.0, 0.1: 0.7, 1.0: 1.0}}, random=False)
    [axes] = curve_figure({"x": curve}).axes
    bottom, top = axes.get_ylim()
    assert -1 < bottom < 0 and 1 < top < 2.2
    [mark] = [line for line in axes.get_lines() if line.get_marker() == "v"]
    assert mark.get_xdata()[0] == 0.01 and mark.get_transform() == axes.get_xaxis_transform()


def test_a_number_that_does_not_exist_is_left_out() -> None:
    curve = make_curve({"signed": {0.01: math.nan, 0.1: 0.7, 1.0: 1.0}}, random=False)
    assert math.isnan(curve.areas("interchange", "signed").cpr)
    [axes] = curve_figure({"x": curve}).axes
    assert ((0.1, 0.7), (1.0, 1.0)) in xy(axes, lambda line: True)


def test_nothing_to_draw_is_said() -> None:
    with pytest.raises(ValueError, match="no curve to draw"):
        curve_figure({})
    with pytest.raises(ValueError, match="no circuit to draw"):
        pareto_figure({}, "share", "kl", "gpt2", 10)


def test_files_are_the_same_bytes_each_time_and_text_stays_text(tmp_path: Path) -> None:
    curves = {"EAP": EAP, "gates": GATES}
    paths = save(curve_figure(curves), tmp_path / "one.two")
    again = save(curve_figure(curves), tmp_path / "again")
    assert [path.name for path in paths] == ["one.two.png", "one.two.svg"]
    for path, other in zip(paths, again, strict=True):
        assert path.read_bytes() == other.read_bytes()
    words = {"".join(node.itertext()) for node in ET.parse(paths[1]).iter() if node.tag.endswith("text")}
    assert {"EAP, signed", "random edges", "faithfulness f", "gpt2", "mean ablation, test split, 50 prompts"} <= words
    assert {path.name for path in tmp_path.iterdir()} == {path.name for path in [*paths, *again]}  # nothing temporary


def test_more_runs_than_styles_are_one_cloud() -> None:
    def points(n: int) -> list[ParetoPoint]:
        row = EAP.points("interchange", "signed")[0]
        return [
            ParetoPoint(f"run {i}", "EAP", 10 + i, 1 / (i + 1), True, replace(row, edges=10 + i, kl=1 / (i + 1)))
            for i in range(n)
        ]

    few = pareto_figure({"title": points(3)}, "edges", "kl", "gpt2", 100)
    many = pareto_figure({"title": points(30)}, "token-edges", "faithfulness", "gpt2", 100)
    assert [t.get_text() for t in few.legends[0].get_texts()] == ["run 0", "run 1", "run 2", "Pareto front"]
    assert [t.get_text() for t in many.legends[0].get_texts()] == ["circuits of 30 runs", "Pareto front"]
    assert many.axes[0].get_ylabel() == "distance |1 - f|"
    front = few.axes[0].get_lines()[-1]
    assert few.axes[0].xaxis.get_zorder() < front.get_zorder()  # the grid runs along it, and would hide it
    assert few.axes[0].get_xlabel().startswith("edges") and many.axes[0].get_xlabel().startswith("token-edges")


def test_drawing_leaves_no_trace_in_the_user_s_matplotlib(tmp_path: Path) -> None:
    import matplotlib
    from matplotlib import pyplot

    before = dict(matplotlib.rcParams)
    save(curve_figure({"EAP": EAP}), tmp_path / "x")
    assert dict(matplotlib.rcParams) == before and pyplot.get_fignums() == []


@pytest.mark.parametrize("ys", [("faithfulness",), ("faithfulness", "kl")])
def test_long_names_stay_within_the_figure(ys: tuple[str, ...]) -> None:
    figure = curve_figure({f"InformationFlowRoutes of run {i}": EAP for i in range(5)}, ys)
    figure.canvas.draw()
    [legend] = figure.legends
    box, paper = legend.get_window_extent(), figure.bbox
    assert paper.x0 <= box.x0 and box.x1 <= paper.x1 and paper.y0 <= box.y0 and box.y1 <= paper.y1
