"""A training run is the same with and without a probe in it, to the bit."""

from __future__ import annotations

import contextlib
import random
import runpy
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch.utils.data import DataLoader

from lightning_circuits.callbacks import CircuitProbe
from lightning_circuits.callbacks.at_rest import at_rest
from lightning_circuits.datamodules import IOIDataModule
from lightning_circuits.namespace import pl
from tests.support import processes
from tests.support.training import QUIET, Mine, small, trainable

RUNS = """
import random, sys
import numpy as np
import torch
from torch import nn
from torch.utils.data import DataLoader
from lightning_circuits.namespace import pl
from lightning_circuits.callbacks import CircuitProbe
from lightning_circuits.datamodules import IOIDataModule
from transformers import GPT2Config, GPT2LMHeadModel

torch.set_num_threads(1)
assert pl.__name__ == sys.argv[1], pl.__name__
pairs = IOIDataModule("tiny-ioi", n_train=24, n_val=8, n_test=2, batch_size=4)
batches = {"train": list(pairs.train_dataloader()), "val": list(pairs.val_dataloader())}


class Shuffled(pl.LightningDataModule):
    "Loaders that draw from the global streams, all of them."
    def loader(self, split):
        random.random(), np.random.rand()
        return DataLoader(batches[split], batch_size=None, shuffle=True)
    def train_dataloader(self):
        return self.loader("train")
    def val_dataloader(self):
        return self.loader("val")


class Mine(pl.LightningModule):
    def __init__(self):
        super().__init__()
        self.lm = GPT2LMHeadModel(GPT2Config(
            vocab_size=len(pairs.tokenizer), n_embd=24, n_layer=2, n_head=3, n_positions=64, bos_token_id=None,
            eos_token_id=None, resid_pdrop=0.2, embd_pdrop=0.2, attn_pdrop=0.2))
        self.lm.transformer.wpe.requires_grad_(False)          # a part that the project freezes
        self.lm.transformer.h[0].mlp.eval()                    # and one that it keeps without dropout
        self.calls, self.noise, self.seen = 0, [], []
        self.lm.transformer.h[1].register_forward_hook(self.count)
        self.lm.transformer.h[1].mlp.register_full_backward_hook(self.count_back)
    def count(self, *_):
        self.calls += 1
    def count_back(self, *_):
        self.calls += 1000
    def training_step(self, batch, batch_idx):
        self.noise.append((random.random(), np.random.rand(), torch.rand(()).item()))
        self.seen.append([module.training for module in self.lm.modules()])
        inputs = {"input_ids": batch["clean_ids"], "attention_mask": batch["attention_mask"]}
        return self.lm(**inputs, labels=batch["clean_ids"]).loss
    def configure_optimizers(self):
        return torch.optim.AdamW(self.parameters(), lr=1e-2)


class AfterAll(pl.Callback):
    "Comes after the probe: sees gradients and modes as it has left them."
    def __init__(self):
        self.seen = []
    def on_train_batch_end(self, trainer, module, *_):
        self.seen.append([
            (None if p.grad is None else p.grad.clone(), p.requires_grad, p._version) for p in module.parameters()
        ])


def run(probed, **options):
    pl.seed_everything(3)
    module, after = Mine(), AfterAll()
    keys = [sorted(vars(inner)) for inner in module.lm.modules()]
    probing = {name: options.pop(name) for name in ("ablation", "method", "training_steps") if name in options}
    probe = CircuitProbe(Shuffled(), every_n_steps=2, sizes=[0.05, 0.2], **probing)
    trainer = pl.Trainer(
        max_steps=5, accelerator="cpu", logger=False, enable_checkpointing=False, enable_progress_bar=False,
        enable_model_summary=False, callbacks=[probe, after] if probed else [after], **options)
    trainer.fit(module, DataLoader(batches["train"], batch_size=None, shuffle=True))
    assert len(probe.history) == (4 if probed else 0)
    state = trainer.optimizers[0].state_dict()["state"]
    return {
        "weights": module.state_dict(), "optimizer": state, "calls": module.calls, "noise": module.noise,
        "modes": module.seen, "gradients": after.seen, "keys": [sorted(vars(inner)) for inner in module.lm.modules()],
        "random": (random.getstate(), np.random.get_state(), torch.get_rng_state()),
        "hooks": [len(inner._forward_hooks) for inner in module.lm.modules()],
    }


def same(a, b, at=""):
    if isinstance(a, torch.Tensor):
        assert a.dtype == b.dtype and torch.equal(a, b), at
    elif isinstance(a, np.ndarray):
        assert (a == b).all(), at
    elif isinstance(a, dict):
        assert a.keys() == b.keys(), at
        [same(a[key], b[key], f"{at}/{key}") for key in a]
    elif isinstance(a, (list, tuple)):
        assert len(a) == len(b), at
        [same(x, y, f"{at}/{i}") for i, (x, y) in enumerate(zip(a, b))]
    else:
        assert a == b, (at, a, b)


for options in (
    dict(ablation="interchange"),
    dict(ablation="mean", accumulate_grad_batches=3, max_epochs=9),
    dict(ablation="interchange", precision="bf16-mixed"),
    dict(ablation="interchange", precision="bf16-true"),
    dict(method="EdgePruning", training_steps=3),
    dict(method="EdgePruning", training_steps=3, ablation="mean", precision="bf16-mixed"),
):
    same(run(False, **options), run(True, **options))
print("the same to the bit")
"""


def as_script(script: Path, namespace: str) -> None:
    sys.argv[:] = [str(script), namespace]
    runpy.run_path(str(script), run_name="__main__")


@pytest.mark.slow
@pytest.mark.parametrize("namespace", ["pytorch_lightning", "lightning.pytorch"])
def test_a_run_is_the_same_to_the_bit_with_and_without_a_probe(namespace: str, tmp_path: Path) -> None:
    script, log = tmp_path / "runs.py", tmp_path / "log.txt"
    script.write_text(RUNS)
    if namespace == pl.__name__:  # that of a process which has imported
        started = processes.call(log, as_script, script, namespace)
    else:
        started = processes.program(log, [sys.executable, script, namespace], LIGHTNING_CIRCUITS_NAMESPACE=namespace)
    status, printed = started.end()
    assert status == 0 and printed.rstrip().endswith("the same to the bit"), printed[-3000:]


class Broken(IOIDataModule):
    """Prompts that draw random numbers, and from some moment on are all gone after the third pass."""

    passes_left = 1_000

    def train_dataloader(self) -> Any:
        return self.drawing(list(super().train_dataloader()))

    def drawing(self, batches: list[Any]) -> Iterator[Any]:
        self.passes_left -= 1
        for batch in batches:
            random.random(), np.random.rand(), torch.rand(())
            yield batch
            if self.passes_left < 0:
                raise OSError("the disk is gone")


class Breaks(pl.Callback):
    """After the second step."""

    def __init__(self, data: Broken, passes_left: int) -> None:
        self.data, self.passes_left = data, passes_left

    def on_train_batch_end(self, trainer: pl.Trainer, *_: Any) -> None:
        if trainer.global_step == 2:
            self.data.passes_left = self.passes_left


class Left(Exception):
    """What a run is left by that has no probe, at the same place."""


class Leaves(pl.Callback):
    def on_train_batch_end(self, trainer: pl.Trainer, *_: Any) -> None:
        if trainer.global_step == 2:
            raise Left


class Looks(pl.Callback):
    """At what the run was left with, before Lightning puts it away."""

    def on_exception(self, trainer: pl.Trainer, module: pl.LightningModule, exception: BaseException) -> None:
        lm = module.net["lm"]
        self.tensors: list[Any] = [
            [each.detach().clone() for each in lm.parameters()],
            [None if each.grad is None else each.grad.clone() for each in lm.parameters()],
            trainer.optimizers[0].state_dict()["state"],
            torch.get_rng_state(),
        ]
        self.rest: list[Any] = [
            [(each.requires_grad, each._version) for each in lm.parameters()],
            [inner.training for inner in lm.modules()],
            [len(inner._forward_hooks) for inner in lm.modules()],
            [sorted(vars(inner)) for inner in lm.modules()],
            (random.getstate(), np.random.get_state()[1].tolist()),
            (torch.is_grad_enabled(), torch.is_inference_mode_enabled(), torch.is_autocast_enabled("cpu")),
        ]


def left_by(error: type[Exception], *callbacks: pl.Callback) -> Looks:
    pl.seed_everything(5)
    module, looks = Mine(trainable(), lr=1e-2), Looks()
    module.net["lm"].transformer.h[0].mlp.eval().requires_grad_(False)
    module.net["lm"].transformer.h[1].register_forward_hook(lambda *_: None)
    trainer = pl.Trainer(**QUIET, max_steps=5, callbacks=[*callbacks, looks], precision="bf16-mixed")
    batches = list(small(seed=1).train_dataloader())
    with pytest.raises(error):
        trainer.fit(module, DataLoader(batches, batch_size=None, shuffle=True))
    return looks


@pytest.mark.parametrize(
    ("options", "passes"),
    [
        ({}, 0),
        ({"method": "EdgePruning", "training_steps": 6}, 2),
    ],  # the warm start, an epoch, and in the next it breaks
)
def test_a_probe_that_raises_leaves_the_run_as_it_was(options: dict[str, Any], passes: int) -> None:
    data = Broken("tiny-ioi", n_train=10, n_val=7, n_test=2, batch_size=4)
    probe = CircuitProbe(data, every_n_steps=2, sizes=[0.1], **options)
    probed = left_by(OSError, Breaks(data, passes), probe)
    assert [found.step for found in probe.history] == [0] and data.passes_left == -1
    unprobed = left_by(Left, Leaves())
    torch.testing.assert_close(probed.tensors, unprobed.tensors, rtol=0, atol=0)
    assert probed.rest == unprobed.rest


def test_at_rest_gives_back_every_attribute() -> None:
    model = trainable()
    block = model.transformer.h[0]
    block.eval()
    calls: list[int] = []
    block.register_forward_hook(lambda *_: calls.append(1))
    block.remembered = {"a": 1}
    before = [(inner, {name: value for name, value in vars(inner).items()}) for inner in model.modules()]
    inside = [dict(vars(inner)["_buffers"]) for inner in model.modules()]
    with at_rest(model):
        assert not any(inner.training for inner in model.modules())
        model(torch.arange(4)[None])
        block.remembered["a"] = 2  # a cache that is written
        block.cached = torch.ones(1)  # and one that is made
        model.transformer.register_buffer("late", torch.ones(1))
        with contextlib.suppress(RuntimeError):
            raise RuntimeError
    assert calls == []
    for (inner, state), buffers in zip(before, inside, strict=True):
        assert vars(inner).keys() == state.keys()
        assert all(vars(inner)[name] is value for name, value in state.items())
        assert vars(inner)["_buffers"] == buffers
    assert block.remembered == {"a": 1} and not block.training and model.training
    model(torch.arange(4)[None])
    assert calls == [1]
