"""What experiments have in common: a page of docs/papers gets its tables and figures, and stages say what they took."""

from __future__ import annotations

import argparse
import time
from functools import partial
from pathlib import Path
from types import ModuleType

import pytest
from filelock import FileLock

EXPERIMENTS = Path(__file__).parents[2] / "experiments"
PAGE = """# A paper

<!-- table: Empty -->

<!-- end of table -->

words

<!-- table: Full -->

| a |
|---|
| 1 |

measured then

<!-- end of table -->

![a curve](curve.png), ![elsewhere](../elsewhere.png)
"""


@pytest.fixture
def stages(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    monkeypatch.syspath_prepend(EXPERIMENTS)
    import stages

    return stages


@pytest.fixture
def page(tmp_path: Path) -> Path:
    (tmp_path / "docs").mkdir()
    (tmp_path / "curve.png").write_bytes(b"picture")
    path = tmp_path / "docs" / "page.md"
    path.write_text(PAGE)
    return path


def test_each_table_stands_between_its_own_markers_however_often_it_is_written(
    stages: ModuleType, page: Path, tmp_path: Path
) -> None:
    tables = {
        "Empty": "| e |\n|---|\n| 2 |\n\nmeasured now",
        "Full": "| f |\n|---|\n| \\1 |\n",
        "Not asked for": "none",
    }
    for _ in range(2):
        stages.write_page(page, tmp_path, tables)
        text = page.read_text()
        assert "<!-- table: Empty -->\n\n| e |\n|---|\n| 2 |\n\nmeasured now\n\n<!-- end of table -->\n\nwords" in text
        assert "<!-- table: Full -->\n\n| f |\n|---|\n| \\1 |\n\n<!-- end of table -->\n\n![a curve]" in text
        assert "measured then" not in text and "none" not in text
    assert (page.parent / "curve.png").read_bytes() == b"picture"


def test_a_table_that_the_run_does_not_have_is_named(stages: ModuleType, page: Path, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"asks for the table 'Full'; the run has 'Empty'"):
        stages.write_page(page, tmp_path, {"Empty": "| e |"})
    assert page.read_text() == PAGE


def test_a_part_that_another_process_is_at_is_made_last(stages: ModuleType, tmp_path: Path) -> None:
    run = stages.Run(argparse.Namespace(output=tmp_path, write=False))
    begun: list[str] = []
    lock = FileLock(run.stages / "second.lock")

    def part(name: str) -> None:
        begun.append(name)
        if name == "third":
            lock.release()  # meanwhile the other process is done, or dead
        run.data(name, lambda: name)

    lock.acquire()
    run.each([partial(part, name) for name in ("first", "second", "third")])
    assert begun == ["first", "second", "third", "second"]
    assert all(map(run.has, begun)) and not run.has("fourth")


def test_the_seconds_of_a_stage_are_its_own(stages: ModuleType, tmp_path: Path) -> None:
    def work(seconds: float) -> float:
        end = time.process_time() + seconds
        while time.process_time() < end:
            pass
        return seconds

    run = stages.Run(argparse.Namespace(output=tmp_path, write=False))
    run.data("outer", lambda: [work(0.1), run.data("inner", lambda: work(0.5)), run.data("after", lambda: work(0.3))])
    seconds = {path.stem: float(path.read_text()) for path in run.stages.glob("*.seconds")}
    assert seconds == pytest.approx({"outer": 0.1, "inner": 0.5, "after": 0.3}, abs=0.15)
