"""`lightning-circuits compare`: curves are found, refused or noted where they do not compare, and shown as they are."""

from __future__ import annotations

import csv
import json
import shutil
import sys
import types
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lightning_circuits.commands.compare import comparable, find, label, main, pareto_points
from lightning_circuits.evaluation.curve import Curve
from tests.support.made_curves import make_curve

F = {0.01: 0.2, 0.1: 0.7, 0.5: 1.4, 1.0: 1.0}
BETTER = {0.01: 0.6, 0.1: 0.9, 0.5: 0.95, 1.0: 1.0}


def put(folder: Path, f: dict = F, **options: Any) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    curve = make_curve({"signed": f}, **options)
    curve.save(folder, "curve" if not (folder / "curve.json").exists() else f"curve-{curve.split}")
    return folder


# ---- finding -------------------------------------------------------------------------------------------------------


def test_curves_are_found_below_a_folder_each_once_and_as_they_were_written(tmp_path: Path) -> None:
    deep = put(tmp_path / "runs" / "a" / "version_0")
    media = tmp_path / "runs" / "a" / "media"
    media.mkdir()
    (media / "curve_table_3.table.json").write_text("{}")  # what W&B makes of a table
    found = find([str(tmp_path / "runs"), str(deep), str(deep / "curve.json")])
    assert [one.curve for one in found] == [make_curve({"signed": F})]


def test_the_split_is_the_test_split_where_all_have_it(tmp_path: Path) -> None:
    a, b = put(tmp_path / "a", split="val"), put(tmp_path / "b", split="val")
    put(a, BETTER, split="test")
    assert [one.curve.split for one in find([str(a), str(b)])] == ["val", "val"]
    put(b, BETTER, split="test")
    assert [one.curve.split for one in find([str(a), str(b)])] == ["test", "test"]
    assert [one.curve.split for one in find([str(a), str(b)], "val")] == ["val", "val"]


def refused(*args: Any, error: type[Exception] = ValueError) -> str:
    with pytest.raises(error) as raised:
        find([str(arg) for arg in args])
    return str(raised.value)


def test_what_cannot_be_found_or_read_is_said(tmp_path: Path) -> None:
    good, empty = put(tmp_path / "good"), tmp_path / "empty"
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
        (json.dumps({**json.loads((good / "curve.json").read_text()), "rows": []}), "its rows are not complete"),
        (json.dumps({**json.loads((good / "curve.json").read_text()), "summary": []}), "its rows are not complete"),
        (json.dumps({**json.loads((good / "curve.json").read_text()), "rows": [{"f": 1}]}), "'ablation'"),
    ):
        (bad / "curve.json").write_text(content)
        said = refused(good, bad)
        assert what in said and str(bad / "curve.json") in said, said
    said = refused(good, put(tmp_path / "val", split="val"))
    assert "do not have a split in common" in said and f"{good} has test" in said and "evaluate" in said


# ---- names and what compares ---------------------------------------------------------------------------------------


def test_names_are_methods_and_where_these_are_alike_what_tells_their_folders_apart(tmp_path: Path) -> None:
    for name in ("one", "two"):
        put(tmp_path / name / "version_0", method="EdgePruning")
    put(tmp_path / "eap" / "version_0", method="EAP")
    assert list(label(find([str(tmp_path)]))) == ["EAP", "EdgePruning one", "EdgePruning two"]
    assert list(label(find([str(tmp_path / "one")]))) == ["EdgePruning"]
    for name in ("a", "b"):
        shutil.copy(tmp_path / "one" / "version_0" / "curve.json", tmp_path / f"{name}.json")
    files = find([str(tmp_path / "a.json"), str(tmp_path / "b.json")])
    assert list(label(files)) == ["EdgePruning a", "EdgePruning b"]


def test_other_models_and_ablations_are_refused() -> None:
    gpt2 = make_curve({"signed": F})
    with pytest.raises(ValueError, match=r"different models.*a: gpt2, 1,000 edges; b: llama"):
        comparable({"a": gpt2, "b": make_curve({"signed": F}, model="llama")})
    with pytest.raises(ValueError, match=r"different ablations, none of them in common .*b: mean"):
        comparable({"a": gpt2, "b": make_curve({"signed": F}, ablations=("mean",))})


def test_what_makes_a_comparison_less_than_fair_is_noted() -> None:
    data = {"data": "IOIDataModule", "seed": 0}
    one = make_curve({"signed": F}, metadata={"data": data})
    assert comparable({"a": one, "b": make_curve({"signed": BETTER}, metadata={"data": data})}) == []
    other = make_curve(
        {"signed": {0.1: 0.7, 1.0: 1.0}},
        ablations=("interchange", "mean"),
        prompts=20,
        metadata={"data": data | {"seed": 1}},
    )
    notes = comparable({"a": one, "b": other})
    assert notes == [
        "b was measured under mean ablation too, not all others were: left out",
        "different numbers of prompts: a: 50; b: 20",
        "different data: a: seed 0; b: seed 1",
        "different sizes, so that CPR, CMD and log-x area are over different ranges: a: 1%, 10%, 50%, 100%; "
        "b: 10%, 100%",
    ]


# ---- what is shown -------------------------------------------------------------------------------------------------


def test_the_command_writes_table_figure_and_numbers(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    a, b = put(tmp_path / "a"), put(tmp_path / "b", BETTER, method="EAPIG")
    main([str(a), str(b), "--output", str(tmp_path / "new" / "folder"), "--y", "kl", "--x", "edges"])
    printed = capsys.readouterr().out
    assert "EAPIG" in printed and "Note" not in printed
    files = {path.name: path for path in (tmp_path / "new" / "folder").iterdir()}
    assert set(files) == {"compare.png", "compare.svg", "compare.csv"}
    assert all(str(path) in printed for path in files.values())
    assert "KL from the full model (nats)" in files["compare.svg"].read_text()
    with files["compare.csv"].open() as file:
        rows = list(csv.DictReader(file))
    read = {(row["line"], float(row["share"])): float(row["faithfulness"]) for row in rows}
    assert read == (
        {("EAP", share): f for share, f in F.items()}
        | {("EAPIG", share): f for share, f in BETTER.items()}
        | {("random edges", share): 0.05 for share in F}
    )


def test_mistakes_in_the_options_are_one_line(capsys: pytest.CaptureFixture[str]) -> None:
    for args in ([], ["x", "--y", "loss"], ["x", "--nonsense"]):
        with pytest.raises(SystemExit) as exit:
            main(args)
        assert exit.value.code == 2
        [line] = capsys.readouterr().err.splitlines()
        assert line.startswith("error: ")


# ---- Pareto --------------------------------------------------------------------------------------------------------


@given(
    st.lists(st.dictionaries(st.sampled_from([0.01, 0.02, 0.1, 0.5, 1.0]), st.floats(-2, 3), min_size=2), max_size=4)
)
def test_the_front_is_what_nothing_else_betters(curves: list[dict[float, float]]) -> None:
    made: dict[str, Curve] = {f"run {i}": make_curve({"signed": f}, random=i == 0) for i, f in enumerate(curves)}
    points = pareto_points(made, "interchange", "faithfulness")
    assert len(points) == sum(map(len, curves))
    for point in points:
        dominated = point["distance"] >= 1 or any(  # where the empty circuit is
            other["edges"] <= point["edges"]
            and other["distance"] <= point["distance"]
            and (other["edges"], other["distance"]) != (point["edges"], point["distance"])
            for other in points
        )
        if dominated:
            assert not point["front"]
        else:  # of equals, one
            equals = [p for p in points if (p["edges"], p["distance"]) == (point["edges"], point["distance"])]
            assert sum(p["front"] for p in equals) == 1


def test_the_command_draws_the_front_over_many_runs(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    put(tmp_path / "runs" / "a")
    put(tmp_path / "runs" / "b", BETTER)
    main([str(tmp_path / "runs"), "--pareto", "--output", str(tmp_path)])
    printed = capsys.readouterr().out
    assert "Pareto front" in printed and "8 circuits" in printed
    with (tmp_path / "pareto.csv").open() as file:
        front = [(row["label"], row["share"]) for row in csv.DictReader(file) if row["front"] == "True"]
    # 1.4 is farther from 1 than .95. All edges are the model itself in both runs: of equals the first is taken.
    assert set(front) == {("EAP b", "0.01"), ("EAP b", "0.1"), ("EAP b", "0.5"), ("EAP a", "1.0")}
    assert "distance |1 - f|" in (tmp_path / "pareto.svg").read_text()


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
    text = (put(tmp_path / "a") / "curve.json").read_text()
    stored = [Stored("config.yaml", "x"), Stored("media/curve_table_1.table.json", "{}"), Stored("curve.json", text)]
    server(monkeypatch, *((stored[:2], stored) if as_artifact else (stored, [])))
    [found] = find(["team/circuits/3k9"])
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
