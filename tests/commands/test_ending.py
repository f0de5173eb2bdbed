"""A command that is told to end, at any time: its exit code says so, and what it had saved is whole."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from lightning_circuits.commands import ending
from lightning_circuits.commands.main import main
from lightning_circuits.commands.stopped import where_it_stopped
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

    def __init__(
        self, hook: str = "none", signal_name: str = "SIGTERM", step: int = 0, rank: int = 0, how: str = ""
    ) -> None:
        self.signal, self.step, self.rank, self.how = getattr(signal, signal_name), step, rank, how
        setattr(self, hook, self.tell)

    def tell(self, trainer: pl.Trainer, *_: Any, **__: Any) -> None:
        if trainer.global_step >= self.step and trainer.global_rank == self.rank:
            # As a terminal does it, Ctrl-C goes to all processes that were started together.
            group = self.signal == signal.SIGINT and trainer.world_size > 1 and self.how != "alone"
            for _ in range(2 if self.how == "twice" else 1):
                (os.killpg if group else os.kill)(os.getpgrp() if group else os.getpid(), self.signal)
                time.sleep(0)  # signals are heard between two instructions


@pytest.fixture(autouse=True)
def heard() -> Iterator[None]:
    """Where tests run in the background of a shell, Ctrl-C is ignored."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


@pytest.fixture(autouse=True)
def elsewhere(elsewhere: Path) -> Path:
    (elsewhere / "callbacks.yaml").write_text(CALLBACKS)
    return elsewhere


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


def test_a_command_in_a_thread_hears_no_signals_and_ends_as_ever() -> None:
    with ThreadPoolExecutor(1) as threads, pytest.raises(SystemExit) as exit:
        threads.submit(main, ["compare", "no-such-folder"]).result()
    assert exit.value.code == 2


@pytest.mark.parametrize(("told", "code"), [({143}, 143), ({130}, 130), ({130, 143}, 143)])
def test_after_the_last_step_all_end_that_any_was_told_to(told: set[int], code: int) -> None:
    """One by itself would leave the others waiting for it, where circuits are judged for the last time."""
    order, strategy = ending.Ending(), SimpleNamespace()
    asked = iter([bool(told), 143 in told])
    strategy.reduce_boolean_decision = lambda mine, all: next(asked)
    with pytest.raises(SystemExit) as exit:
        order.on_train_end(SimpleNamespace(strategy=strategy), None)  # type: ignore[arg-type]
    assert exit.value.code == code


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "hook", "rank", "code"),
    [
        ("SIGTERM", "on_train_batch_start", 1, 143),
        ("SIGTERM", "on_train_end", 0, 143),
        ("SIGINT", "on_train_batch_start", 0, 130),
        ("SIGINT alone", "on_train_batch_start", 1, 130),
        ("SIGINT twice", "on_train_batch_start", 0, 130),
    ],
)
def test_all_processes_of_a_run_end(name: str, hook: str, rank: int, code: int, elsewhere: Path) -> None:
    name, _, how = name.partition(" ")
    words = [*OPTIONS, "--config=callbacks.yaml", "--config=with/ddp.yaml", "--trainer.accelerator=cpu"]
    words += ["--trainer.devices=2", f"--trainer.callbacks.hook={hook}", f"--trainer.callbacks.signal_name={name}"]
    words += [f"--trainer.callbacks.rank={rank}", f"--trainer.callbacks.how={how}"]
    command = [sys.executable, "-m", "lightning_circuits.commands.main", "fit", *words]
    root = str(Path(__file__).parents[2])
    run = processes.program(elsewhere / "log.txt", command, elsewhere, PYTHONPATH=root, OMP_NUM_THREADS="1")
    status = run.wait(200)
    left = run.left()
    run.kill()
    said = run.log.read_text()
    assert not left, said[-3000:]
    assert status == code, said[-3000:]
    if hook == "on_train_batch_start":  # the step under way is taken by all, but where somebody is impatient
        assert (elsewhere / "saved/on_exception.ckpt").exists()
        assert f"Stopped at step {0 if how == 'twice' else 1} of 6." in said


def test_a_training_that_is_told_to_end_says_how_to_go_on(capsys: pytest.CaptureFixture[str]) -> None:
    export = [
        "--trainer.callbacks+=CircuitExport",
        "--trainer.callbacks.dirpath=found",
        "--trainer.callbacks.sizes=[0.1]",
    ]
    watch = ["--trainer.callbacks+=FaithfulnessValidation", "--trainer.callbacks.every_n_steps=2"]
    watch += ["--trainer.callbacks.sizes=[0.1]"]
    config = (
        Path("callbacks.yaml")
        .read_text()
        .replace("    - class_path: OnExceptionCheckpoint\n      init_args: {dirpath: saved}\n", "")
    )
    Path("callbacks.yaml").write_text(config)
    told_to = ["--trainer.callbacks.step=3"]
    assert told("fit", "on_train_batch_start", "SIGINT", *told_to, *watch, *export) == 130
    lines = capsys.readouterr().err.splitlines()
    begun = lines.index("Stopped at step 3 of 6.")
    assert lines[begun + 1].startswith("Circuits of step 2: found/circuit-last-10pct.json and ")
    assert lines[begun + 2] == "To go on from step 2:"
    words = lines[begun + 3].split()
    assert words[:2] == ["lightning-circuits", "fit"] and words[-2:] == [
        "--ckpt_path",
        str(Path("saved/last.ckpt").resolve()),
    ]
    assert words.count("--ckpt_path") == 1


def test_a_damaged_checkpoint_does_not_hide_what_ended_a_training(tmp_path: Path) -> None:
    damaged = tmp_path / "last.ckpt"
    damaged.write_bytes(b"no checkpoint")
    keeper = SimpleNamespace(last_model_path=str(damaged))
    trainer: Any = SimpleNamespace(
        estimated_stepping_batches=float("inf"), global_step=7, callbacks=[], checkpoint_callbacks=[keeper]
    )
    said = where_it_stopped(trainer, ["fit", "--ckpt_path", "old.ckpt", "--config=a b.yaml", "--ckpt_path=older.ckpt"])
    command = f"  lightning-circuits fit '--config=a b.yaml' --ckpt_path {damaged}"
    assert said.splitlines() == ["Stopped at step 7.", "To go on:", command]


def test_a_training_without_a_checkpoint_says_that_it_would_begin_anew(capsys: pytest.CaptureFixture[str]) -> None:
    config = Path("callbacks.yaml").read_text()
    kept = "\n".join(
        [*config.split("    - class_path: ModelCheckpoint")[0].splitlines(), f"    - class_path: {__name__}.Tell"]
    )
    Path("callbacks.yaml").write_text(kept + "\n")
    assert told("fit", "on_train_batch_end", "SIGINT", "--trainer.enable_checkpointing=false") == 130
    said = capsys.readouterr().err
    assert "Stopped at step 1 of 6." in said and "No checkpoint was written" in said and "Circuits of" not in said
