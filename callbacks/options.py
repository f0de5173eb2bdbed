"""Arguments that several callbacks take: sizes of circuits, and what cut edges carry."""

from __future__ import annotations

from typing import Any

from lightning_circuits.ablation import ABLATIONS, Ablation
from lightning_circuits.arguments import several


def given_sizes(sizes: Any) -> list[int | float]:
    """Sizes of circuits, one or several.

    Raises:
        TypeError: a size that is no number.
    """
    return several(sizes, "sizes", (int, float), "shares of the edges (0.01) or numbers of edges (200)")


def given_ablations(ablations: Any) -> list[Ablation]:
    """Ablations by name or as objects, one or several; of equal names the first.

    Raises:
        ValueError: an unknown name, or none.
        TypeError: something else.
    """
    kinds = (str, Ablation, type)
    made = [ABLATIONS.make(one, "ablations") for one in several(ablations, "ablations", kinds, "ablations or names")]
    if not made:
        raise ValueError("no ablation to measure under: name at least one, such as 'interchange'")
    return list({ablation.name: ablation for ablation in reversed(made)}.values())[::-1]
