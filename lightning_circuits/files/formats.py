"""Circuits as files: plain data in, bytes out, and back.

Other tools read circuits too, so `.json` and `.pt` are, field by field and in the same order, what EAP-IG writes and
MIB scores. What those formats have no place for (where the circuit comes from, how its keys and
values are counted) stands in one more key, ``metadata``, which their loaders pass over. For the largest models
`.safetensors` is the compact one: flat vectors and a JSON string. `.graphml` and `.dot` are for looking at a
circuit: they hold its own edges only, and cannot be read back.

Every file is written whole beside its place and then moved into it, so a run killed while it writes leaves the last
complete file.

    >>> import tempfile
    >>> layout = Layout(n_layers=1, n_heads=2, d_model=8)
    >>> members = torch.zeros(layout.n_edges, dtype=torch.bool)
    >>> members[layout.edge_index("input->m0")] = True
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     save(f"{folder}/circuit.json", CircuitData(layout, members, None, {"seed": 0}))
    ...     data = load(f"{folder}/circuit.json")
    >>> layout.edge_names(data.members.nonzero()[:, 0]), data.metadata
    (['input->m0'], {'seed': 0})

This module stands below `circuit.py`: it knows layouts and tensors, and no `Circuit`.
"""

from __future__ import annotations

import io
import json
import os
import pickle
from collections.abc import Callable, Collection, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import networkx as nx
import safetensors
import safetensors.torch
import torch
from torch import Tensor

from lightning_circuits.layout import Layout, node_members, reader_nodes


class CircuitData(NamedTuple):
    """What a circuit file holds: ``members`` bool ``[n_edges]``; ``scores`` float32 ``[n_edges]`` or None; metadata
    of plain JSON types; ``node_scores`` float32 ``[n_writers]`` or None, NaN for a writer that has no score."""

    layout: Layout
    members: Tensor
    scores: Tensor | None
    metadata: dict[str, Any]
    node_scores: Tensor | None = None


class Format(NamedTuple):
    """How one kind of file is written and, where it holds enough, read."""

    write: Callable[[CircuitData], bytes]
    read: Callable[[bytes], CircuitData] | None


# `.json` and `.pt` keep these two beside the metadata of the circuit itself.
RESERVED = ("n_kv_readers", "scored")
# What the readers raise, ours and the libraries', over a file that is damaged or holds something else.
UNREADABLE = (ValueError, TypeError, RuntimeError, EOFError, pickle.UnpicklingError, safetensors.SafetensorError)


def save(path: str | os.PathLike[str], data: CircuitData) -> None:
    """Write a circuit to ``path``, atomically, in the format that its suffix names.

    Raises:
        ValueError: unknown suffix; a score that is NaN or infinite (the edge is named), or an infinite one of a node;
            metadata that JSON cannot hold.
        FileNotFoundError: the folder is not there.
    """
    path = Path(path)
    form = _format(path)
    if not path.parent.is_dir():
        raise FileNotFoundError(f"cannot write {path}: there is no folder {path.parent}")
    if data.scores is not None and not data.scores.isfinite().all():
        edge = int((~data.scores.isfinite()).nonzero()[0])
        raise ValueError(
            f"cannot write {path}: the score of edge {data.layout.edge_names([edge])[0]} is {float(data.scores[edge])}"
        )
    if data.node_scores is not None and data.node_scores.isinf().any():
        node = int(data.node_scores.isinf().nonzero()[0])
        raise ValueError(
            f"cannot write {path}: "
            f"the score of node {data.layout.writer_names[node]} is {float(data.node_scores[node])}"
        )
    if taken := [key for key in RESERVED if key in data.metadata]:
        raise ValueError(f"cannot write {path}: the metadata keys {taken} belong to the file format; use another name")
    try:
        # To JSON types now (a tuple becomes a list), so that every format gives back the same.
        metadata = json.loads(json.dumps(data.metadata, allow_nan=False))
    except (TypeError, ValueError) as error:
        raise ValueError(f"cannot write {path}: the metadata is not plain JSON data: {error}") from error
    write_atomically(path, form.write(data._replace(metadata=metadata)))


def load(path: str | os.PathLike[str]) -> CircuitData:
    """Read the circuit at ``path``, a file of this package or a `.json` or `.pt` that EAP-IG or MIB wrote.

    Raises:
        ValueError: unknown or write-only suffix, or a file that holds no circuit (what is wrong with it is said).
        FileNotFoundError: no such file.
    """
    path = Path(path)
    read = _format(path, reading=True).read
    if not path.is_file():
        raise FileNotFoundError(f"no circuit file at {path}")
    try:
        return read(path.read_bytes())  # type: ignore[misc]  # `_format` refused the formats that have no reader
    except UNREADABLE as error:
        raise ValueError(f"{path} cannot be read as a circuit: {error}") from error


def _format(path: Path, reading: bool = False) -> Format:
    known = [suffix for suffix, form in FORMATS.items() if form.read or not reading]
    if path.suffix not in known:
        verb = "read from" if reading else "written to"
        raise ValueError(f"a circuit cannot be {verb} {path}: the suffix must be one of {', '.join(known)}")
    return FORMATS[path.suffix]


def write_atomically(path: Path, content: bytes) -> None:
    # In the same folder: a move is atomic only within one file system.
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        with temporary.open("wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)


# ---- the formats of EAP-IG and MIB ---------------------------------------------------------------------------------


def _cfg(layout: Layout) -> dict[str, Any]:
    return {
        "n_layers": layout.n_layers,
        "n_heads": layout.n_heads,
        "parallel_attn_mlp": False,
        "d_model": layout.d_model,
    }


def _layout(cfg: Mapping[str, Any], readers: Collection[str]) -> Layout:
    """The layout of a file from its ``cfg`` and the names of its readers, which tell K/V per head from per group."""
    _require(cfg, "n_layers", "n_heads", "d_model")
    if cfg.get("parallel_attn_mlp"):
        raise ValueError("attention and MLP in parallel (its cfg.parallel_attn_mlp) are not supported")
    n_kv_readers = sum(name.startswith("a0.") and name.endswith("<k>") for name in readers)
    layout = Layout(cfg["n_layers"], cfg["n_heads"], cfg["d_model"], n_kv_readers)
    if set(readers) != set(layout.reader_names):
        odd = sorted(set(readers) ^ set(layout.reader_names))
        raise ValueError(f"its readers are not those of its cfg, {layout}: {', '.join(odd[:3])} and {len(odd)} in all")
    return layout


def _require(content: Any, *keys: str) -> None:
    missing = [key for key in keys if not isinstance(content, Mapping) or key not in content]
    if missing:
        raise ValueError(f"missing {', '.join(map(repr, missing))}")


def _file_metadata(data: CircuitData) -> dict[str, Any]:
    return {**data.metadata, "n_kv_readers": data.layout.n_kv_readers, "scored": data.scores is not None}


def _from_file(
    layout: Layout, members: Tensor, scores: Tensor | None, metadata: Mapping[str, Any], node_scores: Tensor | None
) -> CircuitData:
    own = {key: value for key, value in metadata.items() if key not in RESERVED}
    scores = scores if metadata.get("scored", True) else None
    return CircuitData(layout, members, scores, own, _any_score(layout, node_scores))


def _any_score(layout: Layout, node_scores: Tensor | None) -> Tensor | None:
    """The scores of the nodes; None where no node has one, which is how `.json` cannot help but say it."""
    if node_scores is None or node_scores.isnan().all():
        return None
    if node_scores.shape != (layout.n_writers,):
        raise ValueError(f"its scores of nodes have shape {tuple(node_scores.shape)}, not ({layout.n_writers},)")
    return node_scores.float()


def _refuse_neurons(keys: Collection[str]) -> None:
    if any(key.startswith("neurons") for key in keys):
        raise ValueError("it chooses single neurons of the nodes; circuits here are made of whole edges")


def _scores(data: CircuitData) -> Tensor:
    """The formats want a score for every edge; a circuit without any ranks its members first."""
    return data.members.float() if data.scores is None else data.scores


def _file_order(layout: Layout) -> Tensor:
    """int64 ``[n_edges]``: the flat indices in the order of EAP-IG's files.

    Per layer: for every writer every head, for every head q, k and v; then the writers of the MLP. (A flat index has
    the reader first.) A K/V group stands with the first of its heads.
    """
    heads, groups = torch.arange(layout.n_heads), torch.arange(layout.n_kv_readers)
    first = groups * (layout.n_heads // layout.n_kv_readers)
    slot = torch.cat(
        [heads * 3, first * 3 + 1, first * 3 + 2, torch.tensor([0])]
    )  # the MLP stands in a block of its own
    block, slot = layout.reader_component[layout.edge_reader], slot[layout.edge_reader % len(slot)]
    return torch.argsort((block * layout.n_writers + layout.edge_writer) * (3 * layout.n_heads) + slot)


def _write_json(data: CircuitData) -> bytes:
    layout, order = data.layout, _file_order(data.layout)
    in_graph = [*node_members(layout, data.members)[:-1].tolist(), True]  # EAP-IG counts the logits in, always
    edges = zip(layout.edge_names(order), _scores(data)[order].tolist(), data.members[order].tolist(), strict=True)
    content = {
        "cfg": _cfg(layout),
        "nodes": {name: {"in_graph": flag} for name, flag in zip(_node_names(layout), in_graph, strict=True)},
        "edges": {name: {"score": score, "in_graph": member} for name, score, member in edges},
        "metadata": _file_metadata(data),
    }
    if data.node_scores is not None:
        for name, score in zip(layout.writer_names, data.node_scores.tolist(), strict=True):
            if score == score:  # JSON has no NaN; a node without the key is one without a score to EAP-IG too
                content["nodes"][name]["score"] = score
    return json.dumps(content).encode()


def _read_json(content: bytes) -> CircuitData:
    file = json.loads(content)
    _require(file, "cfg", "edges")
    edges = file["edges"]
    # The input is read by every reader, so its edges name them all.
    layout = _layout(file["cfg"], [name[7:] for name in edges if name.startswith("input->")])
    names = layout.edge_names(torch.arange(layout.n_edges))
    if len(edges) != len(names) or not all(name in edges for name in names):
        odd = sorted(set(names) ^ set(edges))
        raise ValueError(f"its edges are not those of {layout}: {', '.join(odd[:3])}, and {len(odd):,} such in all")
    # Early versions of EAP-IG wrote plain true and false for nodes.
    nodes = {name: node for name, node in file.get("nodes", {}).items() if isinstance(node, Mapping)}
    _refuse_neurons({key for node in nodes.values() for key in node})
    # MIB's nine circuits of a submission may come without scores.
    scored = any("score" in edge for edge in edges.values())
    try:
        members = torch.tensor([edges[name]["in_graph"] for name in names], dtype=torch.bool)
        scores = torch.tensor([edges[name]["score"] for name in names], dtype=torch.float32) if scored else None
        worth = [nodes.get(name, {}).get("score", torch.nan) for name in layout.writer_names]
        node_scores = torch.tensor(worth, dtype=torch.float32)
    except (KeyError, TypeError) as error:
        raise ValueError(
            "every edge needs 'in_graph' (true or false), and a 'score' (a number) unless none has; the 'score' of a "
            f"node, where there is one, is a number: {error}"
        ) from error
    return _from_file(layout, members, scores, file.get("metadata", {}), node_scores)


def _write_pt(data: CircuitData) -> bytes:
    layout, content = data.layout, io.BytesIO()
    file = {
        "cfg": _cfg(layout),
        "src_nodes": layout.writer_names,
        "dst_nodes": layout.reader_names,
        "edges_scores": layout.to_matrix(_scores(data)).T.contiguous(),
        "edges_in_graph": layout.to_matrix(data.members).T.contiguous(),
        "nodes_in_graph": node_members(layout, data.members)[:-1],
        "metadata": _file_metadata(data),
    }
    if data.node_scores is not None:
        file["nodes_scores"] = data.node_scores
    torch.save(file, content)
    return content.getvalue()


def _read_pt(content: bytes) -> CircuitData:
    file = torch.load(io.BytesIO(content), map_location="cpu", weights_only=True)
    _require(file, "cfg", "src_nodes", "dst_nodes", "edges_in_graph")
    _refuse_neurons(file)
    layout = _layout(file["cfg"], file["dst_nodes"])
    if file["src_nodes"] != layout.writer_names or file["dst_nodes"] != layout.reader_names:
        raise ValueError(f"the order of its src_nodes or dst_nodes is not that of {layout}")
    for key in ("edges_scores", "edges_in_graph"):
        if key in file and file[key].shape != (layout.n_writers, layout.n_readers):
            raise ValueError(f"{key} has shape {tuple(file[key].shape)}, not {(layout.n_writers, layout.n_readers)}")
    members = layout.from_matrix(file["edges_in_graph"].T).bool()
    # As in `.json`, MIB's nine circuits of a submission may come without scores.
    scores = layout.from_matrix(file["edges_scores"].T).float() if "edges_scores" in file else None
    return _from_file(layout, members, scores, file.get("metadata", {}), file.get("nodes_scores"))


# ---- safetensors ---------------------------------------------------------------------------------------------------


def _write_safetensors(data: CircuitData) -> bytes:
    optional = {"scores": data.scores, "node_scores": data.node_scores}
    tensors = {"members": data.members} | {key: value for key, value in optional.items() if value is not None}
    header = json.dumps({"layout": data.layout.to_dict(), "metadata": data.metadata})
    return safetensors.torch.save(tensors, metadata={"circuit": header})


def _read_safetensors(content: bytes) -> CircuitData:
    tensors = safetensors.torch.load(content)
    # The library gives the header only of a file on disk; it is JSON after eight bytes that hold its length.
    header = json.loads(content[8 : 8 + int.from_bytes(content[:8], "little")]).get("__metadata__", {})
    _require(header, "circuit")
    _require(tensors, "members")
    circuit = json.loads(header["circuit"])
    _require(circuit, "layout", "metadata")
    layout = Layout(**circuit["layout"])
    members, scores = layout.check(tensors["members"]), tensors.get("scores")
    scores = None if scores is None else layout.check(scores)
    return CircuitData(layout, members, scores, circuit["metadata"], _any_score(layout, tensors.get("node_scores")))


# ---- pictures ------------------------------------------------------------------------------------------------------


def _node_names(layout: Layout) -> list[str]:
    return [*layout.writer_names, "logits"]


def to_networkx(data: CircuitData) -> nx.MultiDiGraph:
    """The members of a circuit as a directed multigraph between nodes.

    A writer may be read by the query, the key and the value of one head, so edges are parallel: each has its own key,
    its name, and the attribute ``reader`` (``q``, ``k``, ``v``, ``mlp`` or ``logits``), and ``score`` where there are
    scores. An edge into a K/V group stands at each of the group's heads; the attribute ``edge`` is its name in the
    circuit. Nodes have ``label``, ``kind`` (``input``, ``head``, ``mlp``, ``logits``) and ``layer`` (-1 for the input).
    """
    layout, names = data.layout, _node_names(data.layout)
    graph = nx.MultiDiGraph(layout=str(layout), metadata=json.dumps(data.metadata))
    kinds = {"i": "input", "a": "head", "m": "mlp", "l": "logits"}
    heads_of: list[list[int]] = [[] for _ in range(layout.n_readers)]
    for reader, node in zip(*(pairs.tolist() for pairs in reader_nodes(layout)), strict=True):
        heads_of[reader].append(node)

    edges = data.members.nonzero()[:, 0]
    scores = None if data.scores is None else data.scores[edges].tolist()
    columns = (layout.edge_names(edges), layout.edge_writer[edges].tolist(), layout.edge_reader[edges].tolist())
    drawn = []
    for i, (name, writer, reader) in enumerate(zip(*columns, strict=True)):
        for node in heads_of[reader]:
            slot = name[-2] if name.endswith(">") else kinds[names[node][0]]
            key = f"{names[writer]}->{names[node]}" + (f"<{slot}>" if name.endswith(">") else "")
            score = {} if scores is None else {"score": scores[i]}
            drawn.append((writer, node, key, {"edge": name, "reader": slot, **score}))

    for end in sorted({end for writer, node, *_ in drawn for end in (writer, node)}):  # in the order of the model
        name = names[end]
        graph.add_node(name, label=name, kind=kinds[name[0]], layer=(end - 1) // (layout.n_heads + 1))
    graph.add_edges_from((names[writer], names[node], key, attributes) for writer, node, key, attributes in drawn)
    return graph


def _write_graphml(data: CircuitData) -> bytes:
    content = io.BytesIO()
    nx.write_graphml(to_networkx(data), content)  # the keys become the ids of the edges
    return content.getvalue()


def _write_dot(data: CircuitData) -> bytes:
    graph = to_networkx(data)
    lines = ["digraph circuit {", "  rankdir=BT;", "  node [shape=box];"]
    lines += [f'  "{node}";' for node in graph]
    for writer, node, attributes in graph.edges(data=True):
        label = f' [label="{attributes["reader"]}"]' if attributes["reader"] in "qkv" else ""
        lines.append(f'  "{writer}" -> "{node}"{label};')
    return "\n".join([*lines, "}", ""]).encode()


FORMATS: dict[str, Format] = {
    ".json": Format(_write_json, _read_json),
    ".pt": Format(_write_pt, _read_pt),
    ".safetensors": Format(_write_safetensors, _read_safetensors),
    ".graphml": Format(_write_graphml, None),
    ".dot": Format(_write_dot, None),
}
