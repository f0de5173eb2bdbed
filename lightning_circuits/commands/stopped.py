"""What a training that was told to end leaves behind: how far it had come, what is in its files, how to go on.

Stopped at step 57 of 300.
Circuits of step 50: runs/ioi/circuit-last-1pct.json and 2 more
To go on from step 50:
  lightning-circuits fit --config ioi_gpt2.yaml --ckpt_path runs/ioi/checkpoints/last.ckpt
"""

from __future__ import annotations

import shlex
from collections.abc import Sequence
from pathlib import Path

from lightning_circuits.callbacks import CircuitExport
from lightning_circuits.namespace import pl
from lightning_circuits.printable import printable
from lightning_circuits.search.checkpoints import read_checkpoint


def where_it_stopped(trainer: pl.Trainer, words: Sequence[str]) -> str:
    """In words, a few lines.

    Args:
        trainer: of a training that has begun, and ended before it was done.
        words: of the command, without its own name.
    """
    planned = trainer.estimated_stepping_batches
    lines = [f"Stopped at step {trainer.global_step}{f' of {planned}' if planned != float('inf') else ''}."]
    for export in (each for each in trainer.callbacks if isinstance(each, CircuitExport)):  # type: ignore[attr-defined]
        if export.step is not None and export.paths:
            more = f" and {len(export.paths) - 1} more" if len(export.paths) > 1 else ""
            lines.append(f"Circuits of step {export.step}: {printable(export.paths[0])}{more}")
    if (newest := _newest_checkpoint(trainer)) is None:
        lines.append(
            "No checkpoint was written, so it would begin anew. With a ModelCheckpoint among the callbacks it could go "
            "on: --trainer.callbacks+=ModelCheckpoint --trainer.callbacks.every_n_train_steps=50"
        )
    else:
        command = shlex.join(["lightning-circuits", *_without_checkpoint(words), "--ckpt_path", str(newest)])
        lines += [f"To go on{_from_step(newest)}:", f"  {command}"]
    return "\n".join(lines)


def _newest_checkpoint(trainer: pl.Trainer) -> Path | None:
    kept = [getattr(keeper, "last_model_path", "") for keeper in trainer.checkpoint_callbacks]
    kept += [getattr(keeper, "best_model_path", "") for keeper in trainer.checkpoint_callbacks]
    kept += [getattr(callback, "ckpt_path", "") for callback in trainer.callbacks]  # type: ignore[attr-defined]
    there = [Path(path) for path in kept if path and Path(path).is_file()]
    return max(there, key=lambda path: path.stat().st_mtime_ns, default=None)


def _from_step(checkpoint: Path) -> str:
    try:
        return f" from step {read_checkpoint(checkpoint)['global_step']}"
    except ValueError:  # damaged, as whoever goes on from it will be told
        return ""


def _without_checkpoint(words: Sequence[str]) -> list[str]:
    """The words of a command without the checkpoint that it began from."""
    left: list[str] = []
    for before, word in zip(["", *words], words, strict=False):
        if "--ckpt_path" not in (before, word) and not word.startswith("--ckpt_path="):
            left.append(word)
    return left
