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

import os
from pathlib import Path

from lightning_circuits.files.atomic import require_place, write_atomically
from lightning_circuits.files.base import RESERVED, CircuitData, CircuitLike, Format, content_of, sound
from lightning_circuits.files.eap_ig import EAPIGJson, EAPIGTensors
from lightning_circuits.files.graph import DOT, GraphML
from lightning_circuits.files.safetensors import Safetensors
from lightning_circuits.printable import printable
from lightning_circuits.registry import Registry

FORMATS = Registry("format", Format)
FORMATS.register(EAPIGJson)
FORMATS.register(EAPIGTensors)
FORMATS.register(Safetensors)
FORMATS.register(GraphML)
FORMATS.register(DOT)


def save(circuit: CircuitLike, path: str | os.PathLike[str]) -> Path:
    """Write a circuit to ``path``, atomically, in the format that its suffix names; gives the path.

    Raises:
        ValueError: unknown suffix; a circuit in spans, for a format that knows none; what is no sound circuit (see
            `base.sound`): a score that is NaN or infinite, say.
        FileNotFoundError, IsADirectoryError: the folder is not there, or the path is one.
    """
    path = Path(path)
    suffix = _suffix(path, FORMATS.names(), "written to")
    require_place(path)
    format_ = FORMATS.make(suffix)
    if circuit.layout.spans and not format_.holds_spans:
        raise ValueError(
            f"cannot write {path}: EAP-IG and MIB, whose format {suffix} is, know no spans of tokens: write "
            ".json or .safetensors, or the circuit.without_spans(how='any')"
        )
    if taken := [key for key in RESERVED if key in circuit.metadata]:
        raise ValueError(f"cannot write {path}: the metadata keys {taken} belong to the file format; use another name")
    try:
        data = sound(circuit.layout, circuit.members, circuit.scores, circuit.metadata, circuit.node_scores)
    except ValueError as error:
        raise ValueError(f"cannot write {path}: {error}") from error
    write_atomically(path, format_.write(data))
    return path


def load(path: str | os.PathLike[str]) -> CircuitData:
    """Read the circuit at ``path``, a file of this package or a `.json` or `.pt` that EAP-IG or MIB wrote.

    Raises:
        ValueError: unknown or write-only suffix, or a file that holds no circuit (what is wrong with it is said).
        FileNotFoundError: no such file.
    """
    path = Path(path)
    suffix = _suffix(path, [name for name in FORMATS if FORMATS[name].readable], "read from")
    content = content_of(path, "circuit file")
    try:
        return FORMATS.make(suffix).read(content)
    except (ValueError, TypeError, RuntimeError) as error:
        # What the file holds may be in the message.
        raise ValueError(f"{path} cannot be read as a circuit: {printable(error, longest=600)}") from error


def _suffix(path: Path, known: list[str], verb: str) -> str:
    if path.suffix not in known:
        raise ValueError(f"a circuit cannot be {verb} {path}: the suffix must be one of {', '.join(known)}")
    return path.suffix
