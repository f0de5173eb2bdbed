"""What a run that is launched by fork brings back: it ends, however many numbers there are, with those that matter."""

from __future__ import annotations

import json
from pathlib import Path

from lightning_circuits import RandomScores
from lightning_circuits.callbacks import FaithfulnessValidation
from lightning_circuits.callbacks.launched import FIRST, ROOM
from lightning_circuits.datamodules import IOIDataModule
from lightning_circuits.namespace import pl
from tests.support import processes

WATCHED = "val/mean/30%-random/edges"


def fit(folder: Path, strategy: str, devices: int) -> None:
    data = IOIDataModule("tiny-ioi", n_train=8, n_val=8, n_test=4, batch_size=4)
    validation = FaithfulnessValidation(sizes=[0.1, 0.3, 0.5], ablations=["interchange", "mean"])
    keep = pl.callbacks.ModelCheckpoint(folder / strategy, monitor=WATCHED, save_last=True)
    trainer = pl.Trainer(
        max_epochs=1, accelerator="cpu", strategy=strategy, devices=devices, callbacks=[validation, keep],
        logger=False, enable_progress_bar=False, enable_model_summary=False, num_sanity_val_steps=0,
    )  # fmt: skip
    trainer.fit(RandomScores("tiny-ioi"), data)
    (folder / f"{strategy}.json").write_text(json.dumps({k: float(v) for k, v in trainer.callback_metrics.items()}))


def test_a_forked_run_with_hundreds_of_numbers_ends_and_brings_back_those_that_matter(tmp_path: Path) -> None:
    fit(tmp_path, "auto", 1)
    status, printed = processes.call(tmp_path / "log.txt", fit, tmp_path, "ddp_fork", 2).end()
    assert status == 0, printed[-3000:]
    alone, back = (json.loads((tmp_path / f"{name}.json").read_text()) for name in ("auto", "ddp_fork"))
    ours = {key for key in alone if key.startswith("val/")}
    assert len(ours) > 500  # several times what a pipe holds
    kept = ours & set(back)
    assert len(kept) == ROOM and WATCHED in kept
    assert {key for key in ours if key.endswith("/faithfulness")} <= kept
    assert {key.rpartition("/")[2] for key in kept} <= {*FIRST, "edges"}
    assert all(back[key] == alone[key] or back[key] != back[key] for key in kept)  # NaN is not itself
