"""Names and lengths of files: a name says which file is meant, and a file is read in one go."""

from __future__ import annotations

from collections import defaultdict
from pathlib import Path

from tests.house.test_import_contract import PACKAGE, package_sources

ROOT = Path(__file__).parents[2]
FOLDERS = (PACKAGE, "callbacks", "datamodules", "benchmarks", "examples", "experiments", "tests")
LONGEST = 400

SHELLS = {
    "circuit": {"circuit", "drawing.circuit"},
    "attention": {"evaluation.attention", "drawing.attention"},
    "attention_by_role": {"evaluation.attention_by_role", "drawing.attention_by_role"},
    "path_patching": {"evaluation.path_patching", "drawing.path_patching"},
    "transfer": {"evaluation.transfer", "drawing.transfer", "commands.transfer"},
    "task_check": {"evaluation.task_check", "drawing.task_check", "callbacks.task_check"},
    "formation": {"evaluation.formation", "drawing.formation"},
    "curve": {"evaluation.curve", "callbacks.curve"},
    "faithfulness": {"evaluation.metrics.faithfulness", "callbacks.faithfulness"},
    "information_flow": {"scoring.information_flow", "search.information_flow"},
    "registry": {"registry", "models.registry"},
    "eap_ig": {"search.eap_ig", "files.eap_ig"},  # not a shell: the method, and the files of its authors' program
}
"""Modules of one name: what something is, and how a Trainer measures it, how it is drawn, how models are registered."""


def test_two_files_share_a_name_only_if_one_is_the_shell_of_the_other() -> None:
    found = defaultdict(set)
    for module in package_sources():
        inside = module.removeprefix(f"{PACKAGE}.")
        found[inside.rpartition(".")[-1]].add(inside)
    del found["__init__"], found["base"]  # every room may have one: it says what its files have in common
    assert {name: modules for name, modules in found.items() if len(modules) > 1} == SHELLS


def test_no_file_is_longer_than_one_reads_at_once() -> None:
    files = [ROOT / "conftest.py", *(path for folder in FOLDERS for path in (ROOT / folder).rglob("*.py"))]
    long = {str(file.relative_to(ROOT)): n for file in files if (n := len(file.read_text().splitlines())) > LONGEST}
    assert not long, f"more than {LONGEST} lines: {long}"
