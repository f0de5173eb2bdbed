"""The page of a circuit: what is in the file, and, in a real browser, what a reader sees, clicks and types.

What the page shows is compared with the circuit in Python: thresholds with tensors, paths with networkx, overlaps with
`Circuit`. The browser is Debian's Chromium, driven without a window.
"""

from __future__ import annotations

import json
import re
import shutil
import time
import warnings
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import networkx as nx
import pytest
import torch

from lightning_circuits.circuit import Circuit
from lightning_circuits.drawing import page as page_module
from lightning_circuits.drawing.page import page, save_page
from lightning_circuits.layout import Layout

PER_HEAD = Layout(n_layers=3, n_heads=4, d_model=16)
PER_GROUP = Layout(n_layers=3, n_heads=4, d_model=16, n_kv_readers=2)
EVIL = (
    "</script><script>window.hacked = 1</script><img src=x onerror='window.hacked = 2'><!-- <script> $data & \u2028 \"'"
)


def scored(layout: Layout, n: int, seed: int = 0, ranking: str = "absolute", **metadata: Any) -> Circuit:
    """n random edges with scores of both signs, some of them equal."""
    generator = torch.Generator().manual_seed(seed)
    scores = (torch.randn(layout.n_edges, generator=generator) * 4).round() / 4
    members = Circuit.random(layout, n, seed).members
    return Circuit(layout, members, scores, {"method": "EAP", "model": "m", "ranking": ranking, **metadata})


def row(circuit: str, edges: int, faithfulness: float, **more: Any) -> dict[str, Any]:
    return {
        "circuit": circuit,
        "ablation": "zero",
        "split": "val",
        "edges": edges,
        "faithfulness": faithfulness,
        **more,
    }


def data(html: str) -> dict[str, Any]:
    """What the page's script reads."""
    [text] = re.findall(r'<script type="application/json" id="data">(.*?)</script>', html, re.DOTALL)
    return json.loads(text)


# ---- the file ------------------------------------------------------------------------------------------------------


def test_a_page_of_2000_edges_is_one_small_file_that_refers_to_nothing(tmp_path: Path) -> None:
    path = save_page(tmp_path / "page.html", scored(Layout(12, 12, 768), 2000))
    html = path.read_text(encoding="utf-8")
    assert path.stat().st_size < 1_000_000
    assert list(tmp_path.iterdir()) == [path]
    assert not re.search(r"<(link|script|img|iframe)[^>]*\s(src|href)=", html.split("<script>")[0])
    assert "default-src 'none'" in html
    assert "The Cytoscape Consortium" in html and "Permission is hereby granted" in html  # its licence asks for that


def test_the_same_circuit_gives_the_same_page() -> None:
    assert page(scored(PER_HEAD, 50)) == page(scored(PER_HEAD, 50))


def test_what_cannot_be_drawn_is_refused(tmp_path: Path) -> None:
    circuit = scored(PER_HEAD, 20)
    assert circuit.scores is not None
    with pytest.raises(ValueError, match=r"page\.json: the suffix must be \.html"):
        save_page(tmp_path / "page.json", circuit)
    with pytest.raises(FileNotFoundError, match="there is no folder"):
        save_page(tmp_path / "nowhere" / "page.html", circuit)
    with pytest.raises(ValueError, match=r"another layout: n_kv_readers 2 against 4"):
        page(circuit, Circuit.full(PER_GROUP))
    with pytest.raises(ValueError, match="not plain JSON data"):
        page(replace(circuit, metadata={"lr": float("nan")}))
    with pytest.raises(ValueError, match="2 circuits on the page, but 1 names: a"):
        page(circuit, circuit, names=["a"])
    edge = circuit.edge_names()[3]
    broken = circuit.scores.clone()
    broken[PER_HEAD.edge_index(edge)] = torch.inf
    with pytest.raises(ValueError, match=f"score of edge {re.escape(edge)} is inf"):
        page(replace(circuit, scores=broken))
    assert not list(tmp_path.iterdir())


def test_a_curve_comes_as_a_file_as_rows_or_from_the_circuit(tmp_path: Path) -> None:
    circuit = scored(PER_HEAD, 20)
    rows = [row("full", 100, 1.0), row("5", 5, 0.5), row("5 random", 5, 0.1), row("9", 9, float("nan"))]
    rows[-1]["faithfulness"] = None
    wanted = [row("5", 5, 0.5, faithfulness_low=None, faithfulness_high=None)]
    del wanted[0]["circuit"]
    (tmp_path / "curve.json").write_text(json.dumps({"rows": rows}))
    for curve in (rows, {"rows": rows}, tmp_path / "curve.json", str(tmp_path / "curve.json")):
        assert data(page(circuit, curve=curve))["circuits"][0]["curve"] == wanted
    assert data(page(replace(circuit, metadata={"measured": rows})))["circuits"][0]["curve"] == wanted
    assert data(page(replace(circuit, metadata={"measured": {"by": "someone else"}})))["circuits"][0]["curve"] == []

    with pytest.raises(FileNotFoundError, match="no faithfulness curve at"):
        page(circuit, curve=tmp_path / "other.json")
    (tmp_path / "bad.json").write_text("{")
    with pytest.raises(ValueError, match=r"bad\.json cannot be read as a faithfulness curve"):
        page(circuit, curve=tmp_path / "bad.json")
    with pytest.raises(ValueError, match="it has no 'rows'"):
        page(circuit, curve={"points": []})
    with pytest.raises(ValueError, match="a row needs circuit, ablation, split, edges, faithfulness"):
        page(circuit, curve=[{"edges": 3}])


def test_of_a_curve_with_two_rankings_the_circuit_s_own_is_shown() -> None:
    rows = [row(f"5 {name}", 5, f, ranking=name) for name, f in (("signed", 0.7), ("absolute", 0.6), ("random", 0.1))]
    rows.append(row("5 signed pruned", 5, 0.2, ranking="signed", pruned=True))
    for ranking, f in (("signed", 0.7), ("absolute", 0.6)):
        [point] = data(page(scored(PER_HEAD, 20, ranking=ranking), curve=rows))["circuits"][0]["curve"]
        assert point["faithfulness"] == f
    with pytest.raises(ValueError, match=r"by signed score, and the page takes edges by absolute score: .*\[absol"):
        page(scored(PER_HEAD, 20, ranking="absolute"), curve=rows[:1])


def test_a_pruned_circuit_is_as_faithful_as_it_was_before_under_interchange() -> None:
    """Saved circuits are pruned after they were measured; under another ablation pruning changes the number."""
    measured = [row("10%", 24, 0.9, edges_pruned=20) | {"ablation": name} for name in ("interchange", "zero")]
    [interchange, zero] = data(page(scored(PER_HEAD, 20, measured=measured)))["circuits"][0]["curve"]
    assert (interchange["edges"], zero["edges"]) == (20, 24)


# ---- in the browser ------------------------------------------------------------------------------------------------


class Page:
    """A page in a browser. Everything is done by mouse and keys; `circuitPage` only tells what is shown, and where."""

    def __init__(self, driver: Any, folder: Path) -> None:
        self.driver = driver
        self.folder = folder

    def open(self, circuit: Circuit, other: Circuit | None = None, **options: Any) -> Page:
        path = save_page(self.folder / "page.html", circuit, other, **options)
        self.driver.get_log("performance")
        self.driver.get_log("browser")
        self.driver.get(path.as_uri())
        return self.settle()

    def settle(self) -> Page:
        # Two frames: a change asked for in one is made in the next.
        script = "const d = arguments[0]; requestAnimationFrame(() => requestAnimationFrame(() => d(0)))"
        deadline = time.monotonic() + 60
        self.driver.execute_async_script(script)
        while not self.run("return Boolean(window.circuitPage) && circuitPage.idle()"):
            assert time.monotonic() < deadline, f"the page does not settle: {self.driver.get_log('browser')}"
            time.sleep(0.02)
        return self

    def run(self, script: str, *args: Any) -> Any:
        return self.driver.execute_script(script, *args)

    def find(self, css: str) -> Any:
        return self.driver.find_element("css selector", css)

    def text(self, css: str) -> str:
        return self.find(css).text

    def edges(self, bits: int = 3) -> list[str]:
        self.settle()
        return sorted(self.run("return circuitPage.edges(arguments[0])", bits))

    def nodes(self) -> list[str]:
        return self.run("return circuitPage.nodes()")

    def pointer(self, place: dict[str, float], view: int = 0) -> Any:
        from selenium.webdriver.common.action_chains import ActionChains

        box = self.driver.find_elements("css selector", ".view")[view]
        size = box.size
        x, y = place["x"] - size["width"] / 2, place["y"] - size["height"] / 2
        return ActionChains(self.driver, duration=0).move_to_element_with_offset(box, round(x), round(y))

    def click_node(self, name: str, view: int = 0) -> None:
        place = self.run("return circuitPage.where(arguments[0], arguments[1])", name, view)
        self.pointer(place, view).click().perform()
        time.sleep(0.3)  # the library waits to see whether a second click follows
        self.settle()

    def keys(self, css: str, *keys: str) -> None:
        self.find(css).send_keys(*keys)
        self.settle()

    def complaints(self) -> list[str]:
        return [entry["message"] for entry in self.driver.get_log("browser")]

    def requests(self) -> list[str]:
        messages = [json.loads(entry["message"])["message"] for entry in self.driver.get_log("performance")]
        return [m["params"]["request"]["url"] for m in messages if m["method"] == "Network.requestWillBeSent"]


@pytest.fixture(scope="module")
def driver(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Any]:
    webdriver = pytest.importorskip("selenium.webdriver", reason="no selenium: pip install -e '.[dev]'")
    chromium, chromedriver = shutil.which("chromium"), shutil.which("chromedriver")
    if chromium is None or chromedriver is None:
        pytest.skip("no browser: apt-get install chromium chromium-driver")
    options = webdriver.ChromeOptions()
    options.binary_location = chromium
    # Without the background flags Chromium calls home, which a closed network refuses.
    flags = """--headless --no-sandbox --disable-gpu --disable-quic --no-first-run --disable-background-networking
        --disable-component-update --disable-sync --window-size=1200,900"""
    for flag in [*flags.split(), f"--user-data-dir={tmp_path_factory.mktemp('chromium')}"]:
        options.add_argument(flag)
    options.set_capability("goog:loggingPrefs", {"browser": "ALL", "performance": "ALL"})
    driver = webdriver.Chrome(options=options, service=webdriver.ChromeService(chromedriver))
    driver.set_script_timeout(60)
    driver.get("about:blank")  # away from the browser's own first page, which loads a lot
    yield driver
    driver.quit()


@pytest.fixture
def shown(driver: Any, tmp_path: Path) -> Iterator[Page]:
    """The browser; after every test, no page may have complained or asked for anything but itself."""
    shown = Page(driver, tmp_path)
    yield shown
    assert shown.complaints() == []
    assert [url for url in shown.requests() if not url.startswith(("file:", "data:", "blob:"))] == []


def ends(circuit: Circuit) -> set[str]:
    return set(circuit.to_networkx().nodes)


def paths(circuit: Circuit, node: str) -> set[str]:
    """Edges on a way from the input to the node, or from the node to the logits."""
    graph = circuit.to_networkx()
    graph.add_nodes_from(["input", "logits", node])

    def between(start: str, end: str) -> set[str]:
        inside = ({start} | nx.descendants(graph, start)) & ({end} | nx.ancestors(graph, end))
        return {edge for a, b, edge in graph.edges(data="edge") if a in inside and b in inside}

    return between("input", node) | between(node, "logits")


@pytest.mark.parametrize("layout", [PER_HEAD, PER_GROUP], ids=["per head", "per group"])
def test_the_page_shows_the_edges_and_nodes_of_the_circuit(shown: Page, layout: Layout) -> None:
    circuit = scored(layout, 60, ablation="zero", data={"pairs": {"train": 7}}, edges=70, edges_pruned=60)
    shown.open(circuit)
    assert shown.edges() == sorted(circuit.edge_names())
    assert set(shown.nodes()) == ends(circuit)
    total = f"{layout.n_edges:,}"
    assert "60 edges shown (" in shown.text("#summary") and f"of the model's {total}), {len(ends(circuit))} nodes" in (
        shown.text("#summary")
    )
    about = shown.find("#about").get_attribute("textContent")
    assert "70 found, 60 after pruning" in about and "pairs train 7" in about and "zero" in about
    assert f"60 of {total} edges, {circuit.prune().n_edges} on a way from input to logits" in about
    # Something is drawn where the edges are.
    count = """const c = document.querySelectorAll('.view > canvas')[1];
        const pixels = c.getContext('2d').getImageData(0, 0, c.width, c.height).data;
        return pixels.filter((x, i) => i % 4 === 3 && x).length"""
    assert shown.run(count) > 2000


@pytest.mark.parametrize("ranking", ["absolute", "signed"])
def test_the_slider_keeps_the_strongest_edges_and_never_cuts_a_tie(shown: Page, ranking: str) -> None:
    circuit = scored(PER_HEAD, 60, ranking=ranking)
    assert circuit.scores is not None
    worth = circuit.scores if ranking == "signed" else circuit.scores.abs()
    ordered = worth[circuit.members].sort(descending=True).values
    shown.open(circuit, curve=[row("10", 10, 0.25, faithfulness_low=0.2, faithfulness_high=0.3), row("100", 100, 0.75)])

    def expect(n: int) -> int:
        least = float(ordered[n - 1])
        kept = replace(circuit, members=circuit.members & (worth >= least))
        assert shown.edges() == sorted(kept.edge_names())
        assert set(shown.nodes()) == ends(kept)
        assert f"{kept.n_edges} of 60 edges" in shown.text("#threshold")
        assert f"score{'' if ranking == 'signed' else '|'} ≥ {least + 0.0:.4g}" in shown.text("#threshold")
        return kept.n_edges

    shown.keys("#slider", "\ue011")  # Home
    expect(1)
    shown.keys("#slider", *["\ue014"] * 8)  # arrow to the right
    expect(9)
    shown.run("document.getElementById('count').value = ''")
    shown.keys("#count", "31")
    kept = expect(31)
    # Between the sizes measured, on a line in the logarithm.
    between = 0.25 + 0.5 * (torch.tensor(kept / 10).log10()).item()
    assert shown.text("#faithfulness") == f"f ≈ {between:.2f}"
    shown.keys("#slider", "\ue010")  # End
    assert expect(60) == 60


def test_the_faithfulness_measured_at_a_size_is_shown_with_its_interval(shown: Page) -> None:
    shown.open(
        scored(PER_HEAD, 60),
        curve=[row("60", 60, 0.8125, faithfulness_low=0.7, faithfulness_high=0.9), row("60 random", 60, 0.1)],
    )
    assert shown.text("#faithfulness") == "f = 0.81 (0.70 to 0.90)"


@pytest.mark.parametrize("layout", [PER_HEAD, PER_GROUP], ids=["per head", "per group"])
def test_a_click_on_a_node_leaves_exactly_its_paths(shown: Page, layout: Layout) -> None:
    circuit = scored(layout, 70, seed=2)
    shown.open(circuit)
    for node in ("a1.h2", "m0", "a2.h1", "logits"):
        shown.click_node(node)
        assert not shown.find("#tip").is_displayed()  # it would tell of more edges than are left
        assert set(shown.edges()) == paths(circuit, node), node
        assert shown.text("#selected") == f"Paths of {node}"
    shown.keys(".view", "\ue00c")  # Escape
    assert shown.edges() == sorted(circuit.edge_names())


def test_paths_are_those_of_what_the_slider_leaves(shown: Page) -> None:
    circuit = scored(PER_HEAD, 100, seed=3)
    assert circuit.scores is not None
    shown.open(circuit)
    shown.run("document.getElementById('count').value = ''")
    shown.keys("#count", "50")
    least = circuit.scores[circuit.members].abs().sort(descending=True).values[49]
    kept = replace(circuit, members=circuit.members & (circuit.scores.abs() >= least))
    assert kept.n_edges < 100
    shown.click_node("m1")
    assert set(shown.edges()) == paths(kept, "m1")


def test_the_keyboard_walks_from_node_to_node(shown: Page) -> None:
    circuit = scored(Layout(2, 3, 8), 50)
    assert ends(circuit) >= {"input", "a0.h1", "a0.h2"}
    shown.open(circuit)
    up, right, enter = "\ue013", "\ue014", "\ue007"
    shown.keys(".view", up, up, right, enter)  # to the input; to the head above it, a0.h1; to the one beside it
    assert shown.text("#selected") == "Paths of a0.h2"
    assert set(shown.edges()) == paths(circuit, "a0.h2")
    assert "a0.h2" in shown.find("#said").get_attribute("textContent")


def test_hovering_tells_names_readers_and_scores(shown: Page) -> None:
    layout = Layout(2, 2, 8)
    names = ["input->a0.h0<q>", "a0.h0->a1.h1<q>", "a0.h0->a1.h1<k>", "a0.h0->a1.h1<v>", "m0->logits"]
    scores, members = torch.zeros(layout.n_edges), torch.zeros(layout.n_edges, dtype=torch.bool)
    for i, name in enumerate(names):
        members[layout.edge_index(name)] = True
        scores[layout.edge_index(name)] = 0.5 - i / 4
    node_scores = torch.full((layout.n_writers,), torch.nan)
    node_scores[1] = 0.125
    shown.open(Circuit(layout, members, scores, {}, node_scores))
    for name, read in zip(names, ("query", "query", "key", "value", "logits"), strict=True):
        place = shown.run("return circuitPage.midway(arguments[0])", name)
        shown.pointer(place).perform()
        told = shown.text("#tip")
        value = float(scores[layout.edge_index(name)])
        assert told.startswith(f"{name}\nread as {read}\nscore {value:g}"), told  # parallel edges told apart
    shown.pointer(shown.run("return circuitPage.where('a0.h0')")).perform()
    assert shown.text("#tip") == "a0.h0\n1 in, 3 out, node score 0.125"


def test_search_finds_nodes_and_edges_by_name(shown: Page) -> None:
    circuit = scored(PER_HEAD, 60)
    shown.open(circuit)
    for text in ("a1.h", "M0", "m1->", "<q>", "h2<v>", "nothing"):
        shown.run("document.getElementById('search').value = ''")
        shown.keys("#search", text)
        nodes = [name for name in ends(circuit) if text.lower() in name]
        edges = [name for name in circuit.edge_names() if text.lower() in name]
        assert shown.text("#found") == f"{len(nodes)} nodes, {len(edges)} edges", text
    shown.run("document.getElementById('search').value = ''")
    shown.keys("#search", "m1", "\ue007")
    assert shown.text("#selected") == "Paths of m1"
    assert set(shown.edges()) == paths(circuit, "m1")


def test_filters_by_layer_and_by_reader(shown: Page) -> None:
    circuit = scored(PER_HEAD, 90)

    def passing(kinds: set[str], low: int, high: int) -> list[str]:
        graph = circuit.to_networkx()
        inside = {
            name
            for name, node in graph.nodes(data=True)
            if node["kind"] in ("input", "logits") or low <= node["layer"] <= high
        }
        edges = graph.edges(data=True)
        return sorted({e["edge"] for a, b, e in edges if e["reader"] in kinds and a in inside and b in inside})

    kinds = {"q", "k", "v", "mlp", "logits"}
    shown.open(circuit)
    for kind in ("v", "mlp", "q"):
        shown.find(f"input[value={kind}]").click()
        kinds.remove(kind)
        assert shown.edges() == passing(kinds, 0, 2)
    shown.find("input[value=q]").click()
    kinds.add("q")
    shown.keys("#from", "1")
    assert shown.edges() == passing(kinds, 1, 2)
    shown.keys("#to", "0")  # below the first: that goes down too
    assert shown.edges() == passing(kinds, 0, 0)


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
        html = page(circuit, other, curve=measured)
        assert html.count("<script") == page(scored(PER_HEAD, 30)).count("<script")
        shown.open(circuit, other, curve=measured)
        assert len(shown.edges()) == 30
        shown.click_node("m1")
        assert shown.run("return window.hacked") is None
        assert not shown.driver.find_elements("css selector", "img")
        assert EVIL in shown.find("#title").get_attribute("textContent")
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
        page(Circuit.random(PER_HEAD, 41, 0))


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


def test_the_sign_of_a_learned_gate_is_no_colour(shown: Page) -> None:
    legends = []
    for metadata in ({"gate": "TopK"}, {}):
        shown.open(scored(PER_HEAD, 40, **metadata))
        legends.append(shown.text("#legend"))
    assert "least open gate" in legends[0] and "negative" not in legends[0]
    assert "negative score" in legends[1]
