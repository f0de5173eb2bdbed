"""The page in a browser: two circuits, foreign text, all sizes of circuits and windows, light and dark."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from dataclasses import replace

import pytest

from lightning_circuits.circuit import Circuit
from lightning_circuits.drawing import page as page_module
from lightning_circuits.drawing.page import page_html
from lightning_circuits.layout import Layout
from tests.support.browser import Page
from tests.support.drawn_circuits import PER_GROUP, PER_HEAD, ends, paths, row, scored

EVIL = (
    "</script><script>window.hacked = 1</script><img src=x onerror='window.hacked = 2'><!-- <script> $data & \u2028 \"'"
)


def test_light_and_dark_follow_the_system_until_switched(shown: Page) -> None:
    def background() -> str:
        return shown.run("return getComputedStyle(document.body).backgroundColor")

    def system(scheme: str) -> None:
        features = [{"name": "prefers-color-scheme", "value": scheme}]
        shown.driver.execute_cdp_cmd("Emulation.setEmulatedMedia", {"features": features})

    system("light")
    shown.open(scored(PER_HEAD, 30))
    light = background()
    system("dark")
    shown.settle()
    dark = background()
    assert light != dark
    shown.find("#theme").click()
    assert shown.text("#theme") == "Theme: light" and background() == light
    shown.find("#theme").click()
    assert shown.text("#theme") == "Theme: dark" and background() == dark
    shown.find("#theme").click()
    system("light")
    shown.settle()
    assert shown.text("#theme") == "Theme: system" and background() == light
    shown.driver.execute_cdp_cmd("Emulation.setEmulatedMedia", {"features": []})


def test_two_circuits_show_what_they_share(shown: Page) -> None:
    left, right = scored(PER_GROUP, 60, seed=0), scored(PER_GROUP, 40, seed=1)
    shown.open(left, right, names=("mine", "theirs"))

    def expect(a: Circuit, b: Circuit) -> None:
        mine, theirs = set(a.edge_names()), set(b.edge_names())
        assert set(shown.edges(1)) == mine and set(shown.edges(2)) == theirs
        both, nodes = len(mine & theirs), len(ends(a) & ends(b)) / len(ends(a) | ends(b))
        assert shown.text("#sharing").splitlines() == [
            *("shared", f"{both} edges"),
            *("only mine", f"{len(mine) - both} edges"),
            *("only theirs", f"{len(theirs) - both} edges"),
            *("IoU of edges", f"{a.iou(b):.3f}"),
            *("IoU of nodes", f"{nodes:.3f}"),
        ]

    expect(left, right)
    shown.find("input[value=beside] + span").click()
    shown.settle()
    assert [view.text for view in shown.driver.find_elements("css selector", ".view .name")] == ["mine", "theirs"]
    expect(left, right)
    shown.click_node("a1.h1", view=1)  # in either picture, for both circuits
    assert set(shown.edges(1)) == paths(left, "a1.h1") and set(shown.edges(2)) == paths(right, "a1.h1")
    shown.keys(".view", "\ue00c")
    shown.run("document.getElementById('count').value = ''")
    shown.keys("#count", "20")

    def strongest(circuit: Circuit) -> Circuit:
        assert circuit.scores is not None
        least = circuit.scores[circuit.members].abs().sort(descending=True).values[19]
        return replace(circuit, members=circuit.members & (circuit.scores.abs() >= least))

    expect(strongest(left), strongest(right))


def test_names_and_metadata_stay_text(shown: Page) -> None:
    circuit = scored(PER_HEAD, 30, method=EVIL, model=EVIL, **{EVIL: {EVIL: [EVIL]}})
    measured = [row(EVIL, 30, 0.5) | {"ablation": EVIL, "split": EVIL}]
    for other in (None, circuit):
        html = page_html(circuit, other, curve=measured)
        assert html.count("<script") == page_html(scored(PER_HEAD, 30)).count("<script")
        shown.open(circuit, other, curve=measured)
        assert len(shown.edges()) == 30
        shown.click_node("m1")
        assert shown.run("return window.hacked") is None
        assert not shown.driver.find_elements("css selector", "img")
        assert EVIL[:34] in shown.find("#title").get_attribute("textContent")  # long names are cut in their middle
        assert EVIL in shown.find("#about").get_attribute("textContent")


def test_a_circuit_too_large_to_draw_says_so(shown: Page, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(page_module, "MAX_EDGES", 40)
    circuit = scored(PER_HEAD, 90)
    assert circuit.scores is not None
    with pytest.warns(UserWarning, match="EAP has 90 edges, too many to draw: the page shows the strongest 40"):
        shown.open(circuit)
    assert shown.text("#notice") == "EAP is too large to draw: this page shows the strongest 40 of its 90 edges."
    edges = shown.edges()
    assert len(edges) == 40 and set(edges) < set(circuit.edge_names())
    strength = {name: abs(float(circuit.scores[PER_HEAD.edge_index(name)])) for name in circuit.edge_names()}
    assert min(strength[name] for name in edges) >= max(strength[name] for name in set(strength) - set(edges))
    with pytest.warns(UserWarning, match=r"the page shows the first \(there are no scores\) 40"):
        page_html(Circuit.random(PER_HEAD, 41, 0))


@pytest.mark.parametrize("make", [lambda: Circuit.random(PER_HEAD, 30, 0), lambda: Circuit.empty(PER_HEAD)])
def test_circuits_without_scores_and_without_edges(shown: Page, make: Callable[[], Circuit]) -> None:
    circuit = make()
    shown.open(circuit)
    assert shown.edges() == sorted(circuit.edge_names())
    assert not shown.find("#slider").is_enabled()
    assert "every edge is drawn alike" in shown.find("#legend").get_attribute("textContent")


def test_a_small_window_shows_everything(shown: Page) -> None:
    shown.driver.set_window_size(520, 700)
    try:
        shown.open(scored(PER_HEAD, 30))
        assert shown.run("return document.documentElement.scrollWidth <= window.innerWidth")
        for css in ("#slider", "#threshold", ".view", "#search", "#from"):
            box = shown.find(css).rect
            assert box["x"] >= 0 and box["x"] + box["width"] <= 520 and box["height"] > 10, css
    finally:
        shown.driver.set_window_size(1200, 900)


def test_the_picture_fits_a_window_that_changes_until_the_reader_moves_it(shown: Page) -> None:
    def inside() -> bool:
        shown.settle()
        box = shown.find(".view").size
        places = [shown.run("return circuitPage.where(arguments[0])", name) for name in shown.nodes()]
        return all(0 < place["x"] < box["width"] and 0 < place["y"] < box["height"] for place in places)

    try:
        shown.open(scored(PER_HEAD, 60), scored(PER_HEAD, 60, seed=1))
        for side_by_side in (False, True):
            if side_by_side:
                shown.find("input[value=beside]").find_element("xpath", "..").click()
            for width in (520, 1200):
                shown.driver.set_window_size(width, 900)
                assert inside(), width
        shown.keys(".view", "+", "+", "+")
        assert not inside()
        before = shown.run("return circuitPage.where('m1')")
        shown.driver.set_window_size(800, 900)
        assert not inside() and shown.run("return circuitPage.where('m1')") == before
    finally:
        shown.driver.set_window_size(1200, 900)


@pytest.mark.slow
def test_20000_edges_are_drawn(shown: Page) -> None:
    """How long it takes depends on the machine; that it ends, with all of them there, and answers a key, does not."""
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        shown.open(scored(Layout(12, 12, 768), 20_000))
    assert len(shown.edges()) == 20_000
    shown.keys("#slider", "\ue011")
    assert len(shown.edges()) < 20_000


@pytest.mark.parametrize(
    ("metadata", "ranks"),
    [
        ({"scores_are": "ranks"}, True),
        ({"gate": "TopK"}, True),
        ({"scores_are": "effects", "gate": "TopK"}, False),
        ({}, False),
    ],
)
def test_the_sign_of_a_rank_is_no_colour(shown: Page, metadata: dict[str, str], ranks: bool) -> None:
    """Files from before searches said which of the two their scores are hold ranks if they are of learned gates."""
    shown.open(scored(PER_HEAD, 40, **metadata))
    legend = shown.text("#legend")
    assert ("lowest score" in legend) is ranks and ("negative score" in legend) is not ranks
