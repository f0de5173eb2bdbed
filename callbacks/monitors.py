"""Numbers of ours that others watch: `EarlyStopping`, `ModelCheckpoint`, `ReduceLROnPlateau`.

Lightning ends a run in which the number that such a one watches is not there when it looks, which is at the end of the
first epoch. So a misspelt key is refused before training, and what has not been measured by then is measured.

A callback whose numbers can be watched says which they are, by ``logged_keys(search)``.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from difflib import get_close_matches
from itertools import groupby

import torch

from lightning_circuits.namespace import pl

KNOWN = {"lightning_circuits", "lightning", "pytorch_lightning"}
"""Packages of which it is known what their callbacks and modules log."""


def monitored(trainer: pl.Trainer) -> set[str]:
    """The keys that callbacks and schedulers of the learning rate watch."""
    callbacks = trainer.callbacks  # type: ignore[attr-defined]  # Lightning sets it elsewhere
    kinds = pl.callbacks.EarlyStopping, pl.callbacks.ModelCheckpoint
    plateaus = (config.monitor for config in trainer.lr_scheduler_configs if config.reduce_on_plateau)
    return {key for key in (*(one.monitor for one in callbacks if isinstance(one, kinds)), *plateaus) if key}


def monitored_each_step(trainer: pl.Trainer) -> set[str]:
    """Those that are looked at after the first step already."""
    configs = trainer.lr_scheduler_configs
    return {c.monitor for c in configs if c.reduce_on_plateau and c.interval == "step" and c.monitor}


def let_monitor(trainer: pl.Trainer, numbers: Mapping[str, float]) -> None:
    """Have numbers stand where those who watch them look."""
    trainer.callback_metrics.update({key: torch.tensor(value) for key, value in numbers.items()})


def refuse_unknown(trainer: pl.Trainer, module: pl.LightningModule) -> None:
    """See before training that what is watched will be there.

    Raises:
        ValueError: a key that nobody logs.
    """
    callbacks = trainer.callbacks  # type: ignore[attr-defined]
    there_will_be = [key for one in callbacks if hasattr(one, "logged_keys") for key in one.logged_keys(module)]
    all_known = all(type(one).__module__.partition(".")[0] in KNOWN for one in (module, *callbacks))
    for key in sorted(monitored(trainer) - set(there_will_be)):
        ours = key.startswith(("probe/", "val/curve/")) or (key.startswith("val/") and key.count("/") == 3)
        if ours or (all_known and not key.startswith(("train/", "lr-")) and key not in ("epoch", "step")):
            raise ValueError(f"monitor={key!r}: nothing logs that while this run trains. {_advice(key, there_will_be)}")


def _advice(key: str, there_will_be: Sequence[str]) -> str:
    if not there_will_be:
        return "FaithfulnessValidation among the callbacks (of weights, WeightValidation) logs such numbers"
    depths = groupby(sorted((name.split("/") for name in there_will_be), key=len), key=len)
    shapes = ["/".join(map(_either, zip(*names, strict=True))) for _, names in depths]
    [near] = get_close_matches(key, there_will_be, n=1, cutoff=0.0)
    return f"Did you mean {near!r}? There will be {' and '.join(shapes)}"


def _either(parts: Sequence[str]) -> str:
    several = list(dict.fromkeys(parts))
    return several[0] if len(several) == 1 else "{" + ", ".join(several) + "}"
