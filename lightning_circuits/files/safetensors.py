"""`.safetensors`: the compact format for large models. Flat vectors, and in the header layout and metadata as JSON."""

from __future__ import annotations

import json

import safetensors.torch

from lightning_circuits.files.base import CircuitData, Format, layout_of, require_keys, sound
from lightning_circuits.files.plain_json import read_json


class Safetensors(Format):
    name = ".safetensors"

    def write(self, data: CircuitData) -> bytes:
        optional = {"scores": data.scores, "node_scores": data.node_scores}
        tensors = {"members": data.members} | {key: value for key, value in optional.items() if value is not None}
        header = json.dumps({"layout": data.layout.to_dict(), "metadata": data.metadata})
        return safetensors.torch.save(tensors, metadata={"circuit": header})

    def read(self, content: bytes) -> CircuitData:
        try:
            tensors = safetensors.torch.load(content)
        except Exception as error:  # the library has classes of its own for what is damaged, and KeyError for a dtype
            raise ValueError(f"it is no .safetensors file, or damaged: {error}") from error
        header = header_of(content)
        if "weight_circuit" in header:
            raise ValueError(
                "it is a circuit of weights, not of edges: WeightCircuit.load reads it, and 'lightning-circuits test' "
                "judges it with --model SavedWeightCircuit"
            )
        require_keys(header, "circuit")
        require_keys(tensors, "members")
        if odd := sorted(tensors.keys() - {"members", "scores", "node_scores"}):
            raise ValueError(f"it has tensors that are none of a circuit: {', '.join(map(repr, odd[:3]))}")
        circuit = read_json(header["circuit"].encode())
        require_keys(circuit, "layout", "metadata")
        layout = layout_of(circuit["layout"])
        return sound(layout, tensors["members"], tensors.get("scores"), circuit["metadata"], tensors.get("node_scores"))


def header_of(content: bytes) -> dict[str, str]:
    """What a file says beside its tensors: texts by name.

    The library gives the header only of a file on disk; it is JSON after eight bytes that hold its length.
    """
    said: dict[str, str] = read_json(content[8 : 8 + int.from_bytes(content[:8], "little")]).get("__metadata__", {})
    return said
