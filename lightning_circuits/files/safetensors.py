"""`.safetensors`: the compact format for large models. Flat vectors, and in the header layout and metadata as JSON."""

from __future__ import annotations

import json

import safetensors.torch

from lightning_circuits.files.base import CircuitData, Format, checked_node_scores, require_keys
from lightning_circuits.layout import Layout


class Safetensors(Format):
    name = ".safetensors"

    def write(self, data: CircuitData) -> bytes:
        optional = {"scores": data.scores, "node_scores": data.node_scores}
        tensors = {"members": data.members} | {key: value for key, value in optional.items() if value is not None}
        header = json.dumps({"layout": data.layout.to_dict(), "metadata": data.metadata})
        return safetensors.torch.save(tensors, metadata={"circuit": header})

    def read(self, content: bytes) -> CircuitData:
        tensors = safetensors.torch.load(content)
        # The library gives the header only of a file on disk; it is JSON after eight bytes that hold its length.
        header = json.loads(content[8 : 8 + int.from_bytes(content[:8], "little")]).get("__metadata__", {})
        require_keys(header, "circuit")
        require_keys(tensors, "members")
        circuit = json.loads(header["circuit"])
        require_keys(circuit, "layout", "metadata")
        layout = Layout(**circuit["layout"])
        members, scores = layout.check(tensors["members"]), tensors.get("scores")
        scores = None if scores is None else layout.check(scores)
        node_scores = checked_node_scores(layout, tensors.get("node_scores"))
        return CircuitData(layout, members, scores, circuit["metadata"], node_scores)
