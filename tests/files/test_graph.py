"""`.graphml` and `.dot` hold the graph that a circuit is."""

from __future__ import annotations

import json
import xml.etree.ElementTree as ElementTree
from pathlib import Path

import networkx as nx
import pytest

from lightning_circuits.circuit import Circuit
from lightning_circuits.layout import Layout
from tests.support.made_circuits import METADATA, PER_GROUP, PER_HEAD, circuit, of_edges


@pytest.mark.parametrize("layout", [PER_HEAD, PER_GROUP], ids=str)
def test_graphml_holds_the_graph(tmp_path: Path, layout: Layout) -> None:
    saved = circuit(layout)
    path = saved.save(tmp_path / "c.graphml")
    expected, found = saved.to_networkx(), nx.read_graphml(path, force_multigraph=True)
    assert list(found) == list(expected)
    assert {n: found.nodes[n] for n in found} == {n: expected.nodes[n] for n in expected}
    edges = {key: (w, n, a["edge"], a["reader"]) for w, n, key, a in expected.edges(keys=True, data=True)}
    assert {key: (w, n, a["edge"], a["reader"]) for w, n, key, a in found.edges(keys=True, data=True)} == edges
    ids = [edge.get("id") for edge in ElementTree.parse(path).iter("{http://graphml.graphdrawing.org/xmlns}edge")]
    assert len(ids) == len(set(ids)) == len(edges)  # Gephi drops an edge whose id it has seen
    assert json.loads(found.graph["metadata"]) == METADATA


def test_dot_holds_the_graph(tmp_path: Path) -> None:
    names = ["input->a0.h1<k>", "input->a0.h1<v>", "a0.h1->m1", "m1->logits"]
    lines = of_edges(PER_HEAD, *names).save(tmp_path / "c.dot").read_text().splitlines()
    assert lines[0] == "digraph circuit {" and lines[-1] == "}"
    assert [line for line in lines if "->" in line] == [
        '  "input" -> "a0.h1" [label="k"];',
        '  "input" -> "a0.h1" [label="v"];',
        '  "a0.h1" -> "m1";',
        '  "m1" -> "logits";',
    ]


def test_the_name_of_a_span_ends_no_text_in_dot(tmp_path: Path) -> None:
    layout = PER_HEAD.in_spans(['"]; a - b', "back\\slash"])
    text = Circuit.full(layout).save(tmp_path / "c.dot").read_text()
    assert r'[label="q \"]; a - b"];' in text and r'[label="v back\\slash"];' in text
