"""docs/notebook.md as a notebook that was run: its text and its code in cells, with what every cell shows.

    .venv/bin/python examples/write_notebook.py             # writes docs/notebook.ipynb
    .venv/bin/python examples/write_notebook.py --quick     # writes notebook.ipynb into the folder it is called in

No program of Jupyter is needed: a notebook is JSON (nbformat 4.5), and a cell shows the value of its last line. Of an
interactive page only the words are kept, which say that it is one: it is a hundred times as long as all other cells.
"""

from __future__ import annotations

import argparse
import ast
import contextlib
import io
import json
import os
import re
import tempfile
from pathlib import Path
from typing import Any

PAGE = Path(__file__).resolve().parents[1] / "docs" / "notebook.md"
LARGEST = 100_000
"""So many characters of HTML a cell shows at most."""


def cells_of(page: str) -> list[tuple[str, str]]:
    """The text and the code of a page in turn: (``markdown`` or ``code``, its source)."""
    parts = re.split(r"^```python\n(.*?)^```\n", page, flags=re.MULTILINE | re.DOTALL)
    kinds = (("markdown", "code")[number % 2] for number in range(len(parts)))
    return [(kind, part.strip("\n")) for kind, part in zip(kinds, parts, strict=True) if part.strip()]


def shown_by(source: str, namespace: dict[str, Any]) -> dict[str, str] | None:
    """Run a cell; what its last line shows, by MIME type."""
    *before, last = ast.parse(source).body
    printed = io.StringIO()
    with contextlib.redirect_stdout(printed), contextlib.redirect_stderr(io.StringIO()):  # bars of loading
        if not isinstance(last, ast.Expr):
            exec(compile(ast.Module([*before, last], []), "cell", "exec"), namespace)
            return None
        exec(compile(ast.Module(before, []), "cell", "exec"), namespace)
        value = eval(compile(ast.Expression(last.value), "cell", "eval"), namespace)
    if value is None:
        return None
    page = value._repr_html_() if hasattr(value, "_repr_html_") else ""
    return {"text/plain": repr(value), **({"text/html": page} if page and len(page) < LARGEST else {})}


def lines(text: str) -> list[str]:
    return text.splitlines(keepends=True)


def notebook_of(page: str) -> dict[str, Any]:
    """A notebook of the cells of a page, run one after the other."""
    namespace: dict[str, Any] = {}
    cells: list[dict[str, Any]] = []
    runs = 0
    for number, (kind, source) in enumerate(cells_of(page)):
        cell: dict[str, Any] = {"cell_type": kind, "id": f"cell-{number}", "metadata": {}, "source": lines(source)}
        if kind == "code":
            runs += 1
            shown = shown_by(source, namespace)
            result = {
                "output_type": "execute_result",
                "execution_count": runs,
                "metadata": {},
                "data": {mime: lines(text) for mime, text in (shown or {}).items()},
            }
            cell |= {"execution_count": runs, "outputs": [result] if shown else []}
        cells.append(cell)
    kernel = {"display_name": "Python 3", "language": "python", "name": "python3"}
    metadata = {"kernelspec": kernel, "language_info": {"name": "python"}}
    return {"cells": cells, "metadata": metadata, "nbformat": 4, "nbformat_minor": 5}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="write into the folder that it is called in")
    path = (Path() if parser.parse_args().quick else PAGE.parent).resolve() / "notebook.ipynb"
    here = Path.cwd()
    with tempfile.TemporaryDirectory() as folder:  # for what cells save
        os.chdir(folder)
        made = notebook_of(PAGE.read_text(encoding="utf-8"))
        os.chdir(here)
    path.write_text(json.dumps(made, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")
    print(f"{path}: {len(made['cells'])} cells")


if __name__ == "__main__":
    main()
