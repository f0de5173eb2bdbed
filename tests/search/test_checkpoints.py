"""Checkpoints are read as plain data by every road: what would run code does not, what is damaged is one line."""

from __future__ import annotations

import os
import pickle
import threading
from collections.abc import Callable, Iterator
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest
import torch

from lightning_circuits import EAP, EdgePruning
from lightning_circuits.commands.main import main
from lightning_circuits.datamodules import IOIDataModule
from lightning_circuits.namespace import pl

MODEL = "tiny-ioi"


class MakesAFolder:
    """Whoever unpickles it has a folder more."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def __reduce__(self) -> tuple[Any, ...]:
        return os.mkdir, (str(self.folder),)


@pytest.fixture
def served(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    """The address at which the files of `tmp_path` are to be had."""
    monkeypatch.setenv("TORCH_HOME", str(tmp_path / "downloads"))

    class Quiet(SimpleHTTPRequestHandler):
        def log_message(self, *_: Any) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), partial(Quiet, directory=str(tmp_path)))
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield f"http://127.0.0.1:{server.server_address[1]}"
    server.shutdown()


def trainer(**options: Any) -> pl.Trainer:
    quiet = {"logger": False, "enable_progress_bar": False, "enable_model_summary": False, "accelerator": "cpu"}
    return pl.Trainer(**quiet | {"enable_checkpointing": False} | options)


def data() -> IOIDataModule:
    return IOIDataModule(MODEL, n_train=8, n_val=4, n_test=4, batch_size=4)


def fit(path: str) -> None:
    trainer(max_steps=2).fit(EdgePruning(MODEL), data(), ckpt_path=path)


def test(path: str) -> None:
    trainer().test(EAP(MODEL), data(), ckpt_path=path)


def load(path: str) -> None:
    EdgePruning.load_from_checkpoint(path, model=MODEL)


ROADS = [fit, test, load]
test.__test__ = False  # type: ignore[attr-defined]  # a road, no test


@pytest.mark.parametrize("road", ROADS)
@pytest.mark.parametrize("remote", [False, True])
def test_nothing_in_a_checkpoint_is_run(road: Callable[[str], None], remote: bool, tmp_path: Path, served: str) -> None:
    trap = tmp_path / "made"
    torch.save(
        {"state_dict": {}, "pytorch-lightning_version": "2.6.0", "trap": MakesAFolder(trap)}, tmp_path / "trap.ckpt"
    )
    where = f"{served}/trap.ckpt" if remote else str(tmp_path / "trap.ckpt")
    with pytest.raises(ValueError, match=r"trap\.ckpt cannot be read .*more than tensors, numbers and texts") as said:
        road(where)
    assert not trap.exists()
    assert "weights_only" not in str(said.value)


def test_the_command_line_runs_nothing_either(
    tmp_path: Path, served: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    torch.save(
        {"state_dict": {}, "pytorch-lightning_version": "2.6.0", "trap": MakesAFolder(tmp_path / "made")},
        tmp_path / "trap.ckpt",
    )
    with pytest.raises(SystemExit) as end:
        main(["fit", "--config", "quickstart.yaml", "--trainer.accelerator=cpu", f"--ckpt_path={served}/trap.ckpt"])
    assert end.value.code == 2 and not (tmp_path / "made").exists()
    [line] = [line for line in capsys.readouterr().err.splitlines() if line.startswith("error:")]
    assert "more than tensors, numbers and texts" in line and "weights_only" not in line


def write_cut(path: Path) -> None:
    torch.save({"state_dict": {"gate.logits": torch.zeros(4096)}}, path)
    path.write_bytes(path.read_bytes()[:2000])


def write_with_a_byte_flipped(path: Path) -> None:
    torch.save({"state_dict": {"gate.logits": torch.zeros(4096)}, "pytorch-lightning_version": "2.6.0"}, path)
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 16
    path.write_bytes(content)


DAMAGED: dict[str, Callable[[Path], Any]] = {
    "empty": lambda path: path.write_bytes(b""),
    "text": lambda path: path.write_text("a checkpoint, more or less\n" * 9),
    "cut": write_cut,
    "a byte flipped": write_with_a_byte_flipped,
    "a list": lambda path: torch.save([1, 2], path),
    "a circuit": lambda path: torch.save({"cfg": {}, "edges_in_graph": torch.zeros(3)}, path),
    "a graph": lambda path: path.write_text('{"cfg": {}, "nodes": {}, "edges": {}}'),
    "of no version": lambda path: torch.save({"state_dict": {}}, path),
    "a bare pickle": lambda path: path.write_bytes(pickle.dumps({"state_dict": {}, "x": object})),
}


@pytest.mark.parametrize("road", ROADS)
@pytest.mark.parametrize("kind", DAMAGED)
def test_what_is_no_checkpoint_is_said_in_one_line(kind: str, road: Callable[[str], None], tmp_path: Path) -> None:
    path = tmp_path / "odd.ckpt"
    DAMAGED[kind](path)
    with pytest.raises(ValueError, match=r"odd\.ckpt cannot be read as a checkpoint: \S") as said:
        road(str(path))
    assert len(str(said.value).splitlines()) == 1


SMALL = [
    "--config=quickstart.yaml",
    "--trainer.accelerator=cpu",
    "--quiet",
    "--data.n_train=8",
    "--trainer.logger=false",
]


@pytest.mark.parametrize("command", ["fit", "validate", "test", "evaluate"])
@pytest.mark.parametrize("kind", [*DAMAGED, "a folder", "nothing", "an address of nothing", "foreign"])
def test_the_command_line_says_in_one_line_what_is_no_checkpoint(
    kind: str, command: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    path = tmp_path / "odd.ckpt"
    if kind == "a folder":
        path.mkdir()
    elif kind == "foreign":
        content = {"state_dict": {}, "pytorch-lightning_version": "2.6.0", "hyper_parameters": {"lr": 0.7}}
        torch.save(content, path)
    elif kind in DAMAGED:
        DAMAGED[kind](path)
    where = "http://127.0.0.1:9/odd.ckpt" if kind == "an address of nothing" else str(path)
    with pytest.raises(SystemExit) as end:
        main([command, *SMALL, f"--ckpt_path={where}"])
    [line] = capsys.readouterr().err.splitlines()
    assert end.value.code == 2 and line.startswith("error: ") and "odd.ckpt" in line and "weights_only" not in line


@pytest.mark.parametrize("road", ROADS)
def test_a_checkpoint_that_is_not_there_is_said(road: Callable[[str], None], tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match=r"none\.ckpt"):
        road(str(tmp_path / "none.ckpt"))


def test_a_checkpoint_of_ours_comes_by_an_address_too(tmp_path: Path, served: str) -> None:
    whole, half = EdgePruning(MODEL), EdgePruning(MODEL)
    trainer(max_steps=2).fit(whole, data())
    first = trainer(max_steps=1)
    first.fit(half, data())
    first.save_checkpoint(tmp_path / "half.ckpt")
    loaded = EdgePruning.load_from_checkpoint(f"{served}/half.ckpt", model=MODEL)
    assert torch.equal(loaded.edge_scores(), half.edge_scores())
