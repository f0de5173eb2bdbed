"""The page in a browser: what a reader sees, clicks and types leaves exactly the edges and nodes that it should.

What the page shows is compared with the circuit in Python: thresholds with tensors, paths with networkx.
"""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from lightning_circuits.circuit import Circuit
from lightning_circuits.layout import Layout
from tests.support.browser import Page
from tests.support.drawn_circuits import LAYOUTS, PER_HEAD, ends, paths, row, scored


@pytest.mark.parametrize("layout", LAYOUTS.values(), ids=LAYOUTS)
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


@pytest.mark.parametrize(("measure", "said"), [("logit_difference", ""), ("kl", "val, by kl")])
def test_the_measure_is_named_where_it_is_not_the_logit_difference(shown: Page, measure: str, said: str) -> None:
    points = [row(f"{n}", n, f) | {"measure": measure} for n, f in ((10, 0.25), (100, 0.75))]
    shown.open(scored(PER_HEAD, 60), curve=points)
    assert shown.find("#measures").is_displayed() == bool(said)
    if said:
        assert said in shown.text("#measures")
        inside = "const [a, b] = ['measure', 'curve'].map((id) => document.getElementById(id).getBoundingClientRect());"
        assert shown.run(f"{inside} return a.right <= b.right")


@pytest.mark.parametrize("layout", LAYOUTS.values(), ids=LAYOUTS)
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
