"""The page of a circuit in spans, in a browser: columns, the example prompt, and ways through what heads look at."""

from __future__ import annotations

from dataclasses import replace

import networkx as nx
import pytest
import torch

from lightning_circuits.circuit import Circuit
from lightning_circuits.drawing.page import page_html
from lightning_circuits.layout import Layout
from tests.support.browser import Page
from tests.support.drawn_circuits import PER_GROUP, PER_HEAD, scored, stand_of_lines

SPANS = ["S2", "S2..END", "END"]
EXAMPLE = {"..S2": "When Mary and", "S2": " John", "S2..END": " gave a drink", "END": " to"}
EVIL = "</script><script>window.hacked = 1</script><img src=x onerror='window.hacked = 2'><!-- $data \""


def stands(circuit: Circuit) -> set[str]:
    return {stand for _, *both in stand_of_lines(circuit) for stand in both}


def ways(circuit: Circuit, kept: Circuit, stand: str) -> set[str]:
    """Edges of the kept circuit on a way through a node in a column, from an input or to a read of the logits."""
    names = set(kept.edge_names())
    graph = nx.MultiDiGraph([(a, b, {"edge": edge}) for edge, a, b in stand_of_lines(circuit) if edge in names])
    graph.add_node(stand)
    graph.add_edges_from(("input", node) for node in [*graph] if node.startswith("input@"))
    graph.add_edges_from((node, "logits") for node in [*graph] if node.startswith("logits@"))
    graph.add_nodes_from(["input", "logits"])

    def between(start: str, end: str) -> set[str]:
        inside = ({start} | nx.descendants(graph, start)) & ({end} | nx.ancestors(graph, end))
        return {edge for a, b, edge in graph.edges(data="edge") if edge and a in inside and b in inside}

    return between("input", stand) | between(stand, "logits")


@pytest.mark.parametrize("layout", [PER_HEAD, PER_GROUP], ids=["per head", "per group"])
def test_every_edge_is_there_in_columns_of_their_names_under_the_prompt(shown: Page, layout: Layout) -> None:
    circuit = scored(layout.in_spans(SPANS), 90, example=EXAMPLE)
    shown.open(circuit)
    assert shown.edges() == sorted(circuit.edge_names())
    assert set(shown.nodes()) == stands(circuit)
    own = {stand.split("@")[0] for stand in stands(circuit)}
    assert f"{len(own)} nodes in {len(stands(circuit))} places" in shown.text("#summary")
    assert f"{circuit.prune().n_edges} on a way" in shown.find("#about").get_attribute("textContent")

    headings = shown.driver.find_elements("css selector", ".view > .span")
    assert [heading.text.split("\n") for heading in headings] == [[name, EXAMPLE[name].strip()] for name in SPANS]
    for heading, name in zip(headings, SPANS, strict=True):
        left, right = heading.rect["x"], heading.rect["x"] + heading.rect["width"]
        for stand in shown.nodes():
            assert (left < shown.run("return circuitPage.where(arguments[0]).x", stand) < right) is (
                stand.split("@")[1] == name
            )
    pieces = shown.driver.find_elements("css selector", "#prompt > .piece")
    assert [piece.text.split("\n") for piece in pieces] == [[text.strip(), name] for name, text in EXAMPLE.items()]
    assert ["dead" in piece.get_attribute("class") for piece in pieces] == [True, False, False, False]


def test_slider_click_and_filter_leave_what_they_should(shown: Page) -> None:
    circuit = scored(PER_GROUP.in_spans(SPANS), 150, seed=3, swapped=[["S2", "END"]])
    assert circuit.scores is not None
    shown.open(circuit)
    shown.run("document.getElementById('count').value = ''")
    shown.keys("#count", "80")
    least = circuit.scores[circuit.members].abs().sort(descending=True).values[79]
    kept = replace(circuit, members=circuit.members & (circuit.scores.abs() >= least))
    assert shown.edges() == sorted(kept.edge_names()) and kept.n_edges < 150
    for stand in sorted(stands(kept))[5::9]:
        shown.click_node(stand)
        assert set(shown.edges()) == ways(circuit, kept, stand), stand
        assert shown.text("#selected") == f"Paths of {stand}"
        name, span = stand.split("@")
        others = {other for other in stands(circuit) if other.startswith(f"{name}@")} - {stand}
        told = shown.text("#details")
        assert f"in the span {span}" in told and ("also in" in told) is bool(others)
    shown.keys(".view", "\ue00c")
    shown.find("#inspans input[value='1']").click()
    assert shown.edges() == sorted(name for name in kept.edge_names() if not name.endswith("@S2..END"))


def test_a_head_that_looks_back_tells_from_where_and_goes_to_its_other_places(shown: Page) -> None:
    layout = Layout(2, 2, 8).in_spans(SPANS)
    key = "a0.h1->a1.h0<k>@S2"
    members = torch.zeros(layout.n_edges, dtype=torch.bool)
    for name in (key, "a1.h0->logits@END", "a1.h0->m1@S2..END", "input->a0.h1<q>@S2"):
        members[layout.edge_index(name)] = True
    shown.open(Circuit(layout, members, torch.ones(layout.n_edges), {"example": EXAMPLE}))
    shown.pointer(shown.run("return circuitPage.midway(arguments[0])", key)).perform()
    assert shown.text("#tip").split("\n")[:3] == [key, "read as key in the span S2", "looked at from S2..END, END"]
    shown.click_node("a1.h0@END")
    assert shown.edges() == sorted([key, "a1.h0->logits@END", "input->a0.h1<q>@S2"])
    assert "in the span END, “to”" in shown.text("#details")
    shown.find("#details .row button").click()
    assert shown.text("#selected") == "Paths of a1.h0@S2..END"
    assert shown.edges() == sorted([key, "input->a0.h1<q>@S2"]) and "No way from here" in shown.text("#details")
    shown.keys("#search", "h0@end")
    assert shown.text("#found") == "1 nodes, 0 edges"


def test_two_circuits_in_spans_share_what_they_share_in_the_same_span(shown: Page) -> None:
    layout = PER_HEAD.in_spans(SPANS)
    left, right = scored(layout, 120, seed=0), scored(layout, 90, seed=1, swapped=[["S2", "END"], ["S2..END", "END"]])
    shown.open(left, right, names=("mine", "theirs"))
    assert shown.edges(1) == sorted(left.edge_names()) and shown.edges(2) == sorted(right.edge_names())
    both = len(set(left.edge_names()) & set(right.edge_names()))
    assert shown.text("#sharing").splitlines()[:2] == ["shared", f"{both} edges"]
    assert "IoU of nodes, by span" in shown.text("#sharing")
    for bits, own in ((1, left), (2, right)):
        assert set(shown.run("return circuitPage.nodes(arguments[0])", bits)) == stands(own)  # not by the other's heads
    shown.find("input[value=beside] + span").click()
    shown.settle()
    assert len(shown.driver.find_elements("css selector", ".view > .span")) == 2 * len(SPANS)


def test_names_of_spans_and_texts_of_prompts_stay_text(shown: Page) -> None:
    evil = EVIL.replace("->", "")
    circuit = scored(PER_HEAD.in_spans([evil, "1", "0"]), 60, example={evil: EVIL, "1": "one", "0": "zero", "..": EVIL})
    assert page_html(circuit).count("<script") == page_html(scored(PER_HEAD, 30)).count("<script")
    shown.open(circuit)
    assert len(shown.edges()) == 60
    shown.click_node("m1@1")
    assert shown.run("return window.hacked") is None and not shown.driver.find_elements("css selector", "img")
    pieces = shown.driver.find_elements("css selector", "#prompt > .piece > small")
    assert [piece.get_attribute("textContent") for piece in pieces] == [evil, "1", "0", ".."]  # not by number


@pytest.mark.parametrize("example", [{}, {"example": {}}, {"example": "text"}])
def test_without_an_example_there_are_columns_and_without_spans_there_are_none(shown: Page, example: dict) -> None:
    shown.open(
        Circuit.empty(PER_HEAD.in_spans(SPANS)) if not example else scored(PER_HEAD.in_spans(SPANS), 9, **example)
    )
    assert not shown.find("#prompt").is_displayed()
    assert len(shown.driver.find_elements("css selector", ".view > .span")) == 3
    shown.open(scored(PER_HEAD, 30, example=EXAMPLE))
    assert not shown.find("#prompt").is_displayed() and not shown.find("#inspans").is_displayed()
    assert not shown.driver.find_elements("css selector", ".view > .span")
