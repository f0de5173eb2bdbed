"""Processes that a test starts: what they print is kept, a deadlock fails the test, and none of them is left behind."""

from __future__ import annotations

import contextlib
import multiprocessing
import os
import signal
import socket
import subprocess
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psutil
import pytest

# Importing takes longer than most of what is called: the server imports once, and forks a process for each call. It
# has no threads, which would not survive a fork.
_SERVER = multiprocessing.get_context("forkserver")
_SERVER.set_forkserver_preload(
    [
        "lightning_circuits.commands.main",
        "lightning_circuits.drawing.curves",
        "transformers.models.gpt2.modeling_gpt2",
        "transformers.models.llama.modeling_llama",
    ]
)


@dataclass
class Started:
    """A process that leads a group of its own, and the file that it prints to."""

    pid: int
    wait: Callable[[float], int | None]
    """Up to so many seconds; the exit status, None if it has not ended."""
    log: Path

    def end(self, seconds: float = 400) -> tuple[int, str]:
        """Wait for it; its exit status, and what it printed. Its children may outlive it only if all went well."""
        status = self.wait(seconds)
        if status != 0:
            self.kill()
        printed = self.log.read_text()
        if status is None:
            pytest.fail(f"no end after {seconds:.0f} s\n{printed[-3000:]}")
        return status, printed

    def left(self) -> list[psutil.Process]:
        """What still runs of its group. One that has ended and that nobody has asked about yet, a zombie, does not."""
        running = []
        for process in psutil.process_iter():
            with contextlib.suppress(psutil.NoSuchProcess, ProcessLookupError):
                if os.getpgid(process.pid) == self.pid and process.status() != psutil.STATUS_ZOMBIE:
                    running.append(process)
        return running

    def kill(self) -> None:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self.pid, signal.SIGKILL)


def call(log: Path, function: Callable[..., object], *arguments: Any, **options: Any) -> Started:
    """Call a function, which can be pickled, in a fresh process that has imported the package."""
    process = _SERVER.Process(target=_lead, args=(log, function, arguments, options), daemon=False)
    process.start()

    def wait(seconds: float) -> int | None:
        process.join(seconds)
        return process.exitcode

    return Started(process.pid, wait, log)


def together(folder: Path, world: int, function: Callable[..., object], *arguments: Any) -> None:
    """As `call`, in so many processes at once, each told which it is, as torchrun tells it; all have to succeed.

    A Trainer with ``strategy="ddp"`` and as many devices joins them, and starts none by itself.
    """
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    told = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port), "WORLD_SIZE": str(world), "NODE_RANK": "0"}
    started = [
        call(folder / f"log-{rank}.txt", _told, told | {"LOCAL_RANK": str(rank)}, function, *arguments)
        for rank in range(world)
    ]
    try:
        for one in started:
            status, printed = one.end()
            assert status == 0, printed[-3000:]
    finally:
        for one in started:
            one.kill()


def program(log: Path, command: Sequence[str | Path], folder: Path | None = None, **environment: str) -> Started:
    """Run a command, in a folder, with something added to the environment."""
    with log.open("w") as output:  # not a pipe: it would be waited on until the last process has closed it
        process = subprocess.Popen(
            command,
            cwd=folder,
            env={**os.environ, **environment},
            stdout=output,
            stderr=subprocess.STDOUT,
            start_new_session=True,
            # In the background of a shell Ctrl-C is ignored, and would be by what the tests start.
            preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
        )

    def wait(seconds: float) -> int | None:
        with contextlib.suppress(subprocess.TimeoutExpired):
            return process.wait(seconds)
        return None

    return Started(process.pid, wait, log)


def _lead(log: Path, function: Callable[..., object], arguments: Sequence[Any], options: dict[str, Any]) -> None:
    os.setsid()
    signal.signal(signal.SIGINT, signal.default_int_handler)  # ignored in the background of a shell
    output = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
    os.dup2(output, 1)
    os.dup2(output, 2)
    function(*arguments, **options)


def _told(environment: dict[str, str], function: Callable[..., object], *arguments: Any) -> None:
    os.environ |= environment
    function(*arguments)
