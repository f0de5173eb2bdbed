"""Attention by role as a figure: every head stands where its ratios are, those that change sides are named."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import pytest

from lightning_circuits.drawing.attention_by_role import FARTHEST, attention_by_role_figure
from lightning_circuits.drawing.style import save
from lightning_circuits.evaluation.attention_by_role import HeadAttention
from tests.support.made_attention import make_head

NONE = (math.nan, math.nan, math.nan)
HEADS = [
    make_head("a8.h6", model=(1.05, 0.9, 1.2), circuit=(2.5, 2.0, 2.8)),  # crosses nothing for sure
    make_head("a7.h9", model=(0.5, 0.4, 0.7), circuit=(4.0, 3.0, 5.0)),
    make_head("a29.h10", model=(2.0, 1.5, 2.5), circuit=(0.5, 0.25, 0.75)),
    make_head("a0.h0", model=NONE, circuit=(1.5, 1.0, 2.0)),
]


def points(axes: Any) -> dict[tuple[float, float], bool]:
    """Where heads stand, and whether they are filled."""
    return {
        (float(line.get_xdata()[0]), float(line.get_ydata()[0])): line.get_markerfacecolor() != "white"
        for line in axes.get_lines()
        if line.get_marker() == "o"
    }


def intervals(axes: Any) -> set[tuple[tuple[float, float], ...]]:
    lines = [line for line in axes.get_lines() if line.get_marker() == "None" and line.get_alpha()]
    return {tuple(map(tuple, line.get_xydata().tolist())) for line in lines}


def test_heads_stand_at_their_ratios_and_are_named_where_they_change_sides(tmp_path: Path) -> None:
    figure = attention_by_role_figure(HEADS)
    [axes] = figure.axes
    assert points(axes) == {(1.05, 2.5): False, (0.5, 4.0): True, (2.0, 0.5): True}
    assert intervals(axes) == {
        *(((0.9, 2.5), (1.2, 2.5)), ((1.05, 2.0), (1.05, 2.8))),
        *(((0.4, 4.0), (0.7, 4.0)), ((0.5, 3.0), (0.5, 5.0))),
        *(((1.5, 0.5), (2.5, 0.5)), ((2.0, 0.25), (2.0, 0.75))),
    }
    assert {text.get_text(): text.xy for text in axes.texts} == {"a7.h9": (0.5, 4.0), "a29.h10": (2.0, 0.5)}
    assert axes.get_xscale() == axes.get_yscale() == "log" and axes.get_xlim() == axes.get_ylim()
    low, high = axes.get_xlim()
    assert low * high == pytest.approx(1) and high > 4  # even about 1, around every point
    title = axes.get_title(loc="left")
    assert title.startswith("END to S2 / IO\n")
    assert axes.get_xlabel().endswith("heads: 3; without a ratio: 1")
    assert title.endswith("interchange ablation, test split, 64 prompts")
    for suffix, again in zip((".png", ".svg"), save(figure, tmp_path / "a"), strict=True):
        assert again.read_bytes() == save(attention_by_role_figure(HEADS), tmp_path / "b", [suffix])[0].read_bytes()


def test_each_question_has_a_panel() -> None:
    other: HeadAttention = make_head("a7.h9", model=(0.5, 0.4, 0.7), circuit=(0.6, 0.4, 0.9), wrong="$IO_2")
    left, right = attention_by_role_figure([*HEADS, other]).axes
    assert len(points(left)) == 3 and points(right) == {(0.5, 0.6): False}
    assert right.get_title(loc="left").startswith("END to S2 / $IO_2\n") and not right.texts
    assert left.get_xlim() == right.get_ylim()


def test_what_lies_beyond_the_axes_stands_at_their_border() -> None:
    far = make_head("a1.h1", model=(0.0, 0.0, 1e-6), circuit=(1e7, 5.0, math.inf))
    [axes] = attention_by_role_figure([far]).axes
    assert axes.get_xlim() == pytest.approx((1 / FARTHEST, FARTHEST))
    assert points(axes) == {(1 / FARTHEST, FARTHEST): True}
    assert ((1 / FARTHEST, 5.0), (1 / FARTHEST, FARTHEST)) in intervals(axes)


def test_nothing_to_draw_is_said() -> None:
    for rows in ([], [HEADS[-1]]):
        with pytest.raises(ValueError, match=f"none of {len(rows)} heads has a confidence ratio in model and circuit"):
            attention_by_role_figure(rows)
