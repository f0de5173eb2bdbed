"""Top-n against a sort written with Python's own, sizes against counts."""

from __future__ import annotations

import doctest
import time

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from lightning_circuits import selection
from lightning_circuits.layout import Layout
from lightning_circuits.selection import size_to_count, top_n

GPT2 = Layout(12, 12, 768)
# Few values, so that there are ties; both zeros, which are equal, and infinities.
some_scores = st.lists(st.sampled_from([-float("inf"), -2.0, -1.0, -0.0, 0.0, 1.0, 2.0, float("inf")]), max_size=40)


def test_doctest() -> None:
    result = doctest.testmod(selection)
    assert result.attempted and not result.failed


@given(some_scores, st.data(), st.booleans())
def test_top_n_is_a_stable_sort(scores: list[float], data: st.DataObject, absolute: bool) -> None:
    n = data.draw(st.integers(0, len(scores)))
    rank = sorted(range(len(scores)), key=lambda i: (-(abs(scores[i]) if absolute else scores[i]), i))
    members = top_n(torch.tensor(scores), n, absolute)
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


def test_top_n_leaves_the_scores_alone_and_takes_gates_in_training() -> None:
    scores = torch.tensor([1.0, -2.0, 0.5], requires_grad=True)
    assert top_n(scores, 1, absolute=True).tolist() == [False, True, False]
    assert scores.tolist() == [1.0, -2.0, 0.5]


def test_nan_is_refused_by_name() -> None:
    scores = torch.zeros(GPT2.n_edges)
    scores[1553] = float("nan")
    with pytest.raises(ValueError, match=r"a0\.h1->m2 is NaN"):
        top_n(scores, 5, layout=GPT2)
    with pytest.raises(ValueError, match="edge 1553 is NaN"):
        top_n(scores, 5)


def test_impossible_counts_and_shapes_are_refused() -> None:
    for n in (-1, 4):
        with pytest.raises(ValueError, match="of 3 edges"):
            top_n(torch.zeros(3), n)
    with pytest.raises(ValueError, match=r"\(3, 3\)"):
        top_n(torch.zeros(3, 3), 1)


def test_top_n_is_fast_for_the_largest_models() -> None:
    scores = torch.randn(1_592_881)
    start = time.process_time()
    assert top_n(scores, 15_929).sum() == 15_929
    assert time.process_time() - start < 3  # a Python loop over the edges would not make it by far


@given(st.integers(1, GPT2.n_edges))
def test_sizes_are_counts_and_shares(count: int) -> None:
    assert size_to_count(count, GPT2) == count
    assert size_to_count(count / GPT2.n_edges, GPT2) == count


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


def test_a_size_that_rounds_to_nothing_says_the_smallest_that_does_not() -> None:
    with pytest.raises(ValueError, match="rounds to 0 edges") as caught:
        size_to_count(1e-5, GPT2)
    assert size_to_count(float(str(caught.value).rpartition(" ")[2]), GPT2) == 1
