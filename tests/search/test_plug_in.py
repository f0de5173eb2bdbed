"""A language model is found inside a LightningModule, and a search begins with its weights."""

from __future__ import annotations

import copy
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import nn

from lightning_circuits import CircuitSearch, EdgePruning, from_lightning_module
from lightning_circuits.masked import masked_logits
from lightning_circuits.models import wrap
from lightning_circuits.namespace import pl
from tests.search.test_checkpoints import MakesAFolder
from tests.support.oracle import pairs, stock_logits
from tests.support.tiny_models import tiny_model
from tests.support.training import bloom


class Deep(pl.LightningModule):
    """A language model two wrappers down, beside other things."""

    def __init__(self, family: str = "gpt2", seed: int = 0) -> None:
        super().__init__()
        self.save_hyperparameters()
        self.embedder = nn.Linear(2, 2)
        self.model = nn.ModuleDict({"backbone": copy.deepcopy(tiny_model(family, seed=seed)), "head": nn.Linear(24, 2)})


class Forgetful(pl.LightningModule):
    """Does not save its arguments."""

    def __init__(self, family: str) -> None:
        super().__init__()
        self.lm = copy.deepcopy(tiny_model(family))


def open_logits(search: CircuitSearch) -> torch.Tensor:
    """With every edge open."""
    batch = pairs("left")
    model = search.circuit_model
    _, corrupt = model.run_pair(vars(batch))
    gates = torch.ones(model.layout.n_edges)
    return masked_logits(model, gates, batch.clean_ids, batch.attention_mask, batch.positions, corrupt)


@pytest.mark.parametrize("family", ["gpt2", "llama-gqa", "qwen2"])  # qwen2's embedding is tied to its head
@pytest.mark.parametrize("path", [None, "model.backbone"])
def test_the_model_inside_is_searched_with_its_weights(family: str, path: str | None) -> None:
    module = Deep(family, seed=3)
    search = from_lightning_module(module, model=path, ablation="zero", lr=0.01)
    assert isinstance(search, EdgePruning) and search.lr == 0.01 and search.ablation.name == "zero"
    assert search.model is module.model["backbone"]
    assert search.model_name == "Deep, model.backbone"
    batch = pairs("left")
    expected = stock_logits(tiny_model(family, seed=3), batch.clean_ids, batch)
    torch.testing.assert_close(open_logits(search), expected, atol=1e-4, rtol=1e-4)


def test_from_a_checkpoint(tmp_path: Path) -> None:
    module = Deep("llama", seed=5)
    with torch.no_grad():
        module.model["backbone"].lm_head.weight.mul_(2)  # as training does: the arguments alone would not give this
    trainer = pl.Trainer(accelerator="cpu", logger=False, enable_checkpointing=False)
    trainer.strategy.connect(module)
    trainer.save_checkpoint(tmp_path / "a.ckpt")
    search = from_lightning_module(Deep, checkpoint=tmp_path / "a.ckpt", kv="group")
    assert search.model_name == f"Deep in {tmp_path / 'a.ckpt'}, model.backbone"
    torch.testing.assert_close(open_logits(search), open_logits(EdgePruning(module.model["backbone"])))

    trainer = pl.Trainer(accelerator="cpu", logger=False, enable_checkpointing=False)
    trainer.strategy.connect(Forgetful("gpt2"))
    trainer.save_checkpoint(tmp_path / "b.ckpt")
    with pytest.raises(TypeError, match=r"Forgetful cannot be made .*'family'.*save_hyperparameters.*give the module"):
        from_lightning_module(Forgetful, checkpoint=tmp_path / "b.ckpt")
    assert (
        from_lightning_module(Forgetful.load_from_checkpoint(tmp_path / "b.ckpt", family="gpt2")).layout.n_layers == 3
    )


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_a_model_in_half_precision(dtype: torch.dtype) -> None:
    module = Deep("gpt2").to(dtype)
    search = from_lightning_module(module)
    assert search.circuit_model.dtype == dtype and search.edge_scores().dtype == torch.float32
    batch = pairs("left")
    expected = stock_logits(tiny_model("gpt2"), batch.clean_ids, batch)
    error = (open_logits(search).float() - expected).norm() / expected.norm()
    assert error < 0.03


def test_a_compiled_model_is_taken_out_of_its_wrapper() -> None:
    module = Deep("gpt2")
    inner = module.model["backbone"]
    module.model["backbone"] = torch.compile(inner)
    for path in (None, "model.backbone"):
        search = from_lightning_module(module, model=path)
        assert search.model is inner
    assert wrap(torch.compile(inner)).model is inner


class LoRA(nn.Module):
    """A low-rank adapter around a layer, as peft makes it; nothing at the beginning."""

    def __init__(self, layer: Any) -> None:
        super().__init__()
        self.base_layer = layer
        self.a, self.b = nn.Parameter(torch.randn(24, 2)), nn.Parameter(torch.zeros(2, layer.weight.shape[0]))

    @property
    def weight(self) -> torch.Tensor:
        return self.base_layer.weight

    @property
    def bias(self) -> torch.Tensor | None:
        return self.base_layer.bias

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.base_layer(x) + x @ self.a @ self.b

    def merged(self) -> nn.Module:
        with torch.no_grad():
            self.base_layer.weight += (self.a @ self.b).T
        return self.base_layer


def test_an_adapter_has_to_be_merged() -> None:
    module = Deep("llama", seed=7)
    attention = module.model["backbone"].model.layers[1].self_attn
    attention.q_proj = LoRA(attention.q_proj)
    with pytest.raises(ValueError, match=r"not merged into its weights, at model.layers.1.self_attn.q_proj: merge it"):
        from_lightning_module(module)
    with torch.no_grad():
        attention.q_proj.b.normal_()
    batch = pairs("left")
    expected = stock_logits(module.model["backbone"], batch.clean_ids, batch)
    attention.q_proj = attention.q_proj.merged()
    search = from_lightning_module(module)
    torch.testing.assert_close(open_logits(search), expected, atol=1e-4, rtol=1e-4)


def test_peft_itself() -> None:
    peft = pytest.importorskip("peft")
    config = peft.LoraConfig(r=2, target_modules=["c_attn"], task_type="CAUSAL_LM", fan_in_fan_out=True)
    module = SimpleNamespaceModule(peft.get_peft_model(copy.deepcopy(tiny_model("gpt2")), config))
    with pytest.raises(ValueError, match="merge_and_unload"):
        from_lightning_module(module)
    module.lm = module.lm.merge_and_unload()
    assert from_lightning_module(module).layout.n_layers == 3


class SimpleNamespaceModule(nn.Module):
    def __init__(self, lm: nn.Module) -> None:
        super().__init__()
        self.lm = lm


# ---- what is refused -------------------------------------------------------------------------------------------------


def two_models() -> nn.Module:
    module = Deep("gpt2")
    module.teacher = copy.deepcopy(tiny_model("llama"))
    return module


@pytest.mark.parametrize(
    ("make", "path", "said"),
    [
        (
            Deep,
            "model.backbon",
            r"there is no 'backbon' in Deep.model, on the way to 'model.backbon'; there is backbone, h",
        ),
        (Deep, "modle", "there is no 'modle' in Deep, on the way to 'modle'; there is embedder, model"),
        (Deep, "embedder.weight.x", "there is no 'x' in Deep.embedder.weight, .*; there is no module"),
        (Deep, "model", r"Deep.model is a ModuleDict, and no language model .* Inside it is model.backbone$"),
        (
            Deep,
            "model.head",
            r"Deep.model.head is a Linear, and no language model .*supported: .*gpt2, .*\)$",
        ),
        (
            two_models,
            None,
            "Deep holds 2 language models, model.backbone and teacher: say which, such as model='model.b",
        ),
        (lambda: SimpleNamespaceModule(bloom()), None, "holds no .* of one of the families .*gpt2, .*in it: lm"),
        (lambda: nn.Linear(2, 2), None, "Linear holds no language model .* The modules in it: no module"),
    ],
)
def test_what_is_not_there_is_said_with_what_is(make: Any, path: str | None, said: str) -> None:
    with pytest.raises(ValueError, match=said):
        from_lightning_module(make(), model=path)


@pytest.mark.parametrize(
    ("arguments", "error", "said"),
    [
        (("last.ckpt",), TypeError, "expected a LightningModule .* got 'last.ckpt'. From a checkpoint: from_lightning"),
        ((SimpleNamespace(),), TypeError, "expected a LightningModule"),
        ((Deep,), TypeError, "Deep is a class: give its checkpoint too"),
        ((nn.Linear, None, EdgePruning, "last.ckpt"), TypeError, "Linear is not a LightningModule"),
        ((Deep, None, EdgePruning, "nowhere.ckpt"), FileNotFoundError, "there is no checkpoint nowhere.ckpt"),
    ],
)
def test_what_is_no_module_is_refused(arguments: tuple[Any, ...], error: type[Exception], said: str) -> None:
    with pytest.raises(error, match=said):
        from_lightning_module(*arguments)


class Holds(pl.LightningModule):
    """A module that keeps more than plain data in its checkpoints."""

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        checkpoint["trap"] = MakesAFolder(Path("made"))


def test_a_checkpoint_with_more_than_plain_data_is_loaded_by_its_owner(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    trainer = pl.Trainer(accelerator="cpu", logger=False, enable_checkpointing=False)
    trainer.strategy.connect(Holds())
    trainer.save_checkpoint(tmp_path / "c.ckpt")
    with pytest.raises(
        ValueError, match=r"c.ckpt .*more than tensors.* If you trust where it is from, load it yourself, Holds"
    ):
        from_lightning_module(Holds, checkpoint=tmp_path / "c.ckpt")
    assert not (tmp_path / "made").exists()


def test_a_module_and_a_checkpoint_are_one_too_many() -> None:
    with pytest.raises(TypeError, match="a checkpoint goes with the class"):
        from_lightning_module(Deep(), checkpoint="last.ckpt")
