"""How figures look, and how they are written: one palette, one set of matplotlib's settings, one way to save.

matplotlib is loaded when something is drawn, and no earlier; pyplot and its global state are never touched.
"""

from __future__ import annotations

import io
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from lightning_circuits.files.atomic import write_atomically
from lightning_circuits.printable import printable

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.axis import Axis
    from matplotlib.figure import Figure

SUFFIXES = (".svg", ".pdf", ".png")
"""What a figure can be written as."""

LONGEST = 36
"""So many characters of a name are drawn at most."""

RC: Any = {
    "svg.fonttype": "none",  # text stays text in an editor
    "pdf.fonttype": 42,
    "svg.hashsalt": "lightning-circuits",
    "font.family": ["DejaVu Sans"],
    "font.size": 8,
    "axes.titlesize": 8,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.linewidth": 0.7,
    "lines.linewidth": 1.3,
    "lines.markersize": 4.5,
    "legend.frameon": False,
    "text.parse_math": False,  # a name from a file is no formula
}

# Dark and light in turn, so that neighbours differ in grey; the first eight are Okabe and Ito's, or near them.
COLOURS = (
    "#0072B2",
    "#E69F00",
    "#00604A",
    "#CC79A7",
    "#000000",
    "#56B4E9",
    "#A23B00",
    "#8FA82B",
    "#332288",
    "#44AA99",
    "#7A1F4B",
    "#C9833F",
)
DASHES: tuple[Any, ...] = (
    "-",
    (0, (4.5, 1.5)),
    (0, (6, 1.5, 1, 1.5)),
    (0, (2, 1)),
    (0, (9, 2)),
    (0, (6, 1.5, 1, 1.5, 1, 1.5)),
)
SHAPES = ("o", "s", "^", "X", "v", "d")
N_COLOURS = len(COLOURS)
"""So many lines differ in colour and in marker."""
N_STYLES = 3 * N_COLOURS
"""So many lines can be told apart at all: beyond `N_COLOURS` by marker and dashes together."""

RANDOM_STYLE: dict[str, Any] = {"color": "#777777", "linestyle": (0, (1, 1.6)), "marker": ".", "linewidth": 1.0}
"""Of random edges, which no method looks like: dotted, and grey."""


def line_style(number: int) -> dict[str, Any]:
    """How the line of this number is drawn, counted from 0: colour, dashes and marker, as matplotlib's options.

    Of the first `N_COLOURS` no two share a colour or a marker (six shapes, filled, then hollow); up to `N_STYLES` no
    two share a marker and dashes, so that a print in grey tells them apart.

    Raises:
        ValueError: beyond.
    """
    if number >= N_STYLES:
        raise ValueError(
            f"more than {N_STYLES} lines in one figure cannot be told apart: draw fewer, or the circuits that nothing "
            "betters (lightning-circuits compare --pareto)"
        )
    round_number, place = divmod(number, N_COLOURS)
    hollow, shape = divmod(place, len(SHAPES))
    return {
        "color": COLOURS[place],
        "linestyle": DASHES[(shape + 3 * hollow + round_number) % len(DASHES)],
        "marker": SHAPES[shape],
        "markerfacecolor": "white" if hollow else COLOURS[place],
    }


def label(name: object, longest: int = LONGEST) -> str:
    """A name as figures have it, those of files too: on one line, and not wider than a panel.

    Args:
        name: of a method, a model, an ablation; anything else is shown as ``str`` has it.
        longest: so many characters are kept at most.
    """
    text = printable(name, longest=longest)
    # Of matplotlib's legends, what begins with an underscore is left out.
    return f" {text}" if text.startswith("_") else text


def model_title(name: str) -> str:
    """A model as a title has it: an id as it is, a folder by its last part: paths are wider than figures."""
    return label(Path(name).name if Path(name).is_absolute() else name)


def label_sizes(axis: Axis, form: Callable[[float], str]) -> None:
    """Let a logarithmic axis say its sizes in one form.

    Args:
        axis: the x or y axis of a panel.
        form: a size in words. Between powers of ten, matplotlib says where there is room for it.
    """
    from matplotlib.ticker import LogFormatter

    class Between(LogFormatter):
        def __call__(self, size: float, position: int | None = None) -> str:
            return form(size) if super().__call__(size, position) else ""

    axis.set_major_formatter(lambda size, _: form(size))
    axis.set_minor_formatter(Between())


def without_frame(axes: Axes) -> None:
    """Leave out the lines around a panel and its ticks, as of a table of cells."""
    axes.tick_params(length=0)
    for spine in axes.spines.values():
        spine.set_visible(False)


def save(figure: Figure, stem: Path, suffixes: Sequence[str] = (".png", ".svg")) -> list[Path]:
    """Write a figure into ``stem.png`` (200 dots an inch) and ``stem.svg``, each whole and then moved into its place.

    The same figure gives the same bytes: they carry neither date nor version.

    Args:
        figure: drawn with the settings of `RC`.
        stem: the path without its suffix.
        suffixes: of `SUFFIXES`.

    Returns:
        The paths, in the order of the suffixes.
    """
    import matplotlib

    undated = {
        ".svg": {"Date": None, "Creator": None},
        ".pdf": {"CreationDate": None, "Creator": None, "Producer": None},
        ".png": {"Software": None},
    }
    paths = [stem.with_name(stem.name + suffix) for suffix in suffixes]
    with matplotlib.rc_context(RC), _laid_out(figure):
        for suffix, path in zip(suffixes, paths, strict=True):
            content = io.BytesIO()
            figure.savefig(content, format=suffix.removeprefix("."), dpi=200, metadata=undated[suffix])
            write_atomically(path, content.getvalue())
    return paths


@contextmanager
def _laid_out(figure: Figure) -> Iterator[None]:
    """While open, all stands where it is: to find places takes longer than to draw, and is the same for all files."""
    engine = figure.get_layout_engine()
    if engine is not None:
        engine.execute(figure)
        figure.set_layout_engine("none")
    try:
        yield
    finally:
        figure.set_layout_engine(engine)
