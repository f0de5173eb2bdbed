"""`compare` over files in which anything may stand: one named error, or a table, a figure and numbers."""

from __future__ import annotations

import copy
import io
import json
from collections.abc import Iterator
from contextlib import redirect_stdout, suppress
from functools import reduce
from operator import getitem
from pathlib import Path
from typing import Any

from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from lightning_circuits.commands.compare import main
from tests.support.made_curves import BETTER, F, make_curve

CURVE = make_curve({"signed": F, "absolute": BETTER}, ablations=("interchange", "mean")).to_dict()
NUMBERS = [0, 1, -1, 0.5, 1e14, -1e14, 5e-324, 1e300, float("nan"), float("inf"), 10**30]
TEXTS = ["", "x", "[/red]", r"$\frac{", "\ud800", "\x1b[31m"]
ANYTHING = st.sampled_from([*NUMBERS, *TEXTS, None, True, [], {}, [1], {"a": 1}])


def places(part: Any, where: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:
    for key in part if isinstance(part, dict) else range(len(part)) if isinstance(part, list) else ():
        yield (*where, key)
        yield from places(part[key], (*where, key))


PLACES = [*places(CURVE)]
# Names may be anything: of these more come through.
NAMES = [place for place in PLACES if place[-1] in ("method", "model", "circuit", "metadata", "a")]


@given(
    changes=st.lists(st.tuples(st.sampled_from(PLACES) | st.sampled_from(NAMES), ANYTHING), min_size=1, max_size=3),
    options=st.sampled_from([[], ["--pareto"], ["--x", "edges"], ["--y", "kl"], ["--pareto", "--y", "accuracy"]]),
)
@settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_whatever_stands_in_a_curve(tmp_path: Path, changes: list[tuple[Any, Any]], options: list[str]) -> None:
    content = copy.deepcopy(CURVE)
    for (*way, key), value in changes:
        with suppress(LookupError, TypeError):  # an earlier change has taken this place away
            reduce(getitem, way, content)[key] = value
    for name, curve in (("a", content), ("b", CURVE)):
        (tmp_path / name).mkdir(exist_ok=True)
        (tmp_path / name / "curve.json").write_text(json.dumps(curve))
    printed = io.StringIO()
    try:
        with redirect_stdout(printed):
            main([str(tmp_path / "a"), str(tmp_path / "b"), "--output", str(tmp_path), *options])
    except ValueError as error:
        assert 0 < len(str(error)) < 2000
    else:
        assert "Written:" in printed.getvalue() and printed.getvalue().replace("\n", "").isprintable()
