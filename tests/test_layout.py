"""The layout against loops that build the same graph edge by edge, and against published figures."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from lightning_circuits.layout import Layout


@st.composite
def layouts(draw: st.DrawFn) -> Layout:
    groups = draw(st.integers(1, 3))
    per_group = draw(st.integers(1, 3))
    n_kv = draw(st.sampled_from([groups, groups * per_group]))  # per group, per head
    sizes = draw(st.integers(1, 4)), groups * per_group, draw(st.integers(1, 9)), n_kv
    return Layout(*sizes, parallel=draw(st.booleans()))


def edges_by_loop(layout: Layout) -> list[tuple[str, str]]:
    """Every (writer, reader), reader by reader, each found by walking through the model."""
    stream, edges = ["input"], []
    per_head = layout.n_kv_readers == layout.n_heads
    for n in range(layout.n_layers):
        readers = [f"a{n}.h{h}<q>" for h in range(layout.n_heads)]
        for kind in "kv":
            readers += [f"a{n}.{'h' if per_head else 'g'}{g}<{kind}>" for g in range(layout.n_kv_readers)]
        edges += [(writer, reader) for reader in readers for writer in stream]
        heads = [f"a{n}.h{h}" for h in range(layout.n_heads)]
        edges += [(writer, f"m{n}") for writer in (stream if layout.parallel else stream + heads)]
        stream += [*heads, f"m{n}"]
    return edges + [(writer, "logits") for writer in stream]


@given(layouts())
def test_edges_names_and_indices_agree_with_a_walk_through_the_model(layout: Layout) -> None:
    expected = edges_by_loop(layout)
    assert layout.n_edges == len(expected)
    assert layout.edge_names(range(layout.n_edges)) == [f"{writer}->{reader}" for writer, reader in expected]
    for index, (writer, reader) in enumerate(expected):
        assert layout.edge_index(f"{writer}->{reader}") == index
        assert layout.writer_names[layout.edge_writer[index]] == writer
        assert layout.reader_names[layout.edge_reader[index]] == reader
    assert layout.n_writers == len(layout.writer_names) == len({writer for writer, _ in expected})
    assert layout.n_readers == len(layout.reader_names) == len({reader for _, reader in expected})
    assert layout.n_nodes == layout.n_writers + 1


@pytest.mark.parametrize(
    ("layout", "n_edges"),
    [
        (Layout(12, 12, 768), 32_491),
        (Layout(30, 9, 576), 123_211),
        (Layout(30, 9, 576, 3), 70_651),
        (Layout(32, 32, 4096), 1_592_881),
        (Layout(32, 32, 4096, 8), 805_681),
        (Layout(32, 32, 2560, parallel=True), 1_591_857),
    ],
    ids=[
        "gpt2",
        "smollm2 per head",
        "smollm2 per group",
        "llama-3.1-8b per head",
        "llama-3.1-8b per group",
        "pythia-2.8b",
    ],
)
def test_published_counts(layout: Layout, n_edges: int) -> None:
    assert layout.n_edges == n_edges == len(layout.edge_writer) == len(layout.edge_reader)


def test_gpt2_has_158_nodes() -> None:
    assert Layout(12, 12, 768).n_nodes == 158


@given(layouts(), st.data())
def test_layer_views_hold_the_named_edges_and_write_through(layout: Layout, data: st.DataObject) -> None:
    values = torch.arange(layout.n_edges)
    n = data.draw(st.integers(0, layout.n_layers - 1))
    shared, own = layout.layer(values, n)
    rows = layout.reader_names[n * len(shared) : (n + 1) * len(shared)]
    row, column = data.draw(st.integers(0, len(rows) - 1)), data.draw(st.integers(0, shared.shape[1] - 1))
    assert shared[row, column] == layout.edge_index(f"{layout.writer_names[column]}->{rows[row]}")
    assert rows[-1] == f"m{n}"
    own_heads = [] if layout.parallel else range(layout.n_heads)
    assert own.tolist() == [layout.edge_index(f"a{n}.h{h}->m{n}") for h in own_heads]
    assert layout.logits(values).tolist() == [layout.edge_index(f"{name}->logits") for name in layout.writer_names]

    for view in (shared, own, layout.logits(values)):
        indices = view.flatten().tolist()
        view.fill_(-1)
        assert (values[indices] == -1).all()
    assert (values == -1).sum() == shared.numel() + own.numel() + layout.n_writers


@given(layouts())
def test_layers_and_logits_share_out_every_edge(layout: Layout) -> None:
    counts = torch.zeros(layout.n_edges)
    for n in range(layout.n_layers):
        for view in layout.layer(counts, n):
            view += 1
    layout.logits(counts)[:] += 1
    assert (counts == 1).all()


@given(layouts())
def test_components_are_what_computes_as_one_in_the_order_of_computation(layout: Layout) -> None:
    walk = ["input"]
    for n in range(layout.n_layers):
        walk += [f"a{n}", f"m{n}"]
    walk.append("logits")
    names = {"input": "input", "attention": "a{}", "mlp": "m{}", "logits": "logits"}
    assert [names[c.kind].format(c.layer) for c in layout.components] == walk
    for name, component in zip(walk, layout.components, strict=True):
        readers = [r for r in layout.reader_names if r.partition(".")[0] == name]
        writers = [w for w in layout.writer_names if w.partition(".")[0] == name]
        assert layout.reader_names[component.readers] == readers
        assert layout.writer_names[component.writers] == writers
        if readers:  # every reader of a component sees the writers of all before it, but for a parallel MLP's attention
            end = name.replace("m", "a") if layout.parallel else name
            before = sum(c.writers.stop - c.writers.start for c in layout.components[: walk.index(end)])
            assert component.n_before == before


@given(layouts())
def test_every_component_reads_a_stream_and_writes_into_the_next(layout: Layout) -> None:
    """Before each stream stand just those writers that the components on it read."""
    assert [stage[0].stream for stage in layout.stages] == list(range(layout.n_streams))
    assert sum(layout.stages, [layout.components[0]]) == layout.components
    for stage in layout.stages:
        assert [c.kind for c in stage] in ([["attention", "mlp"], ["logits"]] if layout.parallel else
                                           [["attention"], ["mlp"], ["logits"]])  # fmt: skip
        written = [w for c in layout.components if c.stream < stage[0].stream for w in layout.writer_names[c.writers]]
        for component in stage:
            assert component.stream == stage[0].stream
            assert layout.writer_names[: component.n_before] == written
    for layer in range(layout.n_layers):
        assert [(c.kind, c.layer) for c in layout.of_layer(layer)] == [("attention", layer), ("mlp", layer)]
    for writer, component in enumerate(layout.writer_component.tolist()):
        assert writer in range(*layout.components[component].writers.indices(layout.n_writers))


@given(layouts())
def test_edges_into_a_component_are_a_view_by_reader_and_writer(layout: Layout) -> None:
    values, seen = torch.arange(layout.n_edges), torch.zeros(layout.n_edges)
    for i, component in enumerate(layout.components):
        view = layout.into(values, component)
        assert (layout.reader_component[component.readers] == i).all()
        for row, reader in zip(view.tolist(), layout.reader_names[component.readers], strict=True):
            writers = layout.writer_names[: component.n_before]
            assert row == [layout.edge_index(f"{writer}->{reader}") for writer in writers]
        layout.into(seen, component)[:] += 1
    assert (seen == 1).all()


@pytest.mark.parametrize(
    ("name", "what"),
    [
        ("nowhere->m0", "no writer 'nowhere'"),
        ("input->a0.h0", "no reader 'a0.h0'"),
        ("input->a0.g0<k>", "no reader 'a0.g0<k>'"),
        ("m1->a1.h0<q>", "m1 does not come before a1.h0<q>"),
        ("m0->m0", "m0 does not come before m0"),
        ("input", "no reader ''"),
    ],
)
def test_a_wrong_name_is_explained(name: str, what: str) -> None:
    with pytest.raises(ValueError, match=what.replace("(", r"\(")):
        Layout(2, 2, 4).edge_index(name)


@pytest.mark.parametrize("sizes", [(0, 2, 4), (2, 0, 4), (2, 2, 0), (2, 2, 4, 0), (2, 4, 4, 3), (2, 2, 4, 4)])
def test_impossible_sizes_are_refused(sizes: tuple[int, ...]) -> None:
    with pytest.raises(ValueError, match=r"between 1 and|cannot share"):
        Layout(*sizes)


@pytest.mark.parametrize(
    ("names", "error", "said"),
    [
        (["S2", ""], ValueError, r"names of their own, .* got ''"),
        (["a@b"], ValueError, "got 'a@b'"),
        (["a->b"], ValueError, "got 'a->b'"),
        (["a\nb"], ValueError, r"got 'a\\nb'"),
        (["S2", "END", "S2"], ValueError, "got 'S2', 'END', 'S2'"),
        (["x" * 999 + "@"], ValueError, r"got 'x{150,200}\.\.\. \(1002 characters\)"),
        ("END", TypeError, "spans take a list of names, got 'END'"),
        (["S2", 5], TypeError, r"got \['S2', 5\]"),
        (5, TypeError, "got 5"),
        (None, TypeError, "got None"),
    ],
)
def test_spans_that_are_no_names_are_refused(names: Any, error: type[Exception], said: str) -> None:
    for make in (lambda: Layout(2, 2, 4).in_spans(names), lambda: Layout(2, 2, 4, spans=names)):
        with pytest.raises(error, match=said):
            make()


def test_a_vector_of_another_length_is_refused_with_both_numbers() -> None:
    with pytest.raises(ValueError, match=r"32,491 edges.*\(7,\)"):
        Layout(12, 12, 768).check(torch.zeros(7))


@given(layouts(), layouts())
def test_difference_names_what_differs(one: Layout, other: Layout) -> None:
    assert Layout(**one.to_dict()) == one
    assert (one.difference(other) == "") == (one == other)
    assert ("parallel" in one.difference(other)) == (one.parallel != other.parallel)
    for key, value in one.to_dict().items():
        assert (f"{key} {value} against" in one.difference(other)) == (value != other.to_dict().get(key))


def test_structure_made_in_inference_mode_serves_autograd_afterwards():
    layout = Layout(2, 2, 4)
    with torch.inference_mode():
        layout.edge_names([0]), layout.n_edges
    values = torch.ones(layout.n_edges, requires_grad=True)
    values[layout.edge_reader].sum().backward()
    assert values.grad.sum() == layout.n_edges
