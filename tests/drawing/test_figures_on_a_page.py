"""Figures of deep models and large circuits: they fit a page, what is written can be read, and no edge is forgotten."""

from __future__ import annotations

from collections import Counter
from itertools import combinations
from typing import Any

import pytest
import torch
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.text import Text

from lightning_circuits.circuit import Circuit
from lightning_circuits.drawing import circuit as figures
from lightning_circuits.drawing.circuit import circuit_figure
from lightning_circuits.drawing.columns import in_columns
from lightning_circuits.drawing.folding import MAX_LINES, Plan
from lightning_circuits.layout import Layout
from lightning_circuits.selection import greedy, top_n
from tests.support.made_circuits import of_edges

SPANS = ["IO", "S1", "S2", "S2..END", "END"]
MODELS = {12: Layout(12, 12, 8), 30: Layout(30, 9, 8, n_kv_readers=3), 80: Layout(80, 4, 8)}


def heavy_tailed(layout: Layout, n: int, **metadata: Any) -> Circuit:
    """Of a few nodes that much goes through; grown from the logits if it is small, as far as that is quick."""
    generator = torch.Generator().manual_seed(0)
    tail = torch.rand(layout.n_edges, generator=generator).clamp_min(1e-6) ** -0.7
    nodes = torch.rand(layout.n_writers, generator=generator).clamp_min(1e-6) ** -0.9
    writers = torch.cat([nodes[:size] for size in layout.reader_prefix.tolist()]).repeat(layout.n_spans)
    signs = torch.where(torch.rand(layout.n_edges, generator=generator) < 0.35, -1.0, 1.0)
    scores = tail * writers * signs
    members = greedy(scores, n, layout, absolute=True) if n <= 300 else top_n(scores, n, layout, absolute=True)
    return Circuit(layout, members, scores, {"method": "EAPIG", "model": "m", "ablation": "zero", **metadata})


CASES = [pytest.param(n_layers, n, id=f"{n_layers} layers, {n}") for n_layers in MODELS for n in (1, 50, 300, 5000)]


def edges_of(plan: Plan) -> list[str]:
    return [edge for line in [*plan.lines, *plan.inside, *plan.left_out] for edge in line.edges]


@pytest.mark.parametrize(("n_layers", "n"), CASES)
@pytest.mark.parametrize("spans", [False, True], ids=["plain", "spans"])
def test_it_fits_a_page_and_its_words_are_large_enough_and_apart(n_layers: int, n: int, spans: bool) -> None:
    layout = MODELS[n_layers].in_spans(SPANS) if spans else MODELS[n_layers]
    example: dict[str, Any] = (
        {"example": {"..IO": "When", **{name: f" word {name}" for name in SPANS}}} if spans else {}
    )
    figure = circuit_figure(heavy_tailed(layout, n, **example))
    width, height = figure.get_size_inches()
    assert width <= 7 and height <= 9.5
    FigureCanvasAgg(figure).draw()  # places what stands in boxes of text
    texts = [text for text in figure.findobj(Text) if text.get_text()]
    assert all(float(text.get_fontsize()) >= 6 for text in texts)
    boxes = [text.get_window_extent().padded(-0.5) for text in texts]  # half a dot: lines of text touch
    for (one, a), (other, b) in combinations(zip(texts, boxes, strict=True), 2):
        assert not a.overlaps(b), (one.get_text(), other.get_text())
    assert all(figure.bbox.x0 <= box.x0 and box.x1 <= figure.bbox.x1 for box in boxes)
    assert all(figure.bbox.y0 <= box.y0 and box.y1 <= figure.bbox.y1 for box in boxes)


@pytest.mark.parametrize(("n_layers", "n"), CASES)
@pytest.mark.parametrize("spans", [False, True], ids=["plain", "spans"])
def test_every_edge_is_in_a_line_or_counted_among_those_that_are_not(n_layers: int, n: int, spans: bool) -> None:
    layout = MODELS[n_layers].in_spans(SPANS) if spans else MODELS[n_layers]
    circuit = heavy_tailed(layout, n)
    shown = figures._drawn(circuit).plan
    assert sorted(edges_of(shown)) == sorted(edge for *_, edge in in_columns(circuit).edges(data="edge"))
    assert set(edges_of(shown)) == set(circuit.edge_names())
    assert len(shown.lines) <= MAX_LINES
    assert min(line.strength for line in shown.lines) >= max((line.strength for line in shown.left_out), default=0)
    stands = [stand for row in shown.rows for stand in row]
    assert len(stands) == len(set(stands))
    assert all(len(alone) > 1 for alone in shown.folded.values())  # of one, its name takes no more room
    if n <= 50 and not spans:  # all of a small circuit is seen
        assert not shown.folded and not shown.left_out and not shown.inside


def test_a_bundle_is_worth_what_its_edges_are() -> None:
    circuit = heavy_tailed(MODELS[12], 5000)
    assert circuit.scores is not None
    shown = figures._drawn(circuit).plan
    bundles = [line for line in shown.lines if len(line.edges) > 1]
    assert bundles and shown.folded
    for line in bundles[:40]:
        scores = circuit.scores[[circuit.layout.edge_index(name) for name in line.edges]]
        assert line.strength == pytest.approx(float(scores.abs().sum()), rel=1e-5)
        assert line.negative is bool(scores.double().sum() < 0)
    worth = sum(line.strength for line in [*shown.left_out, *shown.inside])
    total = float(circuit.scores[circuit.members].double().abs().sum())
    assert shown.missing == pytest.approx(worth / total, rel=1e-5)


def test_the_strongest_nodes_keep_boxes_of_their_own() -> None:
    circuit = heavy_tailed(MODELS[12], 5000)
    shown = figures._drawn(circuit).plan
    through: Counter[str] = Counter()
    for writer, reader, score in circuit.to_networkx().edges(data="score"):
        through.update({writer: abs(score), reader: abs(score)})
    del through["input"], through["logits"]
    own = {name for row in shown.rows for name, _ in row if name in through}
    assert {name for name, _ in through.most_common(4)} <= own


def test_layers_go_upward_and_those_without_a_node_take_no_room() -> None:
    circuit = heavy_tailed(MODELS[80], 40)
    shown = figures._drawn(circuit).plan
    layers = [row for row in shown.layers[1:-1]]
    assert layers == sorted(layers) and {layer for row in layers for layer in row} == {
        node["layer"] for _, node in circuit.to_networkx().nodes(data=True) if node["kind"] in ("head", "mlp")
    }


def test_a_chain_through_every_layer_of_a_deep_model_fits() -> None:
    layout = Layout(200, 1, 8)
    names = ["input->m0", *(f"m{i}->m{i + 1}" for i in range(199)), "m199->logits"]
    members = of_edges(layout, *names).members
    for circuit in (Circuit(layout, members), Circuit(layout, members, torch.rand(layout.n_edges))):
        shown = figures._drawn(circuit)
        assert sorted(edges_of(shown.plan)) == sorted(names) and shown.size[1] <= 9.5


@pytest.mark.parametrize("scored", [True, False])
def test_all_edges_of_a_small_model(scored: bool) -> None:
    layout = Layout(2, 2, 8)
    full = Circuit.full(layout)
    circuit = Circuit(layout, full.members, torch.randn(layout.n_edges) if scored else None)
    shown = figures._drawn(circuit).plan
    assert sorted(edges_of(shown)) == sorted(circuit.edge_names()) and not shown.left_out and not shown.inside


def test_of_many_spans_the_weakest_share_a_column() -> None:
    layout = Layout(4, 4, 8).in_spans([f"t{i}" for i in range(40)])
    figure = circuit_figure(Circuit.random(layout, 800, 0))
    shown = figures._drawn(Circuit.random(layout, 800, 0)).plan
    assert sorted(span for spans in shown.columns for span in spans) == list(range(40))
    assert figure.get_size_inches()[0] <= 7
    assert f"{len(shown.columns[-1])} others" in {text.get_text() for text in figure.findobj(Text)}


def test_the_same_circuit_is_laid_out_alike() -> None:
    circuit = heavy_tailed(MODELS[30], 300)
    one, other = figures._drawn(circuit), figures._drawn(circuit)
    assert one == other
