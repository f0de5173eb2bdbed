"""Circuits in spans, column by column: which node stands where, and from where to where the lines of an edge go."""

from __future__ import annotations

import re
from dataclasses import replace
from typing import Any

import pytest

from lightning_circuits.circuit import Circuit
from lightning_circuits.drawing.columns import example_of, in_columns
from lightning_circuits.layout import Layout
from tests.support.drawn_circuits import PER_GROUP, PER_HEAD, stand_of_lines
from tests.support.made_circuits import of_edges

SPANS = ["S1", "S1..END", "END"]


def lines(circuit: Circuit) -> set[tuple[str, str, str]]:
    names = circuit.layout.spans
    return {(e, f"{w}@{names[s]}", f"{r}@{names[t]}") for (w, s), (r, t), e in in_columns(circuit).edges(data="edge")}


@pytest.mark.parametrize("layout", [PER_HEAD, PER_GROUP], ids=["per head", "per group"])
@pytest.mark.parametrize("n", [0, 6, 40, 300])
def test_every_line_goes_from_where_it_is_written_to_where_it_is_used(layout: Layout, n: int) -> None:
    for seed in range(3):
        some = Circuit.random(layout.in_spans(SPANS), n, seed)
        assert lines(some) == stand_of_lines(some)


def test_a_key_is_seen_from_its_own_column_and_from_later_ones_where_the_head_is_at_work() -> None:
    layout = PER_HEAD.in_spans(SPANS)
    key, value = "m0->a1.h0<k>@S1..END", "m0->a1.h0<v>@END"
    used = [f"a1.h0->logits@{span}" for span in SPANS]
    found = lines(of_edges(layout, key, value, *used))
    assert {end for edge, _, end in found if edge == key} == {"a1.h0@S1..END", "a1.h0@END"}
    assert {end for edge, _, end in found if edge == value} == {"a1.h0@END"}
    # At work before it alone, where no token can see it: it is in the file, and so on the picture.
    found = lines(of_edges(layout, key, used[0]))
    assert {end for edge, _, end in found if edge == key} == {"a1.h0@S1..END"}
    # A query is a head's work too.
    found = lines(of_edges(layout, key, "input->a1.h0<q>@END"))
    assert {end for edge, _, end in found if edge == key} == {"a1.h0@END"}


def test_a_span_that_stands_later_in_some_prompts_sees_it_too() -> None:
    layout = PER_HEAD.in_spans(SPANS)
    key, used = "m0->a1.h0<k>@S1..END", [f"a1.h0->logits@{span}" for span in SPANS]
    for metadata in ({"swapped": [["S1", "S1..END"]]}, {"made_by": {"swapped": [["S1", "S1..END"], ["S0", "END"]]}}):
        found = lines(replace(of_edges(layout, key, *used), metadata=metadata))
        assert {end for edge, _, end in found if edge == key} == {f"a1.h0@{span}" for span in SPANS}
    for odd in (None, 3, "S1", ["S1"], [["S1"]], [[1, 2]], [["S1", ["END"]]], {"S1": "END"}):
        found = lines(replace(of_edges(layout, key, *used), metadata={"swapped": odd}))
        assert len({end for edge, _, end in found if edge == key}) == 2


def test_without_spans_it_is_the_graph_of_the_circuit() -> None:
    some = Circuit.random(PER_GROUP, 60, 0)
    graph, plain = in_columns(some), some.to_networkx()
    assert {name for name, _ in graph} == set(plain) | {"input", "logits"} and {span for _, span in graph} == {0}
    assert [(w, r, e) for (w, _), (r, _), e in graph.edges(data="edge")] == list(plain.edges(data="edge"))


@pytest.mark.parametrize(
    ("metadata", "example"),
    [
        ({}, {}),
        ({"example": {"S": " Mary", "END": " to"}}, {"S": " Mary", "END": " to"}),
        ({"trained_on": {"data": None, "example": {"S": "a"}}}, {"S": "a"}),
        ({"made_by": {"trained_on": {"example": {"S": "a"}}}}, {"S": "a"}),
        *(({"example": odd}, {}) for odd in (None, 3, "text", ["a"], {"S": None}, {"S": ["a"]})),
        *(({"trained_on": odd, "made_by": odd}, {}) for odd in (None, 3, "text", ["a"], [])),
    ],
)
def test_the_example_is_where_a_search_left_it_and_other_metadata_may_be_anything(metadata: Any, example: Any) -> None:
    assert list(example_of(metadata).items()) == list(example.items())


def test_no_name_of_a_span_is_taken_for_another() -> None:
    layout = Layout(1, 1, 1).in_spans(["END", "S..END", "k>", "m0"])
    found = lines(Circuit.full(layout))
    assert all(re.fullmatch(r"(input|a0\.h0|m0)@.+", writer) for _, writer, _ in found)
    assert found == stand_of_lines(Circuit.full(layout))
