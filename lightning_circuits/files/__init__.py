"""Circuits as files: plain data in, bytes out, and back. One file for each family of formats.

Other tools read circuits too, so `.json` and `.pt` are, field by field, what EAP-IG writes and MIB scores (`eap_ig`).
For the largest models `.safetensors` is the compact one (`safetensors`). `.graphml` and `.dot` are for looking at a
circuit (`graph`). A submission to MIB is a folder of such files (`mib`).

Every file is written whole beside its place and then moved into it (`atomic`), so a run killed while it writes leaves
the last complete file.

    >>> import tempfile, torch
    >>> from lightning_circuits.layout import Layout
    >>> layout = Layout(n_layers=1, n_heads=2, d_model=8)
    >>> members = torch.zeros(layout.n_edges, dtype=torch.bool)
    >>> members[layout.edge_index("input->m0")] = True
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     data = load(save(CircuitData(layout, members, None, {"seed": 0}), f"{folder}/circuit.json"))
    >>> layout.edge_names(data.members.nonzero()[:, 0]), data.metadata
    (['input->m0'], {'seed': 0})

This room stands below `circuit.py`: it knows layouts and tensors, and no `Circuit`.
"""

from __future__ import annotations

import json
import os
import pickle
from pathlib import Path

from safetensors import SafetensorError

from lightning_circuits.files.atomic import write_atomically
from lightning_circuits.files.base import RESERVED, CircuitData, CircuitLike, Format
from lightning_circuits.files.eap_ig import EAPIGJson, EAPIGTensors
from lightning_circuits.files.graph import DOT, GraphML
from lightning_circuits.files.safetensors import Safetensors
from lightning_circuits.registry import Registry

FORMATS = Registry("format", Format)
FORMATS.register(EAPIGJson)
FORMATS.register(EAPIGTensors)
FORMATS.register(Safetensors)
FORMATS.register(GraphML)
FORMATS.register(DOT)

UNREADABLE = (ValueError, TypeError, RuntimeError, EOFError, pickle.UnpicklingError, SafetensorError)
"""What reading raises, here and in the libraries, over a file that is damaged or holds something else."""


def save(circuit: CircuitLike, path: str | os.PathLike[str]) -> Path:
    """Write a circuit to ``path``, atomically, in the format that its suffix names; gives the path.

    Raises:
        ValueError: unknown suffix; a score that is NaN or infinite (the edge is named), or an infinite one of a node;
            metadata that JSON cannot hold.
        FileNotFoundError: the folder is not there.
    """
    path = Path(path)
    suffix = _suffix(path, FORMATS.names(), "written to")
    if not path.parent.is_dir():
        raise FileNotFoundError(f"cannot write {path}: there is no folder {path.parent}")
    write_atomically(path, FORMATS.make(suffix).write(_sound(circuit, path)))
    return path


def load(path: str | os.PathLike[str]) -> CircuitData:
    """Read the circuit at ``path``, a file of this package or a `.json` or `.pt` that EAP-IG or MIB wrote.

    Raises:
        ValueError: unknown or write-only suffix, or a file that holds no circuit (what is wrong with it is said).
        FileNotFoundError: no such file.
    """
    path = Path(path)
    suffix = _suffix(path, [name for name in FORMATS if FORMATS[name].readable], "read from")
    if not path.is_file():
        raise FileNotFoundError(f"no circuit file at {path}")
    try:
        return FORMATS.make(suffix).read(path.read_bytes())
    except UNREADABLE as error:
        raise ValueError(f"{path} cannot be read as a circuit: {error}") from error


def _suffix(path: Path, known: list[str], verb: str) -> str:
    if path.suffix not in known:
        raise ValueError(f"a circuit cannot be {verb} {path}: the suffix must be one of {', '.join(known)}")
    return path.suffix


def _sound(circuit: CircuitLike, path: Path) -> CircuitData:
    """The data of a circuit, once it is known that every format gives back the same."""
    layout, scores, node_scores = circuit.layout, circuit.scores, circuit.node_scores
    if scores is not None and not scores.isfinite().all():
        edge = int((~scores.isfinite()).nonzero()[0])
        raise ValueError(
            f"cannot write {path}: the score of edge {layout.edge_names([edge])[0]} is {float(scores[edge])}"
        )
    if node_scores is not None and node_scores.isinf().any():
        node = int(node_scores.isinf().nonzero()[0])
        raise ValueError(
            f"cannot write {path}: the score of node {layout.writer_names[node]} is {float(node_scores[node])}"
        )
    if taken := [key for key in RESERVED if key in circuit.metadata]:
        raise ValueError(f"cannot write {path}: the metadata keys {taken} belong to the file format; use another name")
    try:
        # To JSON types now: a tuple becomes a list.
        metadata = json.loads(json.dumps(circuit.metadata, allow_nan=False))
    except (TypeError, ValueError) as error:
        raise ValueError(f"cannot write {path}: the metadata is not plain JSON data: {error}") from error
    return CircuitData(layout, circuit.members, scores, metadata, node_scores)
