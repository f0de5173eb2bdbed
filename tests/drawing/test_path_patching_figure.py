"""The heat map of path patching: a panel a role, a number in every cell that there is, bold if it is sure."""

from __future__ import annotations

import pytest

from lightning_circuits.drawing.path_patching import path_patching_figure
from lightning_circuits.evaluation.metrics import Estimate
from lightning_circuits.evaluation.path_patching import PathEffect


def effect(sender: str, receiver: str, role: str, value: float, width: float = 0.1) -> PathEffect:
    found = Estimate(value, value - width, value + width)
    return PathEffect(sender, receiver, role, found, 3.0, "logit_difference", "interchange", True, "test", 64)


def test_every_path_has_its_number_in_its_cell() -> None:
    rows = [
        effect("a0.h1", "a2.h0<q>", "S2", -1.25),
        effect("a0.h1", "logits", "S2", 0.05),
        effect("a2.h1", "logits", "S2", 0.5),
        effect("a0.h1", "a2.h0<q>", "END", 0.0),
        effect("a0.h1", "logits", "END", 1.0),
        effect("a2.h1", "logits", "END", -0.75),
    ]
    figure = path_patching_figure(rows)
    *panels, bar = figure.axes
    assert [axes.get_title("left") for axes in panels] == ["at S2", "at END"]
    assert [tick.get_text() for tick in panels[0].get_yticklabels()] == ["a0.h1", "a2.h1"]
    assert [tick.get_text() for tick in panels[0].get_xticklabels()] == ["a2.h0<q>", "logits"]
    for axes, role in zip(panels, ("S2", "END"), strict=True):
        cells = {tuple(int(at) for at in text.get_position()): text for text in axes.texts}
        assert len(cells) == 3, "a2.h1 does not come before a2.h0: its cell is empty"
        for row in rows:
            if row.role == role:
                at = (["a2.h0<q>", "logits"].index(row.receiver), ["a0.h1", "a2.h1"].index(row.sender))
                assert cells[at].get_text() == f"{row.effect.value:.2f}"
                assert (cells[at].get_fontweight() == "bold") is (abs(row.effect.value) > 0.1)
    assert bar.get_ylabel() == "effect, logit difference"
    assert "F(M) = 3.00, paths through MLPs too" in figure.get_suptitle()


def test_nothing_is_not_drawn() -> None:
    with pytest.raises(ValueError, match="no path to draw"):
        path_patching_figure([])
