"""docs/results.md: benchmarks write into its tables, and what the README shows of them agrees with it."""

from __future__ import annotations

from pathlib import Path
from types import ModuleType

import pytest

BENCHMARKS = Path(__file__).parents[2] / "benchmarks"
PAGE = """# Results

<!-- table: cost -->

| shape | steps |
|---|---|
| gpt2 | 3.0 |
| llama | 4.0 |

<!-- end of table -->

<!-- table: other -->

| a | b |
|---|---|
| 1 | 2 |

below

<!-- end of table -->

The end.
"""


@pytest.fixture
def results_page(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    monkeypatch.syspath_prepend(BENCHMARKS)
    import results_page

    return results_page


@pytest.fixture
def page(tmp_path: Path) -> Path:
    path = tmp_path / "results.md"
    path.write_text(PAGE)
    return path


def test_a_row_takes_the_place_of_its_older_self_or_comes_last(results_page: ModuleType, page: Path) -> None:
    results_page.write_row("cost", {"shape": "gpt2", "steps": "2.5"}, page)
    results_page.write_row("cost", {"shape": "qwen", "steps": "9.0"}, page)
    older, newer = "| gpt2 | 3.0 |\n| llama | 4.0 |", "| gpt2 | 2.5 |\n| llama | 4.0 |\n| qwen | 9.0 |"
    assert page.read_text() == PAGE.replace(older, newer)


def test_a_table_takes_the_place_of_the_older_one(results_page: ModuleType, page: Path) -> None:
    rows = [{"a": "**3**", "c": "x, y"}, {"a": "4", "c": ""}]
    results_page.write_table("other", rows, "measured", page)
    assert page.read_text() == PAGE.replace(
        "| a | b |\n|---|---|\n| 1 | 2 |\n\nbelow", "| a | c |\n|---|---|\n| **3** | x, y |\n| 4 |  |\n\nmeasured"
    )
    assert results_page.read_table("other", page) == rows


def test_cells_stand_under_their_headings_in_whatever_order_they_are_given(results_page: ModuleType) -> None:
    rows = [{"shape": "gpt2", "EAP": "1", "RelP": "2"}, {"shape": "llama", "RelP": "4", "EAP": "3"}]
    assert results_page.markdown(rows).splitlines()[2:] == ["| gpt2 | 1 | 2 |", "| llama | 3 | 4 |"]


def test_a_table_that_is_still_empty_is_filled_and_no_other(results_page: ModuleType, page: Path) -> None:
    empty = "<!-- table: new -->\n\n<!-- end of table -->\n\n"
    for write in (results_page.write_row, lambda name, row, page: results_page.write_table(name, [row], "", page)):
        page.write_text(empty + PAGE)
        assert results_page.read_table("new", page) == []
        write("new", {"a": "1"}, page)
        assert results_page.read_table("new", page) == [{"a": "1"}]
        assert page.read_text().endswith(PAGE)


def test_what_does_not_fit_is_refused(results_page: ModuleType, page: Path) -> None:
    with pytest.raises(ValueError, match="has no table 'cots'"):
        results_page.write_row("cots", {"shape": "gpt2"}, page)
    with pytest.raises(ValueError, match=r"'cost' has the columns \['shape', 'steps'\], not \['shape', 'seconds'\]"):
        results_page.write_row("cost", {"shape": "gpt2", "seconds": "1"}, page)
    assert page.read_text() == PAGE


def test_the_readme_agrees_with_the_page(results_page: ModuleType) -> None:
    from methods_smollm2 import in_brief

    measured = in_brief(results_page.read_table("methods, IOI"))
    assert results_page.read_table("methods in brief", results_page.README) == measured
