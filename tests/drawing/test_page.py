"""The file of a page: what is in it, what it refers to, and what is refused."""

from __future__ import annotations

import json
import re
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from lightning_circuits.circuit import Circuit
from lightning_circuits.drawing.page import page_html, save_page
from lightning_circuits.layout import Layout
from tests.support.drawn_circuits import PER_GROUP, PER_HEAD, row, scored
from tests.support.made_curves import make_curve


def data(html: str) -> dict[str, Any]:
    """What the page's script reads."""
    [text] = re.findall(r'<script type="application/json" id="data">(.*?)</script>', html, re.DOTALL)
    return json.loads(text)


def test_a_page_of_2000_edges_is_one_small_file_that_refers_to_nothing(tmp_path: Path) -> None:
    path = save_page(scored(Layout(12, 12, 768), 2000), tmp_path / "page.html")
    html = path.read_text(encoding="utf-8")
    assert path.stat().st_size < 1_000_000
    assert list(tmp_path.iterdir()) == [path]
    assert not re.search(r"<(link|script|img|iframe)[^>]*\s(src|href)=", html.split("<script>")[0])
    assert "default-src 'none'" in html
    assert "The Cytoscape Consortium" in html and "Permission is hereby granted" in html  # its licence asks for that


def test_the_same_circuit_gives_the_same_page() -> None:
    assert page_html(scored(PER_HEAD, 50)) == page_html(scored(PER_HEAD, 50))


def test_what_cannot_be_drawn_is_refused(tmp_path: Path) -> None:
    circuit = scored(PER_HEAD, 20)
    assert circuit.scores is not None
    with pytest.raises(ValueError, match=r"page\.json: the suffix must be \.html"):
        save_page(circuit, tmp_path / "page.json")
    with pytest.raises(FileNotFoundError, match="there is no folder"):
        save_page(circuit, tmp_path / "nowhere" / "page.html")
    with pytest.raises(ValueError, match=r"another layout: n_kv_readers 2 against 4"):
        page_html(circuit, Circuit.full(PER_GROUP))
    with pytest.raises(ValueError, match="not plain JSON data"):
        page_html(replace(circuit, metadata={"lr": float("nan")}))
    with pytest.raises(ValueError, match="2 circuits on the page, but 1 names: a"):
        page_html(circuit, circuit, names=["a"])
    edge = circuit.edge_names()[3]
    broken = circuit.scores.clone()
    broken[PER_HEAD.edge_index(edge)] = torch.inf
    with pytest.raises(ValueError, match=f"score of edge {re.escape(edge)} is inf"):
        page_html(replace(circuit, scores=broken))
    assert not list(tmp_path.iterdir())


def test_a_curve_comes_as_a_file_as_rows_or_from_the_circuit(tmp_path: Path) -> None:
    circuit = scored(PER_HEAD, 20)
    rows = [row("full", 100, 1.0), row("5", 5, 0.5), row("5 random", 5, 0.1), row("9", 9, float("nan"))]
    rows[-1]["faithfulness"] = None
    wanted = [row("5", 5, 0.5, faithfulness_low=None, faithfulness_high=None)]
    del wanted[0]["circuit"]
    wanted[0]["measure"] = "logit_difference"  # of rows that say none
    assert data(page_html(circuit, curve=rows))["circuits"][0]["curve"] == wanted
    measured = make_curve({"absolute": {0.01: 0.2, 0.5: 1.4}})
    measured.save(tmp_path)
    for curve in (measured, measured.rows, tmp_path / "curve.json", str(tmp_path / "curve.json")):
        points = data(page_html(circuit, curve=curve))["circuits"][0]["curve"]
        assert [(point["edges"], point["faithfulness"]) for point in points] == [(10, 0.2), (500, 1.4)]
    assert data(page_html(replace(circuit, metadata={"measured": rows})))["circuits"][0]["curve"] == wanted
    assert (
        data(page_html(replace(circuit, metadata={"measured": {"by": "someone else"}})))["circuits"][0]["curve"] == []
    )

    with pytest.raises(FileNotFoundError, match="no curve at"):
        page_html(circuit, curve=tmp_path / "other.json")
    (tmp_path / "bad.json").write_text("{")
    with pytest.raises(ValueError, match=r"bad\.json cannot be read as a curve"):
        page_html(circuit, curve=tmp_path / "bad.json")
    with pytest.raises(ValueError, match="row 0 says no circuit's faithfulness: missing 'ablation'"):
        page_html(circuit, curve=[{"edges": 3}])
    for odd in ([3], [None], [{**rows[2], "edges": "5"}], [{**rows[2], "faithfulness": [1]}]):
        with pytest.raises(ValueError, match="row 0 says no circuit's faithfulness"):
            page_html(circuit, curve=odd)
        assert data(page_html(replace(circuit, metadata={"measured": odd})))["circuits"][0]["curve"] == []


def test_of_a_curve_with_two_rankings_the_circuit_s_own_is_shown() -> None:
    rows = [row(f"5 {name}", 5, f, ranking=name) for name, f in (("signed", 0.7), ("absolute", 0.6), ("random", 0.1))]
    rows.append(row("5 signed pruned", 5, 0.2, ranking="signed", pruned=True))
    for ranking, f in (("signed", 0.7), ("absolute", 0.6)):
        [point] = data(page_html(scored(PER_HEAD, 20, ranking=ranking), curve=rows))["circuits"][0]["curve"]
        assert point["faithfulness"] == f
    with pytest.raises(ValueError, match=r"by signed score, and the page takes edges by absolute score: .*\[absol"):
        page_html(scored(PER_HEAD, 20, ranking="absolute"), curve=rows[:1])


def test_a_pruned_circuit_is_as_faithful_as_it_was_before_under_interchange() -> None:
    """Saved circuits are pruned after they were measured; under another ablation pruning changes the number."""
    measured = [row("10%", 24, 0.9, edges_pruned=20) | {"ablation": name} for name in ("interchange", "zero")]
    [interchange, zero] = data(page_html(scored(PER_HEAD, 20, measured=measured)))["circuits"][0]["curve"]
    assert (interchange["edges"], zero["edges"]) == (20, 24)
