"""No pickle is run: every file of PyTorch's is read as plain data, and says so, whatever PyTorch's default is."""

from __future__ import annotations

import ast
import subprocess
from pathlib import Path

ROOT = Path(__file__).parents[2]


def test_files_of_pytorch_are_read_as_plain_data() -> None:
    command = ["git", "ls-files", "*.py", ":!tests"]
    listed = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True).stdout
    calls = 0
    for name in listed.splitlines():
        for node in ast.walk(ast.parse((ROOT / name).read_text())):
            if isinstance(node, ast.Call) and ast.unparse(node.func) == "torch.load":
                said = {keyword.arg: ast.unparse(keyword.value) for keyword in node.keywords}
                assert said.get("weights_only") == "True", f"{name}:{node.lineno}"
                calls += 1
    assert calls
