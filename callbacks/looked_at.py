"""Which circuits of a search are looked at, and what they are called."""

from __future__ import annotations

from collections.abc import Sequence

from lightning_circuits.circuit import Circuit
from lightning_circuits.search.base import CircuitSearch
from lightning_circuits.selection import size_to_count

DEFAULT_SIZES = (0.005, 0.01, 0.02, 0.05)
"""Shares of the edges that are looked at when neither the user nor the method names a size."""


def size_name(size: float) -> str:
    """What a circuit of a size is called: ``0.01`` is ``1%``, ``200`` is ``200 edges``."""
    return f"{size} edges" if isinstance(size, int) else f"{100 * size:.4g}%"


def sizes_to_look_at(search: CircuitSearch, sizes: Sequence[int | float] | None) -> dict[str, int | float | None]:
    """Sizes of circuits by name, None for the one that the method trains for.

    Beside a circuit from a file, none of more edges than its scores put in order.

    Raises:
        ValueError, TypeError: a size that is none (see `selection.size_to_count`).
    """
    trained = search.trained_size()
    chosen: dict[str, int | float | None] = {}
    if trained is not None:
        size_to_count(trained, search.layout)
        chosen[size_name(trained)] = None
    elif sizes is None:
        # In a very small model the smallest of them may be no edge at all.
        sizes = [size for size in DEFAULT_SIZES if size * search.layout.n_edges >= 1]
    for size in sizes or ():
        if size_to_count(size, search.layout) > search.ranked_edges():
            continue
        chosen.setdefault(size_name(size), size)
    return chosen


def circuits_to_look_at(search: CircuitSearch, sizes: Sequence[int | float] | None) -> dict[str, Circuit]:
    """The circuits of a search as it stands, by the names of `sizes_to_look_at`."""
    return {name: search.circuit(size) for name, size in sizes_to_look_at(search, sizes).items()}
