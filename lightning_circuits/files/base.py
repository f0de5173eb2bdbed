"""What all formats of circuit files share: the data of a circuit, and what a format does with it."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, ClassVar, NamedTuple, Protocol, TypeVar

import torch
from torch import Tensor

from lightning_circuits.files.plain_json import plain_data, read_json
from lightning_circuits.layout import Layout
from lightning_circuits.printable import printable

RESERVED = ("n_kv_readers", "scored", "edges_left_out")
"""Keys that `.json` and `.pt` keep beside the metadata of the circuit itself."""

MOST_EDGES = 2**26
"""No model has more, whatever a file says that names a few of them."""

Kind = TypeVar("Kind")


class CircuitLike(Protocol):
    """A `Circuit`, or the `CircuitData` of one: what can be written and drawn."""

    @property
    def layout(self) -> Layout: ...
    @property
    def members(self) -> Tensor: ...
    @property
    def scores(self) -> Tensor | None: ...
    @property
    def metadata(self) -> dict[str, Any]: ...
    @property
    def node_scores(self) -> Tensor | None: ...


class CircuitData(NamedTuple):
    """What a circuit file holds; ``Circuit(*data)`` makes a circuit of it.

    ``members``: bool ``[n_edges]``. ``scores``: float32 ``[n_edges]``, or None. ``metadata``: plain JSON types.
    ``node_scores``: float32 ``[n_writers]``, NaN for a writer that has no score, or None.
    """

    layout: Layout
    members: Tensor
    scores: Tensor | None
    metadata: dict[str, Any]
    node_scores: Tensor | None = None


def ranks_all_edges(circuit: CircuitLike) -> bool:
    """Whether the scores of a circuit tell apart edges that are not in it, so that other sizes can be taken by them.

    Those of a `.json` of `CircuitExport` do not: it has the scores of the circuit's own edges alone.
    """
    if circuit.scores is None:
        return False
    others = circuit.scores[~circuit.members]
    return len(others) < 2 or bool((others != others[0]).any())


class Format:
    """How one kind of file is written and, where it holds enough, read: a subclass for each, called by its suffix.

    A new one is a file in this room, and a line in its registry (`files.FORMATS`).
    """

    name: ClassVar[str]
    readable: ClassVar[bool] = True
    holds_spans: ClassVar[bool] = True
    """Whether it has a place for circuits whose edges are told apart by spans of tokens."""

    def write(self, data: CircuitData) -> bytes:
        """The content of the file."""
        raise NotImplementedError

    def read(self, content: bytes) -> CircuitData:
        """What the content of a file holds.

        Raises:
            ValueError, TypeError, RuntimeError: it holds no circuit (see `sound`); what is wrong with it is said.
        """
        raise NotImplementedError


def content_of(path: Path, what: str) -> bytes:
    """The bytes of a file.

    Args:
        path: the file.
        what: it should be, for the message: ``"circuit file"``.

    Raises:
        FileNotFoundError: there is none, or something else than a file.
    """
    if not path.is_file():
        instead = ": that is a folder" if path.is_dir() else ": that is no regular file" if path.exists() else ""
        raise FileNotFoundError(f"no {what} at {path}{instead}")
    return path.read_bytes()


def read_as(what: str, path: Path, make: Callable[[Any], Kind]) -> Kind:
    """What a JSON file holds.

    Args:
        what: it should be, for the message: ``"curve"``.
        path: the file.
        make: makes it of what the JSON says, and raises ValueError if that is none.

    Raises:
        FileNotFoundError: no such file.
        ValueError: not JSON, or what ``make`` raises, with the path.
    """
    content = content_of(path, what)
    try:
        return make(read_json(content))
    except ValueError as error:
        # What the file holds may be in the message.
        raise ValueError(f"{path} cannot be read as a {what}: {printable(error, longest=600)}") from error


def require_keys(content: Any, *keys: str) -> None:
    """Refuse a part of a file that is no object, or lacks one of its keys."""
    missing = [key for key in keys if not isinstance(content, Mapping) or key not in content]
    if missing:
        raise ValueError(f"missing {', '.join(map(repr, missing))}")


def require_texts(content: Mapping[str, Any], *keys: str) -> None:
    """Refuse an object of a file that has something else than a text under one of these keys."""
    for key in keys:
        if not isinstance(content[key], str):
            raise ValueError(f"its {key!r} is {content[key]!r}, not a text")


def require_names(value: Any, what: str) -> list[str]:
    """A value of a file, if it is a list of texts.

    Args:
        value: anything.
        what: it is called, for the message.

    Raises:
        ValueError: it is not.
    """
    if not isinstance(value, list) or not all(isinstance(name, str) for name in value):
        raise ValueError(f"its {what} are no list of names: {value!r}")
    return value


def layout_of(stated: Any) -> Layout:
    """The layout of which a file has what `Layout.to_dict` says.

    Raises:
        ValueError: it is none; what is wrong with it is said.
    """
    require_keys(stated, "n_layers", "n_heads", "d_model", "n_kv_readers")
    try:
        return Layout(**{name: stated[name] for name in Layout.__dataclass_fields__ if name in stated})
    except TypeError as error:
        raise ValueError(f"its 'layout' is none: {error}") from error


def require_tensor(value: Any, what: str, shape: tuple[int, ...]) -> Tensor:
    """A value of a file, if it is a plain tensor of this shape on the CPU, ``[*shape]`` of any dtype.

    Args:
        value: anything.
        what: it is called, for the message.
        shape: that it has to have.

    Raises:
        ValueError: it is not.
    """
    kinds = ("is_nested", "is_sparse", "is_sparse_csr", "is_mkldnn", "is_quantized", "is_meta")
    if not isinstance(value, Tensor) or any(getattr(value, kind) for kind in kinds):
        raise ValueError(f"its {what} are no plain tensor but {type(value).__name__}")
    if value.shape != shape:
        raise ValueError(f"its {what} have shape {tuple(value.shape)}, not {shape}")
    return value.detach()


def sound(layout: Layout, members: Any, scores: Any, metadata: Any, node_scores: Any = None) -> CircuitData:
    """The data of a circuit, once it is known that they are one: the rule of every format, for reading and for writing.

    Args:
        layout: whose edges they are.
        members: ``[n_edges]``, bool, or integers that are 0 or 1. A soft mask is no circuit, however near to 0 and 1.
        scores: ``[n_edges]``, real, and finite as float32; or None.
        metadata: plain JSON data.
        node_scores: ``[n_writers]``, likewise, NaN for a node without a score; or None.

    Returns:
        Bool and float32. ``node_scores`` are None where no node has one, which is how `.json` has to say it.

    Raises:
        ValueError: something else; the edge or node is named.
    """
    flags = require_tensor(members, "members", (layout.n_edges,))
    if flags.dtype == torch.bool:
        flags = flags.contiguous().view(torch.uint8)  # a byte of a damaged file may be neither
    odd = ((flags != 0) & (flags != 1)).nonzero()[:1, 0].tolist()
    example = "".join(f": edge {layout.edge_names([edge])[0]} is {flags[edge].item()}" for edge in odd)
    if odd or flags.is_floating_point() or flags.is_complex():
        raise ValueError(
            f"its members are neither bool nor integers that are 0 or 1, but {flags.dtype}{example} (a soft mask is no "
            "circuit: choose edges first)"
        )
    if scores is not None:
        scores = require_tensor(scores, "scores", (layout.n_edges,))
        scores = _finite(scores, lambda edge: f"edge {layout.edge_names([edge])[0]}")
    if node_scores is not None:
        node_scores = require_tensor(node_scores, "scores of nodes", (layout.n_writers,))
        node_scores = _finite(node_scores, lambda node: f"node {layout.writer_names[node]}", or_nan=True)
        node_scores = None if node_scores.isnan().all() else node_scores
    return CircuitData(layout, flags.bool(), scores, plain_data(metadata), node_scores)


def _finite(scores: Tensor, name: Callable[[int], str], or_nan: bool = False) -> Tensor:
    if scores.is_complex() or scores.dtype == torch.bool:
        raise ValueError(f"its scores are {scores.dtype}, not real numbers")
    numbers = scores.float()
    odd = ~numbers.isfinite() & ~(numbers.isnan() & or_nan)
    if odd.any():
        i = int(odd.nonzero()[0])
        raise ValueError(f"the score of {name(i)} is {float(scores[i])}: a score is a finite number in float32")
    return numbers
