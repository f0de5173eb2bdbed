"""`.json` and `.pt`, field by field and in the same order what EAP-IG writes and MIB scores.

What these formats have no place for (where the circuit comes from, how its keys and values are counted) stands in one
more key, ``metadata``, which their loaders pass over.
"""

from __future__ import annotations

import io
import json
from collections.abc import Collection, Mapping
from typing import Any

import torch
from torch import Tensor

from lightning_circuits.files.base import RESERVED, CircuitData, Format, checked_node_scores, require_keys
from lightning_circuits.layout import Layout, node_members


class EAPIGJson(Format):
    name = ".json"

    def write(self, data: CircuitData) -> bytes:
        layout, order = data.layout, _file_order(data.layout)
        names = [*layout.writer_names, "logits"]
        in_graph = [*node_members(layout, data.members)[:-1].tolist(), True]  # EAP-IG counts the logits in, always
        edges = zip(layout.edge_names(order), _scores(data)[order].tolist(), data.members[order].tolist(), strict=True)
        content = {
            "cfg": _cfg(layout),
            "nodes": {name: {"in_graph": flag} for name, flag in zip(names, in_graph, strict=True)},
            "edges": {name: {"score": score, "in_graph": member} for name, score, member in edges},
            "metadata": _file_metadata(data),
        }
        if data.node_scores is not None:
            for name, score in zip(layout.writer_names, data.node_scores.tolist(), strict=True):
                if score == score:  # JSON has no NaN; a node without the key is one without a score to EAP-IG too
                    content["nodes"][name]["score"] = score
        return json.dumps(content).encode()

    def read(self, content: bytes) -> CircuitData:
        file = json.loads(content)
        require_keys(file, "cfg", "edges")
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
                "every edge needs 'in_graph' (true or false), and a 'score' (a number) unless none has; the 'score' of "
                f"a node, where there is one, is a number: {error}"
            ) from error
        return _from_file(layout, members, scores, file.get("metadata", {}), node_scores)


class EAPIGTensors(Format):
    name = ".pt"

    def write(self, data: CircuitData) -> bytes:
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

    def read(self, content: bytes) -> CircuitData:
        file = torch.load(io.BytesIO(content), map_location="cpu", weights_only=True)
        require_keys(file, "cfg", "src_nodes", "dst_nodes", "edges_in_graph")
        _refuse_neurons(file)
        layout = _layout(file["cfg"], file["dst_nodes"])
        if file["src_nodes"] != layout.writer_names or file["dst_nodes"] != layout.reader_names:
            raise ValueError(f"the order of its src_nodes or dst_nodes is not that of {layout}")
        for key in ("edges_scores", "edges_in_graph"):
            if key in file and file[key].shape != (layout.n_writers, layout.n_readers):
                raise ValueError(
                    f"{key} has shape {tuple(file[key].shape)}, not {(layout.n_writers, layout.n_readers)}"
                )
        members = layout.from_matrix(file["edges_in_graph"].T).bool()
        # As in `.json`, MIB's nine circuits of a submission may come without scores.
        scores = layout.from_matrix(file["edges_scores"].T).float() if "edges_scores" in file else None
        return _from_file(layout, members, scores, file.get("metadata", {}), file.get("nodes_scores"))


# ---- to the file -----------------------------------------------------------------------------------------------------


def _cfg(layout: Layout) -> dict[str, Any]:
    return {
        "n_layers": layout.n_layers,
        "n_heads": layout.n_heads,
        "parallel_attn_mlp": False,
        "d_model": layout.d_model,
    }


def _file_metadata(data: CircuitData) -> dict[str, Any]:
    return {**data.metadata, "n_kv_readers": data.layout.n_kv_readers, "scored": data.scores is not None}


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
    slot = torch.cat([heads * 3, first * 3 + 1, first * 3 + 2, torch.tensor([0])])  # the MLP stands in its own block
    block, slot = layout.reader_component[layout.edge_reader], slot[layout.edge_reader % len(slot)]
    return torch.argsort((block * layout.n_writers + layout.edge_writer) * (3 * layout.n_heads) + slot)


# ---- from the file ---------------------------------------------------------------------------------------------------


def _layout(cfg: Mapping[str, Any], readers: Collection[str]) -> Layout:
    """The layout of a file from its ``cfg`` and the names of its readers, which tell K/V per head from per group."""
    require_keys(cfg, "n_layers", "n_heads", "d_model")
    if cfg.get("parallel_attn_mlp"):
        raise ValueError("attention and MLP in parallel (its cfg.parallel_attn_mlp) are not supported")
    n_kv_readers = sum(name.startswith("a0.") and name.endswith("<k>") for name in readers)
    layout = Layout(cfg["n_layers"], cfg["n_heads"], cfg["d_model"], n_kv_readers)
    if set(readers) != set(layout.reader_names):
        odd = sorted(set(readers) ^ set(layout.reader_names))
        raise ValueError(f"its readers are not those of its cfg, {layout}: {', '.join(odd[:3])} and {len(odd)} in all")
    return layout


def _from_file(
    layout: Layout, members: Tensor, scores: Tensor | None, metadata: Mapping[str, Any], node_scores: Tensor | None
) -> CircuitData:
    own = {key: value for key, value in metadata.items() if key not in RESERVED}
    scores = scores if metadata.get("scored", True) else None
    return CircuitData(layout, members, scores, own, checked_node_scores(layout, node_scores))


def _refuse_neurons(keys: Collection[str]) -> None:
    if any(key.startswith("neurons") for key in keys):
        raise ValueError("it chooses single neurons of the nodes; circuits here are made of whole edges")
