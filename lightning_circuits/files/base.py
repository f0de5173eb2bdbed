"""What all formats of circuit files share: the data of a circuit, and what a format does with it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar, NamedTuple, Protocol

from torch import Tensor

from lightning_circuits.layout import Layout

RESERVED = ("n_kv_readers", "scored")
"""Keys that `.json` and `.pt` keep beside the metadata of the circuit itself."""


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


class Format:
    """How one kind of file is written and, where it holds enough, read: a subclass for each, called by its suffix.

    A new one is a file in this room, and a line in its registry (`files.FORMATS`).
    """

    name: ClassVar[str]
    readable: ClassVar[bool] = True

    def write(self, data: CircuitData) -> bytes:
        """The content of the file."""
        raise NotImplementedError

    def read(self, content: bytes) -> CircuitData:
        """What the content of a file holds.

        Raises:
            ValueError: it holds no circuit; what is wrong with it is said. What the library behind the format raises
                will do too (see `files.UNREADABLE`).
        """
        raise NotImplementedError


def require_keys(content: Any, *keys: str) -> None:
    """Refuse a part of a file that lacks one of its keys."""
    missing = [key for key in keys if not isinstance(content, Mapping) or key not in content]
    if missing:
        raise ValueError(f"missing {', '.join(map(repr, missing))}")


def checked_node_scores(layout: Layout, node_scores: Tensor | None) -> Tensor | None:
    """The scores of the nodes, float32 ``[n_writers]``; None where no node has one, which is how `.json` has to say it.

    Raises:
        ValueError: not one for every writer.
    """
    if node_scores is None or node_scores.isnan().all():
        return None
    if node_scores.shape != (layout.n_writers,):
        raise ValueError(f"its scores of nodes have shape {tuple(node_scores.shape)}, not ({layout.n_writers},)")
    return node_scores.float()
