"""Circuit files in every format: what comes back, and what is refused."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

from lightning_circuits.circuit import Circuit
from lightning_circuits.layout import Layout
from tests.support.made_circuits import ALL, METADATA, PARALLEL, PER_GROUP, PER_HEAD, READABLE, circuit


@pytest.mark.parametrize("suffix", READABLE)
@pytest.mark.parametrize("layout", [PER_HEAD, PER_GROUP, PARALLEL, Layout(1, 1, 1), Layout(12, 2, 4, 1)], ids=str)
@pytest.mark.parametrize(("scored", "node_scored"), [(True, False), (False, False), (True, True), (False, True)])
def test_round_trip(tmp_path: Path, suffix: str, layout: Layout, scored: bool, node_scored: bool) -> None:
    saved = circuit(layout, scored=scored, node_scored=node_scored)
    loaded = Circuit.load(saved.save(tmp_path / f"c{suffix}"), layout)
    assert loaded == saved and loaded.layout == layout and loaded.metadata == METADATA
    assert loaded.scores is None if not scored else torch.equal(loaded.scores, saved.scores)
    assert loaded.node_scores is None if not node_scored else torch.equal(loaded.node_scores, saved.node_scores)
    assert loaded.members.dtype == torch.bool


def test_circuits_in_spans_are_kept_where_there_is_a_place_for_spans(tmp_path: Path) -> None:
    saved = circuit(PER_GROUP.in_spans(["S2", "S2..END", "END"]), node_scored=True)
    for suffix in (".json", ".safetensors"):
        loaded = Circuit.load(saved.save(tmp_path / f"c{suffix}"), saved.layout)
        assert loaded == saved and loaded.layout == saved.layout and torch.equal(loaded.scores, saved.scores)
        assert torch.equal(loaded.node_scores, saved.node_scores) and loaded.metadata == saved.metadata
        with pytest.raises(ValueError, match=r"another layout: spans \['S2', 'S2..END', 'END'\] against None"):
            Circuit.load(tmp_path / f"c{suffix}", PER_GROUP)
    with pytest.raises(
        ValueError, match=r"know no spans of tokens: write .json or .safetensors, or the circuit\.witho"
    ):
        saved.save(tmp_path / "c.pt")
    assert Circuit.load(saved.without_spans().save(tmp_path / "c.pt")) == saved.without_spans()
    spans = {attributes["span"] for *_, attributes in saved.to_networkx().edges(data=True)}
    assert spans == set(saved.layout.spans)
    assert 'label="q S2"' in saved.save(tmp_path / "c.dot").read_text()
    assert "END" in saved.save(tmp_path / "c.graphml").read_text()


@pytest.mark.parametrize("suffix", READABLE)
def test_some_nodes_may_have_no_score_and_no_node_is_as_none(tmp_path: Path, suffix: str) -> None:
    node_scores = torch.linspace(-1, 1, PER_HEAD.n_writers)
    node_scores[[0, 3]] = torch.nan
    saved = Circuit(PER_HEAD, circuit(PER_HEAD).members, node_scores=node_scores)
    loaded = Circuit.load(saved.save(tmp_path / f"c{suffix}"))
    torch.testing.assert_close(loaded.node_scores, node_scores, rtol=0, atol=0, equal_nan=True)
    bare = Circuit(PER_HEAD, saved.members, node_scores=torch.full((PER_HEAD.n_writers,), torch.nan))
    assert Circuit.load(bare.save(tmp_path / f"c{suffix}")).node_scores is None


def test_every_format_gives_back_the_same_metadata(tmp_path: Path) -> None:
    saved = Circuit(PER_HEAD, circuit(PER_HEAD).members, metadata={"sizes": (1, 2), 3: "three"})
    for suffix in READABLE:
        assert Circuit.load(saved.save(tmp_path / f"c{suffix}")).metadata == {"sizes": [1, 2], "3": "three"}


@pytest.mark.parametrize("suffix", READABLE)
@pytest.mark.parametrize(
    ("expected", "what"),
    [
        (Layout(3, 4, 8), r"n_layers 2 against 3 "),
        (Layout(2, 8, 16), r"n_heads 4 against 8, d_model 8 against 16"),
        (PER_GROUP, r"n_kv_readers 4 against 2 .*K/V per head.* against .*K/V per group"),
        (PARALLEL, r"another layout: parallel False against True .*an MLP reads no head of its own layer"),
    ],
)
def test_a_circuit_of_another_layout_is_refused_in_words(
    tmp_path: Path, suffix: str, expected: Layout, what: str
) -> None:
    path = circuit(PER_HEAD).save(tmp_path / f"c{suffix}")
    with pytest.raises(ValueError, match=what) as caught:
        Circuit.load(path, expected)
    assert str(path) in str(caught.value)
    assert Circuit.load(path).layout == PER_HEAD  # without an expectation it is read


@pytest.mark.parametrize("value", [float("nan"), float("inf"), -float("inf")])
@pytest.mark.parametrize("suffix", ALL)
def test_scores_that_are_no_numbers_are_refused_with_the_edge(tmp_path: Path, suffix: str, value: float) -> None:
    scores = torch.zeros(PER_HEAD.n_edges)
    scores[PER_HEAD.edge_index("a0.h1->m1")] = value
    with pytest.raises(ValueError, match=rf"score of edge a0\.h1->m1 is {value}"):
        Circuit(PER_HEAD, scores.isfinite(), scores).save(tmp_path / f"c{suffix}")
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("suffix", ALL)
def test_an_infinite_score_of_a_node_is_refused_with_the_node(tmp_path: Path, suffix: str) -> None:
    node_scores = torch.zeros(PER_HEAD.n_writers)
    node_scores[1] = torch.inf
    with pytest.raises(ValueError, match=r"score of node a0\.h0 is inf"):
        Circuit(PER_HEAD, circuit(PER_HEAD).members, node_scores=node_scores).save(tmp_path / f"c{suffix}")
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("metadata", [{"x": torch.zeros(1)}, {"x": float("nan")}, {"x": {1, 2}}])
@pytest.mark.parametrize("suffix", READABLE)
def test_metadata_that_json_cannot_hold_is_refused(tmp_path: Path, suffix: str, metadata: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match="metadata is not plain JSON data"):
        Circuit(PER_HEAD, circuit(PER_HEAD).members, metadata=metadata).save(tmp_path / f"c{suffix}")


def test_metadata_of_the_format_itself_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="n_kv_readers"):
        Circuit(PER_HEAD, circuit(PER_HEAD).members, metadata={"n_kv_readers": 3}).save(tmp_path / "c.json")


def test_unknown_suffixes_are_refused_with_the_list(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"\.json, \.pt, \.safetensors, \.graphml, \.dot"):
        circuit(PER_HEAD).save(tmp_path / "c.png")
    for name in ("c.png", "c.graphml", "c.dot", "c"):
        with pytest.raises(ValueError, match=r"one of \.json, \.pt, \.safetensors$"):
            Circuit.load(tmp_path / name)


def test_missing_files_and_folders(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match="no circuit file at"):
        Circuit.load(tmp_path / "c.json")
    with pytest.raises(FileNotFoundError, match="there is no folder"):
        circuit(PER_HEAD).save(tmp_path / "nowhere" / "c.json")


@pytest.mark.parametrize("suffix", READABLE)
@pytest.mark.parametrize("content", [b"", b"[]", b"no circuit", b"\x08\x00\x00\x00\x00\x00\x00\x00{}      "])
def test_files_that_are_no_circuits(tmp_path: Path, suffix: str, content: bytes) -> None:
    path = tmp_path / f"c{suffix}"
    path.write_bytes(content)
    with pytest.raises(ValueError, match="cannot be read as a circuit") as caught:
        Circuit.load(path)
    assert str(path) in str(caught.value)


@pytest.mark.parametrize("suffix", READABLE)
def test_files_cut_short(tmp_path: Path, suffix: str) -> None:
    path = circuit(PER_HEAD).save(tmp_path / f"c{suffix}")
    path.write_bytes(path.read_bytes()[:-200])
    with pytest.raises(ValueError, match="cannot be read as a circuit"):
        Circuit.load(path)
