"""The figures of `sequence_continuation`: where circuits are, and what is left without the heads that they share."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

import torch
from sequence_tables import Matrix, Removed

from lightning_circuits import Circuit
from lightning_circuits.drawing.style import COLOURS, RC, label, without_frame

if TYPE_CHECKING:
    from matplotlib.figure import Figure

BLUE, GREY = COLOURS[0], "#777777"


def heads_figure(circuits: Mapping[str, Circuit], shared: Sequence[str]) -> Figure:
    """How many heads of each layer are in each circuit, and with a dot its MLP; last, the shared heads alone.

    Args:
        circuits: by the names of their tasks.
        shared: names of heads.
    """
    import matplotlib
    from matplotlib.figure import Figure

    layout = next(iter(circuits.values())).layout
    writers = {name: circuit.nodes[:-1] for name, circuit in circuits.items()}
    writers["shared heads"] = torch.tensor([name in shared for name in layout.writer_names])
    layers = range(layout.n_layers)
    heads = [[int(kept[layout.own_writers(layer)[0]].sum()) for layer in layers] for kept in writers.values()]
    with matplotlib.rc_context(RC):
        figure = Figure(
            figsize=(max(1.6 + 0.22 * layout.n_layers, 5.0), 0.9 + 0.26 * len(writers)), layout="constrained"
        )
        axes = figure.add_subplot()
        axes.imshow(heads, cmap="Blues", vmin=0, vmax=max(1, *map(max, heads)) * 1.5, aspect="auto")
        for y, kept in enumerate(writers.values()):
            for layer in layers:
                if heads[y][layer]:
                    axes.text(layer - 0.08, y, heads[y][layer], ha="center", va="center", fontsize=6.5)
                if kept[layout.own_writers(layer)[1]]:
                    axes.plot(layer + 0.32, y - 0.3, ".", color=COLOURS[6], markersize=3.5)
        axes.axhline(len(circuits) - 0.5, color="black", linewidth=0.7)
        axes.set_yticks(range(len(writers)), [label(name) for name in writers])
        axes.set_xticks(range(0, layout.n_layers, max(1, layout.n_layers // 10)))
        axes.set_xlabel("layer: how many of its heads are in the circuit, a dot for its MLP")
        without_frame(axes)
    return figure


def matrices_figure(matrices: Mapping[str, Matrix]) -> Figure:
    """f of circuits on each other's data, a panel for each method.

    Args:
        matrices: by the names of the methods.
    """
    import matplotlib
    from matplotlib.figure import Figure

    n = len(next(iter(matrices.values())))
    with matplotlib.rc_context(RC):
        figure = Figure(figsize=(1.2 + 0.55 * n * len(matrices), 1.3 + 0.4 * n), layout="constrained")
        panels = figure.subplots(1, len(matrices), squeeze=False, sharey=True)[0]
        for axes, (method, found) in zip(panels, matrices.items(), strict=True):
            values = [[of[circuit].faithfulness for circuit in found] for of in found.values()]
            image = axes.imshow(values, cmap="Blues", vmin=0, vmax=1, aspect="auto")
            for y, row in enumerate(values):
                for x, value in enumerate(row):
                    shade = "white" if value > 0.6 else "black"
                    axes.text(x, y, f"{value:.2f}", ha="center", va="center", fontsize=7, color=shade)
            axes.set_xticks(range(n), [label(name) for name in found], rotation=40, ha="right", rotation_mode="anchor")
            axes.set_yticks(range(n), [label(name) for name in found])
            axes.set_title(label(method), loc="left")
            without_frame(axes)
        panels[0].set_ylabel("data")
        figure.supxlabel("circuit of", fontsize=8)
        figure.colorbar(image, ax=panels, label="f", shrink=0.8, pad=0.01)
    return figure


def removal_figure(removal: Mapping[str, Removed], n_heads: int, draws: int) -> Figure:
    """What share of F(M) is left on each data without the shared heads, beside as many random heads of the same layers.

    Args:
        removal: by the names of the data.
        n_heads: how many are removed.
        draws: of random heads.
    """
    import matplotlib
    from matplotlib.figure import Figure

    with matplotlib.rc_context(RC):
        figure = Figure(figsize=(5.6, 1.1 + 0.28 * len(removal)), layout="constrained")
        axes = figure.add_subplot()
        for y, each in enumerate(removal.values()):
            (random,) = axes.plot(each.drawn_interval, [y + 0.14] * 2, color=GREY, linewidth=4, alpha=0.5)
            axes.plot(each.drawn, y + 0.14, "|", color="black", markersize=7)
            (shared,) = axes.plot(each.interval, [y - 0.14] * 2, color=BLUE)
            axes.plot(each.share, y - 0.14, "o", color=BLUE)
        axes.axvline(1, color=GREY, linewidth=0.7, linestyle=(0, (3, 2)))
        axes.axvline(0, color=GREY, linewidth=0.7)
        axes.set_yticks(range(len(removal)), [label(name) for name in removal])
        axes.set_ylim(len(removal) - 0.5, -0.5)
        axes.set_xlabel("share of the model's logit difference that is left")
        figure.legend(
            [shared, random],
            [
                f"without the {n_heads} shared heads, 95 % interval over prompts",
                f"without {n_heads} random heads of the same layers, 95 % of {draws} draws",
            ],
            loc="outside upper left",
            fontsize=7,
        )
    return figure
