"""Progress is shown after a while, in the place that there is, by the first process, and leaves nothing behind."""

from __future__ import annotations

import io
import time
from collections.abc import Iterator

import pytest
import rich
from rich.console import Console

from lightning_circuits import progress as module
from lightning_circuits.progress import length_of, progress, shown, tracked


@pytest.fixture
def terminal(monkeypatch: pytest.MonkeyPatch) -> Iterator[io.StringIO]:
    """What a terminal of 80 columns is sent."""
    sent = io.StringIO()
    monkeypatch.setattr(rich, "get_console", lambda: console)
    console = Console(file=sent, force_terminal=True, width=80, legacy_windows=False)
    yield sent


def test_what_is_soon_done_shows_nothing(terminal: io.StringIO, capsys: pytest.CaptureFixture[str]) -> None:
    assert list(tracked(range(5), "Counting")) == [0, 1, 2, 3, 4]
    assert terminal.getvalue() == "" and capsys.readouterr() == ("", "")


def test_a_bar_says_how_far_it_is_and_what_is_left_and_goes_away(
    terminal: io.StringIO, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "PATIENCE", 0.05)
    with progress("Judging circuits", total=4, patience=0.05) as bar:
        for _ in range(3):
            time.sleep(0.2)
            bar.advance()
        time.sleep(0.3)
        drawn = terminal.getvalue()
    assert "Judging circuits" in drawn and "3/4" in drawn and "left" in drawn
    assert terminal.getvalue().endswith("\x1b[2K")  # the line is cleared


def test_work_within_work_stands_below_it(terminal: io.StringIO) -> None:
    with progress("Training", total=2, patience=0) as outer:
        outer.update(1, "objective 0.5")
        with progress("Judging", total=2, patience=0) as inner:
            inner.advance()
            time.sleep(0.3)
            drawn = terminal.getvalue().splitlines()
    [one, other] = drawn[-2:]
    assert "Training" in one and "objective 0.5" in one and "Judging" in other and "1/2" in other


def test_in_a_log_there_is_a_line_a_minute(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setattr(module, "BETWEEN_LINES", 0.2)
    monkeypatch.setattr(rich, "get_console", lambda: Console(file=io.StringIO(), force_terminal=False))
    with progress("Judging", total=10) as bar, progress("Reading gpt2"):
        for _ in range(5):
            time.sleep(0.1)
            bar.advance()
    said = capsys.readouterr().err.splitlines()
    assert 1 <= sum(line.startswith("Judging: ") for line in said) <= 3
    assert any(" of 10, 0:00:0" in line and line.endswith(" left") for line in said)
    assert any(line.startswith("Reading gpt2: 0 after 0:00:0") for line in said)
    time.sleep(0.5)
    assert capsys.readouterr().err == ""  # it has ended


def test_nothing_is_shown_where_it_was_not_wanted_nor_by_other_processes(
    terminal: io.StringIO, monkeypatch: pytest.MonkeyPatch
) -> None:
    with shown(False), shown(True), progress("Judging", patience=0):
        time.sleep(0.2)
    monkeypatch.setattr(module.torch.distributed, "is_initialized", lambda: True)
    monkeypatch.setattr(module.torch.distributed, "get_rank", lambda: 1)
    with progress("Judging", patience=0):
        time.sleep(0.2)
    assert terminal.getvalue() == ""
    monkeypatch.setattr(module.torch.distributed, "get_rank", lambda: 0)
    with progress("Judging", patience=0):
        time.sleep(0.2)
    assert "Judging" in terminal.getvalue()


def test_work_that_fails_leaves_no_bar(terminal: io.StringIO) -> None:
    with pytest.raises(ZeroDivisionError), progress("Judging", patience=0) as bar:
        raise ZeroDivisionError
    before = terminal.getvalue()
    bar.advance()  # nobody is harmed by a word that comes too late
    time.sleep(0.2)
    assert terminal.getvalue() == before


@pytest.mark.parametrize(
    ("items", "shares", "length"), [(range(5), 1, 5), (range(5), 2, 3), (iter(range(5)), 1, None), ([], 3, 0)]
)
def test_lengths(items: object, shares: int, length: int | None) -> None:
    assert length_of(items, shares) == length  # type: ignore[arg-type]
