"""A command that is told to end, at any time: its exit code says so, and what it had saved is whole."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from lightning_circuits.commands import ending
from lightning_circuits.commands.main import main
from lightning_circuits.namespace import pl
from tests.support import processes

OPTIONS = (
    "--config=quickstart.yaml --trainer.accelerator=cpu --trainer.max_steps=6 --trainer.enable_progress_bar=false "
    "--data.n_train=32 --data.n_val=8 --data.n_test=8 --data.batch_size=8"
).split()
CALLBACKS = f"""
trainer:
  logger: false
  callbacks:
    - class_path: ModelCheckpoint
      init_args: {{dirpath: saved, save_last: true, every_n_train_steps: 2}}
    - class_path: OnExceptionCheckpoint
      init_args: {{dirpath: saved}}
    - class_path: {__name__}.Tell
"""


class Tell(pl.Callback):
    """Sends this process a signal in some hook, from some step on."""

    def __init__(self, hook: str = "none", signal_name: str = "SIGTERM", step: int = 0, rank: int = 0) -> None:
        self.signal, self.step, self.rank = getattr(signal, signal_name), step, rank
        setattr(self, hook, self.tell)

    def tell(self, trainer: pl.Trainer, *_: Any, **__: Any) -> None:
        if trainer.global_step >= self.step and trainer.global_rank == self.rank:
            # As a terminal does it, Ctrl-C goes to all processes that were started together.
            kill = os.killpg if self.signal == signal.SIGINT and trainer.world_size > 1 else os.kill
            kill(os.getpid() if kill is os.kill else os.getpgrp(), self.signal)


@pytest.fixture(autouse=True)
def heard() -> Iterator[None]:
    """Where tests run in the background of a shell, Ctrl-C is ignored."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


@pytest.fixture(autouse=True)
def elsewhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Runs write into a folder of their own."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("sys.argv", ["lightning-circuits"])
    (tmp_path / "callbacks.yaml").write_text(CALLBACKS)
    return tmp_path


def told(command: str, hook: str, name: str = "SIGTERM", *options: str) -> int:
    """The exit code of a command that is told to end in a hook."""
    told = [f"--trainer.callbacks.hook={hook}", f"--trainer.callbacks.signal_name={name}"]
    with pytest.raises(SystemExit) as exit:
        main([command, *OPTIONS, "--config=callbacks.yaml", *told, *options])
    return exit.value.code


@pytest.mark.parametrize(("name", "code"), [("SIGTERM", 143), ("SIGINT", 130)])
@pytest.mark.parametrize(
    ("command", "hook"),
    [
        ("fit", "setup"),
        ("fit", "on_train_start"),
        ("fit", "on_train_batch_end"),
        ("fit", "on_train_epoch_end"),
        ("fit", "on_validation_batch_end"),
        ("fit", "on_train_end"),
        ("fit", "on_fit_end"),
        ("fit", "teardown"),
        ("validate", "on_validation_batch_start"),
        ("test", "on_test_end"),
        ("evaluate", "on_test_batch_end"),
    ],
)
def test_the_exit_code_says_what_ended_it(command: str, hook: str, name: str, code: int) -> None:
    before = [signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGINT)]
    assert told(command, hook, name) == code
    assert [signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGINT)] == before


@pytest.mark.parametrize(("name", "code"), [("SIGTERM", 143), ("SIGINT", 130)])
@pytest.mark.parametrize("command", ["compare", "view"])
def test_commands_on_files_end_alike(name: str, code: int, command: str, monkeypatch: pytest.MonkeyPatch) -> None:
    def wait(_: list[str]) -> None:
        os.kill(os.getpid(), getattr(signal, name))

    monkeypatch.setattr(f"lightning_circuits.commands.{command}.main", wait)
    with pytest.raises(SystemExit) as exit:
        main([command])
    assert exit.value.code == code


@pytest.mark.parametrize(("step", "saved"), [(2, 3), (3, 5)])  # an epoch has four steps, and never ends a run
def test_a_run_that_was_told_to_end_goes_on_to_the_same_gates(step: int, saved: int) -> None:
    """The step under way is completed before the checkpoint is saved."""
    assert told("fit", "on_before_zero_grad", "SIGTERM", f"--trainer.callbacks.step={step}") == 143
    assert torch.load("saved/on_exception.ckpt")["global_step"] == saved
    os.rename("saved", "first")
    main(["fit", *OPTIONS, "--config=callbacks.yaml", "--ckpt_path=first/on_exception.ckpt"])
    os.rename("saved", "resumed")
    main(["fit", *OPTIONS, "--config=callbacks.yaml"])
    resumed, whole = (torch.load(f"{folder}/last.ckpt") for folder in ("resumed", "saved"))
    assert resumed["global_step"] == whole["global_step"] == 6
    for name, value in whole["state_dict"].items():
        assert torch.equal(resumed["state_dict"][name], value), name


def test_what_goes_wrong_after_sigterm_does_not_hide_it() -> None:
    order = ending.Ending()
    with pytest.raises(SystemExit) as exit, order.heeded():
        try:
            os.kill(os.getpid(), signal.SIGTERM)
        finally:
            raise RuntimeError("the other process is gone")
    assert exit.value.code == 143


def test_a_process_that_does_not_end_by_itself_is_gone_when_the_command_ends(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ending, "PATIENCE", 0.1)
    deaf = "import signal; signal.signal(signal.SIGTERM, signal.SIG_IGN); print(flush=True); signal.pause()"
    other = subprocess.Popen([sys.executable, "-c", deaf], stdout=subprocess.PIPE)
    assert other.stdout and other.stdout.readline()
    order = ending.Ending()
    order.trainer = SimpleNamespace(strategy=SimpleNamespace(launcher=SimpleNamespace(procs=[other])))  # type: ignore[assignment]
    with pytest.raises(SystemExit), order.heeded():
        os.kill(os.getpid(), signal.SIGTERM)
    assert other.returncode == -signal.SIGKILL  # known, for it has been waited for


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "hook", "rank", "code"),
    [
        ("SIGTERM", "on_train_batch_start", 0, 143),
        ("SIGTERM", "on_train_batch_start", 1, 143),
        ("SIGTERM", "on_train_end", 0, 143),
        ("SIGINT", "on_train_batch_start", 0, 130),
    ],
)
def test_all_processes_of_a_run_end(name: str, hook: str, rank: int, code: int, elsewhere: Path) -> None:
    words = [*OPTIONS, "--config=callbacks.yaml", "--config=with/ddp.yaml", "--trainer.accelerator=cpu"]
    words += ["--trainer.devices=2", f"--trainer.callbacks.hook={hook}", f"--trainer.callbacks.signal_name={name}"]
    words += [f"--trainer.callbacks.rank={rank}"]
    command = [sys.executable, "-m", "lightning_circuits.commands.main", "fit", *words]
    root = str(Path(__file__).parents[2])
    run = processes.program(elsewhere / "log.txt", command, elsewhere, PYTHONPATH=root, OMP_NUM_THREADS="1")
    status = run.wait(200)
    left = run.left()
    run.kill()
    assert not left
    assert status == code, run.log.read_text()[-3000:]
