"""Each way to choose against the same written with Python's own lists and names, sizes against counts."""

from __future__ import annotations

import re
import time
from collections.abc import Callable
from typing import Any

import pytest
import torch
from hypothesis import example, given, settings
from hypothesis import strategies as st
from torch import Tensor

from lightning_circuits.circuit import Circuit
from lightning_circuits.files import mib
from lightning_circuits.layout import Layout
from lightning_circuits.selection import greedy, size_to_count, threshold, top_n

GPT2 = Layout(12, 12, 768)
# Few values, so that there are ties; both zeros, which are equal, and infinities.
values = st.sampled_from([-float("inf"), -2.0, -1.0, -0.0, 0.0, 1.0, 2.0, float("inf")])
some_scores = st.lists(values, max_size=40)
layouts = st.sampled_from(
    [
        *(Layout(1, 1, 4), Layout(2, 2, 8), Layout(3, 1, 4), Layout(2, 4, 8, n_kv_readers=2)),
        Layout(2, 2, 8, parallel=True),
        *(Layout(2, 1, 4).in_spans(["S2", "END"]), Layout(1, 4, 8, n_kv_readers=2).in_spans(["S2", "END"])),
    ]
)


@st.composite
def scored_layouts(draw: st.DrawFn) -> tuple[Layout, Tensor]:
    """A small layout and scores for its edges, with ties or without."""
    layout = draw(layouts)
    if draw(st.booleans()):
        return layout, torch.tensor(draw(st.lists(values, min_size=layout.n_edges, max_size=layout.n_edges)))
    return layout, torch.randn(layout.n_edges, generator=torch.Generator().manual_seed(draw(st.integers(0, 9999))))


def grown_from_the_logits(layout: Layout, scores: list[float], absolute: bool) -> list[int]:
    """All edges in greedy's order, by names: one step for an edge, each looking at all edges that there are."""
    ends = [re.fullmatch(r"(.+)->([^@]+)@?(.*)", name).groups() for name in layout.edge_names(range(layout.n_edges))]
    group = layout.n_heads // layout.n_kv_readers

    def nodes(reader: str, at: str) -> set[tuple[str, str]]:
        """Those that read by it: a key or value of any span is read by its heads in every span."""
        block, _, kind = reader.partition("<")
        heads = {block}
        if ".g" in block:
            layer, g = block.split(".g")
            heads = {f"{layer}.h{head}" for head in range(layout.n_heads) if head // group == int(g)}
        everywhere = layout.spans or ("",)
        return {(head, span) for head in heads for span in (everywhere if kind in ("k>", "v>") else [at])}

    inside, order = {("logits", span) for span in layout.spans or ("",)}, []
    while len(order) < len(scores):
        candidates = [e for e, (_, reader, at) in enumerate(ends) if e not in order and nodes(reader, at) & inside]
        best = max(candidates, key=lambda e: (abs(scores[e]) if absolute else scores[e], -e))
        order.append(best)
        inside.add((ends[best][0], ends[best][2]))
    return order


@given(some_scores, st.data(), st.booleans())
def test_top_n_is_a_stable_sort(scores: list[float], data: st.DataObject, absolute: bool) -> None:
    n = data.draw(st.integers(0, len(scores)))
    rank = sorted(range(len(scores)), key=lambda i: (-(abs(scores[i]) if absolute else scores[i]), i))
    members = top_n(torch.tensor(scores), n, absolute=absolute)
    assert members.dtype == torch.bool
    assert members.nonzero()[:, 0].tolist() == sorted(rank[:n])


def test_ties_go_to_the_lower_index_in_long_vectors_too() -> None:
    scores = torch.ones(GPT2.n_edges)
    scores[20_000:20_010] = 2
    members = top_n(scores, 110)
    assert members.nonzero()[:, 0].tolist() == [*range(100), *range(20_000, 20_010)]


@given(some_scores, st.data())
def test_selections_are_nested(scores: list[float], data: st.DataObject) -> None:
    large = data.draw(st.integers(0, len(scores)))
    small = data.draw(st.integers(0, large))
    assert not (top_n(torch.tensor(scores), small) & ~top_n(torch.tensor(scores), large)).any()


@given(some_scores, values, st.booleans())
def test_threshold_takes_what_reaches_it(scores: list[float], at_least: float, absolute: bool) -> None:
    expected = [(abs(score) if absolute else score) >= at_least for score in scores]
    members = threshold(torch.tensor(scores), at_least, absolute=absolute)
    assert members.dtype == torch.bool and members.tolist() == expected


@given(some_scores, st.data(), st.booleans())
def test_a_threshold_on_the_nth_score_takes_the_n_best_and_what_equals_them(
    scores: list[float], data: st.DataObject, absolute: bool
) -> None:
    n = data.draw(st.integers(0, len(scores)))
    best = top_n(torch.tensor(scores), n, absolute=absolute)
    worst = min((abs(s) if absolute else s for s, m in zip(scores, best.tolist(), strict=True) if m), default=None)
    if worst is not None:
        members = threshold(torch.tensor(scores), worst, absolute=absolute)
        assert not (best & ~members).any()
        assert members.sum() == sum((abs(s) if absolute else s) >= worst for s in scores)


@given(scored_layouts(), st.booleans(), st.data())
def test_greedy_takes_one_edge_after_the_other(
    scored: tuple[Layout, Tensor], absolute: bool, data: st.DataObject
) -> None:
    layout, scores = scored
    order = grown_from_the_logits(layout, scores.tolist(), absolute)
    for n in {0, 1, layout.n_edges, data.draw(st.integers(0, layout.n_edges))}:
        members = greedy(scores, n, layout, absolute=absolute)
        assert members.dtype == torch.bool
        assert members.nonzero()[:, 0].tolist() == sorted(order[:n])


@given(scored_layouts(), st.booleans())
@example((Layout(2, 2, 8), torch.zeros(46)), False)
@settings(max_examples=25)
def test_every_edge_that_greedy_takes_leads_to_the_logits(scored: tuple[Layout, Tensor], absolute: bool) -> None:
    """And circuits grow: each holds the one before and one edge more."""
    layout, scores = scored
    before = torch.zeros(layout.n_edges, dtype=torch.bool)
    for n in range(1, layout.n_edges + 1):
        members = greedy(scores, n, layout, absolute=absolute)
        (new,) = (members & ~before).nonzero()[:, 0].tolist()
        assert not (before & ~members).any()
        # Fed by the input, nothing of it would be pruned: every node that is read has a way to the logits.
        fed = torch.where(layout.edge_writer == 0, True, members)
        assert Circuit(layout, fed).prune().members[new]
        before = members


def test_greedy_may_pass_over_the_best_edge_for_as_long_as_its_reader_is_out() -> None:
    layout = Layout(2, 1, 4)
    scores = torch.full((layout.n_edges,), -1.0)
    for name, score in {"a0.h0->a1.h0<v>": 9.0, "m1->logits": 3.0, "a1.h0->m1": 2.0, "input->a0.h0<q>": 8.0}.items():
        scores[layout.edge_index(name)] = score

    def names(n: int) -> set[str]:
        return set(layout.edge_names(greedy(scores, n, layout).nonzero()[:, 0]))

    assert names(2) == {"m1->logits", "a1.h0->m1"}
    assert names(3) - names(2) == {"a0.h0->a1.h0<v>"}
    assert names(4) - names(3) == {"input->a0.h0<q>"}


def test_greedy_goes_into_another_span_by_a_key_or_a_value_alone() -> None:
    layout = Layout(2, 1, 4).in_spans(["S2", "END"])
    scores = torch.full((layout.n_edges,), -1.0)
    chain = ["a1.h0->logits@END", "a0.h0->a1.h0<v>@S2", "input->a0.h0<q>@S2"]
    for score, name in enumerate(["m0->a1.h0<q>@S2", "m0->a1.h0<q>@END", *reversed(chain)]):
        scores[layout.edge_index(name)] = 9.0 - score
    members = greedy(scores, 4, layout)
    # The query of a1.h0 is read at END, where its output is; at S2 it leads nowhere, whatever it scores.
    assert set(layout.edge_names(members.nonzero()[:, 0])) == {*chain, "m0->a1.h0<q>@END"}
    assert Circuit(layout, members).prune().edge_names() == [name for name in sorted(chain, key=layout.edge_index)]


def test_greedy_treats_a_key_that_heads_share_as_each_ones() -> None:
    layout = Layout(2, 4, 8, n_kv_readers=2)
    scores = torch.zeros(layout.n_edges)
    scores[layout.edge_index("a1.h3->logits")] = 2
    scores[layout.edge_index("m0->a1.g1<k>")] = 1
    scores[layout.edge_index("m0->a1.g0<k>")] = 1  # of heads 0 and 1, which are not in
    assert layout.edge_names(greedy(scores, 2, layout).nonzero()[:, 0]) == ["m0->a1.g1<k>", "a1.h3->logits"]


def test_top_n_leaves_the_scores_alone_and_takes_gates_in_training() -> None:
    scores = torch.tensor([1.0, -2.0, 0.5], requires_grad=True)
    assert top_n(scores, 1, absolute=True).tolist() == [False, True, False]
    assert scores.tolist() == [1.0, -2.0, 0.5]


SELECTIONS = {
    "top_n": lambda scores, **options: top_n(scores, 5, **options),
    "threshold": lambda scores, **options: threshold(scores, 0.5, **options),
    "greedy": lambda scores, layout=GPT2, **options: greedy(scores, 5, layout, **options),
}
each_way = pytest.mark.parametrize("select", SELECTIONS.values(), ids=SELECTIONS)


@each_way
@pytest.mark.parametrize("absolute", [False, True])
def test_nan_is_refused_by_name(select: Callable[..., Tensor], absolute: bool) -> None:
    scores = torch.zeros(GPT2.n_edges)
    scores[1553] = float("nan")
    with pytest.raises(ValueError, match=r"a0\.h1->m2 is NaN"):
        select(scores, layout=GPT2, absolute=absolute)


def test_without_a_layout_an_edge_goes_by_its_number() -> None:
    with pytest.raises(ValueError, match="edge 1 is NaN"):
        top_n(torch.tensor([0.0, float("nan")]), 1)


def test_a_threshold_of_nan_is_refused() -> None:
    with pytest.raises(ValueError, match="a threshold of NaN"):
        threshold(torch.zeros(3), float("nan"))


@each_way
def test_scores_that_are_no_vector_are_refused(select: Callable[..., Tensor]) -> None:
    with pytest.raises(ValueError, match=r"\(3, 3\)"):
        select(torch.zeros(3, 3))


@each_way
@pytest.mark.parametrize("n", [46, GPT2.n_edges - 1, GPT2.n_edges + 1, 0])
def test_scores_of_another_layout_are_refused(select: Callable[..., Tensor], n: int) -> None:
    with pytest.raises(ValueError, match=rf"32,491 edges of .*\({n},\)"):
        select(torch.zeros(n), layout=GPT2)


@each_way
def test_what_is_no_vector_of_real_numbers_is_refused(select: Callable[..., Tensor]) -> None:
    with pytest.raises(TypeError, match="ranked by real numbers"):
        select(torch.zeros(GPT2.n_edges, dtype=torch.complex64))
    with pytest.raises(TypeError, match="scores takes an object of the class Tensor"):
        select([0.5, 0.1])


@pytest.mark.parametrize("n", [2.0, "2", None, True])
def test_a_number_of_edges_that_is_none(n: object) -> None:
    with pytest.raises(TypeError, match="n takes a whole number"):
        top_n(torch.zeros(46), n)  # type: ignore[arg-type]
    with pytest.raises(TypeError, match="n takes a whole number"):
        greedy(torch.zeros(46), n, Layout(2, 2, 8))  # type: ignore[arg-type]
    with pytest.raises(TypeError, match="at_least takes a number"):
        threshold(torch.zeros(46), "2")  # type: ignore[arg-type]


def test_impossible_counts_are_refused() -> None:
    for n in (-1, 47):
        with pytest.raises(ValueError, match="of 46 edges"):
            top_n(torch.zeros(46), n)
        with pytest.raises(ValueError, match="of 46 edges"):
            greedy(torch.zeros(46), n, Layout(2, 2, 8))


@each_way
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float64])
def test_any_precision_will_do(select: Callable[..., Tensor], dtype: torch.dtype) -> None:
    scores = torch.randn(GPT2.n_edges, generator=torch.Generator().manual_seed(0)).to(dtype).requires_grad_()
    assert torch.equal(select(scores), select(scores.detach().double()))


@each_way
def test_selection_is_fast_for_the_largest_models(select: Callable[..., Tensor]) -> None:
    llama = Layout(32, 32, 4096)  # Llama-3.1-8B
    options: dict[str, Any] = {"layout": llama}
    scores = torch.randn(llama.n_edges, generator=torch.Generator().manual_seed(0))
    start = time.process_time()
    select(scores, **options)
    assert time.process_time() - start < 3  # a Python loop over the edges would not make it by far


@given(st.integers(1, GPT2.n_edges), st.floats(1e-4, 1))
def test_sizes_are_counts_and_shares(count: int, share: float) -> None:
    assert size_to_count(count, GPT2) == count
    edges = size_to_count(share, GPT2)
    assert edges == int(share * GPT2.n_edges) and edges <= share * GPT2.n_edges < edges + 1


@pytest.mark.parametrize("model", mib.MODELS)
def test_shares_are_those_of_mib(model: str) -> None:
    layout = mib.MODELS[model]
    assert [size_to_count(share, layout) for share in mib.SHARES] == mib.counts(layout)


def test_one_is_an_edge_and_one_point_zero_is_all() -> None:
    assert size_to_count(1, GPT2) == 1
    assert size_to_count(1.0, GPT2) == GPT2.n_edges


@pytest.mark.parametrize("size", [0.0, -0.1, 1.5, float("nan"), 0, -3, GPT2.n_edges + 1])
def test_sizes_out_of_range_are_refused(size: float) -> None:
    with pytest.raises(ValueError, match=r"a share of the edges lies in|a count lies between"):
        size_to_count(size, GPT2)


@pytest.mark.parametrize("size", ["0.1", True, None])
def test_sizes_of_another_type_are_refused(size: object) -> None:
    with pytest.raises(TypeError, match="number of edges or a share"):
        size_to_count(size, GPT2)  # type: ignore[arg-type]


@pytest.mark.parametrize("layout", [Layout(1, 1, 1), Layout(2, 2, 8), GPT2, mib.MODELS["llama3"]], ids=str)
def test_a_size_that_rounds_to_nothing_says_one_that_does_not(layout: Layout) -> None:
    with pytest.raises(ValueError, match="rounds to 0 edges") as caught:
        size_to_count(0.9 / layout.n_edges, layout)
    assert size_to_count(float(str(caught.value).rpartition(" ")[2]), layout) == 1
    assert size_to_count(0.9 / layout.n_edges, layout, none_allowed=True) == 0
