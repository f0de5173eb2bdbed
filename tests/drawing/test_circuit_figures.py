"""Static figures: what is on them is what is in the circuit, read back from the SVG."""

from __future__ import annotations

import subprocess
import sys
from itertools import pairwise
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import pytest
import torch
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.text import Text

from lightning_circuits.circuit import Circuit
from lightning_circuits.drawing import circuit as figures
from lightning_circuits.drawing import folding
from lightning_circuits.drawing.circuit import circuit_figure, save_figure
from lightning_circuits.drawing.example_prompt import DEAD
from lightning_circuits.drawing.routing import Item, way
from lightning_circuits.layout import Layout
from tests.support.drawn_circuits import stand_of_lines

EDGES = {"input->a0.h1<v>": 0.5, "a0.h1->m0": -2.0, "m0->a1.h0<k>": 0.1, "a1.h0->logits": 1.0, "input->a1.h0<q>": -0.1}
LAYOUT = Layout(n_layers=2, n_heads=2, d_model=8)


def circuit(layout: Layout = LAYOUT, edges: dict[str, float] = EDGES, scored: bool = True, **metadata: Any) -> Circuit:
    members, scores = torch.zeros(layout.n_edges, dtype=torch.bool), torch.full((layout.n_edges,), -9.0)
    for name, score in edges.items():
        members[layout.edge_index(name)] = True
        scores[layout.edge_index(name)] = score
    return Circuit(layout, members, scores if scored else None, metadata)


def everything(n: int, parallel: bool = False) -> Circuit:
    """n edges of a larger layout, edge i with the score i or -i."""
    layout = Layout(4, 6, 8, parallel=parallel)
    members = torch.zeros(layout.n_edges, dtype=torch.bool)
    members[:n] = True
    return Circuit(layout, members, torch.arange(layout.n_edges) * (1.0 - 2.0 * (torch.arange(layout.n_edges) % 2)))


class Svg:
    """A figure as written: its texts, and the style of every line that has a name."""

    def __init__(self, path: Path) -> None:
        root = ElementTree.parse(path).getroot()
        self.texts = [element.text for element in root.iter() if element.tag.endswith("}text")]
        self.styles: dict[str, list[str]] = {}
        for group in root.iter():
            if group.tag.endswith("}g") and group.get("id"):
                paths = [element.get("style", "") for element in group if element.tag.endswith("}path")]
                self.styles.setdefault(group.get("id", ""), []).extend(paths)

    def edges(self) -> list[str]:
        return [name for name, styles in self.styles.items() if "->" in name for _ in styles]

    def width(self, edge: str) -> float:
        [style] = self.styles[edge]
        return float(style.partition("stroke-width: ")[2].partition(";")[0])


def drawn(circuit: Circuit, folder: Path) -> Svg:
    return Svg(save_figure(circuit, folder / "circuit.svg"))


def test_every_edge_and_every_node_at_an_end_is_on_it_and_nothing_else(tmp_path: Path) -> None:
    loose = EDGES | {"a1.h1->m1": 0.3}  # on no way from input to logits: in the file, so on the picture
    svg = drawn(circuit(edges=loose), tmp_path)
    assert sorted(svg.edges()) == sorted(loose)
    nodes = {"input", "a0.h1", "m0", "a1.h0", "a1.h1", "m1", "logits"}
    names = {*LAYOUT.writer_names, "logits"}
    assert names & set(svg.texts) == names & set(svg.styles) == nodes  # labels, and boxes


def test_negative_scores_are_dashed_and_width_grows_with_the_score(tmp_path: Path) -> None:
    svg = drawn(circuit(), tmp_path)
    dashed = {name for name in EDGES if "stroke-dasharray" in svg.styles[name][0]}
    assert dashed == {"a0.h1->m0", "input->a1.h0<q>"}
    by_width = sorted(EDGES, key=svg.width)
    assert [abs(EDGES[name]) for name in by_width] == sorted(abs(score) for score in EDGES.values())
    assert svg.width("m0->a1.h0<k>") == svg.width("input->a1.h0<q>")
    assert any("dashed lines: negative score" in (text or "") for text in svg.texts)


def test_of_learned_gates_the_highest_score_is_the_widest_and_none_is_dashed(tmp_path: Path) -> None:
    svg = drawn(circuit(gate="TopK"), tmp_path)
    assert sorted(EDGES, key=svg.width) == sorted(EDGES, key=EDGES.__getitem__)
    assert not any("stroke-dasharray" in style for name in EDGES for style in svg.styles[name])
    assert not any("dashed" in (text or "") for text in svg.texts)


def test_without_scores_all_lines_are_alike(tmp_path: Path) -> None:
    svg = drawn(circuit(scored=False), tmp_path)
    assert len({svg.width(name) for name in EDGES}) == 1
    assert not any("score" in (text or "") for text in svg.texts)


def test_it_says_what_it_shows(tmp_path: Path) -> None:
    svg = drawn(circuit(method="EAPIG", model="gpt2", ablation="zero"), tmp_path)
    assert "EAPIG, gpt2, zero ablation" in svg.texts
    assert "smollm2" in drawn(circuit(model="/home/me/.cache/models/smollm2"), tmp_path).texts
    assert any(f"5 of {LAYOUT.n_edges} edges" in (text or "") for text in svg.texts)


def test_of_too_many_edges_it_says_what_is_in_bundles_and_what_is_not_drawn(tmp_path: Path) -> None:
    many = everything(900)
    svg = drawn(many, tmp_path)
    lines = [name for name in svg.styles if "->" in name or " edges " in name]
    assert len(lines) <= folding.MAX_LINES
    shown, said = figures._drawn(many).plan, " ".join(text or "" for text in svg.texts)
    assert len(lines) == len(shown.lines)
    assert f"900 of {many.layout.n_edges:,} edges" in said
    bundles = [line for line in shown.lines if len(line.edges) > 1]
    assert f"{sum(len(line.edges) for line in bundles)} edges are in {len(bundles)} bundles" in said
    left_out, inside = (sum(len(line.edges) for line in each) for each in (shown.left_out, shown.inside))
    assert (f"{left_out} edges of the {len(shown.left_out)} weakest lines" in said) is bool(left_out)
    assert (f"{inside} edges inside of a row" in said) is bool(inside)
    assert ("not drawn" in said) is bool(left_out + inside)
    own = [name for name in svg.styles if name in many.layout.writer_names]
    folded = {stand for stands in shown.folded.values() for stand, _ in stands}
    nodes = {*many.to_networkx(), "input", "logits"}
    assert {*own, *folded, "input", "logits"} == nodes and not {*own} & folded
    assert (f"{len(folded)} of {len(nodes)} nodes" in said) is bool(folded)


def test_an_edge_into_a_group_is_at_each_of_its_heads(tmp_path: Path) -> None:
    grouped = Layout(n_layers=2, n_heads=4, d_model=8, n_kv_readers=2)
    svg = drawn(circuit(grouped, {"m0->a1.g1<k>": 1.0, "input->m0": 1.0}), tmp_path)
    assert sorted(svg.edges()) == ["input->m0", "m0->a1.g1<k>", "m0->a1.g1<k>"]
    assert {"a1.h2", "a1.h3"} <= set(svg.texts) and not {"a1.h0", "a1.h1"} & set(svg.texts)


@pytest.mark.parametrize("parallel", [False, True])
@pytest.mark.parametrize("n", [1, 30, 400, 1500])
def test_boxes_do_not_overlap_and_lines_go_upward(parallel: bool, n: int) -> None:
    shown = figures._drawn(everything(n, parallel))
    assert_in_their_places(shown)
    row_of = {stand: row for row, stands in enumerate(shown.plan.rows) for stand in stands}
    assert all(row_of[line.writer] < row_of[line.reads] for line in shown.plan.lines)
    assert all(b - a >= figures.ROW - 1e-9 for a, b in pairwise(shown.y))


def assert_in_their_places(shown: figures.Drawn) -> None:
    """In a row, boxes stand apart, no line goes through one of them, and all is in its column and on the figure."""
    left, right = 0.0, shown.size[0]
    row_of, column_of = figures._rows_and_columns(shown.plan)
    passing: dict[int, list[float]] = {}
    for line in shown.plan.lines:
        for row, item in enumerate(way(line.writer, line.reads, row_of, column_of), row_of[line.writer]):
            if item.row >= 0:
                passing.setdefault(row, []).append(shown.routes.x[item])
    for row, stands in enumerate(shown.plan.rows):
        middles = sorted((shown.routes.x[Item(stand)], stand) for stand in stands)
        assert all(b - a > shown.box for (a, _), (b, _) in pairwise(middles))
        for x, (_, column) in middles:
            low, high = shown.routes.columns[column]
            assert left < low <= x - shown.box / 2 and x + shown.box / 2 <= high < right
            assert all(abs(x - at) > shown.box / 2 for at in passing.get(row, ()))


PLACED = {
    "input->a0.h1<v>@S2": 0.5,
    "a0.h1->m0@S2": -2.0,
    "m0->a1.h0<k>@S2": 0.1,
    "input->a1.h0<q>@END": -0.1,
    "a1.h0->m1@S2..END": 0.2,
    "a1.h0->logits@END": 1.0,
}
EXAMPLE = {"..S2": "When Mary and", "S2": " John", "S2..END": " gave a drink", "END": " to"}
IN_SPANS = LAYOUT.in_spans(["S2", "S2..END", "END"])


def test_spans_are_columns_with_the_nodes_that_are_at_work_in_them(tmp_path: Path) -> None:
    placed = circuit(IN_SPANS, PLACED)
    svg = drawn(placed, tmp_path)
    stands = {stand for _, *both in stand_of_lines(placed) for stand in both}
    stands |= {f"input@{span}" for span in IN_SPANS.spans}
    assert {"a1.h0@S2..END", "a1.h0@END"} < stands and "a1.h0@S2" not in stands
    assert {name for name in svg.styles if "@" in name and "->" not in name} == stands
    assert sorted(svg.edges()) == sorted([*PLACED, "m0->a1.h0<k>@S2"])  # seen from two columns
    assert svg.texts.count("a1.h0") == 2 and svg.texts.count("input") == 3
    assert any("from column to column" in (text or "") for text in svg.texts)


def test_over_the_columns_stands_the_example_grey_where_no_edge_can_be(tmp_path: Path) -> None:
    placed = circuit(IN_SPANS, PLACED, example=EXAMPLE)
    colours: dict[str, list[Any]] = {}
    for text in circuit_figure(placed).findobj(Text):
        colours.setdefault(text.get_text(), []).append(text.get_color())
    for name, piece in EXAMPLE.items():
        live = name in IN_SPANS.spans
        assert colours[name] == (["black", "black"] if live else [DEAD])  # in the prompt, and over a column
        assert colours[piece.strip()] == (["black", "black"] if live else [DEAD])
    assert "When Mary and" in drawn(placed, tmp_path).texts
    bare = drawn(circuit(IN_SPANS, PLACED), tmp_path).texts
    assert {*IN_SPANS.spans} <= set(bare) and "..S2" not in bare
    assert "When Mary and" not in drawn(circuit(example=EXAMPLE), tmp_path).texts  # of all tokens alike


@pytest.mark.parametrize("n", [3, 60, 400])
def test_columns_stand_side_by_side_and_boxes_inside_of_their_own(n: int) -> None:
    shown = figures._drawn(Circuit.random(Layout(4, 6, 8).in_spans([f"s{i}" for i in range(5)]), n, 0))
    assert all(left < right for (_, left), (right, _) in pairwise(shown.routes.columns))
    assert_in_their_places(shown)


def test_a_long_example_is_in_lines_that_the_figure_has_room_for() -> None:
    example = {f"t{i}": f" word{i}" for i in range(200)} | {"long": "x" * 5000}
    figure = circuit_figure(circuit(IN_SPANS, PLACED, example=example))
    FigureCanvasAgg(figure).draw()  # places what stands in boxes of text
    inside = figure.bbox
    for text in figure.findobj(Text):
        box = text.get_window_extent()
        assert not text.get_text() or (inside.x0 <= box.x0 and box.x1 <= inside.x1), text.get_text()


@pytest.mark.parametrize("edges", [{}, {"m0->m1": 1.0}, {"input->logits": 0.0}, {"a0.h0->a1.h0<v>": -1.0}])
def test_the_smallest_circuits_can_be_drawn(edges: dict[str, float], tmp_path: Path) -> None:
    svg = drawn(circuit(edges=edges), tmp_path)
    assert svg.edges() == list(edges) and {"input", "logits"} <= set(svg.texts)


@pytest.mark.parametrize(("suffix", "head"), [(".svg", b"<?xml"), (".pdf", b"%PDF"), (".png", b"\x89PNG")])
def test_the_same_circuit_gives_the_same_file(suffix: str, head: bytes, tmp_path: Path) -> None:
    first, second = (save_figure(circuit(), tmp_path / f"{i}{suffix}").read_bytes() for i in range(2))
    assert first.startswith(head) and first == second


def test_what_cannot_be_drawn_is_said(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"must be one of \.svg, \.pdf, \.png"):
        save_figure(circuit(), tmp_path / "circuit.jpg")


def test_matplotlib_is_loaded_only_to_draw() -> None:
    # torchmetrics, of which curves are made, imports matplotlib wherever it is installed.
    program = """
import sys, torchmetrics
for name in [name for name in sys.modules if name.split(".")[0] == "matplotlib"]:
    del sys.modules[name]
sys.modules["matplotlib"] = None  # whoever imports it now gets an ImportError
import lightning_circuits.drawing.circuit, lightning_circuits.drawing.attention, lightning_circuits.drawing.page
import lightning_circuits.drawing.curves, lightning_circuits.drawing.style
"""
    subprocess.run([sys.executable, "-c", program], check=True)
