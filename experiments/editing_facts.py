"""What `knowledge_editing.py` is about: facts, ordinary text, and a small world for the model that knows no facts."""

from __future__ import annotations

import argparse
import json
from pathlib import Path

from stages import QUICK_MODEL, located

from lightning_circuits.datamodules import FactsDataModule, TextLines
from lightning_circuits.files.atomic import write_atomically

NAMES = (
    "Oliver Andrea Ben Emma Emily Rachel Susan Amanda Ryan Jack Carl Grace Dan Steve Peter Simon Andrew William Linda "
    "Henry Dennis Charlie Nancy Gary John Lisa Robert Angela Chris Jennifer Ruth Lucy Paul Sam Maria Walter"
).split()
PLACES = "market hospital museum garden station hotel".split()
SAID = (
    "{0} went to the {1} and sat down .",
    "{0} worked late at the {1} .",
    "Early in the morning {0} left the {1} .",
    "One day {0} found a coat near the {1} .",
)


def facts(args: argparse.Namespace, folder: Path) -> FactsDataModule:
    """Those that SmolLM2 knows; for the tiny model, that somebody went somewhere.

    Args:
        args: of the command line: ``model``, ``facts``, ``edited``.
        folder: of the run.
    """
    sizes = {"n_train": args.facts, "n_val": args.held_out, "n_test": args.held_out, "batch_size": args.batch}
    if args.model != QUICK_MODEL:
        return FactsDataModule(located(args.model), **sizes)
    file = folder / "facts.jsonl"
    write_atomically(file, "\n".join(map(json.dumps, map(_went, range(len(NAMES))))).encode())
    return FactsDataModule(located(args.model), file, **sizes)


def _went(number: int) -> dict[str, object]:
    place, new = (PLACES[(number + step) % len(PLACES)] for step in (0, 1))
    return {
        "subject": NAMES[number],
        "relation": "place",
        "prompt": "{subject} went to the",
        "true": f" {place}",
        "new": f" {new}",
        "paraphrases": ["One day {subject} went to the"],
        "neighbours": [[f"{NAMES[number - 1]} went to the", f" {PLACES[(number - 1) % len(PLACES)]}"]],
    }


def text(args: argparse.Namespace) -> TextLines:
    """The lines of the package; for the tiny model, some that it can read."""
    if args.model != QUICK_MODEL:
        return TextLines(located(args.model))
    lines = [said.format(name, PLACES[i % len(PLACES)]) for i, name in enumerate(NAMES) for said in SAID]
    return TextLines(located(args.model), lines=lines)
