"""The options that every benchmark has, and the file that it writes all its figures to.

`--quick` shows in seconds that a benchmark still runs: other defaults, which each script gives as its `QUICK`. Its
figures mean nothing. Nothing is downloaded, and whatever is given on the command line goes before.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import Any

import torch


def parser(description: str | None, **options: Any) -> argparse.ArgumentParser:
    """A parser with ``--threads``, ``--json``, ``--write``, and those options that are plain values.

    Args:
        description: the script's docstring.
        options: default by name, ``repeats=9`` for ``--repeats``; a value on the command line is of the same type.
    """
    made = argparse.ArgumentParser(description=description, formatter_class=argparse.RawDescriptionHelpFormatter)
    for name, default in {**options, "threads": 1}.items():
        made.add_argument(f"--{name}", type=type(default), default=default, help="default: %(default)s")
    made.add_argument("--json", type=Path, help="keep all the figures in this file")
    made.add_argument("--write", action="store_true", help="put the figures into docs/results.md")
    return made


def parse(parser: argparse.ArgumentParser, quick: dict[str, Any]) -> argparse.Namespace:
    """What the command line says, with ``quick`` for defaults under ``--quick``; sets the number of threads."""
    parser.add_argument("--quick", action="store_true", help="only show that it runs, in seconds")
    args = parser.parse_args()
    if args.quick:
        parser.set_defaults(**quick)
        args = parser.parse_args()
        if args.write:
            parser.error("figures of --quick mean nothing: not to be written to docs/results.md")
    torch.set_num_threads(args.threads)
    return args


def write_json(args: argparse.Namespace, **figures: Any) -> None:
    """Write the figures, with the options that they were made under, where ``--json`` says."""
    if args.json:
        settings = {name: str(value) if isinstance(value, Path) else value for name, value in vars(args).items()}
        del settings["json"]
        args.json.write_text(json.dumps({"settings": settings, **figures}, indent=1))
