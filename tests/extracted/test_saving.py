"""An extracted model is saved and loaded by itself, and what is no such model is refused in one line."""

from __future__ import annotations

import json
import os
import resource
import subprocess
import sys
from collections.abc import Callable
from copy import deepcopy
from pathlib import Path
from typing import Any

import pytest
import safetensors.torch
import torch
from transformers import GPT2LMHeadModel

from lightning_circuits import Circuit, ExtractedModel, extract, load
from lightning_circuits.models import wrap
from tests.support.extracted import fitted, prompts, random_circuit
from tests.support.gated import wrapped
from tests.support.tiny_models import tiny_model

FAMILIES = [
    "gpt2",
    "llama-gqa",
    "qwen2",
    "gemma2",
    "gptj",
    "cohere-head-norms",
    "codegen",
    "olmoe",
    "gpt-oss",
    "ctrl",
    "xglm",
]
FILES = ["circuit.safetensors", "extracted.json", "weights.safetensors"]


def extracted_of(family: str = "gpt2", kv: str = "head", density: float = 0.2, name: str = "mean") -> ExtractedModel:
    model = wrapped(family, kv, torch.float32)
    return extract(model.model, random_circuit(model.layout, density), fitted(name, model))


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return extracted_of().save(tmp_path / "extracted")


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("name", ["mean", "mean-positional"])
def test_loaded_it_puts_out_the_same_to_the_bit(family: str, name: str, tmp_path: Path) -> None:
    one, batch = extracted_of(family, name=name), prompts("ragged")
    assert one.save(tmp_path / "a" / "b") == tmp_path / "a" / "b"
    assert sorted(path.name for path in (tmp_path / "a" / "b").iterdir()) == FILES
    random = torch.get_rng_state()
    other = ExtractedModel.load(tmp_path / "a" / "b")
    assert torch.equal(torch.get_rng_state(), random)
    given = batch["clean_ids"], batch["attention_mask"]
    assert torch.equal(other(*given), one(*given))
    assert repr(other) == repr(one) and other.circuit == one.circuit and other.ablation == one.ablation
    assert not any(parameter.requires_grad for parameter in other.parameters()) and not other.training


@pytest.mark.parametrize("kv", ["head", "group"])
def test_per_head_and_per_group(kv: str, tmp_path: Path) -> None:
    one, ids = extracted_of("llama-gqa", kv), prompts("none")["clean_ids"]
    other = ExtractedModel.load(one.save(tmp_path))
    assert other.circuit.layout.kv == kv and torch.equal(other(ids), one(ids))


def test_in_bfloat16(tmp_path: Path) -> None:
    model = wrap(deepcopy(tiny_model("llama-gqa")).bfloat16())
    one, ids = extract(model.model, random_circuit(model.layout, 0.5), "zero"), prompts("none")["clean_ids"]
    other = ExtractedModel.load(one.save(tmp_path))
    assert other(ids).dtype == torch.bfloat16 and torch.equal(other(ids), one(ids))


@pytest.mark.slow
def test_in_another_process_that_has_nothing_of_the_model(tmp_path: Path) -> None:
    model = wrap(load("tiny-ioi"))
    circuit = random_circuit(model.layout, 0.1)
    extract("tiny-ioi", circuit, "zero").save(tmp_path / "small")
    ids = torch.arange(12).view(2, 6)
    program = f"""
import sys, torch
from lightning_circuits import ExtractedModel
import lightning_circuits.models.loading as loading
loading._ASSETS = None
model = ExtractedModel.load({str(tmp_path / "small")!r})
assert "lightning" not in sys.modules and "pytorch_lightning" not in sys.modules
torch.save(model(torch.arange(12).view(2, 6)), {str(tmp_path / "logits.pt")!r})
"""
    environment = os.environ | {"HF_HOME": str(tmp_path / "nothing"), "HF_HUB_OFFLINE": "1", "HOME": str(tmp_path)}
    subprocess.run([sys.executable, "-c", program], check=True, env=environment, cwd=tmp_path)
    logits = torch.load(tmp_path / "logits.pt", weights_only=True)
    torch.testing.assert_close(logits, extract("tiny-ioi", circuit, "zero")(ids), atol=1e-4, rtol=1e-4)


def test_it_is_smaller_than_the_model(tmp_path: Path) -> None:
    model = load("tiny-ioi")
    model.save_pretrained(tmp_path / "full")
    circuit = random_circuit(wrap(model).layout, 0.02, seed=1)
    one = extract(model, circuit, "zero")
    one.save(tmp_path / "small")
    full, small = ((tmp_path / name).stat().st_size for name in ("full/model.safetensors", "small/weights.safetensors"))
    numbers = sum(each.numel() for each in safetensors.torch.load_file(tmp_path / "small/weights.safetensors").values())
    assert numbers == one.n_weights + model.config.vocab_size, "and the logits by which it is compared"
    assert small < 4 * numbers + 20_000 and small < 0.7 * full


def test_tied_weights_are_written_once_and_tied_again(tmp_path: Path) -> None:
    one = extracted_of("qwen2")
    other = ExtractedModel.load(one.save(tmp_path))
    assert json.loads((tmp_path / "extracted.json").read_text())["tied"] == {
        "lm_head.weight": "model.embed_tokens.weight"
    }
    assert other.language_model.lm_head.weight is other.language_model.model.embed_tokens.weight


def test_the_circuit_is_a_file_like_any_other(folder: Path) -> None:
    assert Circuit.load(folder / "circuit.safetensors") == ExtractedModel.load(folder).circuit


# ---- where it is written ---------------------------------------------------------------------------------------------


def test_its_files_are_as_readable_as_any_other(folder: Path) -> None:
    (folder.parent / "other").write_text("made by anybody")
    modes = {(folder / name).stat().st_mode for name in FILES}
    assert modes == {(folder.parent / "other").stat().st_mode}


def test_a_folder_that_holds_one_holds_the_next(folder: Path) -> None:
    (folder / ".writing-killed.tmp").mkdir()
    (folder / ".writing-killed.tmp" / "lock").touch()
    other = extracted_of("llama-gqa")
    other.save(folder)
    assert sorted(path.name for path in folder.iterdir()) == FILES
    assert repr(ExtractedModel.load(folder)) == repr(other)


def test_a_folder_with_other_files_is_left_alone(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text("{}")
    with pytest.raises(
        ValueError, match=r"config\.json is in it, which is none of its files. Give a folder of its own"
    ):
        extracted_of().save(tmp_path)
    with pytest.raises(NotADirectoryError, match="that is a file"):
        extracted_of().save(tmp_path / "config.json")
    assert [path.name for path in tmp_path.iterdir()] == ["config.json"]


def test_a_disk_that_is_full_leaves_what_was_there(folder: Path) -> None:
    """No file can grow beyond 2 kB: a real error of the operating system."""
    before = {name: (folder / name).read_bytes() for name in FILES}
    extracted, limits = extracted_of("llama-gqa"), resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (2000, limits[1]))
    try:
        with pytest.raises(OSError, match=r"cannot write an extracted model to .*File too large"):
            extracted.save(folder)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert {path.name: path.read_bytes() for path in folder.iterdir()} == before


@pytest.mark.parametrize("moved", [1, 2])
def test_killed_while_files_are_moved_it_is_known_to_be_none(
    folder: Path, moved: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    move, done = os.replace, []

    def killed(*paths: Any) -> None:
        if len(done) == moved:
            raise KeyboardInterrupt
        if Path(paths[1]).parent == folder:
            done.append(paths)
        move(*paths)

    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(os, "replace", killed)
        extracted_of("llama-gqa").save(folder)
    with pytest.raises(ValueError, match="damaged, or of another model than its extracted"):
        ExtractedModel.load(folder)


def test_a_model_that_its_config_does_not_make_is_not_written(tmp_path: Path) -> None:
    class Mine(GPT2LMHeadModel):
        pass

    stock = deepcopy(tiny_model("gpt2"))
    mine = Mine(stock.config)
    circuit = random_circuit(wrap(mine).layout, 0.2)
    with pytest.raises(ValueError, match="Mine cannot be made again from a file: it is no class of transformers"):
        extract(mine, circuit, "zero").save(tmp_path / "mine")
    stock.config.vocab_size = 20
    with pytest.raises(ValueError, match=r"no transformer.wte.weight of \[19, 24\]"):
        extract(stock, circuit, "zero").save(tmp_path / "mine")
    assert list(tmp_path.iterdir()) == []


# ---- what is read ----------------------------------------------------------------------------------------------------


def said(change: Callable[[dict[str, Any]], Any]) -> Callable[[Path], None]:
    """A change of what a folder says."""

    def make(folder: Path) -> None:
        content = json.loads((folder / "extracted.json").read_text())
        change(content)
        (folder / "extracted.json").write_text(json.dumps(content))

    return make


def cut_off(name: str) -> Callable[[Path], None]:
    return lambda folder: (folder / name).write_bytes((folder / name).read_bytes()[:-100]) and None


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (cut_off("weights.safetensors"), "its weights.safetensors is damaged, or of another model"),
        (cut_off("circuit.safetensors"), "its circuit.safetensors is damaged"),
        (cut_off("extracted.json"), "it is not JSON"),
        (lambda folder: (folder / "extracted.json").write_text("[]"), "missing 'format'"),
        (said(lambda it: it.update(format=2)), "it is of the format 2, and format 1 is read here"),
        (said(lambda it: it.pop("tied")), "missing 'tied'"),
        (said(lambda it: it["sha256"].clear()), "missing 'weights.safetensors'"),
        (said(lambda it: it["model"].update({"class": "GPT9Model"})), "which is installed, has no model GPT9Model"),
        (said(lambda it: it["model"].update({"class": "logging"})), "has no model logging"),
        (said(lambda it: it["model"].update({"class": "LlamaForCausalLM"})), "cannot be read as an extracted model"),
        (
            said(lambda it: it["model"]["config"].update(n_embd=48)),
            r"a GPT2LMHeadModel has no transformer\.\S+ of shape",
        ),
        (
            said(lambda it: it["model"]["config"].update(n_head=1)),
            "its circuit is of another layout: n_heads 3 against 1",
        ),
        (
            said(lambda it: it["model"]["config"].update(layer_norm_epsilon=0.5)),
            "it computes something else than where",
        ),
        (said(lambda it: it["model"]["config"].update(n_embd="wide")), "cannot be read as an extracted model"),
        (said(lambda it: it.update(model=[])), "cannot be read as an extracted model"),
        (said(lambda it: it["tied"].clear()), "cannot be read as an extracted model"),
        (said(lambda it: it.update(ablation={})), "missing 'name'"),
    ],
)
def test_what_is_damaged_is_one_error(folder: Path, change: Callable[[Path], None], said: str) -> None:
    change(folder)
    with pytest.raises(ValueError, match=said) as refusal:
        ExtractedModel.load(folder)
    assert str(folder) in str(refusal.value) and "\n" not in str(refusal.value)


@pytest.mark.parametrize("name", FILES)
def test_a_file_that_is_missing_is_named(folder: Path, name: str) -> None:
    (folder / name).unlink()
    with pytest.raises(FileNotFoundError, match=f"there is no {name} in it"):
        ExtractedModel.load(folder)


def test_a_folder_that_is_not_there(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match="there is no such folder"):
        ExtractedModel.load(tmp_path / "missing")
