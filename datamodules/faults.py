"""What is wrong with some of many rows, said at once: whoever mends a file wants all of it, and not a row at a time.

Whatever reads rows, tokenises them, or sees whether a model can take them, collects what it refuses and raises one
`BadRows`: of one row its own error, of several the first ten and how many more there are.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import Any, TypeAlias, TypeVar

Row: TypeAlias = "tuple[str, Any | ValueError]"
"""Where a row stands, in words, and what it holds; or, if it cannot even be read, why not."""

Made = TypeVar("Made")

SHOWN = 10
"""So many of the rows that are wrong are shown."""


class BadRows(ValueError):
    """Rows that cannot be used: the message of each of the first ten, which names its row, and the count of all.

    Args:
        faults: what is wrong, an error for each bad row, at least one.
        rows: how many rows there are, good and bad.
        things: what rows hold: ``pairs``.
        way_out: what else could be done than to mend each, if anything.
    """

    def __init__(self, faults: Sequence[ValueError], rows: int, things: str = "pairs", way_out: str = "") -> None:
        self.faults = list(faults)
        self.rows = rows
        self.way_out = way_out
        super().__init__("\n".join(self.lines(things)))

    def lines(self, things: str = "pairs") -> list[str]:
        """The message: a line that counts, one for each of the faults that are shown, and what to do."""
        if len(self.faults) == 1:
            return [str(self.faults[0])]
        count, more = len(self.faults), len(self.faults) - SHOWN
        return [
            f"{count:,} of {self.rows:,} {things} cannot be used{f'; the first {SHOWN}' if more > 0 else ''}:",
            *(f"  {fault}" for fault in self.faults[:SHOWN]),
            *([f"  and {more:,} more"] if more > 0 else []),
            *([self.way_out] if self.way_out else []),
        ]


def together(bad: Sequence[BadRows], good: int) -> BadRows:
    """What is wrong with the rows of several splits or files, as one error.

    Args:
        bad: of each of them that has bad rows.
        good: how many rows the others have.
    """
    ways_out = {each.way_out for each in bad}
    faults = [fault for each in bad for fault in each.faults]
    return BadRows(faults, good + sum(each.rows for each in bad), way_out=ways_out.pop() if len(ways_out) == 1 else "")


def made_of_each(rows: Iterable[Row], make: Callable[[Any, str], Made], things: str) -> list[Made]:
    """What is made of every row, in order.

    Args:
        rows: see `Row`.
        make: of what a row holds, and where it stands; a ValueError if that will not do.
        things: what rows hold, for errors.

    Raises:
        BadRows: some will not do.
    """
    made: list[Made] = []
    faults: list[ValueError] = []
    for where, row in rows:
        try:
            if isinstance(row, ValueError):
                raise row
            made.append(make(row, where))
        except ValueError as fault:
            faults.append(fault)
    if faults:
        raise BadRows(faults, len(made) + len(faults), things)
    return made
