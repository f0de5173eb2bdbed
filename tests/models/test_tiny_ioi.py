"""The embedded model: small, right on prompts it has not seen, knows the data's words, made by the script as it is."""

from __future__ import annotations

import importlib.util
import re
from pathlib import Path
from types import ModuleType

import pytest
import torch
from safetensors.torch import load_file

from lightning_circuits.datamodules import IOIDataModule
from lightning_circuits.datamodules.ioi import NAMES, OBJECTS, PLACES, TEMPLATES
from lightning_circuits.models import loading as pretrained
from lightning_circuits.models.loading import EMBEDDED, load_model, load_tokenizer

FOLDER = Path(pretrained.__file__).parent / "assets" / EMBEDDED
SCRIPT = Path(__file__).parents[2] / "examples" / "train_tiny_ioi.py"


@pytest.fixture(scope="module")
def script() -> ModuleType:
    spec = importlib.util.spec_from_file_location("train_tiny_ioi", SCRIPT)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_it_is_small_and_safe() -> None:
    files = {file.name: file.stat().st_size for file in FOLDER.iterdir()}
    assert set(files) == {
        "config.json",
        "generation_config.json",
        "model.safetensors",
        "tokenizer.json",
        "tokenizer_config.json",
    }
    assert sum(files.values()) <= 2_000_000


def test_it_covers_every_word_of_the_data() -> None:
    tokenizer = load_tokenizer(EMBEDDED)
    templates = [re.sub("{.*?}", "", template) for template in TEMPLATES]
    words = set(re.findall(r"\w+|[.,]", " ".join([*templates, *NAMES, *PLACES, *OBJECTS])))
    for word in words:
        assert tokenizer.convert_ids_to_tokens(tokenizer(f" {word}")["input_ids"]) == [word]
    assert tokenizer.vocab_size == load_model(EMBEDDED).config.vocab_size == len(words) + 2
    data = IOIDataModule(EMBEDDED)
    data.setup()
    assert len(data.possible_answers(NAMES, "gave it to")) == len(NAMES)


@pytest.mark.parametrize("seed", [0, 1])
def test_it_is_right_on_held_out_prompts(script: ModuleType, seed: int) -> None:
    """Seed 0 is the split that the script kept from training; of another seed's prompts nearly all are new to it."""
    torch.set_num_threads(1)
    model, tokenizer = load_model(EMBEDDED), load_tokenizer(EMBEDDED)
    if seed == script.SEED:
        data = script.build_data(tokenizer)
    else:
        data = IOIDataModule(EMBEDDED, n_train=1, n_val=1, n_test=512, batch_size=64, seed=seed)
    measured = script.evaluate(model, data)
    assert measured["accuracy"] >= 0.99
    assert measured["answer above distractor"] >= 0.99
    assert measured["logit difference, clean"] > 3
    assert abs(measured["logit difference, corrupt"]) < 0.2


@pytest.mark.parametrize(("corruption", "low", "high"), [("s2-io-flip", -20, -3), ("abc", -0.5, 0.5)])
def test_it_follows_the_names(corruption: str, low: float, high: float, script: ModuleType) -> None:
    """With S and IO exchanged it prefers the other name; with all names replaced it prefers neither."""
    data = IOIDataModule(EMBEDDED, n_train=1, n_val=1, n_test=256, batch_size=64, corruption=corruption)
    assert low < script.evaluate(load_model(EMBEDDED), data)["logit difference, corrupt"] < high


def test_padding_on_the_left_changes_nothing() -> None:
    """Given the positions, as everything that runs the model has to."""
    model = load_model(EMBEDDED, "float64")
    logits = []
    for side in ("right", "left"):
        batch = next(iter(IOIDataModule(EMBEDDED, padding_side=side).val_dataloader()))
        mask = batch["attention_mask"]
        out = model(batch["clean_ids"], attention_mask=mask, position_ids=(mask.cumsum(-1) - 1).clamp(min=0)).logits
        logits.append(out[torch.arange(len(mask)), batch["positions"]])
    torch.testing.assert_close(*logits, rtol=0, atol=1e-9)


def test_the_script_writes_the_same_again(
    script: ModuleType, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """A few steps of it on little data, twice; and the tokenizer as shipped."""
    monkeypatch.setattr(script, "build_data", lambda tokenizer: IOIDataModule(tokenizer, 96, 1, 32, batch_size=32))
    script.main(["--out", str(tmp_path / "a"), "--steps", "3"])
    # What ran before must not matter.
    torch.rand(3)
    script.main(["--out", str(tmp_path / "b"), "--steps", "3"])
    first, second = (load_file(tmp_path / name / "model.safetensors") for name in "ab")
    shipped = load_file(FOLDER / "model.safetensors")
    assert {k: v.shape for k, v in first.items()} == {k: v.shape for k, v in shipped.items()}
    assert all(torch.equal(first[key], second[key]) for key in first)
    assert (tmp_path / "a" / "tokenizer.json").read_text() == (FOLDER / "tokenizer.json").read_text()
    assert "accuracy" in capsys.readouterr().out
