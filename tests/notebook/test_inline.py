"""The page in a frame: what is in it is the page, and a browser draws it there."""

from __future__ import annotations

import html
import re
import time
from pathlib import Path
from typing import Any

import pytest
import torch

from lightning_circuits import Circuit, show
from lightning_circuits.drawing.page import page_html
from lightning_circuits.layout import Layout
from tests.drawing.conftest import driver as driver

LAYOUT = Layout(n_layers=2, n_heads=2, d_model=8)


def circuit() -> Circuit:
    scores = torch.randn(LAYOUT.n_edges, generator=torch.Generator().manual_seed(0))
    return Circuit(LAYOUT, scores > 0, scores, {"method": '"</iframe><script>alert(1)</script>'})


def test_the_frame_holds_the_page_and_nothing_gets_out_of_it() -> None:
    shown = show(circuit(), height=300)
    frame = shown._repr_html_()
    assert re.findall(r"<\w+", frame) == ["<iframe"] and "height: 300px" in frame
    [source] = re.findall(r'srcdoc="([^"]*)"', frame)
    assert html.unescape(source) == page_html(circuit())
    assert 'sandbox="allow-scripts"' in frame
    assert "save_page" in repr(shown) and len(repr(shown)) < 200


def test_two_circuits_and_a_curve_go_on_as_they_are() -> None:
    other = circuit().complement()
    assert show(circuit(), other).html == page_html(circuit(), other)


def test_a_frame_without_height_is_refused() -> None:
    with pytest.raises(ValueError, match="a frame of 0 pixels"):
        show(circuit(), height=0)


@pytest.mark.slow
def test_a_browser_draws_it_in_its_frame(driver: Any, tmp_path: Path) -> None:
    file = tmp_path / "notebook.html"
    file.write_text(f"<!doctype html><body>{show(circuit())._repr_html_()}</body>")
    driver.get(file.as_uri())
    driver.switch_to.frame(0)
    deadline = time.monotonic() + 60
    while not driver.execute_script("return Boolean(window.circuitPage) && circuitPage.idle()"):
        assert time.monotonic() < deadline, "the page in the frame does not settle"
        time.sleep(0.05)
    edges = driver.execute_script("return circuitPage.edges(3)")
    assert sorted(edges) == sorted(circuit().edge_names())
    driver.switch_to.default_content()
