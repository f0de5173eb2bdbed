"""Never half a file, whatever stops the writing."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from lightning_circuits.circuit import Circuit
from tests.support.made_circuits import ALL, PER_HEAD, circuit


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


def test_what_a_killed_process_leaves_lying_does_no_harm(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = circuit(PER_HEAD, seed=1).save(tmp_path / "c.pt")

    def kill(*args: object) -> None:
        raise SystemExit(9)

    with monkeypatch.context() as patch:
        patch.setattr(os, "fsync", kill)
        patch.setattr(Path, "unlink", lambda *args, **options: None)  # the killed clean nothing up
        with pytest.raises(SystemExit):
            circuit(PER_HEAD, seed=2).save(path)
    assert len(list(tmp_path.iterdir())) == 2
    assert Circuit.load(path) == circuit(PER_HEAD, seed=1)
    circuit(PER_HEAD, seed=3).save(path)
    assert Circuit.load(path) == circuit(PER_HEAD, seed=3)
