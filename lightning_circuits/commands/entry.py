"""Where the command line begins: what can be said at once is said before anything is loaded."""

from __future__ import annotations

import sys
from collections.abc import Sequence

from lightning_circuits.commands.overview import ASKED, overview, refuse_unknown_command


def main(args: Sequence[str] | None = None) -> None:
    """The command line: help, or the command that is named.

    Args:
        args: the words after `lightning-circuits`. Default: those of this process.

    Raises:
        SystemExit: as `commands.main.main` says; with code 2 for a command that there is not.
    """
    words = sys.argv[1:] if args is None else list(args)
    if words in ASKED:
        print(overview())
        return
    refuse_unknown_command(words)
    from lightning_circuits.commands import main as loaded  # seconds, for whoever has asked for more than help

    loaded.main(args)
