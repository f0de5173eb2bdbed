"""How a command ends that is told to end, so that a shell or a scheduler can tell: 130 for Ctrl-C, 143 for SIGTERM.

Lightning ends both in its own way: Ctrl-C with code 1, SIGTERM (after the step that is under way) with code 0, which
reads as success. SIGUSR1, by which SLURM has a job put into the queue again, stays Lightning's.
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from functools import partial
from types import FrameType
from typing import Any

from lightning_circuits.callbacks.disk import writable_folder
from lightning_circuits.callbacks.monitors import refuse_unknown
from lightning_circuits.commands.stopped import where_it_stopped
from lightning_circuits.namespace import pl

INTERRUPTED = 128 + signal.SIGINT
TERMINATED = 128 + signal.SIGTERM
PATIENCE = 5.0
"""Seconds that other processes of a run get to end by themselves, when the first one has."""


class Ending(pl.Callback):
    """The first among the callbacks of a run: knows how far it has come, and what it has been told.

    On SIGTERM a training step that is under way is completed first, as Lightning's callbacks that save a checkpoint of
    an exception expect. Of several processes all end after the same step, whichever was told, and so they do on
    Ctrl-C: one that went away in the middle would leave the others waiting for it, and wait for them as it saves a
    checkpoint. A second Ctrl-C ends them at once. Whatever else is under way ends at once: files are written whole or
    not at all.

    Args:
        words: of the command, without its own name.

    Attributes:
        begun: whether anything has been trained or judged.
        told: the exit code for what this process has been told: `INTERRUPTED`, `TERMINATED`, or 0.
        agreed: the highest of all processes', as all of them know after the same step.
    """

    def __init__(self, words: Sequence[str] = ()) -> None:
        self.words = words
        self.begun = False
        self.told = self.agreed = 0
        self._stepping = self._impatient = False
        self.trainer: pl.Trainer | None = None  # once there is one

    def _begin(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        self.begun = True
        self._listen()  # Lightning has put its own handler before ours

    on_sanity_check_start = on_validation_start = on_test_start = _begin

    def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        refuse_unknown(trainer, pl_module)
        for keeper in trainer.checkpoint_callbacks:
            if (folder := getattr(keeper, "dirpath", None)) and "://" not in str(folder):
                writable_folder(trainer, folder, "checkpoints", keeper)
        self._begin(trainer, pl_module)
        trainer.strategy.barrier()  # from here on all of them wait for the end of a step
        self._stepping = True

    def on_train_batch_end(self, trainer: pl.Trainer, *_: Any) -> None:
        # From a checkpoint of the end of an epoch (no callback's, but of how Lightning then ends) it would go on with
        # the epoch after the next. So one more step is taken, unless every step ends an epoch.
        if not trainer.is_last_batch or trainer.num_training_batches == 1:
            self._agree(trainer)

    def on_train_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        self._agree(trainer)
        self._stepping = False
        if self.agreed:
            raise SystemExit(self.agreed)

    def _agree(self, trainer: pl.Trainer) -> None:
        """Have all processes, which call this together, know what any of them has been told."""
        any_is = partial(trainer.strategy.reduce_boolean_decision, all=False)
        if any_is(self.told != 0):
            self.agreed = TERMINATED if any_is(self.told == TERMINATED) else INTERRUPTED

    def on_exception(self, trainer: pl.Trainer, pl_module: pl.LightningModule, exception: BaseException) -> None:
        self._stepping = False
        self._hear(exception)
        if self._impatient:
            self._end_others()  # before a callback waits for them

    # ---- around a command --------------------------------------------------------------------------------------

    @contextmanager
    def heeded(self) -> Iterator[None]:
        """While open, signals are heeded; what comes out ends with their exit code, and no process is left behind."""
        before = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}
        self._listen()
        if _in_main_thread() and before[signal.SIGINT] is signal.default_int_handler:  # not ignored, or another's
            signal.signal(signal.SIGINT, self._on_sigint)
        try:
            yield
            if self.told:
                raise SystemExit(self.told)
        except BaseException as error:
            self._hear(error)
            self._end_others()
            if code := max(self.told, self.agreed):  # whatever came of it
                self._say_where_it_stopped()
                raise SystemExit(code) from None
            raise
        finally:
            if _in_main_thread():
                for number, handler in before.items():
                    signal.signal(number, handler)

    def _say_where_it_stopped(self) -> None:
        trainer = self.trainer
        if self.begun and trainer is not None and trainer.is_global_zero and trainer.state.fn == "fit":
            sys.stderr.write(f"\n{where_it_stopped(trainer, self.words)}\n")

    def _listen(self) -> None:
        if _in_main_thread():
            signal.signal(signal.SIGTERM, self._on_sigterm)

    def _on_sigterm(self, signum: int, frame: FrameType | None) -> None:
        self.told = TERMINATED
        if not self._stepping:
            raise SystemExit(TERMINATED)

    def _on_sigint(self, signum: int, frame: FrameType | None) -> None:
        self._impatient = self.told == INTERRUPTED
        self.told = max(self.told, INTERRUPTED)
        several = self._stepping and self.trainer is not None and self.trainer.world_size > 1
        if self._impatient or not several:
            raise KeyboardInterrupt
        if self.trainer is not None and self.trainer.is_global_zero:
            # Not by sys.stderr, which may be in the middle of a line.
            os.write(2, b"\nEnding after this step, as all processes will. Ctrl-C again: at once.\n")

    def _hear(self, error: BaseException) -> None:
        """Ctrl-C that came another way than by our handler."""
        if isinstance(error, KeyboardInterrupt):
            self.told = max(self.told, INTERRUPTED)

    def _end_others(self) -> None:
        """End the processes that Lightning has started, which would wait for this one."""
        launcher: Any = None if self.trainer is None else self.trainer.strategy.launcher
        started = [one for one in getattr(launcher, "procs", ()) if isinstance(one, subprocess.Popen)]
        if not started:
            return
        launcher.procs.clear()  # Lightning's observer would kill this process for the end of another
        for process in started:
            if self.told == TERMINATED:
                process.terminate()
        for process in started:
            with suppress(subprocess.TimeoutExpired):
                process.wait(0 if self._impatient else PATIENCE)
            process.kill()
            process.wait()  # what is killed lives on for a while, and would outlive this one


def _in_main_thread() -> bool:
    """Whether signals can be listened to at all."""
    return threading.current_thread() is threading.main_thread()
