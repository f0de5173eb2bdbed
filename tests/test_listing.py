"""Listings: what a terminal and a notebook show, and the frame, against the layout's own words."""

from __future__ import annotations

import math
import re
import sys
from html.parser import HTMLParser

import pytest
import torch

from lightning_circuits.circuit import Circuit
from lightning_circuits.layout import Layout
from lightning_circuits.listing import LONGEST, Listing

LAYOUT = Layout(n_layers=2, n_heads=2, d_model=8, n_kv_readers=1)


def circuit(absolute: bool = True, layout: Layout = LAYOUT) -> Circuit:
    generator = torch.Generator().manual_seed(0)
    scores = torch.randn(layout.n_edges, generator=generator)
    members = torch.rand(layout.n_edges, generator=generator) > 0.5
    return Circuit(layout, members, scores, {"ranking": "absolute" if absolute else "signed"})


class Cells(HTMLParser):
    """The texts of a table's cells, row by row."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.rows: list[list[str]] = []
        self.tags: set[str] = set()
        self.inside = False
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: object) -> None:
        self.tags.add(tag)
        if tag == "tr":
            self.rows.append([])
        if self.inside_cell(tag):
            self.rows[-1].append("")
        self.inside = self.inside_cell(tag)

    def handle_data(self, data: str) -> None:
        if self.inside:
            self.rows[-1][-1] += data

    @staticmethod
    def inside_cell(tag: str) -> bool:
        return tag in ("td", "th")


@pytest.mark.parametrize("absolute", [True, False])
def test_the_best_edges_come_first(absolute: bool) -> None:
    mine = circuit(absolute)
    assert mine.scores is not None
    value = {name: mine.scores[LAYOUT.edge_index(name)].item() for name in mine.edge_names()}
    expected = sorted(value, key=lambda name: -abs(value[name]) if absolute else -value[name])
    best = mine.top(5)
    assert [row["edge"] for row in best] == expected[:5]
    assert [row["score"] for row in best] == [value[name] for name in expected[:5]]
    assert best.title == f"5 of the circuit's {mine.n_edges} edges, by {'|score|' if absolute else 'score'}"
    assert len(mine.top(10_000)) == mine.n_edges


def test_equal_scores_go_by_the_lower_index() -> None:
    flat = Circuit(LAYOUT, torch.ones(LAYOUT.n_edges, dtype=torch.bool), torch.zeros(LAYOUT.n_edges))
    assert flat.top(7).columns["edge"] == LAYOUT.edge_names(range(7))


def test_what_cannot_be_ranked_is_said() -> None:
    mine = circuit()
    with pytest.raises(ValueError, match="the best 0 edges: ask for at least 1"):
        mine.top(0)
    with pytest.raises(TypeError, match="n"):
        mine.top(2.5)  # type: ignore[arg-type]
    with pytest.raises(ValueError, match=r"has no scores to rank its edges by: circuit\.edge_names\(\)"):
        Circuit(LAYOUT, mine.members).top()
    with pytest.raises(ValueError, match="is NaN"):
        Circuit(LAYOUT, mine.members, torch.full((LAYOUT.n_edges,), math.nan)).top()


def test_the_frame_has_every_edge_in_the_words_of_its_name() -> None:
    pytest.importorskip("pandas", reason="no pandas: pip install pandas")
    for layout in (LAYOUT, LAYOUT.in_spans(["NAME", "END"])):
        mine = circuit(layout=layout)
        assert mine.scores is not None
        frame = mine.to_frame()
        assert len(frame) == layout.n_edges and list(frame.index) == list(range(layout.n_edges))
        for row in frame.itertuples():
            at = f"@{row.span}" if layout.spans else ""
            assert row.edge == f"{row.writer}->{row.reader}{at}" and layout.edge_index(row.edge) == row.Index
            assert row.member == mine.members[row.Index] and row.score == mine.scores[row.Index]
        for end in ("writer", "reader"):
            for name, layer in zip(frame[end], frame[f"{end}_layer"], strict=True):
                found = re.match(r"[am](\d+)", name)
                assert (found is None) == (layer is pandas_na()) and (found is None or int(found[1]) == layer)
        assert frame.member.sum() == mine.n_edges


def pandas_na() -> object:
    import pandas

    return pandas.NA


def test_without_pandas_it_is_said_how_to_get_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "pandas", None)
    with pytest.raises(ImportError, match="pip install pandas"):
        circuit().to_frame()


def test_a_terminal_and_a_notebook_show_the_same_cells() -> None:
    listing = Listing("T", {"name": ["a", "bb"], "x": [1.234, math.nan], "n": [None, 3]}, {"x": ".1f", "n": "d"})
    html = Cells(listing._repr_html_())
    assert html.rows == [["name", "x", "n"], ["a", "1.2", "-"], ["bb", "-", "3"]]
    assert [line.split() for line in repr(listing).splitlines()] == [["T"], *html.rows]


def test_there_is_no_minus_before_nothing() -> None:
    listing = Listing("T", {"x": [-0.001, -0.01, 0.0]}, {"x": ".2f"})
    assert repr(listing).split() == ["T", "x", "0.00", "-0.01", "0.00"]


def test_nothing_in_a_name_is_live() -> None:
    hostile = "<script>alert(1)</script>\x1b[31m\n"
    listing = Listing(hostile, {hostile: [hostile]})
    html = listing._repr_html_()
    assert "script" not in Cells(html).tags and "\x1b" not in html
    assert "\x1b" not in repr(listing) and len(repr(listing).splitlines()) == 3


def test_of_a_long_one_the_beginning_is_shown_and_the_rest_is_there() -> None:
    listing = Listing("numbers", {"n": list(range(LONGEST + 7))}, {"n": "d"})
    assert repr(listing).endswith("... and 7 more rows") and "and 7 more rows" in listing._repr_html_()
    assert listing[-1] == {"n": LONGEST + 6} and len(listing[LONGEST:]) == 7
    assert repr(Listing("none", {"n": []})).splitlines() == ["none", "n"]
