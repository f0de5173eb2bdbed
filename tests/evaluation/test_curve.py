"""Curves as files: what `curve.json` and `curve.csv` hold, to the byte, and what is read back."""

from __future__ import annotations

import json
import math
from pathlib import Path

import pytest

from lightning_circuits.evaluation.curve import RANDOM, Curve, CurvePlace
from tests.support.made_curves import make_curve, make_row

GOLDEN = Path(__file__).parent / "golden"


def curve_with_everything() -> Curve:
    """Two ablations and rankings, random and pruned circuits, overshoot, an f that does not exist."""
    rows, places = [], {}
    for ablation, shift in (("interchange", 0.0), ("mean", -0.3)):
        rows += [make_row("full", ablation, 1000, 1.0), make_row("empty", ablation, 0, 0.0)]
        for share, f in ((0.1, 0.6), (0.5, 1.02), (1.0, 1.0)):
            for ranking in ("signed", "absolute", RANDOM):
                name = f"{share:.0%} {ranking}"
                places[name] = CurvePlace(ranking, share)
                worth = {"signed": f + shift, "absolute": f + shift / 2, RANDOM: f / 3}[ranking]
                if (ablation, share, ranking) == ("mean", 0.1, "absolute"):
                    worth = math.nan
                rows.append(make_row(name, ablation, round(1000 * share), worth))
                if ablation == "mean":
                    rows.append(make_row(f"{name} pruned", ablation, round(900 * share), worth - 0.05))
    return Curve.of(rows, places, "EAP", "tiny", {"seed": 0, "sizes": [0.1, 0.5, 1.0]})


def test_the_files_are_the_same_to_the_byte(tmp_path: Path) -> None:
    for path in curve_with_everything().save(tmp_path):
        assert path.read_bytes() == (GOLDEN / path.name).read_bytes()


def test_what_is_read_back_is_what_was_saved(tmp_path: Path) -> None:
    read = Curve.load(GOLDEN / "curve.json")
    assert read.to_dict() == curve_with_everything().to_dict()
    for path in read.save(tmp_path):
        assert path.read_bytes() == (GOLDEN / path.name).read_bytes()


def test_rows_of_a_curve_have_types() -> None:
    curve = Curve.load(GOLDEN / "curve.json")
    full, [first, *_] = curve.reference("mean", "full"), curve.points("mean", "absolute")
    assert full.ranking is None and math.isnan(full.share) and not full.pruned
    assert (first.ranking, first.share, first.edges) == ("absolute", 0.1, 100) and math.isnan(first.faithfulness)
    assert math.isnan(curve.areas("mean", "absolute").cpr) and not curve.areas("mean", "absolute").overshoot
    assert curve.areas("interchange", "signed").overshoot and curve.shares == [0.1, 0.5, 1.0]
    assert [row.circuit for row in curve.rows if row.pruned][:2] == ["10% signed pruned", "10% absolute pruned"]


def test_a_row_that_lacks_a_number_is_refused_with_its_name(tmp_path: Path) -> None:
    content = make_curve({"signed": {0.1: 0.5, 1.0: 1.0}}).to_dict()
    del content["rows"][0]["kl"]
    (tmp_path / "curve.json").write_text(json.dumps(content))
    with pytest.raises(ValueError, match="its rows are not complete: KeyError\\('kl'\\)"):
        Curve.load(tmp_path / "curve.json")
