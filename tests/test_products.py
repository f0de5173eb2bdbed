"""The three products against `einsum`, and what they cost against counting by hand."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor
from transformers import AutoModelForCausalLM, LlamaConfig

from lightning_circuits import blocks
from lightning_circuits.masked import masked_logits
from lightning_circuits.models import CircuitModel, wrap
from lightning_circuits.places import Places
from lightning_circuits.products import Traffic, add_mix, counted, dot, mix, push
from tests.support.gates import generator

WRITERS, READERS, ROWS, LENGTH, WIDTH = 7, 5, 3, 4, 6
KINDS = {"dense": 1.0, "sparse": 0.1, "closed": 0.0}
kinds = pytest.mark.parametrize("kind", KINDS)
spans = pytest.mark.parametrize("n_spans", [1, 3])
dtypes = pytest.mark.parametrize("dtype", [torch.float32, torch.float64])


def drawn(*shape: int, dtype: torch.dtype = torch.float64, seed: int = 0) -> Tensor:
    return torch.randn(shape, generator=generator(seed), dtype=torch.float64).to(dtype)


def made(n_spans: int) -> tuple[Places, Tensor]:
    """Places of some prompts, and the span of each of the N tokens that are multiplied; the last span has none."""
    positions = torch.full((ROWS,), LENGTH - 1)
    if n_spans == 1:
        return Places.in_order(positions, LENGTH), torch.zeros(ROWS * LENGTH, dtype=torch.int64)
    of_tokens = torch.randint(-1, n_spans - 1, (ROWS, LENGTH), generator=generator(5))
    return Places.of_spans(of_tokens, positions, n_spans), of_tokens[of_tokens >= 0].sort().values


def gates(n_spans: int, kind: str, dtype: torch.dtype) -> Tensor:
    values = torch.rand(n_spans, WRITERS, READERS, generator=generator(1), dtype=torch.float64)
    return (values * (torch.rand(values.shape, generator=generator(2)) < KINDS[kind])).to(dtype)


@dtypes
@kinds
@spans
def test_mix_is_what_readers_see(n_spans: int, kind: str, dtype: torch.dtype) -> None:
    (places, of), m = made(n_spans), gates(n_spans, kind, dtype)
    stack = drawn(WRITERS, len(of), WIDTH, dtype=dtype)
    expected = torch.einsum("nwr,wnd->rnd", m.double()[of], stack.double()).to(dtype)
    torch.testing.assert_close(mix(m, stack, places), expected)
    x = drawn(READERS, len(of), WIDTH, dtype=dtype, seed=3)
    total = x.double() + expected.double()
    add_mix(x, m, stack, places)
    torch.testing.assert_close(x, total.to(dtype))


@dtypes
@kinds
@spans
def test_push_is_the_gradient_of_the_writers(n_spans: int, kind: str, dtype: torch.dtype) -> None:
    (places, of), m = made(n_spans), gates(n_spans, kind, dtype)
    dx, dstack = drawn(READERS, len(of), WIDTH, dtype=dtype), drawn(WRITERS, len(of), WIDTH, dtype=dtype, seed=3)
    expected = dstack.double() + torch.einsum("nwr,rnd->wnd", m.double()[of], dx.double())
    push(dstack, m, dx, places)
    torch.testing.assert_close(dstack, expected.to(dtype))


@dtypes
@kinds
@spans
@pytest.mark.parametrize("some", [False, True])
def test_dot_is_the_gradient_of_the_gates(n_spans: int, kind: str, dtype: torch.dtype, some: bool) -> None:
    """Where a gate is closed it may be left out, and is where there are few open ones."""
    (places, of), m = made(n_spans), gates(n_spans, kind, dtype)
    stack, dx = drawn(WRITERS, len(of), WIDTH, dtype=dtype), drawn(READERS, len(of), WIDTH, dtype=dtype, seed=3)
    of_each = torch.nn.functional.one_hot(of, n_spans).double()
    expected = torch.einsum("wnd,rnd,ns->swr", stack.double(), dx.double(), of_each).to(dtype)
    out = torch.full((n_spans, WRITERS, READERS), torch.nan, dtype=dtype)
    dot(out, stack, dx, places, only=m if some else None)
    there = m != 0 if some else torch.ones_like(m, dtype=torch.bool)
    torch.testing.assert_close(out[there], expected[there])
    assert ((out == expected) | (out == 0) | (out - expected).abs().lt(1e-4)).all(), "neither there nor left out"
    if some and kind != "dense":
        assert not out[~there].any()


def test_views_are_written_in_their_place() -> None:
    """As `masked` calls them: rows of a stack, columns of the gates of a block, readers of a part."""
    places, _ = made(1)
    whole, m = drawn(WRITERS + 4, ROWS * LENGTH, WIDTH), gates(1, "dense", torch.float64)
    x = drawn(READERS + 3, ROWS * LENGTH, WIDTH)
    before, stack_before, new, columns = x.clone(), whole.clone(), slice(2, 5), slice(1, 4)
    add_mix(x[columns], m[:, new, columns], whole[new], places)
    more = torch.einsum("wr,wnd->rnd", m[0, new, columns], stack_before[new])
    torch.testing.assert_close(x[columns], before[columns] + more)
    assert torch.equal(x[4:], before[4:]) and torch.equal(x[:1], before[:1])
    push(whole[new], m[:, new, columns], x[columns], places)
    torch.testing.assert_close(
        whole[new], stack_before[new] + torch.einsum("wr,rnd->wnd", m[0, new, columns], x[columns])
    )
    assert torch.equal(whole[5:], stack_before[5:]) and torch.equal(whole[:2], stack_before[:2])


def test_inner_products_of_sixteen_bits_are_summed_in_float32() -> None:
    """A sum over many tokens loses its small terms in bfloat16: 4,096 ones would come out as 256."""
    places = Places.in_order(torch.zeros(64, dtype=torch.int64), 64)
    ones = torch.ones(1, 4096, 1, dtype=torch.bfloat16)
    out = torch.zeros(1, 1, 1)
    dot(out, ones, ones, places)
    assert out.item() == 4096


# ---- what they cost ------------------------------------------------------------------------------------------------


@kinds
@spans
def test_the_products_are_counted(n_spans: int, kind: str) -> None:
    """Whatever the way they are multiplied: rows of each span's tokens, and every gate of a matrix."""
    (places, of), m = made(n_spans), gates(n_spans, kind, torch.float64)
    stack, dx = drawn(WRITERS, len(of), WIDTH), drawn(READERS, len(of), WIDTH)
    adds = WRITERS * READERS * len(of) * WIDTH
    for call, read, written in (
        (lambda: mix(m, stack, places), WRITERS, 0),
        (lambda: add_mix(dx, m, stack, places), WRITERS, 0),
        (lambda: dot(torch.zeros_like(m), stack, dx, places), WRITERS, 0),
        (lambda: push(stack, m, dx, places), WRITERS, WRITERS),
    ):
        with counted() as traffic, counted() as inside:
            call()
        assert traffic == inside == Traffic(n_spans * read, n_spans * written, adds)
    before = Traffic(**vars(traffic))
    mix(m, stack, places)
    assert traffic == before, "closed, a counter counts no more"


def by_hand(n_layers: int, heads: int, size: int) -> tuple[int, int]:
    """Rows of stacks that a step reads and writes, no gate being closed: layers of some heads, ``size`` a block."""
    read = written = 0
    for first in range(0, n_layers, size):
        last = min(first + size, n_layers)
        streams = 2 * (last - first)
        n, end = 1 + first * (heads + 1), last * (heads + 1)  # before the block; what its last MLP sees
        # The bases of its streams are multiplied with the writers, forward and backward.
        read += (streams + n) + (streams + end)
        # The gradient of the gates: all that it sees. The writers before it: read and written.
        read, written = read + end + n, written + n
        for layer in range(first, last):
            before = 1 + layer * (heads + 1)
            # Inside the block, the attention's turn brings the layers before it, the MLP's the heads of its own.
            # Forward these are read, backward read and written.
            inside = (before - n) + heads
            read, written = read + 2 * inside, written + inside
    return read, written


class Step:
    """A training step's forward and backward, with every gate soft."""

    def __init__(self, model: CircuitModel) -> None:
        self.model, self.gates = model, torch.rand(model.layout.n_edges, generator=generator()).requires_grad_()

    def traffic(self) -> Traffic:
        model, ids = self.model, torch.tensor([[3, 5]])
        reference = drawn(model.layout.n_writers, 1, 2, model.layout.d_model, dtype=torch.float32)
        with counted() as traffic:
            logits = masked_logits(model, self.gates, ids, torch.ones_like(ids), torch.tensor([1]), reference)
            logits.sum().backward()
        return traffic


@pytest.fixture(scope="module")
def eight_billion() -> CircuitModel:
    """Layers and heads of Llama-3.1-8B, much narrower."""
    config = LlamaConfig(
        vocab_size=19, hidden_size=32, intermediate_size=8, num_hidden_layers=32, num_attention_heads=32,
        num_key_value_heads=8, head_dim=2, bos_token_id=None, eos_token_id=None,
    )  # fmt: skip
    return wrap(AutoModelForCausalLM.from_config(config))


@pytest.mark.parametrize("size", [1, 2, 3, 4, 32])
def test_a_step_reads_and_writes_what_is_counted_by_hand(
    size: int, eight_billion: CircuitModel, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(blocks, "block_size", lambda layout: size)
    traffic = Step(eight_billion).traffic()
    assert (traffic.read, traffic.written) == by_hand(32, 32, size)


def test_blocks_of_four_layers_take_a_third_of_the_traffic_of_large_models(
    eight_billion: CircuitModel, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Counted by hand before there were any: .32. A stack of 8B is 18 GB, read and written 80 times a step."""
    assert blocks.block_size(eight_billion.layout) == 4
    four = Step(eight_billion).traffic()
    monkeypatch.setattr(blocks, "BLOCK", 1)
    one = Step(eight_billion).traffic()
    print(f"rows of stacks a step: blocks of 4 {four.read + four.written:,}, of 1 {one.read + one.written:,}")
    assert four.read + four.written <= 0.35 * (one.read + one.written)
    assert four.multiply_adds <= 1.1 * one.multiply_adds, "no product is made larger by much"


def test_a_circuit_reads_what_is_alive_alone(monkeypatch: pytest.MonkeyPatch, eight_billion: CircuitModel) -> None:
    layout = eight_billion.layout
    step = Step(eight_billion)
    every = step.traffic()
    names = ["input->a3.h5<v>", "a3.h5->m9", "m9->a20.h2<k>", "a20.h2->logits"]
    members = torch.zeros(layout.n_edges)
    members[[layout.edge_index(name) for name in names]] = 1
    ids, reference = torch.tensor([[3, 5]]), drawn(layout.n_writers, 1, 2, layout.d_model, dtype=torch.float32)
    with counted() as traffic:
        prompts = ids, torch.ones_like(ids), torch.tensor([1])
        masked_logits(eight_billion, members.requires_grad_(), *prompts, reference, skip_closed=True).sum().backward()
    assert traffic.read + traffic.written < 0.01 * (every.read + every.written)
