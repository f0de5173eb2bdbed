"""`.json` and `.pt`: what EAP-IG and MIB find in them, and which of their files are read or refused."""

from __future__ import annotations

import io
import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from lightning_circuits.circuit import Circuit
from lightning_circuits.layout import Layout
from tests.support.made_circuits import METADATA, PARALLEL, PER_HEAD, circuit

GPT2 = Layout(12, 12, 768)
PYTHIA = Layout(6, 8, 512, parallel=True)  # Pythia-70M


def eap_ig_names(layout: Layout) -> tuple[list[str], list[str], list[str]]:
    """Nodes, edges and dst_nodes in the order in which EAP-IG builds its graph, walking through the layers."""
    nodes, edges, destinations = ["input"], [], []
    for n in range(layout.n_layers):
        heads = [f"a{n}.h{h}" for h in range(layout.n_heads)]
        for writer in nodes:
            for head in heads:
                edges += [f"{writer}->{head}<{kind}>" for kind in "qkv"]
            if layout.parallel:
                edges.append(f"{writer}->m{n}")
        destinations += [f"{head}<{kind}>" for kind in "qkv" for head in heads] + [f"m{n}"]
        nodes += heads
        if not layout.parallel:
            edges += [f"{writer}->m{n}" for writer in nodes]
        nodes.append(f"m{n}")
    return [*nodes, "logits"], edges + [f"{writer}->logits" for writer in nodes], [*destinations, "logits"]


def test_json_of_gpt2_is_what_eap_ig_writes(tmp_path: Path) -> None:
    saved = circuit(GPT2)
    file = json.loads(saved.save(tmp_path / "importances.json").read_text())
    nodes, edges, _ = eap_ig_names(GPT2)
    assert list(file) == ["cfg", "nodes", "edges", "metadata"]
    assert file["cfg"] == {"n_layers": 12, "n_heads": 12, "parallel_attn_mlp": False, "d_model": 768}
    assert list(file["nodes"]) == nodes and len(nodes) == 158
    assert list(file["edges"]) == edges and len(edges) == 32_491
    assert {tuple(entry) for entry in file["edges"].values()} == {("score", "in_graph")}

    chosen = set(saved.edge_names())
    for name, entry in file["edges"].items():
        assert entry["in_graph"] is (name in chosen)
    for index in (0, 1553, 20_000, 32_490):
        assert file["edges"][GPT2.edge_names([index])[0]]["score"] == float(saved.scores[index])
    assert {name for name, entry in file["nodes"].items() if entry["in_graph"]} == set(saved.node_names())
    assert file["metadata"] == {**METADATA, "n_kv_readers": 12, "scored": True}


def test_pt_of_gpt2_is_what_eap_ig_writes(tmp_path: Path) -> None:
    saved = circuit(GPT2)
    file = torch.load(saved.save(tmp_path / "importances.pt"), weights_only=True)
    nodes, _, destinations = eap_ig_names(GPT2)
    assert file["cfg"] == {"n_layers": 12, "n_heads": 12, "parallel_attn_mlp": False, "d_model": 768}
    assert file["src_nodes"] == nodes[:-1] and file["dst_nodes"] == destinations
    assert file["edges_scores"].shape == file["edges_in_graph"].shape == (157, 445)
    assert (file["edges_scores"].dtype, file["edges_in_graph"].dtype) == (torch.float32, torch.bool)
    assert file["edges_scores"].is_contiguous() and file["edges_in_graph"].sum() == saved.n_edges
    assert file["nodes_in_graph"].tolist() == [name in saved.node_names() for name in nodes[:-1]]
    row, column = nodes.index("a3.h7"), destinations.index("a5.h2<v>")
    index = GPT2.edge_index("a3.h7->a5.h2<v>")
    assert file["edges_scores"][row, column] == saved.scores[index]
    assert file["edges_in_graph"][row, column] == saved.members[index]
    assert file["edges_scores"][nodes.index("m5"), destinations.index("a5.h0<q>")] == 0  # no such edge
    assert file["metadata"]["n_kv_readers"] == 12


def test_parallel_blocks_are_what_eap_ig_writes(tmp_path: Path) -> None:
    saved = circuit(PYTHIA)
    nodes, edges, destinations = eap_ig_names(PYTHIA)
    file = json.loads(saved.save(tmp_path / "c.json").read_text())
    assert file["cfg"] == {"n_layers": 6, "n_heads": 8, "parallel_attn_mlp": True, "d_model": 512}
    assert list(file["nodes"]) == nodes and list(file["edges"]) == edges and len(edges) == PYTHIA.n_edges
    file = torch.load(saved.save(tmp_path / "c.pt"), weights_only=True)
    assert file["cfg"]["parallel_attn_mlp"] is True and file["dst_nodes"] == destinations
    own = file["edges_scores"][nodes.index("a3.h0") : nodes.index("m3"), destinations.index("m3")]
    assert (own == 0).all(), "an MLP reads no head of its own layer"


def test_the_logits_are_in_as_eap_ig_has_it_even_in_an_empty_circuit(tmp_path: Path) -> None:
    file = json.loads(Circuit.empty(PER_HEAD).save(tmp_path / "c.json").read_text())
    assert [name for name, entry in file["nodes"].items() if entry["in_graph"]] == ["logits"]


def test_a_circuit_without_scores_ranks_its_members_first_for_other_tools(tmp_path: Path) -> None:
    file = json.loads(circuit(PER_HEAD, scored=False).save(tmp_path / "c.json").read_text())
    assert all(entry["score"] == float(entry["in_graph"]) for entry in file["edges"].values())


def test_json_with_scores_of_nodes_is_json(tmp_path: Path) -> None:
    """Strictly: no NaN, which Python writes and others refuse."""

    def refuse(constant: str) -> None:
        raise AssertionError(constant)

    node_scores = torch.full((PER_HEAD.n_writers,), torch.nan)
    node_scores[2] = 0.5
    path = Circuit(PER_HEAD, circuit(PER_HEAD).members, node_scores=node_scores).save(tmp_path / "c.json")
    nodes = json.loads(path.read_text(), parse_constant=refuse)["nodes"]
    assert {name: node["score"] for name, node in nodes.items() if "score" in node} == {"a0.h1": 0.5}
    assert "score" not in nodes["logits"]


@pytest.mark.parametrize("layout", [PER_HEAD, PARALLEL], ids=str)
def test_files_of_eap_ig_are_read(tmp_path: Path, layout: Layout) -> None:
    """Written here without this package's writers, with none of its metadata, and with what EAP-IG leaves in cells
    that are no edges."""
    nodes, edges, destinations = eap_ig_names(layout)
    cfg = {"n_layers": 2, "n_heads": 4, "parallel_attn_mlp": layout.parallel, "d_model": 8}
    chosen = set(edges[::3])
    score = {name: i / 7 - 3 for i, name in enumerate(edges)}
    content = {
        "cfg": cfg,
        "nodes": {name: {"in_graph": True, "score": 0.5} for name in nodes},
        "edges": {name: {"score": score[name], "in_graph": name in chosen} for name in edges},
    }
    (tmp_path / "c.json").write_text(json.dumps(content))
    names = [[f"{writer}->{reader}" for reader in destinations] for writer in nodes[:-1]]
    content = {
        "cfg": cfg,
        "src_nodes": nodes[:-1],
        "dst_nodes": destinations,
        "edges_scores": torch.tensor([[score.get(name, 9.0) for name in row] for row in names]),
        "edges_in_graph": torch.tensor([[name in chosen or name not in score for name in row] for row in names]),
        "nodes_in_graph": torch.ones(len(nodes) - 1, dtype=torch.bool),
    }
    torch.save(content, tmp_path / "c.pt")

    for suffix in (".json", ".pt"):
        loaded = Circuit.load(tmp_path / f"c{suffix}", layout)
        assert set(loaded.edge_names()) == chosen and loaded.metadata == {}
        expected = torch.tensor([score[name] for name in layout.edge_names(range(layout.n_edges))])
        assert torch.equal(loaded.scores, expected)


class Library:
    """A file as EAP-IG's `Graph.from_json` and `Graph.from_pt` take it in: two matrices, writers by places where a
    stream is read, found from a name by arithmetic on the sizes in `cfg`."""

    def __init__(self, path: Path) -> None:
        if path.suffix == ".json":
            file = json.loads(path.read_text())
            assert {"cfg", "nodes", "edges"} <= set(file)
            self._size(file["cfg"])
            for name, node in file["nodes"].items():
                if name != "logits":
                    self.nodes[self.forward(name)] = node["in_graph"]
                    self.node_scores[self.forward(name)] = node.get("score", float("nan"))
            for name, edge in file["edges"].items():
                parent, child = name.split("->")
                self.scores[self.forward(parent), self.backward(child)] = edge["score"]
                self.edges[self.forward(parent), self.backward(child)] = edge["in_graph"]
        else:
            file = torch.load(path)
            assert {"cfg", "src_nodes", "dst_nodes", "edges_scores", "edges_in_graph", "nodes_in_graph"} <= set(file)
            self._size(file["cfg"])
            self.scores[:], self.edges[:] = file["edges_scores"], file["edges_in_graph"]
            self.nodes[:] = file["nodes_in_graph"]
            self.node_scores = file.get("nodes_scores", self.node_scores)
            assert [self.forward(name) for name in file["src_nodes"]] == list(range(len(self.nodes)))
            columns = [self.backward(name) % self.scores.shape[1] for name in file["dst_nodes"]]
            assert columns == list(range(self.scores.shape[1]))

    def _size(self, cfg: dict[str, Any]) -> None:
        self.n_heads = cfg["n_heads"]
        n_forward = 1 + cfg["n_layers"] * (self.n_heads + 1)
        n_backward = cfg["n_layers"] * (3 * self.n_heads + 1) + 1
        self.scores, self.edges = torch.zeros(n_forward, n_backward), torch.zeros(n_forward, n_backward).bool()
        self.nodes, self.node_scores = torch.zeros(n_forward).bool(), torch.full((n_forward,), float("nan"))
        assert cfg["parallel_attn_mlp"] in (True, False) and cfg["d_model"] > 0

    def forward(self, name: str) -> int:
        if name == "input":
            return 0
        if name[0] == "m":
            return 1 + int(name[1:]) * (self.n_heads + 1) + self.n_heads
        layer, head = name[1:].split(".h")
        return 1 + int(layer) * (self.n_heads + 1) + int(head)

    def backward(self, name: str) -> int:
        if name == "logits":
            return -1
        if name[0] == "m":
            return int(name[1:]) * (3 * self.n_heads + 1) + 3 * self.n_heads
        layer, head = name[1:-3].split(".h")
        return int(layer) * (3 * self.n_heads + 1) + "qkv".index(name[-2]) * self.n_heads + int(head)


@pytest.mark.parametrize("layout", [PER_HEAD, GPT2, PYTHIA], ids=str)
def test_the_library_reads_the_same_from_both_files(tmp_path: Path, layout: Layout) -> None:
    saved = circuit(layout, node_scored=True)
    one, other = (Library(saved.save(tmp_path / f"c{suffix}")) for suffix in (".json", ".pt"))
    for found in (one, other):
        assert found.edges.sum() == saved.n_edges and found.scores.shape == (layout.n_writers, layout.n_readers)
        assert torch.equal(found.node_scores, saved.node_scores)
    for name in ("scores", "edges", "nodes"):
        assert torch.equal(getattr(one, name), getattr(other, name))
    scored = {
        name: float(score)
        for name, score in zip(
            layout.edge_names(saved.members.nonzero()[:, 0]), saved.scores[saved.members], strict=True
        )
    }
    for name in list(scored)[::97]:
        parent, child = name.split("->")
        assert one.edges[one.forward(parent), one.backward(child)]
        assert one.scores[one.forward(parent), one.backward(child)] == scored[name]
    assert one.nodes.tolist() == [name in saved.node_names() for name in layout.writer_names]


def test_the_library_knows_no_edge_of_a_circuit_in_spans(tmp_path: Path) -> None:
    """Its `Graph.from_json` looks every edge up by name in the graph that it has built from `cfg`."""
    layout = PER_HEAD.in_spans(["S2", "END"])
    saved = circuit(layout)
    file = json.loads(saved.save(tmp_path / "c.json").read_text())
    nodes, edges, _ = eap_ig_names(PER_HEAD)
    assert list(file["nodes"]) == nodes and file["cfg"]["spans"] == ["S2", "END"]
    assert list(file["edges"]) == [f"{name}@{span}" for span in ("S2", "END") for name in edges]
    assert {name for name, edge in file["edges"].items() if edge["in_graph"]} == set(saved.edge_names())
    for name, edge in file["edges"].items():
        assert edge["score"] == float(saved.scores[layout.edge_index(name)])
    assert not set(edges) & set(file["edges"])


def test_files_without_scores_of_edges_as_mib_has_them(tmp_path: Path) -> None:
    """The nine circuits of a submission: "nearly identical, but without the floating-point edge/node scores"."""
    saved = circuit(PER_HEAD)
    file = json.loads(saved.save(tmp_path / "c.json").read_text())
    for edge in file["edges"].values():
        del edge["score"]
    del file["metadata"]
    (tmp_path / "c.json").write_text(json.dumps(file))
    content = torch.load(saved.save(tmp_path / "c.pt"))
    del content["edges_scores"], content["metadata"]
    torch.save(content, tmp_path / "c.pt")
    for suffix in (".json", ".pt"):
        loaded = Circuit.load(tmp_path / f"c{suffix}", PER_HEAD)
        assert loaded == saved and loaded.scores is None and loaded.node_scores is None


def test_nodes_that_are_only_true_or_false_as_early_versions_of_eap_ig_have_them(tmp_path: Path) -> None:
    file = json.loads(circuit(PER_HEAD).save(tmp_path / "c.json").read_text())
    file["nodes"] = {name: node["in_graph"] for name, node in file["nodes"].items()}
    (tmp_path / "c.json").write_text(json.dumps(file))
    assert Circuit.load(tmp_path / "c.json") == circuit(PER_HEAD)


def test_circuits_of_single_neurons_are_refused(tmp_path: Path) -> None:
    file = json.loads(circuit(PER_HEAD).save(tmp_path / "c.json").read_text())
    file["nodes"]["m0"]["neurons"] = [True, False] * 4
    (tmp_path / "c.json").write_text(json.dumps(file))
    content = torch.load(circuit(PER_HEAD).save(tmp_path / "c.pt"))
    torch.save({**content, "neurons_in_graph": torch.ones(PER_HEAD.n_writers, 8)}, tmp_path / "c.pt")
    for suffix in (".json", ".pt"):
        with pytest.raises(ValueError, match="single neurons"):
            Circuit.load(tmp_path / f"c{suffix}")


def test_scores_of_nodes_of_another_number_are_refused(tmp_path: Path) -> None:
    content = torch.load(circuit(PER_HEAD).save(tmp_path / "c.pt"))
    torch.save({**content, "nodes_scores": torch.ones(3)}, tmp_path / "c.pt")
    with pytest.raises(ValueError, match=r"scores of nodes have shape \(3,\), not \(11,\)"):
        Circuit.load(tmp_path / "c.pt")


def change(key: str, value: object) -> Callable[[dict[str, Any]], object]:
    return lambda file: file["cfg"].update({key: value})


@pytest.mark.parametrize(
    ("spoil", "what"),
    [
        (lambda file: file.pop("cfg"), "missing 'cfg'"),
        (lambda file: file["cfg"].pop("d_model"), "missing 'd_model'"),
        (change("parallel_attn_mlp", 1), "its cfg.parallel_attn_mlp is 1: it is true or false"),
        (change("n_layers", 3), "readers are not those of its cfg"),
        (change("n_layers", "2"), "cannot be read"),
        (change("n_heads", 8), "readers are not those of its cfg"),
    ],
)
@pytest.mark.parametrize("suffix", [".json", ".pt"])
def test_files_that_contradict_themselves(
    tmp_path: Path, suffix: str, spoil: Callable[[dict[str, Any]], object], what: str
) -> None:
    path = circuit(PER_HEAD).save(tmp_path / f"c{suffix}")
    if suffix == ".json":
        file = json.loads(path.read_text())
        spoil(file)
        path.write_text(json.dumps(file))
    else:
        file = torch.load(path, weights_only=True)
        spoil(file)
        torch.save(file, path)
    with pytest.raises(ValueError, match=what):
        Circuit.load(path)


def test_json_says_truly_whether_its_blocks_are_parallel(tmp_path: Path) -> None:
    """`.pt` cannot be asked: its matrices have a cell for what is no edge."""
    for layout in (PER_HEAD, PARALLEL):
        file = json.loads(circuit(layout).save(tmp_path / "c.json").read_text())
        file["cfg"]["parallel_attn_mlp"] = not layout.parallel
        (tmp_path / "c.json").write_text(json.dumps(file))
        with pytest.raises(ValueError, match=r"its edges are not those of Layout\(.*: a0.h0->m0, a0.h1->m0, .*8 such"):
            Circuit.load(tmp_path / "c.json")


@pytest.mark.parametrize(
    ("spoil", "what"),
    [
        (lambda edges: edges.pop("a0.h1->m1"), "a0.h1->m1, and 1 such"),
        (lambda edges: edges.update({"m1->m0": {"score": 0, "in_graph": True}}), "m1->m0, and 1 such"),
        (lambda edges: edges["a0.h1->m1"].pop("in_graph"), "'in_graph'"),
        (lambda edges: edges["a0.h1->m1"].update(score="high"), "'score'"),
        (lambda edges: edges["a0.h1->m1"].pop("score"), "'score'"),
    ],
)
def test_json_with_wrong_edges(tmp_path: Path, spoil: Callable[[dict[str, Any]], object], what: str) -> None:
    path = circuit(PER_HEAD).save(tmp_path / "c.json")
    file = json.loads(path.read_text())
    spoil(file["edges"])
    path.write_text(json.dumps(file))
    with pytest.raises(ValueError, match=what):
        Circuit.load(path)


def test_pt_in_another_order_or_shape(tmp_path: Path) -> None:
    path = circuit(PER_HEAD).save(tmp_path / "c.pt")
    file = torch.load(path, weights_only=True)
    torch.save({**file, "dst_nodes": file["dst_nodes"][::-1]}, path)
    with pytest.raises(ValueError, match="order of its src_nodes or dst_nodes"):
        Circuit.load(path)
    torch.save({**file, "edges_scores": file["edges_scores"].T}, path)
    with pytest.raises(ValueError, match="edges_scores have shape"):
        Circuit.load(path)


def test_pt_never_runs_what_it_reads(tmp_path: Path) -> None:
    class Trap:
        def __reduce__(self) -> tuple[Any, ...]:
            return (Path.touch, (tmp_path / "sprung",))

    content = io.BytesIO()
    torch.save({"cfg": Trap()}, content)
    (tmp_path / "c.pt").write_bytes(content.getvalue())
    with pytest.raises(ValueError, match="cannot be read as a circuit"):
        Circuit.load(tmp_path / "c.pt")
    assert not (tmp_path / "sprung").exists()


def test_only_a_circuit_with_its_own_scores_alone_leaves_edges_out(tmp_path: Path) -> None:
    """What is not named, older readers take for a part of the circuit: so all are named, but in such a file."""
    whole = circuit(PER_HEAD)
    assert whole.scores is not None
    for number, (saved, listed) in enumerate(
        [
            (whole, PER_HEAD.n_edges),
            (replace(whole, scores=None), PER_HEAD.n_edges),
            (replace(whole, scores=whole.scores * whole.members), whole.n_edges),
        ]
    ):
        path = saved.save(tmp_path / f"{number}.json")
        file = json.loads(path.read_text())
        assert len(file["edges"]) == listed
        assert file["metadata"].get("edges_left_out", 0) == PER_HEAD.n_edges - listed
        assert Circuit.load(path) == saved and Library(path).edges.sum() == whole.n_edges
