"""Static figures: what is on them is what is in the circuit, read back from the SVG."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from xml.etree import ElementTree

import pytest
import torch

from lightning_circuits.circuit import Circuit
from lightning_circuits.drawing import circuit as figures
from lightning_circuits.drawing.circuit import save_figure
from lightning_circuits.layout import Layout

EDGES = {"input->a0.h1<v>": 0.5, "a0.h1->m0": -2.0, "m0->a1.h0<k>": 0.1, "a1.h0->logits": 1.0, "input->a1.h0<q>": -0.1}
LAYOUT = Layout(n_layers=2, n_heads=2, d_model=8)


def circuit(layout: Layout = LAYOUT, edges: dict[str, float] = EDGES, scored: bool = True, **metadata: str) -> Circuit:
    members, scores = torch.zeros(layout.n_edges, dtype=torch.bool), torch.full((layout.n_edges,), -9.0)
    for name, score in edges.items():
        members[layout.edge_index(name)] = True
        scores[layout.edge_index(name)] = score
    return Circuit(layout, members, scores if scored else None, metadata)


def everything(n: int) -> Circuit:
    """n edges of a larger layout, edge i with the score i or -i."""
    layout = Layout(4, 6, 8)
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
    assert any("dashed: negative score" in (text or "") for text in svg.texts)


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


def test_of_too_many_edges_the_strongest_are_drawn_and_it_says_so(tmp_path: Path) -> None:
    n = figures.MAX_EDGES + 150
    many = everything(n)
    svg = drawn(many, tmp_path)
    strongest = {many.layout.edge_names([i])[0] for i in range(n - figures.MAX_EDGES, n)}
    assert set(svg.edges()) == strongest and len(svg.edges()) == figures.MAX_EDGES
    assert any(f"{n} of {many.layout.n_edges:,} edges" in (t or "") and "strongest 400" in (t or "") for t in svg.texts)
    bare = drawn(Circuit(many.layout, many.members), tmp_path)
    assert len(bare.edges()) == figures.MAX_EDGES
    assert any("without scores: the lowest 400" in (text or "") for text in bare.texts)


def test_an_edge_into_a_group_is_at_each_of_its_heads(tmp_path: Path) -> None:
    grouped = Layout(n_layers=2, n_heads=4, d_model=8, n_kv_readers=2)
    svg = drawn(circuit(grouped, {"m0->a1.g1<k>": 1.0, "input->m0": 1.0}), tmp_path)
    assert sorted(svg.edges()) == ["input->m0", "m0->a1.g1<k>", "m0->a1.g1<k>"]
    assert {"a1.h2", "a1.h3"} <= set(svg.texts) and not {"a1.h0", "a1.h1"} & set(svg.texts)


def test_boxes_do_not_overlap_and_lines_go_upward() -> None:
    graph = everything(400).to_networkx()
    places = figures._places(graph)
    boxes = list(places.values())
    for i, (x, y) in enumerate(boxes):
        for other_x, other_y in boxes[:i]:
            assert abs(x - other_x) >= figures.WIDTH or abs(y - other_y) >= figures.HEIGHT
    assert all(places[reader][1] - places[writer][1] > figures.HEIGHT for writer, reader in graph.edges())


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
