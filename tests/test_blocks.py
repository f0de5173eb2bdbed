"""Blocks of layers: where gates stand in memory, and the masked computation whatever the size of a block.

Blocks of one layer are the order of the equation. Every other size, readers filled up to a multiple, and what is alive
alone have to come out as these do, and as the oracle in plain loops does.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager

import pytest
import torch
from torch import Tensor

from lightning_circuits import blocks
from lightning_circuits.ablation import ABLATIONS
from lightning_circuits.alive import Alive, readers_of
from lightning_circuits.blocks import Blocks, block_size, blocks_for
from lightning_circuits.evaluation.exact import ExactAblation
from lightning_circuits.layout import Layout
from lightning_circuits.masked import masked_logits
from lightning_circuits.models import CircuitModel
from lightning_circuits.places import Places
from tests.support.gated import (
    assert_close,
    gradient,
    places_of,
    random_gates,
    random_spans,
    references,
    second_opinion,
    weighted,
    wrapped,
)
from tests.support.made_circuits import of_edges
from tests.support.oracle import ALL_OPEN, Pairs, oracle, pairs, stock_logits

CPU = torch.device("cpu")
CASES = [("gpt2", "head"), ("llama-gqa", "head"), ("llama-gqa", "group"), ("gpt-neox", "head")]
CASES += [("gemma2", "group"), ("olmo2", "head")]
families = pytest.mark.parametrize(("family", "kv"), CASES)
shapes = pytest.mark.parametrize("multiple", [1, 8])
sizes = pytest.mark.parametrize("size", [2, 3, 4, 99])
LAYOUTS = [
    Layout(n_layers=5, n_heads=4, d_model=8),
    Layout(n_layers=5, n_heads=4, d_model=8, n_kv_readers=2),
    Layout(n_layers=5, n_heads=3, d_model=6, parallel=True),
    Layout(n_layers=5, n_heads=4, d_model=8, n_kv_readers=2, coupled=True),
    Layout(n_layers=1, n_heads=1, d_model=2),
]


@contextmanager
def cut_into(size: int, multiple: int = 1) -> Iterator[None]:
    """While open, blocks have so many layers, and the readers of a layer are filled up to such a multiple."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(blocks, "block_size", lambda layout: size)
        patch.setattr(blocks, "filled_to", lambda device: multiple)
        yield


# ---- where gates stand ---------------------------------------------------------------------------------------------


@shapes
@pytest.mark.parametrize("size", [1, 2, 3, 4, 99])
@pytest.mark.parametrize("layout", LAYOUTS, ids=str)
def test_gates_come_back_from_memory_as_they_went(layout: Layout, size: int, multiple: int) -> None:
    whole = Blocks.whole(layout, size, multiple, CPU)
    gates = torch.rand(3, layout.n_edges, generator=torch.Generator().manual_seed(0))
    assert torch.equal(whole.flat(whole.laid_out(gates, torch.float32)), gates)
    assert len(whole.place.unique()) == layout.n_edges, "two edges at one place"
    assert not set(whole.place.tolist()) & set(whole.bases.tolist())


@shapes
@pytest.mark.parametrize("share", [0.0, 0.02, 0.1, 0.4])
@pytest.mark.parametrize("layout", LAYOUTS, ids=str)
def test_of_what_is_alive_the_edges_between_come_back_and_the_others_as_zero(
    layout: Layout, share: float, multiple: int
) -> None:
    needed = torch.rand(layout.n_edges, generator=torch.Generator().manual_seed(1)) < share
    alive = Alive.of(layout, needed)
    few = Blocks.of(alive, needed, 2, multiple, CPU)
    gates = torch.rand(2, layout.n_edges, generator=torch.Generator().manual_seed(0)) + 1
    back = few.flat(few.laid_out(gates, torch.float64))
    kept = back[0] > 0
    assert torch.equal(back, (gates * kept).double()) and not (kept & ~needed).any()
    each = zip(layout.components, alive.units, strict=True)
    readers = torch.cat([readers_of(layout, component, units) for component, units in each])
    assert torch.equal(kept, needed & alive.writers[layout.edge_writer] & readers[layout.edge_reader])
    assert few.n_writers == int(alive.writers.sum())


@families
def test_the_matrix_of_a_block_has_a_writer_a_row_and_a_reader_a_column(family: str, kv: str) -> None:
    """Read one by one: the column of a reader has its gates, and ones where its own base stands."""
    layout = wrapped(family, kv, torch.float64).layout
    made = Blocks.whole(layout, 2, 8, CPU)
    gates = torch.rand(1, layout.n_edges, dtype=torch.float64) + 2
    memory, seen = made.laid_out(gates, torch.float64), 0
    for block in made.blocks:
        matrix, m = block.of(memory)
        assert matrix.shape[1:] == block.shape and block.shape[1] % 8 == 0
        filled = torch.ones(block.shape[1], dtype=torch.bool)
        for part in block.parts:
            of_model = range(part.component.readers.start, part.component.readers.stop)
            for reader, column in zip(of_model, range(part.readers.start, part.readers.stop), strict=True):
                start, n = int(layout.reader_offset[reader]), part.component.n_before
                assert torch.equal(m[0, :n, column], gates[0, start : start + n]) and not m[0, n:, column].any()
                bases = matrix[0, : block.n_streams, column].tolist()
                assert bases == [
                    float(s == part.component.stream) for s in range(block.streams.start, block.streams.stop)
                ]
                filled[column], seen = False, seen + n
        assert not matrix[0][:, filled].any(), "what fills up is zero"
    assert seen == layout.n_edges


def test_a_block_has_no_more_readers_than_there_are_writers() -> None:
    assert block_size(Layout(n_layers=32, n_heads=32, d_model=4096)) == 4
    assert block_size(Layout(n_layers=2, n_heads=4, d_model=8)) == 1
    for n_layers in range(1, 13):
        layout = Layout(n_layers=n_layers, n_heads=12, d_model=12)
        assert block_size(layout) in range(1, 5)
        assert block_size(layout) == 1 or block_size(layout) * 37 <= layout.n_writers


def test_on_a_gpu_readers_are_filled_up_to_multiples_of_eight() -> None:
    assert blocks.filled_to(torch.device("cuda", 0)) == 8 and blocks.filled_to(CPU) == 1


# ---- every size is the same computation ----------------------------------------------------------------------------


@shapes
@sizes
@families
def test_every_size_of_block_is_the_computation_layer_by_layer(family: str, kv: str, size: int, multiple: int) -> None:
    model, batch = wrapped(family, kv, torch.float64), pairs("ragged")
    for (ablation, reference), kind in zip(references(model, batch).items(), ("mixed", "soft", "binary"), strict=True):
        gates = random_gates(model, kind)
        for skip_closed in (False, True):
            with cut_into(1):
                expected = gradient(model, gates, batch, reference, skip_closed)
            with cut_into(size, multiple):
                logits, dgates = gradient(model, gates, batch, reference, skip_closed)
            assert_close(logits, expected[0], 1e-9)
            assert_close(dgates, expected[1], 1e-9)
        assert expected[1].abs().max() > 1e-3, ablation


@shapes
@pytest.mark.parametrize("size", [1, 3])
@families
def test_blocks_agree_with_the_oracle(family: str, kv: str, size: int, multiple: int) -> None:
    model, batch = wrapped(family, kv, torch.float64), pairs("left")
    gates, reference = random_gates(model, "mixed", seed=3), references(model, batch)["interchange"]
    expected = second_opinion(model, gates, batch, None)
    with cut_into(size, multiple):
        logits, dgates = gradient(model, gates, batch, reference)
    assert_close(logits, expected[0], 1e-9)
    assert_close(dgates, expected[1], 1e-9)


@shapes
@sizes
@families
def test_open_gates_are_the_stock_model_and_closed_ones_the_corrupt_run(
    family: str, kv: str, size: int, multiple: int
) -> None:
    model, batch = wrapped(family, kv, torch.float64), pairs("ragged")
    reference = references(model, batch)["interchange"]
    with cut_into(size, multiple):
        for value, ids in ((1.0, batch.clean_ids), (0.0, batch.corrupt_ids)):
            gates = torch.full((model.layout.n_edges,), value, dtype=torch.float64)
            for skip_closed in (False, True):
                logits, _ = gradient(model, gates, batch, reference, skip_closed)
                assert_close(logits, stock_logits(model.model, ids, batch), 1e-9)


@shapes
@sizes
@pytest.mark.parametrize("kind", ["mixed", "sparse"])
@families
def test_every_size_of_block_in_spans(family: str, kv: str, kind: str, size: int, multiple: int) -> None:
    model, batch = wrapped(family, kv, torch.float64), pairs("ragged")
    places, gates = places_of(batch, random_spans(batch)), random_gates(model, kind, n_spans=3)
    reference = references(model, batch)["constant"]
    for skip_closed in (False, True):
        with cut_into(1):
            whole = Blocks.whole(model.layout, 1, 1, CPU)
            expected = run(model, gates, batch, reference, places, whole)
            expected = expected[0], expected[1].where(gates != 0, 0.0) if skip_closed else expected[1]
        with cut_into(size, multiple):
            logits, dgates = gradient(model, gates, batch, reference, skip_closed, places)
        assert_close(logits, expected[0], 1e-9)
        assert_close(dgates, expected[1], 1e-9)


def run(
    model: CircuitModel,
    gates: Tensor,
    batch: Pairs,
    reference: Tensor,
    places: Places | None,
    made: Blocks,
    skip_closed: bool = False,
) -> tuple[Tensor, Tensor]:
    """Logits and gradient with blocks as they are given."""
    gates = gates.clone().requires_grad_()
    prompts = batch.clean_ids, batch.attention_mask, batch.positions
    logits = masked_logits(model, gates, *prompts, reference.clone(), skip_closed, places, made)
    return logits.detach(), torch.autograd.grad(weighted(logits), gates)[0]


# ---- what is dead is left out, and changes nothing -----------------------------------------------------------------


@pytest.mark.parametrize(("seed", "ablation"), [(0, "interchange"), (1, "zero"), (2, "constant"), (3, "interchange")])
@families
def test_circuits_of_few_edges_agree_with_the_oracle(family: str, kv: str, seed: int, ablation: str) -> None:
    """Random ways from the input to the logits, some edges that lead nowhere, and soft gates among the open ones."""
    model, batch = wrapped(family, kv, torch.float64), pairs("ragged", seed)
    layout, generator = model.layout, torch.Generator().manual_seed(seed)
    members = torch.rand(layout.n_edges, generator=generator) < 0.06
    members[layout.edge_index(f"{layout.writer_names[-1 - seed]}->logits")] = True
    for values in (members.double(), members * torch.rand(layout.n_edges, generator=generator, dtype=torch.float64)):
        reference = references(model, batch)[ablation]
        expected = second_opinion(model, values, batch, reference)
        for size, multiple in ((1, 1), (2, 8), (4, 1)):
            with cut_into(size, multiple):
                made = blocks_for(layout, values, values == 0)
                assert made.n_writers < layout.n_writers, "nothing is dead: a test of nothing"
                found = [gradient(model, values, batch, reference, skip_closed=True)]
                if ablation == "interchange":  # what the input does not reach puts out its reference
                    reached = blocks_for(layout, values, values == 0, prune=True)
                    assert reached.n_writers <= made.n_writers
                    found.append(run(model, values, batch, reference, None, reached, skip_closed=True))
            for logits, dgates in found:
                assert_close(logits, expected[0], 1e-9)
                assert_close(dgates, expected[1].where(values != 0, 0.0), 1e-9)


@pytest.mark.parametrize("ablation", ["interchange", "zero"])
@families
def test_exact_ablation_of_few_edges_agrees_with_the_oracle(family: str, kv: str, ablation: str) -> None:
    model, prompts = wrapped(family, kv, torch.float64), pairs("ragged")
    batch = {name: getattr(prompts, name) for name in ("clean_ids", "corrupt_ids", "attention_mask", "positions")}
    full, corrupt = model.run_pair(batch)
    exact = ExactAblation(model, batch, full, ABLATIONS.make(ablation), corrupt)
    by_name = oracle(model.model, ALL_OPEN, prompts.corrupt_ids, prompts, kv=kv).writers
    for seed in range(6):
        members = torch.rand(model.layout.n_edges, generator=torch.Generator().manual_seed(seed)) < 0.03 * (seed + 1)
        for size, multiple in ((1, 1), (2, 8), (3, 1)):
            with cut_into(size, multiple):
                logits = exact.logits(members)
            gates = dict(zip(model.layout.edge_names(range(len(members))), members.double().tolist(), strict=True))
            expected = oracle(
                model.model, gates, prompts.clean_ids, prompts, by_name if ablation == "interchange" else None, kv
            )
            assert_close(logits, expected.logits, 1e-9)


@pytest.fixture
def computed(monkeypatch: pytest.MonkeyPatch) -> Counter[str]:
    """How often each MLP is run, and how many heads each attention mixes."""
    seen: Counter[str] = Counter()
    mlp, mix = CircuitModel.mlp, CircuitModel.mix

    def counting_mlp(self: CircuitModel, layer: int, x: Tensor) -> Tensor:
        seen[f"m{layer}"] += 1
        return mlp(self, layer, x)

    def counting_mix(self: CircuitModel, layer: int, q: Tensor, *rest: Tensor) -> Tensor:
        seen[f"a{layer}"] += len(q)
        return mix(self, layer, q, *rest)

    monkeypatch.setattr(CircuitModel, "mlp", counting_mlp)
    monkeypatch.setattr(CircuitModel, "mix", counting_mix)
    return seen


def test_only_what_lies_on_a_way_to_the_logits_is_computed(computed: Counter[str]) -> None:
    model, batch = wrapped("gpt2", "head", torch.float64), pairs("ragged")
    way = ["input->a0.h1<v>", "a0.h1->m1", "m1->a2.h0<q>", "a2.h0->logits", "input->m0", "input->a1.h2<k>"]
    gates = of_edges(model.layout, *way).members.double()
    reference = references(model, batch)["interchange"]
    computed.clear()
    logits, dgates = gradient(model, gates, batch, reference, skip_closed=True)
    # m0 and a1.h2 are read by nobody. Of a head's readers all three come along.
    assert computed == {"a0": 1, "m1": 1, "a2": 1}
    expected = second_opinion(model, gates, batch, None)
    assert_close(logits, expected[0], 1e-9)
    assert_close(dgates, expected[1].where(gates != 0, 0.0), 1e-9)


def test_heads_of_a_group_live_and_die_together(computed: Counter[str]) -> None:
    model, batch = wrapped("llama-gqa", "group", torch.float64), pairs("ragged")
    gates = of_edges(model.layout, "input->a1.g1<v>", "a1.h3->logits").members.double()
    reference = references(model, batch)["interchange"]
    computed.clear()
    logits, _ = gradient(model, gates, batch, reference, skip_closed=True)
    assert computed == {"a1": 2}
    assert_close(logits, second_opinion(model, gates, batch, None)[0], 1e-9)


def test_what_nothing_reaches_is_computed_where_it_puts_out_something(computed: Counter[str]) -> None:
    """A head that reads nothing puts out its reference under interchange, and under zero ablation what it makes of
    nothing, by its biases."""
    model, prompts = wrapped("gpt2", "head", torch.float64), pairs("ragged")
    members = of_edges(model.layout, "a1.h0->m2", "m2->logits", "input->m1", "m1->logits").members
    batch = {name: getattr(prompts, name) for name in ("clean_ids", "corrupt_ids", "attention_mask", "positions")}
    full, corrupt = model.run_pair(batch)
    gates = dict(zip(model.layout.edge_names(range(len(members))), members.double().tolist(), strict=True))
    corrupt_by_name = oracle(model.model, ALL_OPEN, prompts.corrupt_ids, prompts).writers
    for ablation, by_name, expected in (
        ("interchange", corrupt_by_name, {"m1": 1}),
        ("zero", None, {"a1": 1, "m1": 1, "m2": 1}),
    ):
        exact = ExactAblation(model, batch, full, ABLATIONS.make(ablation), corrupt)
        computed.clear()
        logits = exact.logits(members)
        assert computed == expected, ablation
        assert_close(logits, oracle(model.model, gates, prompts.clean_ids, prompts, by_name).logits, 1e-9)
    # The edges into the dead are what makes the difference: without them a1.h0 does put out something.
    assert oracle(model.model, gates, prompts.clean_ids, prompts, None).writers["a1.h0"].abs().max() > 0.01


@pytest.mark.parametrize("closed", ["everything", "the logits"])
def test_where_no_edge_is_open_the_logits_are_those_of_the_references(closed: str, computed: Counter[str]) -> None:
    model, batch = wrapped("llama-gqa", "head", torch.float64), pairs("ragged")
    gates = random_gates(model, "binary") * float(closed != "everything")
    model.layout.logits(gates)[:] = 0
    reference = references(model, batch)["interchange"]
    computed.clear()
    logits, dgates = gradient(model, gates, batch, reference, skip_closed=True)
    if closed == "everything":
        assert not computed
    assert_close(logits, stock_logits(model.model, batch.corrupt_ids, batch), 1e-9)
    assert not dgates.any()
