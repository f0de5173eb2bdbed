"""The pages at the top of the repository: what they say of the package is so. README's code blocks are run."""

from __future__ import annotations

import re
from importlib import import_module
from pathlib import Path

import yaml

from tests.house.test_import_contract import HOUSE

ROOT = Path(__file__).parents[2]


def test_the_readme_is_short_and_its_links_lead_somewhere() -> None:
    text = (ROOT / "README.md").read_text()
    assert len(text.splitlines()) <= 120
    links = re.findall(r"\]\(([^)#]+)", text) + re.findall(r'src="([^"]+)"', text)
    assert len(links) > 10 and [link for link in links if not (ROOT / link).exists()] == []


def test_the_readme_begins_with_the_two_commands() -> None:
    [first, *_] = re.findall(r"^```bash\n(.*?)^```", (ROOT / "README.md").read_text(), re.DOTALL | re.MULTILINE)
    assert [line.split("#")[0].strip() for line in first.splitlines()] == ["make quickstart", "make test"]


def test_contributing_has_every_room_and_floor() -> None:
    text = (ROOT / "CONTRIBUTING.md").read_text()
    rooms = {folder.name for folder in (ROOT / "lightning_circuits").iterdir() if (folder / "__init__.py").is_file()}
    assert rooms | {"callbacks", "datamodules", "configs"} <= set(re.findall(r"^\| `(\w+)/` \|", text, re.MULTILINE))
    said = {name: int(floor) for floor, names in re.findall(r"^(\d)\. (.+)$", text, re.M) for name in names.split(", ")}
    assert said == {name: room.floor for name, room in HOUSE.items() if name not in ("", "configs")}


def test_the_changelog_names_places_that_exist() -> None:
    moves = re.findall(r"^\| `lightning_circuits.+?` \| (.+) \|$", (ROOT / "CHANGELOG.md").read_text(), re.MULTILINE)
    assert len(moves) > 50
    for name in re.findall(r"`(lightning_circuits[\w.]+)", " ".join(moves)):
        _resolve(name)


def test_citation_is_of_this_version() -> None:
    citation = yaml.safe_load((ROOT / "CITATION.cff").read_text())
    assert citation["cff-version"] == "1.2.0" and {"message", "title", "authors"} <= citation.keys()
    project = (ROOT / "pyproject.toml").read_text()
    for key in ("version", "license"):
        assert f'{key} = "{citation[key]}"' in project
    for paper in citation["references"]:
        assert {"type", "title", "authors"} <= paper.keys()
        assert paper["identifiers"][0]["value"].removeprefix("arXiv:") in paper["url"]


def _resolve(name: str) -> object:
    """A module, or something that one holds; raises if there is no such thing."""
    try:
        return import_module(name)
    except ModuleNotFoundError:
        home, _, last = name.rpartition(".")
        return getattr(_resolve(home), last)
