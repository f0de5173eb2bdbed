"""Mistakes of a user's in one line: what a parser refuses, and what goes wrong before anything is trained.

With JSONARGPARSE_DEBUG=true in the environment, mistakes come with their traceback.
"""

from __future__ import annotations

import argparse
import os
import re
from typing import Any

from lightning_circuits.namespace import LightningArgumentParser, pl
from lightning_circuits.pages import see_page
from lightning_circuits.printable import printable

MISTAKES = (ValueError, TypeError, OSError, ImportError, pl.utilities.exceptions.MisconfigurationException)


def debugging() -> bool:
    """Whether errors are asked for in full."""
    return os.environ.get("JSONARGPARSE_DEBUG") == "true"


def in_one_line(error: Exception) -> str | None:
    """What an error says that comes of what the user asked for; None of one that is a fault of the program's."""
    # Weights & Biases refuses to begin by errors of its own: not logged in, no network.
    if type(error).__module__.startswith("wandb.errors"):
        said = _plain(str(error).partition("\n")[0])
        return (
            f"{said.rstrip('.')}. WANDB_MODE=offline keeps a run on this machine, wandb sync sends it later "
            f"{see_page('sweeps', 'Weights & Biases')}"
        )
    return _plain(str(error)) if isinstance(error, MISTAKES) else None


class _InOneLine(argparse.ArgumentParser):
    """A parser whose errors are one line; jsonargparse would print all options and a tree of types before them."""

    def error(self, message: str, ex: Exception | None = None) -> Any:
        if debugging() and ex is not None:
            raise ex
        self.exit(2, f"error: {_plain(message)} (see {self.prog} --help)\n")


class Parser(_InOneLine):
    """Of commands with a few options of their own."""


class LightningParser(_InOneLine, LightningArgumentParser):
    """Of `LightningCLI`."""


_TREE = re.compile(
    r"(- )?(Does not validate against|Subtypes:|Errors:|Expected a <class 'NoneType'>|Expected a path but|Given value)"
)


def _plain(message: str) -> str:
    """What an error says on one line, with nothing in it that a terminal would obey: names and paths are others'."""
    return printable(" ".join(line.strip() for line in _leaves(message).splitlines()))


def _leaves(message: str) -> str:
    """The leaves of the tree of types that jsonargparse makes of an error, ours within its included."""
    message = re.sub(r"^Call to compute_fn of link .* failed: ", "", message)
    if not message.startswith(("Parser key", "Does not validate against")):
        return message
    leaves = [line.strip().removeprefix("- ") for line in message.splitlines() if not _TREE.match(line.strip())]
    return re.sub(
        r"Expected a dot import path string: (\S+)",
        r"no class is called \1 here (one of your own goes by its path, such as my_package.\1)",
        " ".join(filter(None, leaves)),
    )
