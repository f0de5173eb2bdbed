"""Two processes, each with half of the weights of every block and prompts of its own: all is as with one process.

The prompts do not divide by two anywhere: not those of training, nor the batches of validation. A process that asks for
weights when the other does not waits for ever, and fails by the limit of `processes`.
"""

from __future__ import annotations

import importlib.util
import os
from collections import Counter
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.distributed.fsdp import FSDPModule
from torch.distributed.tensor import DTensor
from transformers import AutoModelForCausalLM, LlamaConfig

from lightning_circuits import EAP, EAPIG, ActivationPatching, EAPIGActivations, EdgePruning, NodePruning, RelP
from lightning_circuits.batch import shared_out
from lightning_circuits.callbacks import CircuitExport, FaithfulnessValidation
from lightning_circuits.circuit import Circuit
from lightning_circuits.datamodules import IOIDataModule, TextLines
from lightning_circuits.masked import masked_logits
from lightning_circuits.models import wrap
from lightning_circuits.models.loading import load_model, load_tokenizer
from lightning_circuits.models.sharding import shard
from lightning_circuits.namespace import pl
from lightning_circuits.search.base import CircuitSearch
from lightning_circuits.search.fsdp import FSDP2Strategy, shards
from lightning_circuits.search.weight_pruning import WeightPruning
from tests.search.test_ddp import on_each
from tests.support.training import quiet_trainer

pytestmark = pytest.mark.slow

VOCABULARY = 228  # of tiny-ioi
STEPS, BROKEN_OFF = 6, 4


def llama() -> nn.Module:
    """Grouped heads, a tied head, and an MLP whose width two processes cannot halve."""
    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=VOCABULARY, hidden_size=24, intermediate_size=21, num_hidden_layers=3, num_attention_heads=4,
        num_key_value_heads=2, tie_word_embeddings=True, initializer_range=0.3, bos_token_id=None, eos_token_id=None,
    )  # fmt: skip
    return AutoModelForCausalLM.from_config(config)


def own() -> nn.Module:
    """One that is not Hugging Face's, with three heads: two processes cut the second one in two."""
    path = Path(__file__).parents[2] / "examples" / "own_model.py"
    spec = importlib.util.spec_from_file_location("own_model", path)
    assert spec is not None and spec.loader is not None
    spec.loader.exec_module(module := importlib.util.module_from_spec(spec))
    torch.manual_seed(0)
    return module.TinyTransformer(VOCABULARY, width=30, heads=3)


# Of random models a faithfulness is a ratio of small numbers, which float32 would not give to five places.
MODELS = {
    "gpt2": lambda: load_model("tiny-ioi", "float64"),
    "llama": lambda: llama().double(),
    "own": lambda: own().double(),
}


def data(devices: int, n_train: int = 13, batch_size: int = 4) -> IOIDataModule:
    return IOIDataModule("tiny-ioi", n_train=n_train, n_val=9, n_test=3, batch_size=batch_size // devices)


def trainer_of(devices: int, *callbacks: pl.Callback, **options: Any) -> pl.Trainer:
    strategy = FSDP2Strategy() if devices > 1 else "auto"
    options = {"devices": devices, "strategy": strategy, "num_sanity_val_steps": 0} | options
    return quiet_trainer(*callbacks, **options)


def held(model: nn.Module) -> dict[str, list[int]]:
    """How many numbers of each parameter are here, and how many it has."""
    return {
        name: [each.to_local().numel() if isinstance(each, DTensor) else each.numel(), each.numel()]
        for name, each in model.named_parameters()
    }


def certainty(logits: Tensor, batch: Any, full_logits: Tensor) -> Tensor:
    """The greatest probability: every model has one, whatever it can do."""
    return logits.softmax(-1).amax(-1)


def pruned(devices: int, folder: Path, family: str) -> dict[str, Any]:
    """Train, judge while training and afterwards, export, and go on from the middle."""

    def fit(name: str, resume: Path | None = None) -> tuple[EdgePruning, pl.Trainer, FaithfulnessValidation]:
        search = EdgePruning(MODELS[family](), seed=3)
        keep = pl.callbacks.ModelCheckpoint(folder / name, every_n_train_steps=2, save_top_k=-1, filename="{step}")
        judge = FaithfulnessValidation(
            every_n_steps=2, sizes=[0.2, 0.6], ablations=["interchange", "mean"], measure=certainty
        )
        export = CircuitExport(folder / name, formats=["json", "safetensors"])
        trainer = trainer_of(devices, keep, judge, export, max_steps=STEPS, enable_checkpointing=True)
        trainer.fit(search, data(devices), ckpt_path=resume, weights_only=True)
        return search, trainer, judge

    search, trainer, judge = fit("whole")
    rows = [row.to_dict() for row in judge.measured.rows]  # type: ignore[union-attr]
    resumed, _, _ = fit("resumed", folder / "whole" / f"step={BROKEN_OFF}.ckpt")
    return {
        "held": held(search.model),
        "scores": search.edge_scores().detach(),
        "resumed": resumed.edge_scores().detach(),
        "rows": rows,
        "tested": trainer.test(search, data(devices), verbose=False),
        "hash": search.describe()["weights_hash"],
    }


def attributed(devices: int, family: str) -> dict[str, Tensor]:
    methods: dict[str, CircuitSearch] = {
        "EAP": EAP(MODELS[family]()),
        "EAPIG": EAPIG(MODELS[family](), steps=3, ablation="mean"),
        "EAPIGActivations": EAPIGActivations(MODELS[family](), steps=2),
        "RelP": RelP(MODELS[family]()),
        "ActivationPatching": ActivationPatching(MODELS[family](), edges_per_batch=200),
        "NodePruning": NodePruning(MODELS[family](), measure=certainty),
        "warm": EdgePruning(MODELS[family](), warm_start="EAP"),
    }
    found = {}
    for name, search in methods.items():
        few = 3 if name == "ActivationPatching" else 13
        trainer_of(devices, max_steps=2).fit(search, data(devices, few))
        found[name] = search.edge_scores().detach()
    return found


def everything(devices: int, folder: Path, family: str) -> dict[str, Any]:
    return {**pruned(devices, folder, family), "attributed": attributed(devices, family)}


@pytest.fixture(scope="module", params=list(MODELS))
def found(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """What one process finds, and each of two; and the folders that they wrote to."""
    one, two = (tmp_path_factory.mktemp(f"{request.param}-{name}") for name in ("one", "two"))
    ranks = on_each(two, 2, everything, 2, two, request.param)
    return {"one": everything(1, one, request.param), "ranks": ranks, "folders": (one, two)}


def test_a_process_holds_half_of_every_matrix_of_a_block_and_all_of_the_rest(found: dict[str, Any]) -> None:
    of_blocks = 0
    for name, (_, whole) in found["one"]["held"].items():
        parts = [rank["held"][name] for rank in found["ranks"]]
        assert all(each[1] == whole for each in parts)
        if any(part[0] < whole for part in parts):
            assert sum(part[0] for part in parts) == whole
            assert max(part[0] for part in parts) < 0.6 * whole
            of_blocks += whole
        else:
            assert "norm" in name or "ln" in name or "bias" in name or not any(map(str.isdigit, name)), name
    assert of_blocks > 0.5 * sum(whole for _, whole in found["one"]["held"].values())


@pytest.mark.parametrize("what", ["scores", "resumed"])
def test_gates_are_those_of_one_process(what: str, found: dict[str, Any]) -> None:
    one = found["one"][what]
    assert one.unique().numel() > 50
    for rank in found["ranks"]:
        torch.testing.assert_close(rank[what], one, rtol=0, atol=1e-5)
    torch.testing.assert_close(found["one"]["resumed"], found["one"]["scores"], rtol=0, atol=0)


@pytest.mark.parametrize("what", ["rows", "tested"])
def test_circuits_are_judged_as_by_one_process(what: str, found: dict[str, Any]) -> None:
    def rounded(rows: list[dict[str, Any]]) -> list[Any]:
        return [{key: pytest.approx(value, abs=1e-5, nan_ok=True) if isinstance(value, float) else value
                 for key, value in row.items()} for row in rows]  # fmt: skip

    assert found["one"][what]
    for rank in found["ranks"]:
        assert rank[what] == rounded(found["one"][what])


@pytest.mark.parametrize(
    "method", ["EAP", "EAPIG", "EAPIGActivations", "RelP", "ActivationPatching", "NodePruning", "warm"]
)
def test_methods_are_as_in_one_process(method: str, found: dict[str, Any]) -> None:
    one = found["one"]["attributed"][method]
    assert one.unique().numel() > 5
    for rank in found["ranks"]:
        atol = 1e-5 * max(1.0, one.abs().max().item())
        torch.testing.assert_close(rank["attributed"][method], one, rtol=0, atol=atol)


def test_files_are_those_of_one_process(found: dict[str, Any]) -> None:
    one, two = (folder / "whole" for folder in found["folders"])
    names = sorted(path.name for path in one.glob("*.json"))
    assert names and names == sorted(path.name for path in two.glob("*.json"))
    for name in names:
        here, there = Circuit.load(one / name), Circuit.load(two / name)
        assert torch.equal(here.members, there.members)
        assert here.metadata["weights_hash"] == there.metadata["weights_hash"] == found["ranks"][1]["hash"]
        assert here.metadata["model_hash"] == there.metadata["model_hash"]


def test_checkpoints_are_those_of_one_process(found: dict[str, Any]) -> None:
    one, two = (folder / "whole" / f"step={BROKEN_OFF}.ckpt" for folder in found["folders"])
    here, there = (torch.load(path, weights_only=True) for path in (one, two))
    assert here.keys() == there.keys()
    assert here["state_dict"].keys() == there["state_dict"].keys()
    assert not any(name.startswith("model.") for name in there["state_dict"])
    assert abs(two.stat().st_size - one.stat().st_size) < 2000
    for state in (here, there):
        assert state["optimizer_states"][0]["state"].keys() == {0}
    for name, value in here["state_dict"].items():
        assert type(there["state_dict"][name]) is Tensor
        torch.testing.assert_close(there["state_dict"][name], value, rtol=0, atol=1e-5)


def test_one_process_goes_on_from_a_checkpoint_of_two(found: dict[str, Any], request: pytest.FixtureRequest) -> None:
    family = request.node.callspec.params["found"]
    search = EdgePruning(MODELS[family](), seed=3)
    checkpoint = found["folders"][1] / "whole" / f"step={BROKEN_OFF}.ckpt"
    with pytest.warns(UserWarning, match="processes 2 there, 1 here"):
        trainer_of(1, max_steps=STEPS).fit(search, data(1), ckpt_path=checkpoint, weights_only=True)
    torch.testing.assert_close(search.edge_scores().detach(), found["one"]["scores"], rtol=0, atol=1e-5)


# ---- what it costs, and what is refused: one pair of processes for all --------------------------------------------


def gathers_of_a_step(family: str) -> dict[str, int]:
    """How often the weights of each block are asked of the other process in one training step."""
    asked: Counter[str] = Counter()
    search = EdgePruning(MODELS[family](), warm_start=None)
    names = {id(block): str(layer) for layer, block in enumerate(search.circuit_model.blocks)}
    original = FSDPModule.unshard

    def counting(block: Any, *arguments: Any) -> Any:
        asked[names[id(block)]] += any(isinstance(each, DTensor) for each in block.parameters())
        return original(block, *arguments)

    FSDPModule.unshard = counting  # type: ignore[method-assign]
    try:
        trainer_of(2, max_steps=1).fit(search, data(2))
    finally:
        FSDPModule.unshard = original  # type: ignore[method-assign]
    assert all(isinstance(each, DTensor) for block in search.circuit_model.blocks
               for each in block.parameters() if each.ndim > 1)  # fmt: skip
    return dict(asked)


def in_inference_mode(family: str) -> float:
    """Lightning's, in validation on GPUs: blocks that were gathered there serve gradients afterwards."""
    batch = next(iter(_prepared(data(1)).train_dataloader()))
    gradients = []
    for split in (False, True):
        model = wrap(MODELS[family]())
        if split:
            mesh = torch.distributed.init_device_mesh("cpu", (2,))
            shard(model, mesh)
            shard(model, mesh)  # once is enough
            with torch.inference_mode():
                model.run_pair(batch)
        gates = torch.full((model.layout.n_edges,), 0.7, requires_grad=True)
        corrupt = model.run_pair(batch)[1]
        prompts = batch["clean_ids"], batch["attention_mask"], batch["positions"]
        masked_logits(model, gates, *prompts, corrupt).square().sum().backward()
        assert gates.grad is not None and gates.grad.abs().max() > 1e-3
        gradients.append(gates.grad)
    return ((gradients[0] - gradients[1]).abs().max() / gradients[0].abs().max()).item()


def _prepared(module: IOIDataModule) -> IOIDataModule:
    module.prepare_data()
    module.setup("fit")
    return module


def apart(devices: int) -> Tensor:
    """Gates that the processes begin with differently."""
    search = EdgePruning("tiny-ioi")
    for parameter in search.gate.parameters():
        parameter.data += int(os.environ["LOCAL_RANK"])
    trainer_of(devices, max_steps=1).fit(search, data(devices))
    return search.edge_scores().detach()


def refused() -> dict[str, str]:
    made = pl.strategies
    text = TextLines(load_tokenizer("tiny-ioi"))
    cases: dict[str, tuple[Any, Any, Any]] = {
        "tensor": (EdgePruning("tiny-ioi"), made.ModelParallelStrategy(1, 2), data(2)),
        "lightning's default": (EAP("tiny-ioi"), made.ModelParallelStrategy(), data(2)),
        "weights": (WeightPruning("tiny-ioi", text), FSDP2Strategy(), data(2)),
        "no blocks": (without_blocks(), FSDP2Strategy(), data(2)),
    }
    said = {}
    for name, (search, strategy, source) in cases.items():
        with pytest.raises(ValueError) as error:
            trainer_of(2, strategy=strategy, max_steps=1).fit(search, source)
        said[name] = str(error.value)
    return said


def without_blocks() -> EdgePruning:
    search = EdgePruning("tiny-ioi")
    del search.circuit_model.blocks
    return search


def lightnings_own() -> dict[str, Any]:
    strategy = pl.strategies.ModelParallelStrategy(data_parallel_size=2, tensor_parallel_size=1)
    search = EdgePruning("tiny-ioi", seed=3)
    trainer_of(2, strategy=strategy, max_steps=STEPS).fit(search, data(2))
    return {"scores": search.edge_scores().detach(), "held": held(search.model)}


def the_rest() -> dict[str, Any]:
    return {
        "own": lightnings_own(),
        "apart": apart(2),
        "gathers": {family: gathers_of_a_step(family) for family in MODELS},
        "inference": {family: in_inference_mode(family) for family in MODELS},
        "refused": refused(),
    }


@pytest.fixture(scope="module")
def rest(tmp_path_factory: pytest.TempPathFactory) -> list[dict[str, Any]]:
    return on_each(tmp_path_factory.mktemp("rest"), 2, the_rest)


def test_a_step_gathers_a_block_three_times(rest: list[dict[str, Any]]) -> None:
    """In the stock run on both prompts, forward with gates, and backward."""
    for rank in rest:
        for family, asked in rank["gathers"].items():
            assert set(asked.values()) == {3}, family


def test_blocks_gathered_in_inference_mode_serve_gradients_after(rest: list[dict[str, Any]]) -> None:
    assert all(error < 1e-5 for rank in rest for error in rank["inference"].values())


def test_processes_begin_alike(rest: list[dict[str, Any]]) -> None:
    assert torch.equal(rest[0]["apart"], rest[1]["apart"])


def test_lightnings_own_strategy_will_do(rest: list[dict[str, Any]]) -> None:
    search = EdgePruning("tiny-ioi", seed=3)
    trainer_of(1, max_steps=STEPS).fit(search, data(1))
    for rank in rest:
        torch.testing.assert_close(rank["own"]["scores"], search.edge_scores().detach(), rtol=0, atol=1e-5)
        assert any(here < whole for here, whole in rank["own"]["held"].values())


@pytest.mark.parametrize(
    ("case", "words"),
    [
        ("tensor", ["every matrix among 2 processes", "tensor_parallel_size=2", "strategy=FSDP2Strategy()"]),
        ("lightning's default", ["tensor_parallel_size=2", "data_parallel_size=2, tensor_parallel_size=1"]),
        ("weights", ["WeightPruning chooses among all weights", "FSDP2Strategy", "strategy=ddp"]),
        ("no blocks", ["GPT2CircuitModel does not say which modules are the blocks", "`blocks`"]),
    ],
)
def test_what_cannot_be_shared_out_is_refused(case: str, words: list[str], rest: list[dict[str, Any]]) -> None:
    for rank in rest:
        assert all(each in rank["refused"][case] for each in words), rank["refused"][case]


@pytest.mark.parametrize("kind", [pl.strategies.FSDPStrategy, pl.strategies.DeepSpeedStrategy])
def test_other_ways_of_splitting_a_model_are_refused(kind: type) -> None:
    """As a Trainer would have them; to be made they want GPUs, or a package that is not here."""
    trainer: Any = SimpleNamespace(strategy=kind.__new__(kind))
    with pytest.raises(ValueError, match=rf"{kind.__name__} splits the model .* give strategy=FSDP2Strategy\(\)"):
        shards(trainer)


def test_a_batch_is_given_to_each_process_equally_often() -> None:
    batches: Any = [{"number": number} for number in range(7)]
    for world_size in (1, 2, 3, 4, 9):
        given = [list(shared_out(batches, rank, world_size)) for rank in range(world_size)]
        assert {len(each) for each in given} == {-(-7 // world_size)}
        counted = sorted(batch["number"] for each in given for batch, counts in each if counts)
        assert counted == list(range(7))
    assert list(shared_out([], 0, 2)) == []
