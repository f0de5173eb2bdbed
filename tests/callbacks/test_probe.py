"""A probe in a training run: it finds what a search would, and the run is the same without it, to the bit."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn
from transformers import AutoModelForCausalLM, GPTNeoXConfig

from lightning_circuits.ablation import ABLATIONS
from lightning_circuits.callbacks import CircuitProbe
from lightning_circuits.callbacks.probe import METHODS, at_rest
from lightning_circuits.datamodules import IOIDataModule
from lightning_circuits.evaluation.rows import evaluate
from lightning_circuits.models import wrap
from lightning_circuits.models.loading import load_model
from lightning_circuits.namespace import pl
from lightning_circuits.objectives import LogitDifference
from lightning_circuits.scoring.gradients import attribute
from lightning_circuits.selection import top_n
from tests.support.oracle import tiny_model

QUIET: dict[str, Any] = dict(
    accelerator="cpu", logger=False, enable_checkpointing=False, enable_progress_bar=False, enable_model_summary=False
)


class Mine(pl.LightningModule):
    """A project's own module around a language model, trained to go on with the sentence."""

    def __init__(self, language_model: nn.Module, lr: float = 1e-3) -> None:
        super().__init__()
        self.net = nn.ModuleDict({"lm": language_model})
        self.lr = lr

    def training_step(self, batch: dict[str, torch.Tensor], batch_idx: int) -> torch.Tensor:
        inputs = {"input_ids": batch["clean_ids"], "attention_mask": batch["attention_mask"]}
        return self.net["lm"](**inputs, labels=batch["clean_ids"]).loss

    def configure_optimizers(self) -> Any:
        return torch.optim.AdamW(self.parameters(), lr=self.lr)


def small(seed: int = 0, **sizes: int) -> IOIDataModule:
    return IOIDataModule("tiny-ioi", **{"n_train": 10, "n_val": 7, "n_test": 2, "batch_size": 4, **sizes}, seed=seed)


def trainable() -> nn.Module:
    return load_model("tiny-ioi").requires_grad_(True).train()


def fit(probe: CircuitProbe, module: pl.LightningModule, **options: Any) -> pl.Trainer:
    trainer = pl.Trainer(**{**QUIET, "max_steps": 2, "callbacks": [probe], **options})
    trainer.fit(module, small(seed=1).train_dataloader())
    return trainer


# ---- what is found ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("method", ["EAP", "EAP-IG"])
def test_a_probe_finds_what_attribution_and_exact_ablation_find(method: str) -> None:
    """On a model that stands still (no learning rate), against the same asked for prompt by prompt."""
    probe = CircuitProbe(small(), every_n_steps=1, sizes=[40, 0.1], method=method, faithfulness=0.5)
    fit(probe, Mine(trainable(), lr=0.0), max_steps=1)
    model, total, interchange = wrap(load_model("tiny-ioi")), 0.0, ABLATIONS.make("interchange")
    for batch in small(batch_size=1).train_dataloader():
        total = total + attribute(model, batch, LogitDifference(), interchange, METHODS[method]).edges
    members = {"40 edges": top_n(total, 40), "10%": top_n(total, round(0.1 * model.layout.n_edges))}
    rows = evaluate(
        model, members, small(batch_size=1).val_dataloader(), [ABLATIONS.make("interchange")], company=False
    )
    [found] = probe.history
    assert found.step == 1
    for name, chosen in members.items():
        assert torch.equal(found.members[name], chosen.nonzero().flatten())
    for here, there in zip(found.rows, rows, strict=True):
        assert here.circuit == there.circuit and here.prompts == there.prompts == 7
        assert here.faithfulness == pytest.approx(there.faithfulness, abs=1e-5)
    enough = [row.edges for row in rows if row.circuit in members and row.faithfulness >= 0.5]
    assert found.edges_needed == min(enough, default=None) and enough


def test_what_is_logged(tmp_path: Path) -> None:
    logger = pl.loggers.CSVLogger(tmp_path)
    probe = CircuitProbe(small(), every_n_steps=2, sizes=[5, 0.2], faithfulness=0.5)
    trainer = fit(probe, Mine(trainable(), lr=1e-2), max_steps=5, logger=logger, log_every_n_steps=100)
    assert [found.step for found in probe.history] == [2, 4, 5]
    first, second, last = probe.history
    assert first.iou_last == {} and set(second.iou_last) == {"5 edges", "20%"}
    for found, before in ((second, first), (last, second)):
        for name, value in found.iou_last.items():
            here, there = set(found.members[name].tolist()), set(before.members[name].tolist())
            assert value == pytest.approx(len(here & there) / len(here | there))
    assert last.iou_final == {"5 edges": 1.0, "20%": 1.0}
    assert second.iou_final == pytest.approx(last.iou_last)
    assert 0 < first.iou_final["20%"] < 1
    logger.save()
    header, *lines = Path(logger.log_dir).joinpath("metrics.csv").read_text().splitlines()
    names = header.split(",")
    for name in ("probe/5-edges/faithfulness", "probe/20%/kl", "probe/full/accuracy", "probe/20%/iou_last"):
        assert name in names
    final = names.index("probe/20%/iou_final")
    written = {int(line.split(",")[names.index("step")]): line.split(",")[final] for line in lines}
    assert {step: float(value) for step, value in written.items() if value} == pytest.approx(
        {found.step: found.iou_final["20%"] for found in probe.history}
    )
    assert trainer.callback_metrics["probe/20%/faithfulness"] == pytest.approx(
        next(row.faithfulness for row in last.rows if row.circuit == "20%")
    )


def test_where_no_size_is_faithful_enough_there_is_no_number() -> None:
    probe = CircuitProbe(small(), every_n_steps=1, sizes=[1], faithfulness=0.99)
    fit(probe, Mine(trainable()), max_steps=1)
    assert probe.history[0].edges_needed is None
    assert "probe/edges_needed" not in probe.history[0].scalars()


def test_a_resumed_run_has_the_history_of_the_run_before(tmp_path: Path) -> None:
    probe = CircuitProbe(small(), every_n_steps=1, sizes=[0.1])
    fit(probe, Mine(trainable())).save_checkpoint(tmp_path / "two.ckpt")
    resumed = CircuitProbe(small(), every_n_steps=1, sizes=[0.1])
    trainer = pl.Trainer(**QUIET, max_steps=3, callbacks=[resumed])
    trainer.fit(Mine(trainable()), small(seed=1).train_dataloader(), ckpt_path=tmp_path / "two.ckpt")
    assert [found.step for found in resumed.history] == [1, 2, 3]
    rows = [[row.to_dict() for row in run.history[1].rows] for run in (probe, resumed)]
    assert rows[0] == rows[1]
    assert "10%" in resumed.history[2].iou_last


# ---- what is left untouched ------------------------------------------------------------------------------------------

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
    probe = CircuitProbe(Shuffled(), every_n_steps=2, sizes=[0.05, 0.2], ablation=options.pop("ablation"))
    trainer = pl.Trainer(
        max_steps=5, accelerator="cpu", logger=False, enable_checkpointing=False, enable_progress_bar=False,
        enable_model_summary=False, callbacks=[probe, after] if probed else [after], **options)
    trainer.fit(module, DataLoader(batches["train"], batch_size=None, shuffle=True))
    assert len(probe.history) == (3 if probed else 0)
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
):
    same(run(False, **options), run(True, **options))
print("the same to the bit")
"""


def start(script: Path, *arguments: str, **environment: str) -> str:
    """Run a script in a process group of its own. A deadlock fails the test, and leaves no process behind."""
    log = script.with_suffix(".log")
    with log.open("w") as output:
        process = subprocess.Popen(
            [sys.executable, str(script), *arguments],
            stdout=output,
            stderr=subprocess.STDOUT,
            start_new_session=True,
            env={**os.environ, **environment},
        )
        try:
            status = process.wait(timeout=240)
        except subprocess.TimeoutExpired:
            pytest.fail(f"no end after 240 s\n{log.read_text()[-3000:]}")
        finally:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)
    assert status == 0, log.read_text()[-3000:]
    return log.read_text()


@pytest.mark.slow
@pytest.mark.parametrize("namespace", ["pytorch_lightning", "lightning.pytorch"])
def test_a_run_is_the_same_to_the_bit_with_and_without_a_probe(namespace: str, tmp_path: Path) -> None:
    (tmp_path / "runs.py").write_text(RUNS)
    printed = start(tmp_path / "runs.py", namespace, LIGHTNING_CIRCUITS_NAMESPACE=namespace)
    assert printed.rstrip().endswith("the same to the bit")


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


# ---- several processes -----------------------------------------------------------------------------------------------

DDP = """
import sys
import torch
from lightning_circuits.namespace import pl
from lightning_circuits.callbacks import CircuitProbe
sys.path.insert(0, sys.argv[1])
from tests.callbacks.test_probe import Mine, QUIET, small, trainable

torch.set_num_threads(1)
def run(lr, probed=True, own=False, **options):
    data = small(seed=1)
    probe = CircuitProbe(data if own else small(), every_n_steps=2, sizes=[0.05, 0.2])
    module = Mine(trainable(), lr=lr)
    trainer = pl.Trainer(**QUIET, max_steps=3, callbacks=[probe] if probed else [], **options)
    trainer.fit(module, train_dataloaders=None if own else small(seed=1).train_dataloader(),
                datamodule=data if own else None)
    return module, probe, trainer

two = dict(devices=2, strategy="ddp")
still = run(0.0, **two)
own = run(0.0, own=True, **two)
moved, unprobed = run(1e-3, **two)[0], run(1e-3, probed=False, **two)[0]
assert all(torch.equal(a, b) for a, b in zip(moved.parameters(), unprobed.parameters()))
assert still[2].world_size == 2
torch.save([still[1].state_dict(), own[1].state_dict()], f"{sys.argv[2]}/rank{still[2].global_rank}.pt")
"""


@pytest.mark.slow
def test_two_processes_share_the_prompts_and_agree(tmp_path: Path) -> None:
    """7 validation and 10 training prompts in batches of 4: neither divides by two processes."""
    (tmp_path / "ddp.py").write_text(DDP)
    start(tmp_path / "ddp.py", str(Path(__file__).parents[2]), str(tmp_path))
    ranks = [torch.load(tmp_path / f"rank{rank}.pt") for rank in (0, 1)]
    for seed, (one, other) in zip((0, 1), zip(*ranks, strict=True), strict=True):
        alone = CircuitProbe(small(seed=seed), every_n_steps=2, sizes=[0.05, 0.2])
        fit(alone, Mine(trainable(), lr=0.0), max_steps=3)
        assert [found["step"] for found in one["history"]] == [2, 3]
        for here, there, single in zip(one["history"], other["history"], alone.history, strict=True):
            assert repr(here["rows"]) == repr(there["rows"])  # in which NaN equals NaN
            for name, members in here["members"].items():
                assert torch.equal(members, there["members"][name])
                assert torch.equal(members, single.members[name])
            for row, expected in zip(here["rows"], single.rows, strict=True):
                assert row["prompts"] == 7
                assert row["faithfulness"] == pytest.approx(expected.faithfulness, abs=1e-5)


# ---- what is refused, before the first step --------------------------------------------------------------------------


class NeverTrains(Mine):
    def training_step(self, *_: Any) -> torch.Tensor:
        raise AssertionError("a step was taken")


def gpt_neox() -> nn.Module:
    sizes = dict(vocab_size=19, hidden_size=16, num_hidden_layers=1, num_attention_heads=2, intermediate_size=16)
    return AutoModelForCausalLM.from_config(GPTNeoXConfig(**sizes, bos_token_id=None, eos_token_id=None))


class Adapter(nn.Module):
    """As peft puts them in front of a layer; untrained, so that it changes nothing yet."""

    def __init__(self, layer: nn.Module) -> None:
        super().__init__()
        self.base_layer = layer
        self.weight, self.bias = layer.weight, layer.bias

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.base_layer(x)


def with_adapter() -> nn.Module:
    model = trainable()
    model.transformer.h[1].attn.c_attn = Adapter(model.transformer.h[1].attn.c_attn)
    return model


@pytest.mark.parametrize(
    ("language_model", "options", "said"),
    [
        (gpt_neox, {}, "holds no language model that can be read: .* of one of the families gpt2, llama"),
        (gpt_neox, {"model": "net.lm"}, r"NeverTrains.net.lm is a GPTNeoXForCausalLM, and no language model"),
        (with_adapter, {}, r"an adapter .* at transformer.h.1.attn.c_attn: merge it first"),
        (trainable, {"model": "net.ml"}, "there is no 'ml' in NeverTrains.net, on the way to 'net.ml'; there is lm"),
        (trainable, {"sizes": [0.00001]}, "rounds to 0 edges"),
        (lambda: tiny_model("gpt2"), {}, r"IOIDataModule has token \d+ in its train split, and the model knows 19"),
    ],
)
def test_what_cannot_be_probed_is_refused_at_setup(language_model: Any, options: dict[str, Any], said: str) -> None:
    with pytest.raises(ValueError, match=said):
        fit(CircuitProbe(small(), **options), NeverTrains(language_model()))


class MakesItLater(NeverTrains):
    """As modules do that are built in place on their device."""

    def __init__(self) -> None:
        pl.LightningModule.__init__(self)

    def configure_model(self) -> None:
        self.net = nn.ModuleDict({"lm": self.make()})

    def configure_optimizers(self) -> Any:
        return torch.optim.SGD(self.parameters(), lr=0.0)


def test_a_model_made_in_a_later_hook_is_looked_at_before_the_first_step() -> None:
    module = MakesItLater()
    module.make = gpt_neox
    with pytest.raises(ValueError, match="holds no language model that can be read"):
        fit(CircuitProbe(small()), module)
    module = MakesItLater()
    module.make = trainable
    with pytest.raises(AssertionError, match="a step was taken"):
        fit(CircuitProbe(small()), module)


def test_a_model_in_pieces_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    probe, trainer = CircuitProbe(small()), pl.Trainer(**QUIET)
    pieces = pl.strategies.ModelParallelStrategy.__new__(pl.strategies.ModelParallelStrategy)
    monkeypatch.setattr(type(trainer), "strategy", pieces)
    with pytest.raises(ValueError, match="ModelParallelStrategy splits the model among processes"):
        probe.setup(trainer, NeverTrains(trainable()), "fit")


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"every_n_steps": 0}, "every_n_steps is 0: it has to be at least 1"),
        ({"sizes": []}, "no size of a circuit"),
        ({"faithfulness": 0}, "reached by the empty circuit"),
        ({"method": "ACDC"}, "unknown method 'ACDC'; choose one of EAP, EAP-IG"),
        ({"ablation": "noise"}, "unknown ablation 'noise'"),
    ],
)
def test_options_that_make_no_sense_are_refused(options: dict[str, Any], said: str) -> None:
    with pytest.raises(ValueError, match=said):
        CircuitProbe(small(), **options)
