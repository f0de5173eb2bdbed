"""`lightning-circuits view`: a page or a figure of circuits that were saved, and one clear line where there is none."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from lightning_circuits.circuit import Circuit
from lightning_circuits.commands.main import main
from lightning_circuits.layout import Layout

LAYOUT = Layout(n_layers=2, n_heads=2, d_model=8)


@pytest.fixture(autouse=True)
def files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    scores = torch.randn(LAYOUT.n_edges, generator=torch.Generator().manual_seed(0))
    for name, members in (("a", scores > 0), ("b", scores < 0.5)):
        Circuit(LAYOUT, members, scores).save(f"{name}.json")
    Circuit.full(Layout(n_layers=1, n_heads=2, d_model=8)).save("small.pt")
    Path("folder.html").mkdir()
    return tmp_path


def test_a_circuit_becomes_a_page_named_like_it(files: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (files / "runs").mkdir()
    Circuit.load("a.json").save("runs/a.json")
    main(["view", "runs/a.json"])
    assert (files / "a.html").read_text().lower().startswith("<!doctype html>") and not (files / "runs/a.html").exists()
    assert "a.html" in capsys.readouterr().out


def test_two_circuits_share_a_page(files: Path) -> None:
    main(["view", "a.json", "b.json", "--output", "both.html"])
    page = (files / "both.html").read_text()
    assert '"a"' in page and '"b"' in page  # their names


@pytest.mark.parametrize(("suffix", "magic"), [("svg", b"<?xml"), ("pdf", b"%PDF"), ("png", b"\x89PNG")])
def test_a_suffix_of_pictures_makes_a_figure(suffix: str, magic: bytes, files: Path) -> None:
    main(["view", "a.json", "--output", f"figure.{suffix}"])
    assert (files / f"figure.{suffix}").read_bytes().startswith(magic)


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["nowhere.json"], "nowhere.json"),
        (["a.json", "small.pt"], "layout"),
        (["a.json", "b.json", "a.json"], "one circuit or two, got 3"),
        (["a.json", "b.json", "--output", "x.svg"], "--output x.html"),
        (["a.json", "--output", "x.gif"], "x.gif"),
        (["a.json", "--output", "no/where.html"], "no folder no"),
        (["a.json", "--output", "no/where.svg"], "no folder no"),
        (["a.json", "--output", "folder.html"], "cannot write folder.html: that is a folder"),
        (["folder.html"], "folder.html"),
        ([""], "the suffix must be one of"),
        (["a.json", "--curve", "no.json"], "no.json"),
        ([], "CIRCUIT"),
    ],
)
def test_a_mistake_is_one_line(words: list[str], said: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as end:
        main(["view", *words])
    error = capsys.readouterr().err
    assert end.value.code == 2 and said in error and error.startswith("error: ") and error.count("\n") == 1
