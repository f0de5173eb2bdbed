"""Arguments that callbacks take one of or several, and those that all of them take: sizes, ablations, a measure."""

from __future__ import annotations

from collections.abc import Iterable
from numbers import Integral, Real
from pathlib import Path
from typing import Any

from lightning_circuits.ablation import ABLATIONS, Ablation
from lightning_circuits.arguments import as_data, shortened
from lightning_circuits.measures import MEASURES, Measure, measure_name


def require_several(what: str, given: Any, kinds: tuple[type, ...], values_are: str) -> list[Any]:
    """``given`` as a list; a lone value as a list of one.

    Args:
        what: the argument, for the message.
        kinds: of a value.
        values_are: the same in words.

    Raises:
        TypeError: something of another kind.
    """
    values = [given] if isinstance(given, kinds) or not isinstance(given, Iterable) else list(given)
    if not all(isinstance(value, kinds) and not isinstance(value, bool) for value in values):
        raise TypeError(f"{what} takes {values_are}, one or several, got {shortened(given)}")
    return values


def require_folder(given: Any) -> Path | None:
    """The folder that ``dirpath`` names, if it does.

    Raises:
        TypeError: something else.
    """
    if not isinstance(given, str | Path | None):
        raise TypeError(f"dirpath takes a folder, got {shortened(given)}")
    return None if given is None else Path(given)


def require_sizes(given: Any) -> list[int | float]:
    """Sizes of circuits.

    Raises:
        TypeError: a size that is no number.
        ValueError: one that is none of edges, in whatever model.
    """
    sizes = require_several("sizes", given, (Integral, Real), "shares of the edges (0.01) or numbers of edges (200)")
    if not sizes:
        raise ValueError("no size of a circuit to look at: name at least one, such as 0.01")
    for size in sizes:
        if not size > 0 or not (isinstance(size, Integral) or size <= 1):
            raise ValueError(
                f"sizes: a share of the edges lies in (0, 1], a number of edges is 1 or more: got {shortened(size)}"
            )
    return [int(size) if isinstance(size, Integral) else float(size) for size in sizes]


def require_ablations(given: Any) -> list[Ablation]:
    """Ablations by name or as objects; each name once.

    Raises:
        ValueError: an unknown name, or none; two that are not the same, of one name.
        TypeError: something else.
    """
    several = require_several("ablations", given, (str, Ablation, type), "ablations or their names")
    made = [ABLATIONS.make(one, "ablations") for one in several]
    if not made:
        raise ValueError("no ablation to measure under: name at least one, such as 'interchange'")
    by_name: dict[str, Ablation] = {}
    for ablation in made:
        if as_data(by_name.setdefault(ablation.name, ablation)) != as_data(ablation):
            raise ValueError(
                f"two ablations are called {ablation.name!r}, and are not the same: set the name of one of them, by "
                "which its numbers go"
            )
    return list(by_name.values())


def require_measure(given: Any) -> Measure:
    """A measure by name, or a function that has one.

    Raises:
        ValueError: an unknown name; a function without a name.
        TypeError: something else.
    """
    measure = MEASURES.make(given, "measure")
    measure_name(measure)
    return measure
