"""Attention patterns as a figure: the circuit's, the full model's, and their difference, side by side.

>>> patterns = attention_patterns(search.circuit_model, batch, circuit)    # evaluation.attention   # doctest: +SKIP
>>> patterns_figure(patterns, data.tokenizer, prompt=0).savefig("patterns.pdf")                     # doctest: +SKIP
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import groupby
from typing import TYPE_CHECKING, Any

from torch import Tensor

from lightning_circuits.drawing.style import LONGEST, label
from lightning_circuits.evaluation.attention import Patterns
from lightning_circuits.printable import printable

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

SPANS = "#0072B2"  # their lines and names


def patterns_figure(patterns: Patterns, tokenizer: Any, prompt: int = 0) -> Figure:
    """One prompt's patterns as a matplotlib figure: of each head the circuit's, the full model's, and their difference.

    White is 0, black is 1; of the difference, what the circuit has more is violet, what it has less orange. A row for
    each token that looks, a column for each that is looked at; padding is left out.
    Where prompts have spans, lines part them on both axes; their names stand above and at the right.

    Args:
        patterns: of `attention_patterns`.
        tokenizer: the model's, for the labels.
        prompt: which of the batch.

    Raises:
        ValueError: no such prompt.
        ImportError: matplotlib is not installed.
    """
    from matplotlib.figure import Figure

    if not 0 <= prompt < len(patterns.input_ids):
        raise ValueError(f"there is no prompt {prompt}: the batch has {len(patterns.input_ids)}, counted from 0")
    real = patterns.attention_mask[prompt].bool()
    words = [printable(tokenizer.decode([i]), longest=LONGEST) for i in patterns.input_ids[prompt, real].tolist()]
    spans = _runs(patterns, prompt, real)
    ticks = range(len(words))
    abreast = min(len(patterns.heads), 2)  # so many heads side by side
    rows = -(-len(patterns.heads) // abreast)
    inches = max(1.3, 0.115 * len(words))
    longest_word = 0.05 * max(map(len, words))  # inches, at the axes
    beside = 0.4 * abreast if spans else 0.0  # for the names of spans
    size = (
        3 * abreast * (inches + 0.12) + 1.3 + longest_word + beside,
        rows * (inches + 0.3) + 0.6 + longest_word + 1.6 * beside,
    )
    figure = Figure(figsize=size, layout="constrained")
    grid = figure.subplots(rows, 3 * abreast, squeeze=False, sharex=True, sharey=True)
    for panel in grid.flat[3 * len(patterns.heads) :]:
        panel.set_visible(False)
    panels = {
        "circuit": (patterns.circuit, {"cmap": "Greys", "vmin": 0, "vmax": 1}),
        "model": (patterns.full, {"cmap": "Greys", "vmin": 0, "vmax": 1}),
        "difference": (patterns.circuit - patterns.full, {"cmap": "PuOr", "vmin": -1, "vmax": 1}),
    }
    images = {}
    for i, name in enumerate(patterns.heads):
        row, column = divmod(i, abreast)
        for panel, (where, (weights, colours)) in zip(
            grid[row, 3 * column : 3 * column + 3], panels.items(), strict=True
        ):
            shown = weights[i, prompt][real][:, real].numpy()
            images[where] = panel.imshow(shown, interpolation="nearest", **colours)
            _mark(panel, spans, above=row == 0, beside=where == "difference")
            longest = max((len(span) for span, *_ in spans), default=0) if row == 0 else 0
            panel.set_title(f"{name}, {where}", fontsize=7, pad=6 + 3.2 * longest)
            # A lone $ would begin a formula.
            panel.set_xticks(ticks, words, rotation=90, fontsize=6, parse_math=False)
            panel.set_yticks(ticks, words, fontsize=6, parse_math=False)
            panel.tick_params(length=1.5, labelbottom=i + abreast >= len(patterns.heads))
    for where, said in (("difference", "circuit less model"), ("model", "attention")):
        bar = figure.colorbar(images[where], ax=grid, shrink=0.6, aspect=30, pad=0.01)
        bar.set_label(said, fontsize=6)
        bar.ax.tick_params(labelsize=6)
    figure.supylabel("looks from", fontsize=7)
    figure.supxlabel("looks at", fontsize=7)
    return figure


def _runs(patterns: Patterns, prompt: int, real: Tensor) -> list[tuple[str, int, int]]:
    """The spans of a prompt in their order: of each its name, its first token, and the first behind it.

    ``real``: bool ``[T]``, the tokens that are no padding.
    """
    if patterns.spans is None:
        return []
    runs, start = [], 0
    for span, tokens in groupby(patterns.spans[prompt, real].tolist()):
        end = start + len(list(tokens))
        if span >= 0:
            runs.append((label(patterns.span_names[span], 16), start, end))
        start = end
    return runs


def _mark(panel: Axes, spans: Sequence[tuple[str, int, int]], above: bool, beside: bool) -> None:
    """Part spans by lines, and name them above the panel, at its right, or not at all."""
    for name, start, end in spans:
        for at in {start - 0.5, end - 0.5}:
            panel.axhline(at, color=SPANS, linewidth=0.4, alpha=0.6)
            panel.axvline(at, color=SPANS, linewidth=0.4, alpha=0.6)
        middle, ends = (start + end - 1) / 2, [start - 0.4, end - 0.6]
        said: dict[str, Any] = {"fontsize": 6, "color": SPANS, "parse_math": False}
        line: dict[str, Any] = {"color": SPANS, "linewidth": 1.2, "clip_on": False, "solid_capstyle": "butt"}
        if above:
            panel.plot(ends, [1.012] * 2, transform=panel.get_xaxis_transform(), **line)
            panel.text(
                middle, 1.03, name, transform=panel.get_xaxis_transform(), rotation=90, ha="center", va="bottom", **said
            )
        if beside:
            panel.plot([1.012] * 2, ends, transform=panel.get_yaxis_transform(), **line)
            panel.text(1.03, middle, name, transform=panel.get_yaxis_transform(), ha="left", va="center", **said)
