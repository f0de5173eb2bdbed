"""Nothing stands in the repository that does not run.

A script of `benchmarks/`, `examples/` or `experiments/` has a mode ``--quick``: seconds, tiny shapes, no download, and
what it writes goes to the folder that it is called in. They are found by listing the folders, so a new one is run too.
"""

from __future__ import annotations

import os
import re
import runpy
import sys
from pathlib import Path

import pytest

from tests.support import processes

ROOT = Path(__file__).parents[2]
FILES = [path for folder in ("benchmarks", "examples", "experiments") for path in sorted((ROOT / folder).glob("*.py"))]
SCRIPTS = [path for path in FILES if '\nif __name__ == "__main__":\n' in path.read_text()]

PROJECTS = {
    "existing_project": "tests/house/test_examples.py",
    "slurm": "tests/commands/test_main_ddp.py",
}
"""Folders of `examples/`, and the tests that do with them what their reader would do."""


def run(script: Path, folder: Path) -> None:
    """What ``python script --quick`` does, called in a folder, by somebody who has nothing at home and no network."""
    os.chdir(folder)
    os.environ |= {"HOME": str(folder), "PIP_NO_INDEX": "1"}
    sys.argv[:] = [str(script), "--quick"]
    sys.path.insert(0, str(script.parent))
    runpy.run_path(str(script), run_name="__main__")


@pytest.mark.slow
@pytest.mark.parametrize("script", SCRIPTS, ids=lambda path: str(path.relative_to(ROOT)))
def test_every_script_runs_in_its_quick_mode(script: Path, tmp_path: Path) -> None:
    status, printed = processes.call(tmp_path / "log.txt", run, script, tmp_path).end()
    assert status == 0, printed[-3000:]
    assert printed.strip(), "it shows nothing"


def test_every_other_file_is_imported_by_a_script() -> None:
    imported = {
        (script.parent, name)
        for script in FILES
        for name in re.findall(r"^(?:import|from) (\w+)", script.read_text(), re.MULTILINE)
    }
    unused = [path for path in FILES if path not in SCRIPTS and (path.parent, path.stem) not in imported]
    assert not unused, f"neither a script with a `__main__` nor imported by one: {unused}"


def test_every_project_among_the_examples_has_a_test() -> None:
    folders = {path.name for path in (ROOT / "examples").iterdir() if path.is_dir() and path.name != "__pycache__"}
    assert folders == PROJECTS.keys()
    for name, test in PROJECTS.items():
        assert f'"{name}"' in (ROOT / test).read_text(), f"{test} does not run examples/{name}"
