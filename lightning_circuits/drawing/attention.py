"""Attention patterns as a figure: the full model's and the circuit's, side by side.

>>> patterns = attention_patterns(search.circuit_model, batch, circuit)    # evaluation.attention   # doctest: +SKIP
>>> patterns_figure(patterns, data.tokenizer, prompt=0).savefig("patterns.pdf")                     # doctest: +SKIP
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from lightning_circuits.drawing.style import LONGEST
from lightning_circuits.evaluation.attention import Patterns
from lightning_circuits.printable import printable

if TYPE_CHECKING:
    from matplotlib.figure import Figure


def patterns_figure(patterns: Patterns, tokenizer: Any, prompt: int = 0) -> Figure:
    """One prompt's patterns as a matplotlib figure: a pair of panels for each head, the full model's left.

    White is 0, black is 1; a row for each token that looks, a column for each that is looked at; padding is left out.

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
    ticks = range(len(words))
    pairs = min(len(patterns.heads), 3)  # so many heads side by side
    rows = -(-len(patterns.heads) // pairs)
    inches = max(1.3, 0.105 * len(words))
    figure = Figure(figsize=(2 * pairs * (inches + 0.12) + 0.9, rows * (inches + 0.3) + 0.9), layout="constrained")
    grid = figure.subplots(rows, 2 * pairs, squeeze=False, sharex=True, sharey=True)
    for panel in grid.flat[2 * len(patterns.heads) :]:
        panel.set_visible(False)
    for i, name in enumerate(patterns.heads):
        row, column = divmod(i, pairs)
        for panel, weights, where in zip(
            grid[row, 2 * column : 2 * column + 2], (patterns.full, patterns.circuit), ("model", "circuit"), strict=True
        ):
            shown = weights[i, prompt][real][:, real].numpy()
            image = panel.imshow(shown, cmap="Greys", vmin=0, vmax=1, interpolation="nearest")
            panel.set_title(f"{name}, {where}", fontsize=7)
            # A lone $ would begin a formula.
            panel.set_xticks(ticks, words, rotation=90, fontsize=5, parse_math=False)
            panel.set_yticks(ticks, words, fontsize=5, parse_math=False)
            panel.tick_params(length=1.5, labelbottom=i + pairs >= len(patterns.heads))
    figure.colorbar(image, ax=grid, shrink=0.6, aspect=30, pad=0.01).ax.tick_params(labelsize=6)
    figure.supylabel("looks from", fontsize=7)
    figure.supxlabel("looks at", fontsize=7)
    return figure
