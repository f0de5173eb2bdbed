"""What lands on a user's machine: the wheel is built, opened, installed into an empty folder, imported from there."""

from __future__ import annotations

import shutil
import subprocess
import sys
import zipfile
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
MAPPED = ("callbacks", "datamodules", "configs")


@pytest.fixture(scope="module")
def source(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A copy of what a wheel is made from: built in place, one would also take up what an older build left behind."""
    copy = tmp_path_factory.mktemp("source")
    for name in ("pyproject.toml", "README.md", "LICENSE"):
        shutil.copy(ROOT / name, copy)
    for name in ("lightning_circuits", *MAPPED, "docs", "tests"):
        shutil.copytree(ROOT / name, copy / name, ignore=shutil.ignore_patterns("__pycache__"))
    return copy


@pytest.fixture(scope="module")
def wheel(source: Path) -> Path:
    # Without isolation, because that would fetch the build backend.
    command = [sys.executable, "-m", "build", "--wheel", "--no-isolation", "--outdir", "dist"]
    built = subprocess.run(command, cwd=source, capture_output=True, text=True)
    assert built.returncode == 0, built.stdout + built.stderr
    [wheel] = (source / "dist").glob("*.whl")
    return wheel


@pytest.fixture(scope="module")
def contents(wheel: Path) -> dict[str, bytes]:
    with zipfile.ZipFile(wheel) as archive:
        return {name: archive.read(name) for name in archive.namelist() if not name.endswith("/")}


def expected(source: Path) -> Iterator[str]:
    """Where each file of the repository that belongs to the package stands in a wheel; of docs/ the pages alone."""
    for page in (source / "docs").glob("*.md"):
        yield f"lightning_circuits/docs/{page.name}"
    for path in source.rglob("*"):
        folder, *rest = path.relative_to(source).parts
        if path.is_file() and folder in ("lightning_circuits", *MAPPED):
            yield "/".join(["lightning_circuits", *([folder] if folder in MAPPED else []), *rest])


def test_nothing_is_installed_beside_the_package(contents: dict[str, bytes]) -> None:
    assert {name.partition("/")[0].partition("-")[0] for name in contents} == {"lightning_circuits"}


def test_the_wheel_holds_the_whole_package_and_no_more(contents: dict[str, bytes], source: Path) -> None:
    """A package left out of pyproject.toml, or a file that no pattern covers, shows here."""
    assert {name for name in contents if ".dist-info/" not in name} == set(expected(source))


def test_configs_and_the_embedded_model_are_inside(contents: dict[str, bytes]) -> None:
    assert "lightning_circuits/configs/quickstart.yaml" in contents
    weights = [
        name
        for name in contents
        if name.startswith("lightning_circuits/models/assets/") and name.endswith(".safetensors")
    ]
    assert weights, "no embedded model in the wheel"


def test_the_pages_that_error_messages_name_are_inside(contents: dict[str, bytes]) -> None:
    assert b"## Pairs that do not align" in contents["lightning_circuits/docs/own-task.md"]


def test_the_page_and_its_library_with_licence_are_inside(contents: dict[str, bytes]) -> None:
    folder = "lightning_circuits/drawing/assets/page"
    assert contents[f"{folder}/cytoscape/LICENSE"].startswith(b"Copyright (c)")
    version = contents[f"{folder}/cytoscape/VERSION"].split()[1].decode()
    assert f'version="{version}"'.encode() in contents[f"{folder}/cytoscape/cytoscape.min.js"]
    assert {f"{folder}/{name}" for name in ("page.html", "page.css", "page.js")} <= contents.keys()


def test_the_command_and_the_licence_are_declared(contents: dict[str, bytes]) -> None:
    [entry_points] = (text.decode() for name, text in contents.items() if name.endswith("/entry_points.txt"))
    assert "lightning-circuits = lightning_circuits.commands.entry:main" in entry_points
    assert "lightning_circuits/commands/main.py" in contents
    assert any(name.endswith(".dist-info/licenses/LICENSE") for name in contents)


def test_the_wheel_works_where_it_is_installed(wheel: Path, tmp_path: Path) -> None:
    target = tmp_path / "target"
    command = [sys.executable, "-m", "pip", "install", "--quiet", "--no-deps", "--no-index", "--target"]
    subprocess.run([*command, str(target), str(wheel)], check=True, cwd=tmp_path)
    named = f'({target / "lightning_circuits" / "docs" / "own-task.md"}, "x")'
    program = f"""
import sys
sys.path.insert(0, {str(target)!r})
import lightning_circuits.callbacks, lightning_circuits.configs, lightning_circuits.datamodules
from lightning_circuits.pages import see_page
assert see_page("own-task", "x") == {named!r}
for name, module in list(sys.modules.items()):
    if name.partition(".")[0] == "lightning_circuits":
        assert module.__file__.startswith({str(target)!r}), module
for name in {MAPPED!r}:
    try:
        __import__(name)
    except ModuleNotFoundError:
        continue
    raise SystemExit(f"a plain {{name!r}} can be imported")
"""
    # Isolated from the working folder, or `callbacks` would be found in it.
    subprocess.run([sys.executable, "-I", "-c", program], check=True, cwd=tmp_path)
