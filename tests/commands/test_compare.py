"""`lightning-circuits compare`: curves side by side, shown as they were measured."""

from __future__ import annotations

import csv
from pathlib import Path

import pytest

from lightning_circuits.commands.compare import main
from tests.support.made_curves import BETTER, F, in_spans, make_curve, put_curve


def test_the_command_writes_table_figure_and_numbers(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    a, b = put_curve(tmp_path / "a"), put_curve(tmp_path / "b", BETTER, method="EAPIG")
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


def test_runs_in_the_same_spans_are_compared(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    runs = [put_curve(tmp_path / name, f, metadata={"spans": ["S2", "END"]}) for name, f in (("a", F), ("b", BETTER))]
    main([*map(str, runs), "--output", str(tmp_path)])
    assert "EAP b" in capsys.readouterr().out
    with pytest.raises(ValueError, match=r"in different spans, .*--x token-edges"):
        main([str(runs[0]), str(put_curve(tmp_path / "c")), "--output", str(tmp_path)])


def test_runs_in_spans_and_without_are_compared_by_token_edges(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "placed").mkdir()
    in_spans(make_curve({"signed": BETTER}), "S2", "END").save(tmp_path / "placed")
    runs = [str(tmp_path / "placed"), str(put_curve(tmp_path / "plain"))]
    main([*runs, "--x", "token-edges", "--output", str(tmp_path)])
    assert "Note: different spans" in capsys.readouterr().out and (tmp_path / "compare.svg").exists()
    main([*runs, "--x", "token-edges", "--pareto", "--output", str(tmp_path)])
    with (tmp_path / "pareto.csv").open() as file:
        points = [(float(row["token_edges"]), float(row["distance"]), row["front"]) for row in csv.DictReader(file)]
    best = {
        (size, far)
        for size, far, _ in points
        if far < 1 and not any(s <= size and d <= far and (s, d) != (size, far) for s, d, _ in points)
    }
    assert {(size, far) for size, far, front in points if front == "True"} == best
    assert "token-edges kept" in (tmp_path / "pareto.svg").read_text()
    with pytest.raises(ValueError, match="an edge of one is none"):
        main([*runs, "--x", "edges", "--pareto", "--output", str(tmp_path)])


def test_the_command_draws_the_front_over_many_runs(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    put_curve(tmp_path / "runs" / "a")
    put_curve(tmp_path / "runs" / "b", BETTER)
    main([str(tmp_path / "runs"), "--pareto", "--output", str(tmp_path)])
    printed = capsys.readouterr().out
    assert "Pareto front" in printed and "8 circuits" in printed
    with (tmp_path / "pareto.csv").open() as file:
        front = [(row["label"], row["share"]) for row in csv.DictReader(file) if row["front"] == "True"]
    # 1.4 is farther from 1 than .95. All edges are the model itself in both runs: of equals the first is taken.
    assert set(front) == {("EAP b", "0.01"), ("EAP b", "0.1"), ("EAP b", "0.5"), ("EAP a", "1.0")}
    assert "distance |1 - f|" in (tmp_path / "pareto.svg").read_text()
