"""Heat map, scatter and Markdown of transfer: every cell is there, in its place, and says what was measured."""

from __future__ import annotations

import math
from dataclasses import replace
from pathlib import Path

import pytest
from matplotlib.colors import to_hex
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle

from lightning_circuits.drawing.style import line_style, save
from lightning_circuits.drawing.transfer import matrix_figure, scatter_figure, transfer_markdown
from lightning_circuits.evaluation.transfer import match_of
from tests.support.made_transfer import make_transfer

NAMES = ("ioi", "capital", "gender")


def cells(figure: Figure) -> list[dict[tuple[int, int], list[str]]]:
    """Of each panel of the matrix, the words by row and column."""
    found = []
    for axes in figure.axes[:-1]:  # the last is the colour bar
        words: dict[tuple[int, int], list[str]] = {}
        for text in axes.texts:
            x, y = text.get_position()
            words.setdefault((int(y), int(x)), []).append(text.get_text())
        found.append(words)
    return found


def test_every_cell_says_its_number_and_interval() -> None:
    found = make_transfer(NAMES, ablations=("interchange", "zero"))
    figure = matrix_figure(found)
    panels = cells(figure)
    assert len(panels) == 4
    for i, (words, columns) in enumerate(zip(panels, [found.circuits, found.controls] * 2, strict=True)):
        ablation = found.ablations[i // 2]
        assert len(words) == len(NAMES) * len(columns)
        for (y, x), (number, interval) in words.items():
            row = found.row(NAMES[y], columns[x], ablation)
            assert float(number) == pytest.approx(row.faithfulness, abs=0.0051)
            low, high = map(float, interval.split(".."))
            assert (low, high) == pytest.approx((row.faithfulness_low, row.faithfulness_high), abs=0.0051)
    assert [label.get_text() for label in figure.axes[2].get_xticklabels()] == list(NAMES)
    assert [label.get_text() for label in figure.axes[3].get_xticklabels()] == ["random", *map(match_of, NAMES)]
    assert [label.get_text() for label in figure.axes[0].get_yticklabels()] == list(NAMES)
    assert figure.axes[0].get_ylim() == (3, 0)  # the first data above


def test_colours_follow_the_numbers_and_own_tasks_have_a_frame() -> None:
    found = make_transfer(NAMES, data=("capital", "other", "ioi"))
    left, right, _ = matrix_figure(found).axes
    values = left.collections[0].get_array().reshape(3, 3)
    assert values.tolist() == [
        [found.row(data, circuit).faithfulness for circuit in NAMES] for data in ("capital", "other", "ioi")
    ]
    for axes, columns in ((left, [1, 0]), (right, [2, 1])):
        framed = [(int(p.get_y()), int(p.get_x())) for p in axes.patches if isinstance(p, Rectangle)]
        assert framed == [(0, columns[0]), (2, columns[1])]


def test_words_stand_out_from_their_cells_and_what_does_not_exist_is_a_dash() -> None:
    found = make_transfer(NAMES)
    rows = [replace(row, faithfulness=math.nan) if row.circuit == "ioi" else row for row in found.rows]
    figure = matrix_figure(replace(found, rows=rows))
    left = figure.axes[0]
    assert cells(figure)[0][0, 0][0] == "-"
    inks = {text.get_text(): to_hex(text.get_color()) for text in left.texts}
    assert inks["0.90"] == "#ffffff" and inks["-"] == "#000000"


def test_the_scatter_has_a_point_for_each_circuit_on_the_data_of_another(tmp_path: Path) -> None:
    found = make_transfer(NAMES, data=(*NAMES, "other"))
    figure = scatter_figure(found)
    correlation = found.correlation("interchange", "nodes", "layer")
    for axes, of, rho in zip(figure.axes, ("iou", "z"), (correlation.iou, correlation.z), strict=True):
        drawn = {
            (*map(float, line.get_xydata()[0]), to_hex(line.get_color()), line.get_marker())
            for line in axes.get_lines()
            if len(line.get_xydata()) == 1
        }
        pairs = found.pairs("interchange", "nodes", "layer")
        assert drawn == {
            (
                getattr(pair.overlap, of),
                pair.row.faithfulness,
                line_style(NAMES.index(pair.row.circuit))["color"].lower(),
                line_style(NAMES.index(pair.row.data))["marker"],
            )
            for pair in pairs
        }
        assert len(drawn) == 6
        assert axes.get_title(loc="left") == f"interchange ablation: Spearman's rho {rho:.2f}, 6 pairs"
    [legend] = figure.legends
    assert [text.get_text() for text in legend.get_texts()] == list(NAMES)
    assert [path.stat().st_size > 1000 for path in save(figure, tmp_path / "scatter")] == [True, True]


def test_a_scatter_without_pairs_is_refused() -> None:
    with pytest.raises(ValueError, match="no pair to draw"):
        scatter_figure(make_transfer(("ioi", "capital"), data=("other",)))


def test_markdown_has_every_number() -> None:
    found = make_transfer(("ioi", "a|b"), ablations=("interchange", "zero"))
    text = transfer_markdown(found)
    tables = [
        [[cell.strip() for cell in line.replace("\\|", "¦").strip("|").split("|")] for line in part.splitlines()]
        for part in text.split("\n\n")
        if part.startswith("|")
    ]
    matrix = tables[1]
    assert matrix[0] == ["data", "ioi", "a¦b", "random", "ioi paths", "a¦b paths"] and set(matrix[1]) == {"---"}
    for line, data in zip(matrix[2:], found.data, strict=True):
        assert line[0] == f"{data.replace('|', '¦')} (100%)"
        for cell, name in zip(line[1:], (*found.circuits, *found.controls), strict=True):
            row = found.row(data, name, "zero")
            f, low, high = (
                f"{value:.2f}".replace("-0.00", "0.00")
                for value in (row.faithfulness, row.faithfulness_low, row.faithfulness_high)
            )
            assert cell == f"{f} [{low}..{high}], {row.accuracy:.0%}"
    sizes, shared, correlations = tables[2:]
    assert sizes[2] == ["ioi", "100", "99"] and len(shared) == 2 + 4 and len(correlations) == 2 + 8
