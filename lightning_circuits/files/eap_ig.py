"""`.json` and `.pt`, field by field and in the same order what EAP-IG writes and MIB scores.

What these formats have no place for (where the circuit comes from, how its keys and values are counted) stands in one
more key, ``metadata``, which their loaders pass over.

A `.json` of a circuit that has the scores of its own edges alone leaves the others out, and says in its metadata how
many: so 300 edges are 300 entries, and not 123,211. EAP-IG's loader, since its graphs are tensors (2025), takes an edge
that is not named for one that is not in the circuit; versions before that take it for one that is.

A circuit in spans is none of theirs. In `.json` its ``cfg`` has one more key, ``spans``, and every edge is named with
its span, ``a0.h1->m2@END``: their loaders know no edge of that name, and refuse the file.
"""

from __future__ import annotations

import io
import json
import math
import zipfile
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, TypeAlias

import torch
from torch import Tensor

from lightning_circuits.arguments import shortened
from lightning_circuits.files.base import (
    MOST_EDGES,
    RESERVED,
    CircuitData,
    Format,
    require_keys,
    require_names,
    require_tensor,
    sound,
)
from lightning_circuits.files.plain_json import read_json
from lightning_circuits.layout import Layout
from lightning_circuits.nodes import node_members

CFG = ("n_layers", "n_heads", "d_model")
"""What the ``cfg`` of a file has to say."""

LEFT_OUT = "edges_left_out"
"""Under which key of the metadata a `.json` says how many edges it leaves out."""

_OfEdges: TypeAlias = Callable[[Tensor], Tensor]


class EAPIGJson(Format):
    name = ".json"

    def write(self, data: CircuitData) -> bytes:
        layout, order = data.layout, _file_order(data.layout)
        names = [*layout.writer_names, "logits"]
        in_graph = [*node_members(layout, data.members)[:-1].tolist(), True]  # EAP-IG counts the logits in, always
        scores = _scores(data)
        if data.scores is not None and not scores[~data.members].any():
            order = order[data.members[order]]
        left_out = layout.n_edges - len(order)
        edges = zip(layout.edge_names(order), scores[order].tolist(), data.members[order].tolist(), strict=True)
        content = {
            "cfg": _cfg(layout) | ({"spans": list(layout.spans)} if layout.spans else {}),
            "nodes": {name: {"in_graph": flag} for name, flag in zip(names, in_graph, strict=True)},
            "edges": {name: {"score": score, "in_graph": member} for name, score, member in edges},
            "metadata": _file_metadata(data) | ({LEFT_OUT: left_out} if left_out else {}),
        }
        if data.node_scores is not None:
            for name, score in zip(layout.writer_names, data.node_scores.tolist(), strict=True):
                if score == score:  # JSON has no NaN; a node without the key is one without a score to EAP-IG too
                    content["nodes"][name]["score"] = score
        return json.dumps(content).encode()

    def read(self, content: bytes) -> CircuitData:
        file = read_json(content)
        require_keys(file, "cfg", "edges")
        require_keys(file["cfg"], *CFG)
        edges, nodes = _entries(file["edges"], "edges"), _entries(file.get("nodes", {}), "nodes")
        _refuse_neurons({key for node in nodes.values() for key in node})
        spans = require_names(file["cfg"].get("spans", []), "spans")
        metadata = file.get("metadata", {})
        in_part = isinstance(metadata, dict) and LEFT_OUT in metadata
        if in_part:
            layout, names, of_edges = _some_edges(file["cfg"], spans, edges, metadata)
        else:
            layout, names, of_edges = _all_edges(file["cfg"], spans, edges)
        if odd := sorted(set(nodes) - {*layout.writer_names, "logits"}):
            raise ValueError(f"its nodes are not those of {layout}: {', '.join(odd[:3])}, and {len(odd):,} such in all")
        # MIB's nine circuits of a submission may come without scores, and nodes mostly have none.
        scored = any("score" in edge for edge in edges.values()) or (in_part and metadata.get("scored") is True)
        worth = {name: {"score": math.nan} | nodes.get(name, {}) for name in layout.writer_names}
        return _from_file(
            layout,
            of_edges(_column(edges, names, "in_graph", (bool, int, float))),
            of_edges(_column(edges, names, "score", (int, float))) if scored else None,
            metadata,
            _column(worth, layout.writer_names, "score", (int, float)),
        )


class EAPIGTensors(Format):
    name = ".pt"
    holds_spans = False

    def write(self, data: CircuitData) -> bytes:
        layout, content = data.layout, io.BytesIO()
        file = {
            "cfg": _cfg(layout),
            "src_nodes": layout.writer_names,
            "dst_nodes": layout.reader_names,
            "edges_scores": _matrix(layout, _scores(data)),
            "edges_in_graph": _matrix(layout, data.members),
            "nodes_in_graph": node_members(layout, data.members)[:-1],
            "metadata": _file_metadata(data),
        }
        if data.node_scores is not None:
            file["nodes_scores"] = data.node_scores
        torch.save(file, content)
        return content.getvalue()

    def read(self, content: bytes) -> CircuitData:
        file = _load(content)
        require_keys(file, "cfg", "src_nodes", "dst_nodes", "edges_in_graph")
        require_keys(file["cfg"], *CFG)
        _refuse_neurons(file)
        layout = _layout(file["cfg"], file["dst_nodes"])
        if file["src_nodes"] != layout.writer_names or file["dst_nodes"] != layout.reader_names:
            raise ValueError(f"the order of its src_nodes or dst_nodes is not that of {layout}")
        # As in `.json`, MIB's nine circuits of a submission may come without scores.
        members, scores = (
            _stored(file[key], key, (layout.n_writers, layout.n_readers))[layout.edge_writer, layout.edge_reader]
            if key in file
            else None
            for key in ("edges_in_graph", "edges_scores")
        )
        return _from_file(layout, members, scores, file.get("metadata", {}), file.get("nodes_scores"))


# ---- to the file -----------------------------------------------------------------------------------------------------


def _cfg(layout: Layout) -> dict[str, Any]:
    return {
        "n_layers": layout.n_layers,
        "n_heads": layout.n_heads,
        "parallel_attn_mlp": layout.parallel,
        "d_model": layout.d_model,
    }


def _file_metadata(data: CircuitData) -> dict[str, Any]:
    return {**data.metadata, "n_kv_readers": data.layout.n_kv_readers, "scored": data.scores is not None}


def _scores(data: CircuitData) -> Tensor:
    """The formats want a score for every edge; a circuit without any ranks its members first."""
    return data.members.float() if data.scores is None else data.scores


def _matrix(layout: Layout, values: Tensor) -> Tensor:
    """Flat ``[n_edges]`` to ``[n_writers, n_readers]``, zero (False) where there is no edge."""
    matrix = values.new_zeros(layout.n_writers, layout.n_readers)
    matrix[layout.edge_writer, layout.edge_reader] = values
    return matrix


def _file_order(layout: Layout) -> Tensor:
    """int64 ``[n_edges]``: the flat indices in the order of EAP-IG's files; in spans, of the first span first.

    Per layer: for every writer every head, for every head q, k and v; then the writers of the MLP. In parallel blocks
    the MLP follows the heads of each writer. (A flat index has the reader first.) A K/V group stands with the first of
    its heads.
    """
    heads, groups = torch.arange(layout.n_heads), torch.arange(layout.n_kv_readers)
    first = groups * (layout.n_heads // layout.n_kv_readers)
    slot = torch.cat([heads * 3, first * 3 + 1, first * 3 + 2, torch.tensor([3 * layout.n_heads])])
    streams = torch.tensor([component.stream for component in layout.components])
    span, block = layout.edge_span, streams[layout.reader_component[layout.edge_reader]]
    before = (span * layout.n_streams + block) * layout.n_writers + layout.edge_writer
    return torch.argsort(before * (3 * layout.n_heads + 1) + slot[layout.edge_reader % len(slot)])


# ---- from the file ---------------------------------------------------------------------------------------------------


def _checked(cfg: Any, n_kv_readers: Any) -> Layout:
    """The layout of a ``cfg``, with so many K/V readers in a layer; None for one per head."""
    parallel = cfg.get("parallel_attn_mlp", False)
    if not isinstance(parallel, bool):
        raise ValueError(f"its cfg.parallel_attn_mlp is {shortened(parallel)}: it is true or false")
    return Layout(**{name: cfg[name] for name in CFG}, n_kv_readers=n_kv_readers, parallel=parallel)


def _layout(cfg: Any, readers: Any) -> Layout:
    """The layout of a file from its ``cfg`` and the names of its readers, which tell K/V per head from per group."""
    if not isinstance(readers, list) or not all(isinstance(name, str) for name in readers):
        raise ValueError("its dst_nodes are no list of names")
    n_kv_readers = sum(name.startswith("a0.") and name.endswith("<k>") for name in readers)
    layout = _checked(cfg, n_kv_readers or None)
    if len(readers) != layout.n_readers:  # the cfg may say anything: count before names are made
        raise ValueError(
            f"its readers are not those of its cfg, {layout}: that has {layout.n_readers:,}, the file {len(readers):,}"
        )
    if odd := sorted(set(readers) ^ set(layout.reader_names)):
        raise ValueError(f"its readers are not those of its cfg, {layout}: {', '.join(odd[:3])} and {len(odd)} in all")
    return layout


def _all_edges(cfg: Any, spans: list[str], edges: Mapping[str, Any]) -> tuple[Layout, list[str], _OfEdges]:
    """The layout of a file that names every edge, the names in the order of flat indices, and what is in this order."""
    found = {name.partition("@")[2] for name in edges} or {""}
    if odd := sorted(found ^ set(spans or [""])):
        raise ValueError(f"its edges are not in the spans of its cfg, {spans[:9]}: {', '.join(map(repr, odd[:3]))}")
    # The input is read by every reader, in every span, so its edges name them all.
    at = f"@{spans[0]}" if spans else ""
    read = [name.removesuffix(at)[7:] for name in edges if name.startswith("input->") and name.endswith(at)]
    layout = _layout(cfg, read).in_spans(spans)
    if layout.n_edges > 2 * len(edges):  # so many names are not made, whatever the cfg says
        raise ValueError(f"it has {len(edges):,} edges, and {layout} has {layout.n_edges:,}")
    names = layout.edge_names(torch.arange(layout.n_edges))
    if odd := sorted(set(names) ^ set(edges)):
        raise ValueError(f"its edges are not those of {layout}: {', '.join(odd[:3])}, and {len(odd):,} such in all")
    return layout, names, lambda values: values


def _some_edges(
    cfg: Any, spans: list[str], edges: Mapping[str, Any], metadata: Mapping[str, Any]
) -> tuple[Layout, list[str], _OfEdges]:
    """The layout of a file that leaves edges out, the names of those that it has, and how their values are those of
    all: 0 for the others."""
    layout = _checked(cfg, metadata.get("n_kv_readers")).in_spans(spans)
    if layout.n_edges > MOST_EDGES:
        raise ValueError(f"{layout} has {layout.n_edges:,} edges: more than {MOST_EDGES:,} are not read from a part")
    indices = [layout.edge_index(name) for name in edges]
    if type(metadata[LEFT_OUT]) is not int or len(set(indices)) + metadata[LEFT_OUT] != layout.n_edges:
        raise ValueError(
            f"it has {len(set(indices)):,} edges and leaves out {shortened(metadata[LEFT_OUT])}, of the "
            f"{layout.n_edges:,} of {layout}"
        )

    def of_edges(values: Tensor) -> Tensor:
        every = values.new_zeros(layout.n_edges)
        every[indices] = values
        return every

    return layout, list(edges), of_edges


def _entries(part: Any, what: str) -> dict[str, dict[str, Any]]:
    """The edges or nodes of `.json` by name. Early versions of EAP-IG wrote plain true and false for nodes."""
    if not isinstance(part, dict):
        raise ValueError(f"its {what} are no object but {type(part).__name__}")
    found = {name: {"in_graph": entry} if isinstance(entry, bool) else entry for name, entry in part.items()}
    if odd := [name for name, entry in found.items() if not isinstance(entry, dict)]:
        raise ValueError(f"its {what}: {odd[0]!r} is no object but {type(part[odd[0]]).__name__}")
    return found


def _column(
    entries: Mapping[str, Mapping[str, Any]], names: Sequence[str], key: str, kinds: tuple[type, ...]
) -> Tensor:
    """What stands under one key of every entry, ``[n_names]``: numbers are float64, true and false bool."""
    values: list[Any] = []
    for name in names:
        value = entries[name].get(key)
        if type(value) not in kinds:
            said = f"is {value!r}" if key in entries[name] else "is missing"
            raise ValueError(
                f"the {key!r} of {name} {said}: every edge needs 'in_graph', true or false, and a number as 'score' "
                "unless none has one"
            )
        values.append(value)
    try:
        found = torch.tensor(values, dtype=None if bool in kinds else torch.float64)
        return found if values else found.to(torch.bool if bool in kinds else torch.float64)
    except (OverflowError, RuntimeError, ValueError):
        name = names[max(range(len(names)), key=lambda i: abs(values[i]))]
        raise ValueError(f"the {key!r} of {name} is a whole number of too many digits") from None


def _load(content: bytes) -> Any:
    """What `torch.save` wrote, if it is plain data."""
    try:
        with zipfile.ZipFile(io.BytesIO(content)) as archive:
            packed = [entry for entry in archive.infolist() if entry.compress_type != zipfile.ZIP_STORED]
            damaged = None if packed else archive.testzip()  # PyTorch does not look at the checksums
    except Exception as error:  # of many classes
        raise ValueError(f"it is no file of torch.save, or damaged: {error}") from error
    if packed:  # which would come out larger than the file, by any factor
        raise ValueError("it is compressed, which torch.save never does")
    if damaged is not None:
        raise ValueError(f"its part {damaged!r} is damaged")
    try:
        file = torch.load(io.BytesIO(content), map_location="cpu", weights_only=True)
    except Exception:  # of a dozen classes, and with the advice to run what is in the file
        raise ValueError("it holds more than tensors, numbers, texts, lists and dicts, or is damaged") from None
    # A list that stands in itself or, doubled again and again, in others, has no end when it is looked through.
    parts, left = [file], len(content)
    while parts:
        part = parts.pop()
        parts.extend(part.values() if isinstance(part, dict) else part if isinstance(part, (list, tuple)) else ())
        if (left := left - 1) < 0:
            raise ValueError("it holds lists that are longer than the file")
    return file


def _stored(value: Any, what: str, shape: tuple[int, ...]) -> Tensor:
    """A tensor of this shape, ``[*shape]``, that is really there: a few numbers may pose as many."""
    tensor = require_tensor(value, what, shape)
    if tensor.untyped_storage().nbytes() < tensor.numel() * tensor.element_size():
        raise ValueError(f"its {what} have shape {shape}, and fewer numbers are stored")
    return tensor


def _from_file(
    layout: Layout, members: Tensor | None, scores: Tensor | None, metadata: Any, node_scores: Any
) -> CircuitData:
    data = sound(layout, members, scores, metadata, node_scores)
    said = {"n_kv_readers": layout.n_kv_readers, "scored": scores is not None} | data.metadata
    if said["n_kv_readers"] != layout.n_kv_readers or not isinstance(said["scored"], bool):
        raise ValueError(
            f"its metadata contradict it: n_kv_readers {said['n_kv_readers']!r} with {layout.n_kv_readers} key readers "
            f"in a layer, scored {said['scored']!r}"
        )
    own = {key: value for key, value in data.metadata.items() if key not in RESERVED}
    return data._replace(scores=data.scores if said["scored"] else None, metadata=own)


def _refuse_neurons(keys: Iterable[Any]) -> None:
    if any(str(key).startswith("neurons") for key in keys):
        raise ValueError("it chooses single neurons of the nodes; circuits here are made of whole edges")
