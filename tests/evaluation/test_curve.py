"""Curves as files: what `curve.json` and `curve.csv` hold, to the byte, and what is read back."""

from __future__ import annotations

import json
import math
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

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


def test_a_file_of_before_token_edges_were_counted_is_read(tmp_path: Path) -> None:
    content = json.loads((GOLDEN / "curve.json").read_text())
    assert all(row.pop("token_edges") == 7.5 * row["edges"] for row in content["rows"])
    (tmp_path / "curve.json").write_text(json.dumps(content))
    read = Curve.load(tmp_path / "curve.json")
    assert all(math.isnan(row.token_edges) for row in read.rows)
    assert [row.kl for row in read.rows] == [row.kl for row in curve_with_everything().rows]


def test_a_file_of_before_there_were_measures_is_of_the_logit_difference(tmp_path: Path) -> None:
    content = json.loads((GOLDEN / "curve.json").read_text())
    plain = [f"{name}{end}" for name in ("ratio", "difference") for end in ("", "_low", "_high")]
    for row in content["rows"]:
        for name in ("measure", "value", *plain):
            del row[name]
    (tmp_path / "curve.json").write_text(json.dumps(content))
    for row in Curve.load(tmp_path / "curve.json").rows:
        assert row.measure == "logit_difference"
        assert all(math.isnan(getattr(row, name)) for name in ("value", *plain))


def test_rows_of_a_curve_have_types() -> None:
    curve = Curve.load(GOLDEN / "curve.json")
    full, [first, *_] = curve.reference("mean", "full"), curve.points("mean", "absolute")
    assert full.ranking is None and math.isnan(full.share) and not full.pruned
    assert (first.ranking, first.share, first.edges) == ("absolute", 0.1, 100) and math.isnan(first.faithfulness)
    assert math.isnan(curve.areas("mean", "absolute").cpr) and not curve.areas("mean", "absolute").overshoot
    assert curve.areas("interchange", "signed").overshoot and curve.shares == [0.1, 0.5, 1.0]
    assert [row.circuit for row in curve.rows if row.pruned][:2] == ["10% signed pruned", "10% absolute pruned"]


def put(*keys: Any, value: Any) -> Callable[[dict[str, Any]], None]:
    def change(content: Any) -> None:
        for key in keys[:-1]:
            content = content[key]
        if value is MISSING:
            del content[keys[-1]]
        else:
            content[keys[-1]] = value

    return change


MISSING = object()


@pytest.mark.parametrize(
    ("change", "what"),
    [
        (put("rows", 2, "kl", value=MISSING), "entry 2 of its 'rows': missing 'kl'"),
        (put("rows", 2, "share", value=MISSING), "entry 2 of its 'rows': missing 'share'"),
        (put("summary", 0, "cmd", value=MISSING), "entry 0 of its 'summary': missing 'cmd'"),
        *(
            (put("rows", 2, "kl", value=value), re.escape(f"entry 2 of its 'rows': its 'kl' is {value!r}"))
            for value in ("0.1", [], True, math.inf, 1e300, 10**200)
        ),
        *(
            (put("rows", 2, "edges", value=value), f"its 'edges' is {value!r}, not a count")
            for value in (1.0, -1, "3", None, 10**30)
        ),
        *((put("rows", 2, "circuit", value=value), "its 'circuit' is") for value in (None, 3, [])),
        *((put("rows", 2, "pruned", value=value), "its 'pruned' is") for value in (None, 0, "yes")),
        *((put("rows", 2, "share", value=value), "has the share") for value in (None, math.nan, -0.1, 1.1)),
        (put("rows", 2, "ranking", value=3), "its 'ranking' is 3, not a text or null"),
        (put("rows", 2, "split", value="val"), "is of the split 'val', not 'test'"),
        (put("rows", 2, "measure", value="kl"), "entry 2 of its 'rows' is by 'kl', not by 'logit_difference'"),
        (put("rows", 2, value=[]), "entry 2 of its 'rows': it is no object but list"),
        *((put("rows", value=value), "its 'rows' are no list") for value in (None, {}, "x", [])),
        *((put("summary", value=value), "its 'summary' are no list") for value in (None, {}, "x", [])),
        *((put("metadata", value=value), "metadata is not plain JSON") for value in (None, [], {"lr": math.nan})),
        *((put(name, value=value), f"its '{name}' is") for name in ("method", "model", "split") for value in (3, None)),
        (put("rows", 0, "circuit", value="whole"), "none of 'full' under 'interchange' ablation"),
        (put("rows", 0, "ablation", value="zero"), "none of 'full' under 'interchange'|none of 'empty' under 'zero'"),
        (put("summary", 0, "ranking", value="x"), "'summary' lacks the ranking 'signed' under 'interchange'"),
        (put("rows", 2, "ranking", value="\x1b[31m" + "y" * 9999), r"none of|lacks the ranking '\\x1b\[31my"),
    ],
)
def test_what_is_no_curve_is_refused_with_the_place(
    tmp_path: Path, change: Callable[[dict[str, Any]], None], what: str
) -> None:
    path = tmp_path / "curve.json"
    content = make_curve({"signed": {0.1: 0.5, 1.0: 1.0}}).to_dict()
    change(content)
    path.write_text(json.dumps(content))
    with pytest.raises(ValueError, match="cannot be read as a curve") as caught:
        Curve.load(path)
    said = str(caught.value)
    assert re.search(what, said) and said.startswith(str(path)) and said.isprintable() and len(said) < 1000, said


@pytest.mark.parametrize(
    ("content", "what"),
    [
        (b"", "it is not JSON"),
        (b"[" * 100_000, "nested too deeply"),
        (b'{"rows": 1, "rows": 2}', "the key 'rows' stands twice"),
        ("{}".encode("utf-16"), "not JSON in UTF-8"),
        (b"null", "missing 'method'"),
    ],
)
def test_a_file_of_something_else(tmp_path: Path, content: bytes, what: str) -> None:
    (tmp_path / "curve.json").write_bytes(content)
    with pytest.raises(ValueError, match=what):
        Curve.load(tmp_path / "curve.json")
    with pytest.raises(FileNotFoundError, match=r"no curve at .*: that is a folder"):
        Curve.load(tmp_path)
