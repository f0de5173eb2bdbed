"""What a model makes of a task (`evaluation.task_check`), as a table: five prompts, the means, and warnings."""

from __future__ import annotations

from rich.console import Group, RenderableType
from rich.text import Text

from lightning_circuits.drawing.text_tables import LONGEST, add_numbers, begin, note
from lightning_circuits.evaluation.task_check import TaskCheck
from lightning_circuits.printable import number, printable

END = 20
"""So many letters of the end of a prompt are shown."""


def check_table(found: TaskCheck) -> RenderableType:
    """Some prompts by themselves, the means over all that were run, and what should be looked at."""
    splits = ", ".join(f"{name} {count:,}" for name, count in found.pairs.items())
    view = begin(
        f"The full model on {found.prompts} pairs of the task{f' ({splits})' if splits else ''}",
        "P: probability of the answers. Rank: of the best answer in the vocabulary, 1 is first.",
    )
    view.add_column("clean prompt", no_wrap=True)
    view.add_column("answer", no_wrap=True, max_width=10, overflow="ellipsis")
    view.add_column("P", justify="right", no_wrap=True, min_width=5)
    add_numbers(view, "rank")
    view.add_column(" says", max_width=38)  # the only one that gives way where there is no room: its cells are cut
    for one in found.examples:
        said = printable(", ".join(f"{token!r} {value:.2f}" for token, value in one.top), longest=LONGEST)
        cut = Text(f" {said}", no_wrap=True, overflow="ellipsis")
        view.add_row(_end(one.prompt), repr(one.answer), _probability(one.probability), f"{one.rank:,}", cut)
    n = found.prompts
    parts: list[RenderableType] = [
        view,
        Text(
            f"P(answer) {_probability(found.probability)}, median rank {found.rank:,g}. Right on {n - found.wrong} "
            f"of {n} (accuracy {found.accuracy:.1%}), wrong on {found.wrong}.\n"
            f"Logit difference {number(found.logit_difference, '.2f')} on clean prompts, "
            f"{number(found.corrupt_logit_difference, '.2f')} on corrupt ones, of which {found.favoured} of {n} still "
            "favour the answer."
        ),
    ]
    parts += [note(warning, "Warning") for warning in found.warnings]
    return Group(*parts)


def _end(prompt: str) -> str:
    """The end of a prompt, in quotation marks, so that a space is seen."""
    shown = repr(prompt)
    return shown if len(shown) <= END else f"{shown[0]}...{shown[-(END - 4) :]}"


def _probability(value: float) -> str:
    return f"{value:.3f}" if value >= 0.0005 else f"{value:.0e}"
