"""Which of Lightning's two names is chosen.

`lightning.py` is run by path, in processes of their own that see no site-packages (`python -I -S`): what is installed
there is only what a test puts into a folder, packages of a line or two.
"""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from lightning_circuits import lightning

PACKAGES = {
    "pytorch_lightning": {
        "pytorch_lightning/__init__.py": "",
        "pytorch_lightning/cli.py": "print('cli imported')\nLightningCLI = 'the CLI of pytorch_lightning'",
    },
    "lightning": {
        "lightning/__init__.py": "",
        "lightning/pytorch/__init__.py": "",
        "lightning/pytorch/cli.py": "LightningCLI = 'the CLI of lightning.pytorch'",
    },
    "broken": {"pytorch_lightning/__init__.py": "import torchmetrics"},
}


def run(site: Path, installed: list[str], before: str = "", after: str = "", variable: str | None = None) -> str:
    """What a process prints that has `installed`, runs `before`, imports `lightning.py` and shows which it chose."""
    for package in installed:
        for name, text in PACKAGES[package].items():
            (site / name).parent.mkdir(parents=True, exist_ok=True)
            (site / name).write_text(text)
    program = f"""
import importlib.util, sys
sys.path.insert(0, {str(site)!r})
{before}
spec = importlib.util.spec_from_file_location("lightning_circuits.lightning", {lightning.__file__!r})
chosen = importlib.util.module_from_spec(spec)
spec.loader.exec_module(chosen)
print(chosen.pl.__name__)
{after}
"""
    environment = {name: value for name, value in os.environ.items() if name != "LIGHTNING_CIRCUITS_NAMESPACE"}
    if variable is not None:
        environment["LIGHTNING_CIRCUITS_NAMESPACE"] = variable
    done = subprocess.run(
        [sys.executable, "-I", "-S", "-c", program], env=environment, cwd=site, capture_output=True, text=True
    )
    return done.stdout.strip() or done.stderr.strip().splitlines()[-1]


@pytest.mark.parametrize("installed", [["pytorch_lightning"], ["lightning"], ["pytorch_lightning", "lightning"]])
def test_the_installed_namespace_is_taken_pytorch_lightning_first(tmp_path: Path, installed: list[str]) -> None:
    expected = "lightning.pytorch" if installed == ["lightning"] else "pytorch_lightning"
    assert run(tmp_path, installed) == expected


@pytest.mark.parametrize(
    ("before", "expected"),
    [
        ("import lightning.pytorch", "lightning.pytorch"),
        ("import pytorch_lightning", "pytorch_lightning"),
        ("import lightning.pytorch, pytorch_lightning", "pytorch_lightning"),
        ("import lightning", "pytorch_lightning"),  # the bare package is not yet the namespace
    ],
)
def test_the_namespace_already_imported_wins(tmp_path: Path, before: str, expected: str) -> None:
    assert run(tmp_path, ["pytorch_lightning", "lightning"], before=before) == expected


@pytest.mark.parametrize("asked", ["pytorch_lightning", "lightning.pytorch"])
@pytest.mark.parametrize("before", ["", "import lightning.pytorch", "import pytorch_lightning"])
def test_the_environment_variable_decides(tmp_path: Path, asked: str, before: str) -> None:
    assert run(tmp_path, ["pytorch_lightning", "lightning"], before=before, variable=asked) == asked


def test_an_empty_variable_is_no_choice(tmp_path: Path) -> None:
    assert run(tmp_path, ["lightning"], variable="") == "lightning.pytorch"


@pytest.mark.parametrize(
    ("installed", "variable", "error"),
    [
        (
            ["pytorch_lightning"],
            "torch_lightning",
            "ValueError: LIGHTNING_CIRCUITS_NAMESPACE is 'torch_lightning': "
            "set it to one of pytorch_lightning, lightning.pytorch, or unset it",
        ),
        (
            ["pytorch_lightning"],
            "lightning.pytorch",
            "ImportError: LIGHTNING_CIRCUITS_NAMESPACE is 'lightning.pytorch', which is not installed: "
            "install it, or unset the variable",
        ),
        (
            [],
            None,
            "ImportError: PyTorch Lightning is not installed (looked for pytorch_lightning and lightning.pytorch): "
            "pip install 'pytorch-lightning>=2.6.6,<2.7'",
        ),
        # The one installed lacks something of its own: that is said, and the other name is not tried behind its back.
        (["lightning", "broken"], None, "ModuleNotFoundError: No module named 'torchmetrics'"),
    ],
)
def test_what_cannot_be_chosen_is_said(tmp_path: Path, installed: list[str], variable: str | None, error: str) -> None:
    assert run(tmp_path, installed, variable=variable) == error


def test_the_command_line_is_imported_when_it_is_asked_for(tmp_path: Path) -> None:
    shown = run(tmp_path, ["pytorch_lightning"], after="print(chosen.LightningCLI)").splitlines()
    assert shown == ["pytorch_lightning", "cli imported", "the CLI of pytorch_lightning"]


def test_the_command_line_comes_from_the_chosen_namespace(tmp_path: Path) -> None:
    shown = run(
        tmp_path,
        ["pytorch_lightning", "lightning"],
        after="print(chosen.LightningCLI)",
        variable="lightning.pytorch",
    ).splitlines()
    assert shown == ["lightning.pytorch", "the CLI of lightning.pytorch"]


def test_the_real_lightning_has_what_is_exported() -> None:
    for name in lightning.__all__:
        assert getattr(lightning, name) is not None
    assert lightning.LightningCLI.__module__ == f"{lightning.pl.__name__}.cli"


def test_another_name_is_an_attribute_error() -> None:
    with pytest.raises(AttributeError, match="no attribute 'Lightning'"):
        lightning.Lightning  # noqa: B018
