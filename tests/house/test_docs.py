"""The pages of docs/ hang together, and with the package. Their code blocks are run by `conftest.py`."""

from __future__ import annotations

import ast
import re
import socket
from collections.abc import Iterator
from html.parser import HTMLParser
from pathlib import Path
from typing import Any
from urllib.parse import unquote, urlsplit

import pytest
import yaml

from lightning_circuits.pages import see_page

ROOT = Path(__file__).parents[2]
DOCS = ROOT / "docs"
PAGES = sorted(DOCS.rglob("*.md"))
SOURCES = [
    file for folder in ("lightning_circuits", "callbacks", "datamodules") for file in (ROOT / folder).rglob("*.py")
]


def headings(page: Path) -> list[str]:
    prose = re.sub(r"^```.*?^```", "", page.read_text(), flags=re.DOTALL | re.MULTILINE)
    return re.findall(r"^#+ (.+)$", prose, re.MULTILINE)


def test_every_page_can_be_reached() -> None:
    def pages_of(entry: Any) -> list[str]:
        if isinstance(entry, str):
            return [entry]
        return [page for inner in (entry.values() if isinstance(entry, dict) else entry) for page in pages_of(inner)]

    listed = pages_of(yaml.safe_load((ROOT / "mkdocs.yml").read_text())["nav"])
    assert sorted(listed) == [page.relative_to(DOCS).as_posix() for page in PAGES]
    start = (DOCS / "index.md").read_text()
    assert [page for page in listed if "/" not in page and page != "index.md" and f"]({page})" not in start] == []


def module_of(source: Path) -> str:
    """`callbacks/export.py` is installed as `lightning_circuits.callbacks.export`."""
    parts = source.relative_to(ROOT).with_suffix("").parts
    return ".".join(parts if parts[0] == "lightning_circuits" else ("lightning_circuits", *parts))


def test_the_reference_lists_every_module_once() -> None:
    pages = {page.stem: page.read_text() for page in (DOCS / "api").glob("*.md")}
    listed = {room: re.findall(r"^::: (\S+)$", text, re.MULTILINE) for room, text in pages.items()}
    modules = [module_of(source) for source in SOURCES if not source.name.startswith("_")]
    assert sorted(name for names in listed.values() for name in names) == sorted(modules)
    for room, names in listed.items():  # a page for each room; `idea` has what stands at the top level
        assert {name.split(".")[1] for name in names if name.count(".") > 1} <= {room}


def places(source: Path) -> Iterator[tuple[str, str]]:
    """The page and heading of every `see_page("own-task", "Pairs that do not align")` in a file."""
    for node in ast.walk(ast.parse(source.read_text())):
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id == "see_page":
            page, heading = map(ast.literal_eval, node.args)
            yield page, heading


def test_what_error_messages_point_to_is_there() -> None:
    found = {place for source in SOURCES for place in places(source)}
    assert len(found) > 10
    for page, heading in found:
        assert heading in headings(DOCS / f"{page}.md"), f"an error message names {page}, {heading!r}"
        assert see_page(page, heading) == f'({DOCS / page}.md, "{heading}")'


def test_no_message_names_a_page_that_only_the_repository_has() -> None:
    assert [source.name for source in SOURCES if re.search(r"\(docs/[\w/-]+\.md", source.read_text())] == []


CONFIGS = [
    pytest.param(block, id=f"{page.stem}-{number}")
    for page in PAGES
    for number, block in enumerate(re.findall(r"^```yaml\n(.*?)^```", page.read_text(), re.DOTALL | re.MULTILINE))
]


@pytest.mark.slow
@pytest.mark.parametrize("block", CONFIGS)
def test_the_command_line_takes_what_pages_give_as_config(
    block: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    from lightning_circuits.commands.main import main

    config = yaml.safe_load(block)
    if "callbacks" in config:
        config = {"trainer": config}
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("sys.argv", ["lightning-circuits"])
    Path("page.yaml").write_text(yaml.safe_dump(config))
    with pytest.raises(SystemExit) as end:
        main(["fit", "--config", "ioi_gpt2.yaml", "--config", "page.yaml", "--print_config"])
    assert not end.value.code
    printed = yaml.safe_load(capsys.readouterr().out)
    for key, value in config.items():
        _is_in(value, printed[key], key)


def _is_in(given: Any, whole: Any, where: str) -> None:
    """What was given stands in the whole config; classes by their names."""
    if isinstance(given, dict):
        for key, value in given.items():
            _is_in(value, whole[key], f"{where}.{key}")
    elif isinstance(given, list):
        assert len(given) == len(whole), where
        for mine, theirs in zip(given, whole, strict=True):
            _is_in(mine, theirs, where)
    elif where.endswith("class_path") or isinstance(whole, dict):  # of a class that is given by its name alone
        whole = whole if isinstance(whole, str) else whole["class_path"]
        assert whole.rpartition(".")[2] == given, where
    else:
        assert whole == given, where


# ---- the site --------------------------------------------------------------------------------------------------------


class Links(HTMLParser):
    """The ids of a page, where its links lead, and what a browser fetches to show it."""

    def __init__(self, page: Path) -> None:
        super().__init__()
        self.ids: set[str] = set()
        self.links: list[str] = []
        self.fetched: list[str] = []
        self.feed(page.read_text())

    def handle_starttag(self, tag: str, attributes: list[tuple[str, str | None]]) -> None:
        values = {name: value or "" for name, value in attributes}
        self.ids |= {values[name] for name in ("id", "name") if name in values}
        if tag == "a" and "href" in values:
            self.links.append(values["href"])
        if "src" in values:
            self.fetched.append(values["src"])
        if tag == "link" and values.get("rel") not in ("prev", "next", "canonical"):
            self.fetched.append(values["href"])


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The site as `make docs` builds it, without a network."""
    from mkdocs.commands.build import build
    from mkdocs.config import load_config

    folder = tmp_path_factory.mktemp("docs")
    package = folder / "build" / "types" / "lightning_circuits"
    package.mkdir(parents=True)
    for source in [*(ROOT / "lightning_circuits").iterdir(), *(ROOT / name for name in ("callbacks", "datamodules"))]:
        (package / source.name).symlink_to(source)
    settings = yaml.safe_load((ROOT / "mkdocs.yml").read_text()) | {"docs_dir": str(DOCS), "site_dir": "site"}
    (folder / "mkdocs.yml").write_text(yaml.safe_dump(settings, sort_keys=False))

    def refused(*_: Any) -> None:
        raise OSError("the site is built without a network")

    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        patch.setattr(socket.socket, "connect", refused)
        patch.setattr(socket, "getaddrinfo", refused)
        build(load_config(str(folder / "mkdocs.yml"), strict=True))
    return folder / "site"


@pytest.mark.slow
def test_all_links_of_the_site_lead_somewhere(site: Path) -> None:
    pages = {page.resolve(): Links(page) for page in site.rglob("*.html")}
    assert len(pages) == len(PAGES) + 1  # and 404.html
    for page, parsed in pages.items():
        if page.name == "404.html":  # shown at any depth, so it speaks of the site's root
            continue
        for link in parsed.links:
            parts = urlsplit(link)
            if parts.scheme or link in ("", "."):
                continue
            target = (page.parent / unquote(parts.path)).resolve() if parts.path else page
            assert target.exists(), f"{page.name} links to {link}"
            if parts.fragment and target in pages:
                assert unquote(parts.fragment) in pages[target].ids, f"{page.name} links to {link}"


@pytest.mark.slow
def test_a_browser_fetches_nothing_from_elsewhere(site: Path) -> None:
    for page in site.rglob("*.html"):
        for address in Links(page).fetched:
            assert not urlsplit(address).netloc, f"{page.name} fetches {address}"
    for style in site.rglob("*.css"):
        assert not re.search(r"url\([\"']?(https?:)?//", style.read_text()), style


@pytest.mark.slow
def test_the_reference_has_what_the_package_offers(site: Path) -> None:
    from lightning_circuits import callbacks, datamodules, search

    reference = "".join(page.read_text() for page in (site / "api").glob("*.html"))
    searches = [name for name, thing in vars(search).items() if isinstance(thing, type)]
    for name in [*searches, "from_lightning_module", "Circuit", *callbacks.__all__, *datamodules.__all__]:
        assert re.search(rf'id="lightning_circuits\.[\w.]+\.{name}"', reference), name
