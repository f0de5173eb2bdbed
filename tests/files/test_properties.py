"""What is written is read back, whatever the circuit; what is damaged is refused, or still a sound circuit."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from lightning_circuits.circuit import Circuit
from lightning_circuits.layout import Layout
from tests.support.made_circuits import READABLE

same_folder = settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
texts = st.text(st.characters(exclude_categories=()), max_size=8)  # lone surrogates, controls and NUL too
plain = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | texts,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(texts, inner, max_size=3),
    max_leaves=8,
)
names = st.text(st.characters(exclude_categories=["C", "Z"], exclude_characters="@"), min_size=1, max_size=6)
spans = st.lists(names.filter(lambda name: name.isprintable() and "->" not in name), max_size=3, unique=True)
numbers = st.floats(width=32, allow_nan=False, allow_infinity=False)


@st.composite
def circuits(draw: st.DrawFn) -> Circuit:
    heads = draw(st.integers(1, 4))
    groups = draw(st.sampled_from([n for n in range(1, heads + 1) if heads % n == 0]))
    sizes = draw(st.integers(1, 3)), heads, draw(st.integers(1, 9)), groups
    layout = Layout(*sizes, parallel=draw(st.booleans())).in_spans(draw(spans))
    generator = torch.Generator().manual_seed(draw(st.integers(0, 2**32)))

    def some(n: int, values: st.SearchStrategy[float]) -> torch.Tensor:
        return torch.tensor(draw(st.lists(values, min_size=3, max_size=3)))[torch.randint(3, (n,), generator=generator)]

    members = torch.rand(layout.n_edges, generator=generator) < draw(st.sampled_from([0.0, 0.1, 0.5, 1.0]))
    scores = some(layout.n_edges, numbers) if draw(st.booleans()) else None
    node_scores = some(layout.n_writers, numbers | st.just(float("nan"))) if draw(st.booleans()) else None
    return Circuit(layout, members, scores, draw(st.dictionaries(texts, plain, max_size=4)), node_scores)


def equal(one: torch.Tensor | None, other: torch.Tensor | None) -> bool:
    return one is other if one is None or other is None else bool(torch.equal(one.nan_to_num(7), other.nan_to_num(7)))


@pytest.mark.parametrize("suffix", READABLE)
@given(saved=circuits())
@same_folder
def test_what_is_written_is_read_back(tmp_path: Path, suffix: str, saved: Circuit) -> None:
    saved = saved.without_spans() if suffix == ".pt" else saved
    loaded = Circuit.load(saved.save(tmp_path / f"c{suffix}"), saved.layout)
    no_node = saved.node_scores is None or bool(saved.node_scores.isnan().all())
    assert loaded == saved and equal(loaded.scores, saved.scores)
    assert equal(loaded.node_scores, None if no_node else saved.node_scores)
    again = Circuit.load(loaded.save(tmp_path / f"again{suffix}"))
    assert again == loaded and again.metadata == loaded.metadata
    assert set(loaded.metadata) == {joined(key) for key in saved.metadata}


def joined(text: str) -> str:
    """As JSON has it: two surrogates that make a pair are one character."""
    return text.encode("utf-16", "surrogatepass").decode("utf-16", "surrogatepass")


@pytest.mark.parametrize("suffix", READABLE)
@given(saved=circuits(), where=st.floats(0, 1, exclude_max=True), change=st.binary(max_size=12) | st.integers(0, 7))
@same_folder
def test_what_is_damaged_is_refused_or_sound(
    tmp_path: Path, suffix: str, saved: Circuit, where: float, change: Any
) -> None:
    """Only `.pt` has checksums: in the other formats a changed digit is another number."""
    saved = saved.without_spans() if suffix == ".pt" else saved
    path = saved.save(tmp_path / f"c{suffix}")
    content = bytearray(path.read_bytes())
    place = int(where * len(content))
    if isinstance(change, int):
        content[place] ^= 1 << change
    elif change:
        content[place : place + len(change)] = change
    else:
        del content[place:]
    path.write_bytes(content)
    try:
        loaded = Circuit.load(path)
    except ValueError as error:
        assert str(error).startswith(str(path)) and str(error).isprintable()
        return
    if suffix == ".pt":
        assert loaded == saved and equal(loaded.scores, saved.scores)
    loaded.save(path)
    assert Circuit.load(path) == loaded
