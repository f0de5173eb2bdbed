"""Runs named on the command line: their curves are found, told apart by name, or what is wrong is said."""

from __future__ import annotations

import json
import os
import shutil
import sys
import types
from pathlib import Path
from typing import Any

import pytest

from lightning_circuits.commands.main import main
from lightning_circuits.commands.runs import FoundCurve, find_curves, name_curves
from tests.support.made_curves import BETTER, F, make_curve, put_curve


def test_curves_are_found_below_a_folder_each_once_and_as_they_were_written(tmp_path: Path) -> None:
    deep = put_curve(tmp_path / "runs" / "a" / "version_0")
    media = tmp_path / "runs" / "a" / "media"
    media.mkdir()
    (media / "curve_table_3.table.json").write_text("{}")  # what W&B makes of a table
    latest = deep.parent / "latest"  # which the glob of a shell names, too
    latest.symlink_to(deep.name)
    found = find_curves([str(tmp_path / "runs"), str(deep), str(latest), str(deep / "curve.json")])
    assert [one.curve for one in found] == [make_curve({"signed": F})]


def test_the_split_is_the_test_split_where_all_have_it(tmp_path: Path) -> None:
    a, b = put_curve(tmp_path / "a", split="val"), put_curve(tmp_path / "b", split="val")
    put_curve(a, BETTER, split="test")
    assert [one.curve.split for one in find_curves([str(a), str(b)])] == ["val", "val"]
    put_curve(b, BETTER, split="test")
    assert [one.curve.split for one in find_curves([str(a), str(b)])] == ["test", "test"]
    assert [one.curve.split for one in find_curves([str(a), str(b)], "val")] == ["val", "val"]


def refused(*args: Any, error: type[Exception] = ValueError) -> str:
    with pytest.raises(error) as raised:
        find_curves([str(arg) for arg in args])
    return str(raised.value)


def test_what_cannot_be_found_or_read_is_said(tmp_path: Path) -> None:
    good, empty = put_curve(tmp_path / "good"), tmp_path / "empty"
    empty.mkdir()
    said = refused(good, empty, error=FileNotFoundError)
    assert f"no curve in {empty}: looked for curve.json" in said and "FaithfulnessCurve" in said
    assert "neither a folder, a file, nor entity/project" in refused(tmp_path / "nowhere", error=FileNotFoundError)
    bad = tmp_path / "bad"
    bad.mkdir()
    for content, what in (
        ("nonsense", "it is not JSON"),
        ("[1]", "missing 'method'"),
        (json.dumps({"method": "x"}), "missing 'model'"),
        (
            json.dumps({**json.loads((good / "curve.json").read_text()), "rows": []}),
            "its 'rows' are no list, or an empty",
        ),
        (json.dumps({**json.loads((good / "curve.json").read_text()), "summary": []}), "its 'summary' are no list"),
        (json.dumps({**json.loads((good / "curve.json").read_text()), "rows": [{"f": 1}]}), "'circuit'"),
    ):
        (bad / "curve.json").write_text(content)
        said = refused(good, bad)
        assert what in said and str(bad / "curve.json") in said, said
    said = refused(good, put_curve(tmp_path / "val", split="val"))
    assert "do not have a split in common" in said and f"{good} has test" in said and "evaluate" in said


def test_names_are_methods_and_where_these_are_alike_what_tells_their_folders_apart(tmp_path: Path) -> None:
    for name in ("one", "two"):
        put_curve(tmp_path / name / "version_0", method="EdgePruning")
    put_curve(tmp_path / "eap" / "version_0", method="EAP")
    assert list(name_curves(find_curves([str(tmp_path)]))) == ["EAP", "EdgePruning one", "EdgePruning two"]
    assert list(name_curves(find_curves([str(tmp_path / "one")]))) == ["EdgePruning"]
    for name in ("a", "b"):
        shutil.copy(tmp_path / "one" / "version_0" / "curve.json", tmp_path / f"{name}.json")
    files = find_curves([str(tmp_path / "a.json"), str(tmp_path / "b.json")])
    assert list(name_curves(files)) == ["EdgePruning a", "EdgePruning b"]
    # A method of that name hides neither.
    files += [FoundCurve("", str(tmp_path / "c.json"), make_curve({"signed": F}, "EdgePruning a"))]
    assert list(name_curves(files)) == ["EdgePruning a", "EdgePruning b", "EdgePruning a (2)"]


def test_a_folder_of_odd_files_has_the_curves_that_are_curves(tmp_path: Path) -> None:
    for name in (".ipynb_checkpoints", ".writing-x.tmp"):  # copies, and what is not complete
        (tmp_path / name).mkdir()
        (tmp_path / name / "curve.json").write_text("{")
    put_curve(tmp_path / "a")
    (tmp_path / "loop").symlink_to(tmp_path)
    assert [one.curve for one in find_curves([str(tmp_path)])] == [make_curve({"signed": F})]
    os.mkfifo(tmp_path / "curve.json")
    assert "no curve at" in refused(tmp_path, error=FileNotFoundError)


def test_an_error_is_one_line_that_no_terminal_obeys(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder = tmp_path / "\x1b[31m\n[red]\u202e"
    folder.mkdir()
    (folder / "curve.json").write_text("{")
    for words in (["compare", str(folder)], ["view", str(folder / "c.json")], ["compare", str(folder / "no")]):
        with pytest.raises(SystemExit) as end:
            main(words)
        [line] = capsys.readouterr().err.splitlines()
        assert end.value.code == 2 and line.isprintable() and r"\x1b[31m" in line


# ---- Weights & Biases ----------------------------------------------------------------------------------------------


class Stored:
    """A file of a run, or the entry of an artifact."""

    def __init__(self, name: str, content: str) -> None:
        self.name, self.content = name, content

    def download(self, root: str, replace: bool = False) -> Any:
        path = Path(root) / self.name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(self.content)
        return path.open()


def server(monkeypatch: pytest.MonkeyPatch, files: list[Stored], entries: list[Stored], problem: Any = None) -> None:
    """A wandb module with one run on its server, or one that cannot be reached."""
    manifest = types.SimpleNamespace(entries={entry.name: entry for entry in entries})
    artifact = types.SimpleNamespace(manifest=manifest, get_entry=lambda name: manifest.entries[name])
    run = types.SimpleNamespace(files=lambda: files, logged_artifacts=lambda: [artifact])

    class Api:
        def run(self, path: str) -> Any:
            assert path == "team/circuits/3k9"
            if problem is not None:
                raise problem
            return run

    monkeypatch.setitem(sys.modules, "wandb", types.SimpleNamespace(Api=Api))  # type: ignore[arg-type]


@pytest.mark.parametrize("as_artifact", [False, True])
def test_a_run_of_weights_and_biases_is_read(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, as_artifact: bool
) -> None:
    text = (put_curve(tmp_path / "a") / "curve.json").read_text()
    stored = [Stored("config.yaml", "x"), Stored("media/curve_table_1.table.json", "{}"), Stored("curve.json", text)]
    server(monkeypatch, *((stored[:2], stored) if as_artifact else (stored, [])))
    [found] = find_curves(["team/circuits/3k9"])
    assert found.curve == make_curve({"signed": F})


def test_what_is_wrong_with_a_run_of_weights_and_biases_is_said(monkeypatch: pytest.MonkeyPatch) -> None:
    server(monkeypatch, [Stored("config.yaml", "x")], [])
    assert "no curve in the W&B run team/circuits/3k9" in refused("team/circuits/3k9", error=FileNotFoundError)
    server(monkeypatch, [], [], ConnectionError("no route to host\nand more"))
    said = refused("team/circuits/3k9")
    assert "no route to host. Is the name right" in said and "wandb login" in said and "more" not in said
    server(monkeypatch, [], [], ValueError("Use `wandb login` to log in."))
    assert "to log in. Is the name right" in refused("team/circuits/3k9")
    monkeypatch.setitem(sys.modules, "wandb", None)  # type: ignore[arg-type]
    assert "pip install wandb" in refused("team/circuits/3k9")
