"""The registry of methods: what the package, its pages and the command line know of it."""

from __future__ import annotations

import os
import re
import sys
import warnings
from pathlib import Path

import pytest

import lightning_circuits
from lightning_circuits import METHODS, CircuitSearch
from lightning_circuits.commands.main import main
from tests.support import processes

ROOT = Path(__file__).parents[2]


def test_every_method_is_a_name_of_the_package() -> None:
    for cls in ours():
        assert getattr(lightning_circuits, cls.__name__) is cls
    assert {"EAP", "EdgePruning", "SavedCircuit", "Circuit", "CircuitSearch"} <= set(dir(lightning_circuits))
    with pytest.raises(AttributeError, match="has no attribute 'EAPX'"):
        lightning_circuits.EAPX  # noqa: B018


def ours() -> list[type[CircuitSearch]]:
    return [
        cls for cls in map(METHODS.__getitem__, METHODS.names()) if cls.__module__.startswith("lightning_circuits.")
    ]


def test_every_method_stands_on_its_page() -> None:
    text = (ROOT / "docs/choosing-a-method.md").read_text()
    assert [cls.__name__ for cls in ours() if not re.search(rf"\b{cls.__name__}\b", text)] == []


def test_the_api_page_names_each_module() -> None:
    text = (ROOT / "docs/api/search.md").read_text()
    assert [cls.__name__ for cls in ours() if f"::: {cls.__module__}\n" not in text] == []


def show_help() -> None:
    os.environ["COLUMNS"] = "80"
    warnings.simplefilter("ignore")
    sys.argv[:] = ["-c", "fit", "--model.help", "EdgePruning"]
    main()


def test_help_begins_with_the_methods_own_options_and_is_short(tmp_path: Path) -> None:
    """In a process of its own: in this one there are classes of tests, which would be listed too."""
    status, printed = processes.call(tmp_path / "log.txt", show_help).end()
    lines = printed.splitlines()
    assert status == 0 and lines[0].startswith("usage: ")
    assert len(lines) <= 60
    options = [line.split()[0].removeprefix("--model.") for line in lines if line.startswith("  --model.")]
    options = [option for option in options if not option.endswith(".help")]
    own = ["model", "gate", "lr", "warm_start", "seed", "capture"]
    assert options == [*own, "ablation", "objective", "kv", "dtype", "attention", "spans"]
