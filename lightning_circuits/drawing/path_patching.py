"""Path patching as a figure: what every sender tells every receiver.

>>> effects = path_patching(model, loader, senders, receivers)  # evaluation.path_patching  # doctest: +SKIP
>>> save(path_patching_figure(effects), Path("paths"))  # doctest: +SKIP
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from lightning_circuits.drawing.style import RC, label, without_frame
from lightning_circuits.evaluation.path_patching import PathEffect
from lightning_circuits.printable import number

if TYPE_CHECKING:
    from matplotlib.figure import Figure

CELL = 0.62, 0.26
"""Width and height of a cell in inches."""
SHORT = 20
"""Characters of a name."""


def path_patching_figure(effects: Sequence[PathEffect]) -> Figure:
    """A heat map for each role: the senders in rows, the receivers in columns, the effect in each cell.

    Bold where the 95 % interval does not hold 0; empty where the sender does not come before the receiver.

    Args:
        effects: of `path_patching`, of one call.

    Raises:
        ValueError: there are none.
        ImportError: matplotlib is not installed.
    """
    import matplotlib
    from matplotlib.figure import Figure

    if not effects:
        raise ValueError("there is no path to draw")
    senders, receivers, roles = (
        list(dict.fromkeys(getattr(each, name) for each in effects)) for name in ("sender", "receiver", "role")
    )
    found = {(each.role, each.sender, each.receiver): each for each in effects}
    most = max(abs(each.effect.value) for each in effects) or 1.0
    one = effects[0]
    asked = "through MLPs too" if one.through_mlps else "direct"
    width = max(CELL[0] * len(receivers), 1.2) * len(roles) + 2.2
    with matplotlib.rc_context(RC):
        figure = Figure(figsize=(width, CELL[1] * len(senders) + 1.5), layout="constrained")
        figure.suptitle(
            f"{label(one.ablation, SHORT)} ablation, {label(one.split, SHORT)} split, {one.prompts:,} prompts\n"
            f"F(M) = {one.full:.2f}, paths {asked}",
            fontsize=7.5,
        )
        panels = figure.subplots(1, len(roles), squeeze=False, sharey=True)[0]
        for axes, role in zip(panels, roles, strict=True):
            table = [[found.get((role, sender, receiver)) for receiver in receivers] for sender in senders]
            values = [[each.effect.value if each else float("nan") for each in line] for line in table]
            colours = axes.pcolormesh(values, cmap="RdBu", vmin=-most, vmax=most, edgecolors="white", linewidth=1)
            for y, line in enumerate(table):
                for x, each in enumerate(line):
                    if each:
                        strong = abs(each.effect.value) > 0.6 * most
                        sure = not each.effect.low <= 0 <= each.effect.high
                        words: dict[str, Any] = {"color": "white" if strong else "black", "fontsize": 6.5}
                        words["weight"] = "bold" if sure else "normal"
                        axes.text(x + 0.5, y + 0.5, number(each.effect.value, ".2f"), ha="center", va="center", **words)
            ticks = [i + 0.5 for i in range(len(receivers))]
            axes.set_xticks(ticks, [label(name, SHORT) for name in receivers], rotation=40, ha="right")
            axes.set_xlabel("receiver")
            if role:
                axes.set_title(f"at {label(role, SHORT)}", loc="left")
            without_frame(axes)
        panels[0].set_yticks([i + 0.5 for i in range(len(senders))], [label(name, SHORT) for name in senders])
        panels[0].set_ylabel("sender")
        panels[0].invert_yaxis()
        bar = figure.colorbar(colours, ax=panels, shrink=0.9, aspect=20, pad=0.02)
        bar.set_label(f"effect, {label(one.measure, 24)}".replace("_", " "))
    return figure
