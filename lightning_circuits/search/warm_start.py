"""Where learned gates begin, if not all alike: at the ranks of scores that are there, or that a method is to find."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeAlias

from torch import Tensor

from lightning_circuits.circuit import Circuit
from lightning_circuits.layout import Layout
from lightning_circuits.search.base import METHODS
from lightning_circuits.search.one_pass import Attribution

if TYPE_CHECKING:
    WarmStart: TypeAlias = Attribution | str | Path | Circuit | Tensor
else:
    # What a command line can say; for tensors its help would list every class of them.
    WarmStart = Attribution | str | Path


def read_warm_start(given: WarmStart | None) -> Attribution | Path | Circuit | Tensor | None:
    """A warm start as it was meant: a name is that of an attribution method, unless it has the suffix of a file.

    Args:
        given: what a user said; scores are ``[n_edges]``.

    Raises:
        ValueError: an unknown name.
        TypeError: neither scores nor anything that has some.
    """
    if isinstance(given, str):
        if Path(given).suffix:
            given = Path(given)
        elif given in METHODS and issubclass(METHODS[given], Attribution):
            given = METHODS.make(given)  # type: ignore[assignment]
        else:
            attributions = ", ".join(name for name in METHODS if issubclass(METHODS[name], Attribution))
            raise ValueError(
                f"warm_start is neither an attribution method ({attributions}) nor a file with its suffix: {given!r}"
            )
    if given is None or isinstance(given, (Attribution, Path, Circuit, Tensor)):
        return given
    raise TypeError(
        "warm_start takes an attribution method or its name, a circuit or its file, or edge scores as a tensor, got "
        f"{given!r}"
    )


def start_scores(start: Path | Circuit | Tensor, layout: Layout) -> Tensor:
    """What edges begin at, the best the highest, float32 ``[n_edges]``: scores as they are; of a circuit its own by its
    own ranking (|score| where that is absolute), or its membership if it has none.

    Scores without spans are those of every span.

    Raises:
        FileNotFoundError: no such file.
        ValueError: they are of another layout, or not finite.
    """
    if isinstance(start, Path):
        start = Circuit.load(start, None if layout.spans else layout)
    if isinstance(start, Circuit):
        if layout.spans and not start.layout.spans:
            start = start.in_spans(layout.spans)
        layout.require(start.layout, "the warm start")
        scores = start.members.float() if start.scores is None else start.scores
        start = scores.abs() if start.absolute else scores
    elif start.shape == (layout.plain.n_edges,):
        start = start.repeat(layout.n_spans)
    scores = layout.check(start).float()
    if not scores.isfinite().all():
        edge = int((~scores.isfinite()).nonzero()[0])
        raise ValueError(f"the warm start has no finite score for edge {layout.edge_names([edge])[0]}")
    return scores


def describe_start(start: Attribution | Path | Circuit | Tensor | None) -> dict[str, Any] | None:
    """A warm start as plain JSON data: of which kind it is; of a method, its settings too.

    Args:
        start: as `read_warm_start` gives it; scores are ``[n_edges]``.
    """
    if isinstance(start, Attribution):
        return {"kind": "method", **start.describe_method()}
    if isinstance(start, Path):
        return {"kind": "file", "path": str(start)}
    if isinstance(start, Circuit):
        return {"kind": "circuit", "made_by": start.metadata.get("method")}
    return None if start is None else {"kind": "scores"}
