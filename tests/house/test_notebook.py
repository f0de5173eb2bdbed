"""docs/notebook.ipynb is its page, run: its cells are the page's, and run again as plain Python they show the same."""

from __future__ import annotations

import json
import re
import runpy
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).parents[2]
DOCS = ROOT / "docs"
NUMBER = re.compile(r"[-+]?\d+(?:,\d{3})*(?:\.\d+)?")
WRITER = runpy.run_path(str(ROOT / "examples" / "write_notebook.py"))
NOTEBOOK: dict[str, Any] = json.loads((DOCS / "notebook.ipynb").read_text(encoding="utf-8"))


def test_its_cells_are_those_of_the_page() -> None:
    there = [(cell["cell_type"], "".join(cell["source"])) for cell in NOTEBOOK["cells"]]
    assert there == WRITER["cells_of"]((DOCS / "notebook.md").read_text(encoding="utf-8")), (
        "run examples/write_notebook.py"
    )


def test_it_is_a_notebook() -> None:
    assert (NOTEBOOK["nbformat"], NOTEBOOK["nbformat_minor"]) == (4, 5)
    ids = [cell["id"] for cell in NOTEBOOK["cells"]]
    assert len(set(ids)) == len(ids) and all(re.fullmatch(r"[a-zA-Z0-9-_]{1,64}", each) for each in ids)
    code = [cell for cell in NOTEBOOK["cells"] if cell["cell_type"] == "code"]
    assert [cell["execution_count"] for cell in code] == list(range(1, len(code) + 1))
    for cell in NOTEBOOK["cells"]:
        assert cell["cell_type"] == "code" or not cell.keys() & {"outputs", "execution_count"}


def test_run_again_it_shows_the_same(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    namespace: dict[str, Any] = {}
    for cell in NOTEBOOK["cells"]:
        if cell["cell_type"] != "code":
            continue
        shown = WRITER["shown_by"]("".join(cell["source"]), namespace) or {}
        [there] = [output["data"] for output in cell["outputs"]] or [{}]
        assert shown.keys() == there.keys(), cell["source"]
        for mime, text in shown.items():
            there_shown = "".join(there[mime])
            assert words(text) == words(there_shown)
            assert numbers(text) == pytest.approx(numbers(there_shown), abs=0.02, rel=0.01)


def words(text: str) -> list[str]:
    return NUMBER.sub("#", text).split()


def numbers(text: str) -> list[float]:
    return [float(number.replace(",", "")) for number in NUMBER.findall(text)]
