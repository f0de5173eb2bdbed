"""Circuit files that are none, or say what cannot be: one error that names the file and the place in it."""

from __future__ import annotations

import json
import os
import re
import time
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import safetensors.torch
import torch
from torch import Tensor

from lightning_circuits.circuit import Circuit
from tests.support.made_circuits import PER_HEAD, READABLE, circuit

EDGE, NODE = "a0.h1->m1", "a0.h1"
N, ROW, COLUMN = PER_HEAD.edge_index(EDGE), PER_HEAD.writer_names.index("a0.h1"), PER_HEAD.reader_names.index("m1")


def refused(path: Path) -> str:
    start = time.monotonic()
    with pytest.raises(ValueError, match="cannot be read as a circuit") as caught:
        Circuit.load(path)
    assert time.monotonic() - start < 5
    said = str(caught.value)
    assert said.startswith(str(path)) and said.isprintable() and len(said) < 1000
    return said


def with_vector(path: Path, key: str, change: Callable[[Tensor], Any]) -> Path:
    """The file of a circuit with other ``members``, ``scores`` or ``node_scores``, in the words of its format."""
    saved = circuit(PER_HEAD, node_scored=True)
    vector = change(getattr(saved, key))
    saved.save(path)
    if path.suffix == ".json":
        file = json.loads(path.read_text())
        part, entry = {"members": ("edges", "in_graph"), "scores": ("edges", "score")}.get(key, ("nodes", "score"))
        names = PER_HEAD.writer_names if part == "nodes" else PER_HEAD.edge_names(range(PER_HEAD.n_edges))
        for name, value in zip(names, vector.tolist(), strict=True):
            file[part][name][entry] = value
        path.write_text(json.dumps(file))
    elif path.suffix == ".pt":
        file = torch.load(path)
        entry = {"members": "edges_in_graph", "scores": "edges_scores"}.get(key, "nodes_scores")
        if key != "node_scores":
            matrix = vector.new_zeros(PER_HEAD.n_writers, PER_HEAD.n_readers)
            matrix[PER_HEAD.edge_writer, PER_HEAD.edge_reader] = vector
            vector = matrix
        torch.save({**file, entry: vector}, path)
    else:
        content = path.read_bytes()
        header = json.loads(content[8 : 8 + int.from_bytes(content[:8], "little")])["__metadata__"]
        safetensors.torch.save_file({**safetensors.torch.load(content), key: vector}, path, header)
    return path


def at(place: int, value: float, dtype: torch.dtype) -> Callable[[Tensor], Tensor]:
    def change(vector: Tensor) -> Tensor:
        vector = vector.to(dtype, copy=True)
        vector[place] = value
        return vector

    return change


@pytest.mark.parametrize("suffix", READABLE)
@pytest.mark.parametrize(
    ("key", "change", "what"),
    [
        ("members", at(N, 0.3, torch.float32), f"soft mask|{EDGE} is 0.3"),
        ("members", at(N, torch.nan, torch.float32), f"edge {EDGE} is nan"),
        ("members", lambda members: members.float(), "float32.*soft mask"),
        ("members", at(N, 2, torch.int64), f"edge {EDGE} is 2"),
        ("members", at(N, -1, torch.int64), f"edge {EDGE} is -1"),
        ("scores", at(N, torch.nan, torch.float32), f"score of edge {EDGE} is nan"),
        ("scores", at(N, -torch.inf, torch.float32), f"score of edge {EDGE} is -inf"),
        ("scores", at(N, 1e39, torch.float64), rf"score of edge {EDGE} is 1e\+39"),
        ("scores", lambda scores: scores > 0, "bool|is False"),
        ("node_scores", at(2, torch.inf, torch.float32), f"score of node {NODE} is inf"),
    ],
)
def test_one_rule_for_the_numbers_of_all_formats(
    tmp_path: Path, suffix: str, key: str, change: Callable[[Tensor], Tensor], what: str
) -> None:
    assert re.search(what, refused(with_vector(tmp_path / f"c{suffix}", key, change)))


@pytest.mark.parametrize("suffix", READABLE)
def test_integers_and_narrow_floats_are_read(tmp_path: Path, suffix: str) -> None:
    saved = circuit(PER_HEAD)
    path = with_vector(tmp_path / f"c{suffix}", "members", lambda members: members.to(torch.uint8))
    assert Circuit.load(path) == saved
    path = with_vector(tmp_path / f"c{suffix}", "scores", lambda scores: scores.bfloat16())
    assert saved.scores is not None
    assert torch.equal(Circuit.load(path).scores, saved.scores.bfloat16().float())


@pytest.mark.parametrize("suffix", [".pt", ".safetensors"])
@pytest.mark.parametrize("key", ["scores", "node_scores"])
def test_complex_scores_are_no_scores(tmp_path: Path, suffix: str, key: str) -> None:
    path = with_vector(tmp_path / f"c{suffix}", key, lambda vector: vector.to(torch.complex64))
    assert "complex64, not real" in refused(path)


# ---- .json -----------------------------------------------------------------------------------------------------------


def put(*keys: str, value: Any) -> Callable[[dict[str, Any]], None]:
    def change(file: dict[str, Any]) -> None:
        for key in keys[:-1]:
            file = file[key]
        file[keys[-1]] = value

    return change


@pytest.mark.parametrize(
    ("change", "what"),
    [
        *((put("metadata", value=value), "metadata is not plain JSON data: it is no") for value in (None, [], 3, "x")),
        *((put("nodes", value=value), "its nodes are no object") for value in (None, [], 3, "x")),
        *((put("edges", value=value), "its edges are no object") for value in (None, [], 3, "x")),
        *((put("cfg", value=value), "missing 'n_layers'") for value in (None, [], 3, "x", {})),
        *((put("cfg", "n_layers", value=value), "n_layers") for value in (2.0, True, "2", None, [], 0, -1, 10**9)),
        (put("cfg", "d_model", value=10**200), "d_model takes a whole number below"),
        (put("edges", value={}), "its readers are not those"),
        (put("edges", EDGE, value=None), f"'{EDGE}' is no object"),
        (put("edges", EDGE, "in_graph", value="true"), f"'in_graph' of {EDGE} is 'true'"),
        (put("edges", EDGE, "in_graph", value=10**200), f"'in_graph' of {EDGE} is a whole number of too many digits"),
        (put("edges", EDGE, "score", value=True), f"'score' of {EDGE} is True"),
        (put("edges", EDGE, "score", value=10**200), f"score of edge {EDGE} is 1e"),
        (put("nodes", NODE, value=None), f"'{NODE}' is no object"),
        (put("nodes", NODE, "score", value="1"), f"'score' of {NODE} is '1'"),
        (put("nodes", "a9.h1", value={}), "its nodes are not those of .*a9.h1"),
        (put("metadata", "lr", value=float("nan")), "metadata is not plain JSON"),
        (put("metadata", "scored", value="no"), "scored 'no'"),
        (put("metadata", "n_kv_readers", value=2), "n_kv_readers 2 with 4"),
        (put("edges", "\x1b[31m" + "y" * 5000, value={}), r"\\x1b\[31my"),
    ],
)
def test_json_with_something_else_in_a_place(
    tmp_path: Path, change: Callable[[dict[str, Any]], None], what: str
) -> None:
    path = circuit(PER_HEAD, node_scored=True).save(tmp_path / "c.json")
    file = json.loads(path.read_text())
    change(file)
    path.write_text(json.dumps(file))
    assert re.search(what, refused(path)), refused(path)


def rename(edge: str, to: str) -> Callable[[dict[str, Any]], None]:
    return lambda file: file["edges"].update({to: file["edges"].pop(edge)})


def drop_span(file: dict[str, Any]) -> None:
    del file["cfg"]["spans"]


@pytest.mark.parametrize(
    ("change", "what"),
    [
        *((put("cfg", "spans", value=value), "its spans are no list of names: ") for value in (None, 3, "S2", [1], {})),
        (put("cfg", "spans", value=["S2", "S2"]), "not in the spans of its cfg.*'END'"),
        (put("cfg", "spans", value=["S2", "END", "END"]), "of their own.*got 'S2', 'END', 'END'"),
        (
            put("cfg", "spans", value=["\x1b[31m", "END"]),
            r"not in the spans of its cfg, \['\\x1b\[31m', 'END'\]: .*'S2'",
        ),
        (put("cfg", "spans", value=[]), r"not in the spans of its cfg, \[\]: '', 'END', 'S2'"),
        (drop_span, r"not in the spans of its cfg, \[\]: '', 'END', 'S2'"),
        (put("cfg", "spans", value=["S2"]), r"not in the spans of its cfg, \['S2'\]: 'END'"),
        (put("cfg", "spans", value=["S2", "IO"]), r"not in the spans of its cfg, \['S2', 'IO'\]: 'END', 'IO'"),
        (put("cfg", "spans", value=["S2", *map(str, range(50_000))]), "not in the spans of its cfg"),
        (rename(f"{EDGE}@END", f"{EDGE}@IO"), r"not in the spans of its cfg, \['S2', 'END'\]: 'IO'"),
        (rename(f"{EDGE}@END", EDGE), r"not in the spans of its cfg, \['S2', 'END'\]: ''"),
        (rename(f"{EDGE}@END", f"{EDGE}@END@S2"), "not in the spans of its cfg.*'END@S2'"),
        (rename(f"{EDGE}@END", "m9->m9@S2"), f"its edges are not those of .*{EDGE}@END, m9->m9@S2, and 2 such"),
        (put("cfg", "n_layers", value=3), "its readers are not those of its cfg"),
        (put("edges", f"{EDGE}@S2", "in_graph", value=0.5), f"edge {EDGE}@S2 is 0.5"),
        (put("edges", f"{EDGE}@END", "score", value=1e300), f"score of edge {EDGE}@END is 1e"),
        (put("nodes", f"{NODE}@END", value={}), f"its nodes are not those of .*{NODE}@END"),
    ],
)
def test_json_of_a_circuit_in_spans_with_something_else(
    tmp_path: Path, change: Callable[[dict[str, Any]], None], what: str
) -> None:
    path = circuit(PER_HEAD.in_spans(["S2", "END"]), node_scored=True).save(tmp_path / "c.json")
    file = json.loads(path.read_text())
    change(file)
    path.write_text(json.dumps(file))
    assert re.search(what, refused(path)), refused(path)


def test_json_with_an_edge_twice_in_one_span(tmp_path: Path) -> None:
    path = circuit(PER_HEAD.in_spans(["S2", "END"])).save(tmp_path / "c.json")
    path.write_text(path.read_text().replace(f'"{EDGE}@END"', f'"{EDGE}@S2"'))
    assert f"the key '{EDGE}@S2' stands twice" in refused(path)


@pytest.mark.parametrize(
    ("content", "what"),
    [
        (b'{"cfg": 1, "cfg": 2}', "the key 'cfg' stands twice"),
        (b"[" * 100_000, "nested too deeply"),
        (b"1" * 5000, "a whole number of 5,000 digits"),
        ('{"cfg": {}}'.encode("utf-16"), "not JSON in UTF-8"),
        (b"", "it is not JSON"),
        # Sizes that a file states are held against what it has before anything of that size is made.
        (
            b'{"cfg":{"n_layers":10000000,"n_heads":1,"d_model":1},"edges":{"input->a0.h0<k>":{"in_graph":true}}}',
            "lie b",
        ),
        (
            b'{"cfg":{"n_layers":1000000,"n_heads":1,"d_model":1},"edges":{"input->a0.h0<k>":{"in_graph":true}}}',
            "the file",
        ),
        (
            b'{"cfg":{"n_layers":1,"n_heads":1000000,"d_model":1},"edges":{"input->a0.h0<k>":{"in_graph":true}}}',
            "the file",
        ),
    ],
)
def test_json_that_says_nothing_or_too_much(tmp_path: Path, content: bytes, what: str) -> None:
    (tmp_path / "c.json").write_bytes(content)
    assert what in refused(tmp_path / "c.json")


def test_readers_of_a_large_model_without_its_edges(tmp_path: Path) -> None:
    layers, readers = 3000, ["a{}.h0<q>", "a{}.h0<k>", "a{}.h0<v>", "m{}"]
    names = [f"input->{name.format(layer)}" for layer in range(layers) for name in readers] + ["input->logits"]
    cfg = {"n_layers": layers, "n_heads": 1, "d_model": 1}
    (tmp_path / "c.json").write_text(json.dumps({"cfg": cfg, "edges": {name: {"in_graph": True} for name in names}}))
    assert "it has 12,001 edges, and Layout(3000 layers" in refused(tmp_path / "c.json")


def test_a_byte_order_mark_as_some_editors_write_it(tmp_path: Path) -> None:
    path = circuit(PER_HEAD).save(tmp_path / "c.json")
    path.write_bytes(b"\xef\xbb\xbf" + path.read_bytes())
    assert Circuit.load(path) == circuit(PER_HEAD)


# ---- .pt and .safetensors --------------------------------------------------------------------------------------------


@pytest.mark.parametrize("key", ["edges_in_graph", "edges_scores"])
@pytest.mark.parametrize(
    ("change", "what"),
    [
        (lambda matrix: matrix.tolist(), "no plain tensor but list"),
        (lambda matrix: None, "no plain tensor but NoneType"),
        (lambda matrix: matrix.to_sparse(), "no plain tensor"),
        (lambda matrix: matrix.to("meta"), "no plain tensor"),
        (lambda matrix: matrix.T, r"have shape \(27, 11\), not \(11, 27\)"),
        (lambda matrix: matrix[:1, :1].clone().expand(matrix.shape), "fewer numbers are stored"),
    ],
)
def test_pt_with_something_else_for_a_matrix(
    tmp_path: Path, key: str, change: Callable[[Tensor], Any], what: str
) -> None:
    path = circuit(PER_HEAD).save(tmp_path / "c.pt")
    file = torch.load(path)
    torch.save({**file, key: change(file[key])}, path)
    assert re.search(what, refused(path)), refused(path)


@pytest.mark.parametrize("key", ["cfg", "src_nodes", "dst_nodes", "metadata", "nodes_scores"])
@pytest.mark.parametrize("value", [3, "x", [], [1, 2], (1,), {1: 2}, torch.ones(2)], ids=repr)
def test_pt_with_something_else_in_a_place(tmp_path: Path, key: str, value: Any) -> None:
    path = circuit(PER_HEAD).save(tmp_path / "c.pt")
    torch.save({**torch.load(path), key: value}, path)
    if (key, value) == ("metadata", {1: 2}):
        assert Circuit.load(path).metadata == {"1": 2}
    else:
        refused(path)


def test_pt_that_torch_save_would_not_write(tmp_path: Path) -> None:
    path = circuit(PER_HEAD).save(tmp_path / "c.pt")
    torch.save({1: 2, **torch.load(path)}, path)
    assert Circuit.load(path) == circuit(PER_HEAD)
    with zipfile.ZipFile(path) as stored, zipfile.ZipFile(tmp_path / "packed.pt", "w", zipfile.ZIP_DEFLATED) as packed:
        for name in stored.namelist():
            packed.writestr(name, stored.read(name))
    assert "it is compressed" in refused(tmp_path / "packed.pt")
    content = bytearray(path.read_bytes())
    content[content.index(b"edges_scores")] ^= 1
    path.write_bytes(content)
    assert "data.pkl' is damaged" in refused(path)


@pytest.mark.parametrize("key", ["cfg", "src_nodes", "dst_nodes", "metadata", "edges_scores", "nodes_scores"])
def test_pt_with_lists_that_have_no_end(tmp_path: Path, key: str) -> None:
    """A pickle may name one list many times: doubled fifty times it is a file of a kilobyte, and fills every memory."""
    doubled: list[Any] = [1]
    for _ in range(50):
        doubled = [doubled, doubled]
    itself: list[Any] = []
    itself.append(itself)
    content = torch.load(circuit(PER_HEAD).save(tmp_path / "c.pt"))
    for endless in (doubled, itself, {"n_layers": doubled, "n_heads": 1, "d_model": 1}):
        torch.save({**content, key: endless}, tmp_path / "c.pt")
        assert "longer than the file" in refused(tmp_path / "c.pt")


def test_what_torch_advises_is_not_passed_on(tmp_path: Path) -> None:
    torch.save({"cfg": Path("x")}, tmp_path / "c.pt")
    assert "weights_only" not in refused(tmp_path / "c.pt")


@pytest.mark.parametrize(
    ("tensors", "header", "what"),
    [
        ({"members": torch.ones(3).bool()}, {"layout": [1]}, "missing 'n_layers'"),
        ({"members": torch.ones(3).bool()}, {"layout": {"n_layers": 2}}, "missing 'n_heads'"),
        ({"members": torch.ones(3).bool()}, {}, r"have shape \(3,\), not \(110,\)"),
        ({}, {}, "missing 'members'"),
        ({"members": torch.ones(110).bool(), "scorse": torch.ones(110)}, {}, "none of a circuit: 'scorse'"),
        *(
            ({"members": torch.ones(110).bool()}, {"layout": PER_HEAD.to_dict() | {"spans": spans}}, what)
            for spans, what in (
                (3, "spans take a list of names, got 3"),
                ([1], r"spans take a list of names, got \[1\]"),
                (["a", "a"], "of their own.*got 'a', 'a'"),
                (["\x1b[31m"], r"got '\\x1b\[31m'"),
                (["@" * 5000], "printable names of their own"),
                (["a", "b"], r"have shape \(110,\), not \(220,\)"),
                ([f"s{i}" for i in range(50_000)], r"have shape \(110,\)"),
            )
        ),
        ({"members": torch.ones(110).bool()}, {"metadata": None}, "metadata is not plain JSON"),
    ],
)
def test_safetensors_with_something_else(
    tmp_path: Path, tensors: dict[str, Tensor], header: dict[str, Any], what: str
) -> None:
    said = json.dumps({"layout": PER_HEAD.to_dict(), "metadata": {}, **header})
    safetensors.torch.save_file(tensors, tmp_path / "c.safetensors", {"circuit": said})
    assert re.search(what, refused(tmp_path / "c.safetensors")), refused(tmp_path / "c.safetensors")


# ---- no file at all --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("suffix", READABLE)
def test_something_else_than_a_file(tmp_path: Path, suffix: str) -> None:
    for name in ("folder", "pipe", "loop"):
        path = tmp_path / f"{name}{suffix}"
        {"folder": Path.mkdir, "pipe": os.mkfifo, "loop": lambda path: path.symlink_to(path)}[name](path)
        with pytest.raises(FileNotFoundError, match="no circuit file at") as caught:
            Circuit.load(path)
        assert str(path) in str(caught.value)
        assert {"folder": "a folder", "pipe": "no regular file"}.get(name, "") in str(caught.value)
