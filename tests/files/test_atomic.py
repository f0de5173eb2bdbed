"""Never half a file, whatever stops the writing."""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

from lightning_circuits.callbacks import CircuitExport
from lightning_circuits.callbacks.disk import writable_folder
from lightning_circuits.circuit import Circuit
from lightning_circuits.files.atomic import clear_leftovers, staging, write_atomically
from lightning_circuits.namespace import pl
from tests.support.made_circuits import ALL, PER_HEAD, circuit
from tests.support.processes import Started, call


@pytest.mark.parametrize("suffix", ALL)
@pytest.mark.parametrize("call", ["fsync", "replace"])
def test_stopped_while_writing_leaves_the_old_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, suffix: str, call: str
) -> None:
    path = circuit(PER_HEAD, seed=1).save(tmp_path / f"c{suffix}")
    before = path.read_bytes()

    def fail(*args: object) -> None:
        raise OSError("no space left on device")

    monkeypatch.setattr(os, call, fail)
    with pytest.raises(OSError, match="no space"):
        circuit(PER_HEAD, seed=2).save(path)
    assert path.read_bytes() == before
    assert list(tmp_path.iterdir()) == [path]  # and nothing beside it


def test_the_file_is_on_the_disk_before_it_takes_its_place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    done: list[str] = []

    def record(name: str, original: Callable[..., Any]) -> Callable[..., Any]:
        return lambda *args: (done.append(name), original(*args))[1]

    for name in ("fsync", "replace"):
        monkeypatch.setattr(os, name, record(name, getattr(os, name)))
    path = circuit(PER_HEAD).save(tmp_path / "c.json")
    assert done == ["fsync", "replace"]
    (tmp_path / "plain").touch()
    assert path.stat().st_mode == (tmp_path / "plain").stat().st_mode  # others may read it as they may any file


def write_for_ever(path: Path) -> None:
    os.fsync = lambda file: time.sleep(600)  # type: ignore[assignment]
    circuit(PER_HEAD, seed=2).save(path)


@pytest.fixture
def writing(tmp_path: Path) -> Iterator[Started]:
    """A process that is writing into the folder, and does not come to an end."""
    started = call(tmp_path.with_name("log"), write_for_ever, tmp_path / "c.pt")
    while not list(tmp_path.glob(".writing-*.tmp/c.pt")):
        time.sleep(0.02)
    yield started
    started.kill()


def test_what_a_killed_process_leaves_does_no_harm_and_is_cleared_away(tmp_path: Path, writing: Started) -> None:
    path = circuit(PER_HEAD, seed=1).save(tmp_path / "c.pt")
    clear_leftovers(tmp_path)
    assert len(list(tmp_path.iterdir())) == 2  # the other is still at it
    writing.kill()
    writing.wait(60)
    assert Circuit.load(path) == circuit(PER_HEAD, seed=1)
    clear_leftovers(tmp_path)
    assert list(tmp_path.iterdir()) == [path]


def test_a_run_clears_its_folder_when_it_begins(tmp_path: Path, writing: Started) -> None:
    """`resume` begins like any other."""
    trainer = pl.Trainer(default_root_dir=tmp_path, logger=False)
    for left in (1, 0):
        assert writable_folder(trainer, None, "circuits", CircuitExport()) == tmp_path
        assert len(list(tmp_path.iterdir())) == left
        writing.kill()
        writing.wait(60)


def test_what_is_no_leftover_stays(tmp_path: Path) -> None:
    (tmp_path / ".writing-mine.tmp").mkdir()
    (tmp_path / ".writing-notes.tmp").touch()
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    (elsewhere / "lock").touch()
    (tmp_path / ".writing-link.tmp").symlink_to(elsewhere)
    clear_leftovers(tmp_path)
    assert len(list(tmp_path.iterdir())) == 4 and list(elsewhere.iterdir()) == [elsewhere / "lock"]


def test_writers_and_clearers_do_not_meet(tmp_path: Path) -> None:
    """Two runs in one folder: nothing that is being written is cleared away."""
    with ThreadPoolExecutor() as pool:
        clearing = pool.submit(lambda: [clear_leftovers(tmp_path) for _ in range(400)])
        for i in range(100):
            write_atomically(tmp_path / f"{i}", b"x")
        clearing.result()
    assert sorted(path.name for path in tmp_path.iterdir()) == sorted(map(str, range(100)))


def test_a_file_system_without_locks(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*args: object) -> None:
        raise OSError("not supported")

    monkeypatch.setattr("fcntl.flock", refuse)
    with staging(tmp_path):
        clear_leftovers(tmp_path)
        write_atomically(tmp_path / "c", b"x")
        assert len(list(tmp_path.iterdir())) == 2
    assert [path.name for path in tmp_path.iterdir()] == ["c"]
