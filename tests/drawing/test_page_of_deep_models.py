"""The page of deep models and large circuits: names can be read at any width, and what is folded opens."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import combinations
from typing import Any

import pytest

from lightning_circuits.circuit import Circuit
from lightning_circuits.drawing.columns import in_columns
from lightning_circuits.layout import Layout
from tests.drawing.test_figures_on_a_page import MODELS, SPANS, heavy_tailed
from tests.support.browser import Page
from tests.support.drawn_circuits import ends

WIDTHS = [400, 900, 1400]


@pytest.fixture
def window(shown: Page) -> Iterator[Any]:
    """Sets the width of the window: that of one without a screen has no lower bound."""

    def resize(width: int, height: int = 800) -> None:
        size = {"width": width, "height": height, "deviceScaleFactor": 1, "mobile": False}
        shown.driver.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", size)

    yield resize
    shown.driver.execute_cdp_cmd("Emulation.clearDeviceMetricsOverride", {})


def boxes(shown: Page) -> list[dict[str, Any]]:
    return [box for box in shown.run("return circuitPage.boxes()") if not box["off"]]


@pytest.mark.parametrize("n_layers", MODELS)
@pytest.mark.parametrize("n", [50, 300, 5000])
def test_names_can_be_read_at_every_width_and_stand_apart(shown: Page, window: Any, n_layers: int, n: int) -> None:
    circuit = heavy_tailed(MODELS[n_layers], n)
    for width in WIDTHS:
        window(width)
        shown.open(circuit)
        assert shown.edges() == sorted(circuit.edge_names())
        drawn, view = boxes(shown), shown.find(".view").size["width"]
        assert all(box["size"] >= 10 for box in drawn)  # of the letters, in pixels
        assert min(box["x1"] for box in drawn) >= 0 and max(box["x2"] for box in drawn) <= view
        for one, other in combinations(drawn, 2):
            apart = max(
                one["x1"] - other["x2"], other["x1"] - one["x2"], one["y1"] - other["y2"], other["y1"] - one["y2"]
            )
            assert apart >= -1, (one["name"], other["name"])
        assert shown.run("return document.documentElement.scrollWidth <= window.innerWidth")


def test_the_whole_width_is_used(shown: Page, window: Any) -> None:
    for width in WIDTHS:
        window(width)
        shown.open(heavy_tailed(MODELS[30], 5000))
        drawn, view = boxes(shown), shown.find(".view").size["width"]
        assert max(box["x2"] for box in drawn) - min(box["x1"] for box in drawn) > 0.6 * view


def test_layers_without_a_node_take_no_room_until_they_are_asked_for(shown: Page) -> None:
    circuit = heavy_tailed(MODELS[80], 40)
    shown.open(circuit)

    def height() -> float:
        return float(
            shown.run("return circuitPage.where('input').y - circuitPage.where('logits').y")
            / shown.run("return circuitPage.boxes()[0].size")
        )

    folded = height()
    shown.find("#folded").click()
    shown.settle()
    assert height() > 2 * folded
    assert shown.edges() == sorted(circuit.edge_names())
    shown.find("#folded").click()
    shown.settle()
    assert height() == pytest.approx(folded)


def drawn_edges(shown: Page) -> list[str]:
    return [edge for strand in shown.run("return circuitPage.strands()") for edge in strand]


@pytest.mark.parametrize("spans", [False, True], ids=["plain", "spans"])
def test_of_many_edges_all_are_in_a_line_and_a_click_opens_those_of_a_box(shown: Page, spans: bool) -> None:
    layout = MODELS[12].in_spans(SPANS) if spans else MODELS[12]
    circuit = heavy_tailed(layout, 3000)
    shown.open(circuit)
    assert set(drawn_edges(shown)) == set(circuit.edge_names())
    strands = shown.run("return circuitPage.strands()")
    assert len(strands) < in_columns(circuit).number_of_edges() and max(map(len, strands)) > 1
    groups = [box for box in boxes(shown) if box["name"].startswith("+")]
    assert groups
    size = shown.find(".view").size
    inside = [box for box in groups if box["y1"] > 60 and box["y2"] < size["height"] and box["x2"] < size["width"]]
    box = inside[0]
    before = len(boxes(shown))
    shown.pointer({"x": (box["x1"] + box["x2"]) / 2, "y": (box["y1"] + box["y2"]) / 2}).click().perform()
    shown.settle()
    shown.run("return new Promise((done) => setTimeout(done, 400))")
    assert len(boxes(shown)) == before - 1 + int(box["name"][1:])
    assert set(drawn_edges(shown)) == set(circuit.edge_names()) == set(shown.edges())
    shown.find("#refold").click()
    shown.settle()
    assert len(boxes(shown)) == before


def test_a_bundle_opens_into_its_edges(shown: Page) -> None:
    circuit = heavy_tailed(MODELS[12], 3000)
    shown.open(circuit)
    strands = shown.run("return circuitPage.strands()")
    for bundle in sorted(strands, key=len, reverse=True):
        shown.pointer(place := shown.run("return circuitPage.midway(arguments[0])", bundle[0])).perform()
        if (
            shown.find("#tip").is_displayed()
            and "a click opens them" in shown.text("#tip")
            and "edges" in shown.text("#tip")
        ):
            break
    n = int(shown.text("#tip").split()[0].replace(",", ""))
    shown.pointer(place).click().perform()
    shown.run("return new Promise((done) => setTimeout(done, 400))")
    shown.settle()
    assert shown.text("#selected").startswith(f"{n} edges from ")
    listed = shown.driver.find_elements("css selector", "#details button")
    assert len(listed) == min(n, 50)
    names = [button.text.split("\n")[0] for button in listed]
    assert set(names) <= set(circuit.edge_names())
    lines = [strand for strand in shown.run("return circuitPage.strands()") if names[0] in strand]
    assert lines == [[names[0]]]


def test_search_opens_the_box_of_a_head_that_is_folded(shown: Page) -> None:
    circuit = heavy_tailed(MODELS[12], 3000)
    shown.open(circuit)
    own = {box["name"] for box in boxes(shown)}
    head = sorted(name for name in ends(circuit) - own if name.startswith("a"))[0]
    shown.keys("#search", head, "\ue007")
    assert shown.text("#selected") == f"Paths of {head}"
    assert head in {box["name"] for box in boxes(shown)}


def test_the_slider_let_go_leaves_the_picture_of_what_is_left(shown: Page) -> None:
    circuit = heavy_tailed(MODELS[12], 3000)
    shown.open(circuit)
    shown.keys("#slider", "\ue011")  # the strongest edge alone
    assert len(shown.edges()) == 1
    assert {box["name"] for box in shown.run("return circuitPage.boxes()")} == {"input", "logits"} | {
        name for name in shown.nodes()
    }
    shown.keys("#slider", "\ue010")
    assert shown.edges() == sorted(circuit.edge_names())


def test_a_model_without_edges_has_its_ends(shown: Page, window: Any) -> None:
    window(400)
    shown.open(Circuit.empty(Layout(80, 4, 8)))
    assert [box["name"] for box in boxes(shown)] == ["input", "logits"]
