"""Mistakes of a user's in one line, or in one for each bad row of a file: what a parser refuses, and what goes wrong
before anything is trained.

With JSONARGPARSE_DEBUG=true in the environment, mistakes come with their traceback.
"""

from __future__ import annotations

import argparse
import os
import re
from difflib import get_close_matches
from typing import Any

from lightning_circuits.datamodules.faults import BadRows
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
        said = plain(str(error).partition("\n")[0])
        return (
            f"{said.rstrip('.')}. WANDB_MODE=offline keeps a run on this machine, wandb sync sends it later "
            f"{see_page('sweeps', 'Weights & Biases')}"
        )
    if str(error).startswith("No supported gpu backend"):
        return "there is no GPU here: leave --trainer.accelerator out, or give it auto or cpu"
    if isinstance(error, BadRows):  # a line for each of the rows that it shows
        return "\n  ".join(map(plain, error.lines()))
    return plain(str(error)) if isinstance(error, MISTAKES) else None


class _InOneLine(argparse.ArgumentParser):
    """A parser whose errors are one line; jsonargparse would print all options and a tree of types before them."""

    def error(self, message: str, ex: Exception | None = None) -> Any:
        if debugging() and ex is not None:
            raise ex
        command = self.prog.replace(" [options]", "")
        self.exit(2, f"error: {plain(message)}{self._meant(message)} (see {command} --help)\n")

    def _meant(self, message: str) -> str:
        """The option that is most like one that there is not, in words; empty where none is, or none is missing."""
        if (missed := re.match(r"(?:Option '|unrecognized arguments: --)([\w.]+)", message)) is None:
            return ""
        options = {option.strip("-") for action in self._actions for option in action.option_strings}
        like = get_close_matches(missed[1], sorted(options), n=1)
        return f": did you mean {'--' if '--' in missed[0] else ''}{like[0]}?" if like else ""


class Parser(_InOneLine):
    """Of commands with a few options of their own."""


class LightningParser(_InOneLine, LightningArgumentParser):
    """Of `LightningCLI`."""


_NOISE = re.compile(
    r"(- )?(Does not validate against|Subtypes:|Errors:|Expected a <class 'NoneType'>|Expected a path but|Given value|"
    r"Subclass types expect one of|a class path \(str\)|a dict )"
)
"""Lines of jsonargparse's that say nothing to whoever made the mistake."""

_WORDS = {
    r"Expected a dot import path string: (\S+)": r"no class is called \1 here "
    r"(one of your own goes by its path, such as my_package.\1)",
    r"^Parser key \"([^\"]*)\":": r"\1:",
    r"Unable to load config ['\"](.*?)['\"]$": r"expected its options by name, got \1",
    r"Not a valid subclass of FrozenModelModule": "expected a search: its name, or class_path and init_args",
    r"Not a valid subclass of (\w+)": r"expected \1: its name, or class_path and init_args",
    r"Problem with given class_path ('\S+'):$": r"\1 cannot be made",
    r"Expected a typing\.Literal\[(.*?)\]": r"expected one of \1",
    r"Expected a <class 'int'>": "expected a whole number",
    r"Expected a <class 'float'>": "expected a number",
    r"Expected a <class 'bool'>": "expected true or false",
    r"Expected a <class 'str'>": "expected a text",
    r"Expected a <class '(?:list|collections\.abc\.\w+)'>": "expected a list",
    r"Expected a <class 'dict'>": "expected options by name",
    r"'\w+' object has no attribute '(keys|items|get)'": "init_args holds options by name",
    r"\. Got value: ": ", got ",
}


def plain(message: str) -> str:
    """One line that a user can read: the leaves of the tree of types that jsonargparse makes of an error, once each."""
    message = re.sub(r"^Call to compute_fn of link .* failed: ", "", message)
    lines = [line.strip().removeprefix("- ") for line in message.splitlines()]
    if message.startswith(("Parser key", "Does not validate against")):
        lines = [line for line in lines if not _NOISE.match(line)]
        for pattern, words in _WORDS.items():
            lines = [re.sub(pattern, words, line) for line in lines]
        # Where one alternative of a type says what is wrong, that others are not met is no news.
        said = [line for line in lines if not line.startswith("expected ")]
        if any(not line.endswith(":") for line in said):
            lines = said
        lines = [*said, ", or ".join(line for line in dict.fromkeys(lines) if line not in said)]
    return printable(" ".join(dict.fromkeys(filter(None, lines))))
