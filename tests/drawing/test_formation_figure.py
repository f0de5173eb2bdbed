"""The figure of a formation: what is drawn is what was measured, and whatever was measured can be drawn."""

from __future__ import annotations

import math
import warnings
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from matplotlib.figure import Figure

from lightning_circuits.drawing.formation import MOST, formation_figure
from lightning_circuits.drawing.style import save
from lightning_circuits.evaluation.formation import Formation, Moment
from tests.support.made_formation import LAYOUT, make_formation


def lines(figure: Figure, panel: int) -> list[list[tuple[float, float]]]:
    """Of a panel, the lines with more than two points."""
    drawn = (np.asarray(line.get_xydata(), dtype=float).tolist() for line in figure.axes[panel].get_lines())
    return [[(x, y) for x, y in points] for points in drawn if len(points) > 2]


def test_each_line_is_what_was_measured() -> None:
    formation = make_formation(f=(0.2, 0.5, 0.95))
    figure = formation_figure(formation, "20 edges")
    accuracy = [
        [(row_step, row.accuracy) for row_step, row in zip(formation.steps, formation.rows(name), strict=True)]
        for name in ("full", "empty", "20 edges")
    ]
    assert lines(figure, 0) == accuracy
    [faithfulness] = lines(figure, 1)
    assert faithfulness == [(0, 0.2), (10, 0.5), (30, 0.95)]
    chance, overlap = lines(figure, 2)
    found = formation.overlaps("20 edges")
    assert [y for _, y in overlap] == [each.iou for each in found if each] and overlap[-1] == (30, 1.0)
    assert [y for _, y in chance] == [each.expected for each in found if each]


def test_cells_are_the_edges_at_heads_and_mlps() -> None:
    formation = make_formation()
    figure = formation_figure(formation, "20 edges")
    carriers = figure.axes[3]
    names = [label.get_text() for label in carriers.get_yticklabels()]
    counts = formation.edges_at("20 edges")
    touched = [name for name, most in zip(LAYOUT.writer_names, counts.max(0).values, strict=True) if most]
    assert names == [name for name in touched if name != "input"] and len(names) <= MOST
    drawn = carriers.collections[0].get_array().reshape(len(names), 3)
    assert drawn.tolist() == [counts[:, LAYOUT.writer_names.index(name)].tolist() for name in names]
    borders = carriers.collections[0].get_coordinates()[0, :, 0].tolist()
    assert borders == [-5, 5, 20, 40]
    ticks = carriers.get_xticks()
    assert min(ticks) >= 0 and max(ticks) <= 30


def test_it_says_what_was_measured_and_how() -> None:
    figure = formation_figure(make_formation(name="mean"), "20 edges")
    assert figure.get_suptitle() == f"gpt2\ncircuit of 20 of {LAYOUT.n_edges:,} edges by EAP"
    assert figure.axes[0].get_title(loc="left") == "mean ablation, mean split, 50 prompts"
    assert figure.axes[1].get_ylabel() == "faithfulness f"
    formation = make_formation()
    by_kl = [Moment(m.step, [replace(row, measure="kl") for row in m.rows], m.members) for m in formation.moments]
    assert formation_figure(replace(formation, moments=by_kl)).axes[1].get_ylabel() == "faithfulness f\nby kl"
    words = [text.get_text() for text in figure.legends[0].get_texts()]
    assert words == ["full model", "empty circuit", "circuit", "faithful enough (0.9)", "as many edges at random"]
    with pytest.raises(ValueError, match="no circuit of '1%' was looked at"):
        formation_figure(formation, "1%")


@pytest.mark.parametrize(
    "formation",
    [
        make_formation(steps=(7,), f=(0.5,)),
        make_formation(f=(math.nan, math.nan, math.nan)),
        make_formation(f=(math.nan, 0.5, 0.9)),
        make_formation(f=(-1e6, 1e6, 0.9)),
        make_formation({"none": 0}, steps=(0, 10), f=(0.0, 0.0)),
        make_formation({"none": 0}, steps=(3,), f=(math.nan,)),
        make_formation(steps=(0, 1, 100_000)),
    ],
)
def test_whatever_was_measured_is_drawn(formation: Formation, tmp_path: Path) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        once = [path.read_bytes() for path in save(formation_figure(formation), tmp_path / "once")]
        again = [path.read_bytes() for path in save(formation_figure(formation), tmp_path / "again")]
    assert once == again and len(once) == 2


def test_what_lies_far_outside_is_a_triangle_at_the_border() -> None:
    figure = formation_figure(make_formation(f=(-40.0, 1.2, 30.0)))
    low, high = figure.axes[1].get_ylim()
    assert low > -0.7 and high < 1.7
    markers = [line.get_marker() for line in figure.axes[1].get_lines()]
    assert markers.count("v") == markers.count("^") == 1
