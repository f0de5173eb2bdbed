"""Loading models and tokenizers by name, from everywhere they may be."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import gguf
import huggingface_hub
import numpy as np
import pytest
import torch
import transformers
from safetensors.torch import load_file, save_file
from transformers import LlamaConfig, LlamaForCausalLM

from lightning_circuits.models import loading as pretrained
from lightning_circuits.models.loading import load_model, load_tokenizer
from lightning_circuits.models.registry import wrap
from tests.support.oracle import pairs, stock_logits
from tests.support.tiny_models import FAMILIES, tiny_model

EMBEDDED_FOLDER = Path(pretrained.__file__).parent / "assets" / pretrained.EMBEDDED


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A small Llama saved in bfloat16, with a tokenizer."""
    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=64,
        hidden_size=32,
        intermediate_size=64,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        tie_word_embeddings=False,
    )
    path = tmp_path_factory.mktemp("llama")
    LlamaForCausalLM(config).to(torch.bfloat16).save_pretrained(path)
    load_tokenizer("tiny-ioi").save_pretrained(path)
    return path


def write_gguf(path: Path, model: LlamaForCausalLM) -> None:
    """The same weights as a GGUF file, written by hand (GGUF keeps the rows of q and k in another order)."""
    config = model.config
    writer = gguf.GGUFWriter(str(path), "llama")
    writer.add_block_count(config.num_hidden_layers)
    writer.add_context_length(128)
    writer.add_embedding_length(config.hidden_size)
    writer.add_feed_forward_length(config.intermediate_size)
    writer.add_head_count(config.num_attention_heads)
    writer.add_head_count_kv(config.num_key_value_heads)
    writer.add_layer_norm_rms_eps(config.rms_norm_eps)
    writer.add_rope_dimension_count(config.head_dim)
    writer.add_vocab_size(config.vocab_size)
    names = {
        "embed_tokens": "token_embd",
        "lm_head": "output",
        "model.norm": "output_norm",
        "self_attn.q_proj": "attn_q",
        "self_attn.k_proj": "attn_k",
        "self_attn.v_proj": "attn_v",
        "self_attn.o_proj": "attn_output",
        "mlp.gate_proj": "ffn_gate",
        "mlp.up_proj": "ffn_up",
        "mlp.down_proj": "ffn_down",
        "post_attention_layernorm": "ffn_norm",
        "input_layernorm": "attn_norm",
        "model.layers.": "blk.",
    }
    for name, weight in model.state_dict().items():
        heads = {"q_proj": config.num_attention_heads, "k_proj": config.num_key_value_heads}.get(name.split(".")[-2])
        value = weight.float().numpy()
        if heads is not None:
            value = value.reshape(heads, 2, -1, value.shape[1]).swapaxes(1, 2).reshape(value.shape)
        for ours, theirs in names.items():
            name = name.replace(ours, theirs)
        writer.add_tensor(name.removeprefix("model."), np.ascontiguousarray(value))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


@pytest.mark.parametrize("dtype", ["float32", "bfloat16", "float64", torch.float16])
def test_a_folder_is_loaded_in_the_dtype_asked_for(folder: Path, dtype: str | torch.dtype) -> None:
    model = load_model(folder, dtype)
    assert {str(p.dtype) for p in model.parameters()} == {f"torch.{str(dtype).removeprefix('torch.')}"}
    assert not model.training and not any(p.requires_grad for p in model.parameters())
    assert model.config._attn_implementation == "sdpa" and not model.config.use_cache
    assert load_model(str(folder)).dtype == torch.float32  # never the checkpoint's
    assert load_model(folder, attention="eager").config._attn_implementation == "eager"


@pytest.mark.parametrize("family", FAMILIES)
def test_every_family_is_loaded_by_name_and_read(family: str, tmp_path: Path) -> None:
    """With no attention asked for: some have none but the eager one, and are refused if another is."""
    stock, batch = tiny_model(family), pairs("none")
    stock.save_pretrained(tmp_path)
    if not any("experts" in name for name, _ in stock.named_parameters()):
        # The fused product of mixtures wants rows of whole 16 bytes, which 20 numbers are in float32 alone.
        wrap(load_model(tmp_path, "bfloat16"))
    logits = wrap(load_model(tmp_path)).run(batch.clean_ids, batch.attention_mask, batch.positions)
    torch.testing.assert_close(logits, stock_logits(stock, batch.clean_ids, batch), atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize("dtype", ["auto", "int8", "float", "float31"])
def test_other_dtypes_are_refused(dtype: str) -> None:
    with pytest.raises(ValueError, match=f"dtype '{dtype}' .* float32, float64, bfloat16, float16"):
        load_model("tiny-ioi", dtype)


def test_gguf_folder_and_file(folder: Path, tmp_path: Path) -> None:
    pytest.importorskip("accelerate", reason="transformers needs it for GGUF files")
    stored = load_model(folder)
    write_gguf(tmp_path / "m.gguf", stored)
    for name in (tmp_path, tmp_path / "m.gguf"):
        model = load_model(name)
        # Bit for bit: the weights were stored in float32.
        for key, weight in stored.state_dict().items():
            assert torch.equal(model.state_dict()[key], weight), key
        assert not model.training and not any(p.requires_grad for p in model.parameters())
        model.save_pretrained(tmp_path / "again")
        assert load_model(tmp_path, "bfloat16").dtype == torch.bfloat16
        model.float()


def test_gguf_says_what_to_install(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "m.gguf").touch()
    monkeypatch.setattr(pretrained, "find_spec", lambda name: None)
    with pytest.raises(ImportError, match=r"m\.gguf is a GGUF file.*pip install gguf accelerate"):
        load_tokenizer(tmp_path)


def test_several_gguf_files_are_named(tmp_path: Path) -> None:
    for name in ("q4.gguf", "q8.gguf"):
        (tmp_path / name).touch()
    with pytest.raises(ValueError, match=r"2 GGUF files \(q4\.gguf, q8\.gguf\)"):
        load_model(tmp_path)


@pytest.mark.parametrize("load", [load_model, load_tokenizer])
def test_what_is_not_there_is_named(load, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "notes.txt").touch()
    for name, message in (
        (tmp_path / "nowhere", f"there is no model at {tmp_path / 'nowhere'}"),
        ("./models/a/b", "there is no model at models/a/b"),
        ("~/no such model", "there is no model at .*no such model"),
        (tmp_path, r"holds no (model|tokenizer): .* nor a .gguf file is in it, but notes.txt"),
        (tmp_path / "notes.txt", "notes.txt is not a model"),
    ):
        with pytest.raises(FileNotFoundError, match=message):
            load(name)


@pytest.mark.parametrize("load", [load_model, load_tokenizer])
def test_an_unreachable_hub_is_one_clear_message(load, monkeypatch: pytest.MonkeyPatch) -> None:
    def unreachable(self: object, name: str, timeout: float) -> None:
        raise ConnectionError("Name or service not known\nand much more")

    monkeypatch.setattr(huggingface_hub.HfApi, "model_info", unreachable)
    with pytest.raises(FileNotFoundError) as caught:
        load("some-one/no-such-model")
    message = str(caught.value)
    assert "no model 'some-one/no-such-model'" in message and "(Name or service not known)" in message
    assert "\n" not in message and caught.value.__suppress_context__


def test_the_embedded_model_needs_no_network(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    def refuse(*args: object, **kwargs: object) -> None:
        raise RuntimeError("network")

    monkeypatch.setattr("socket.socket.connect", refuse)
    monkeypatch.chdir(tmp_path)  # found from anywhere
    assert load_model("tiny-ioi").config.vocab_size == len(load_tokenizer("tiny-ioi"))


# ---- tokenizers ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("files", [["tokenizer.json", "tokenizer_config.json"], ["tokenizer.json"]])
def test_a_tokenizer_may_stand_alone(files: list[str], tmp_path: Path) -> None:
    for file in files:
        shutil.copy(EMBEDDED_FOLDER / file, tmp_path)
    (tmp_path / "q4.gguf").touch()
    (tmp_path / "q8.gguf").touch()  # of which neither is asked
    assert load_tokenizer(tmp_path).get_vocab() == load_tokenizer("tiny-ioi").get_vocab()


def test_a_config_alone_is_no_tokenizer_of_no_words(tmp_path: Path) -> None:
    shutil.copy(EMBEDDED_FOLDER / "config.json", tmp_path)
    with pytest.raises(FileNotFoundError, match="holds no tokenizer: there is no vocabulary in it"):
        load_tokenizer(tmp_path)


def test_a_damaged_tokenizer_is_one_message(tmp_path: Path) -> None:
    (tmp_path / "tokenizer.json").write_text("{")
    with pytest.raises(ValueError, match=f"^{tmp_path} cannot be read: "):
        load_tokenizer(tmp_path)


# ---- folders that are no model ---------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("model_type", "message"),
    [
        ("bert", "is not supported: its norms stand on the sums"),
        ("mamba", "is not supported: its layers are state-space blocks"),
        *((other, "is not supported; supported are apertus, ") for other in ("t5", "llava", "mine", None, 3)),
    ],
)
def test_a_family_that_is_not_supported_is_refused_before_any_weight_is_read(
    model_type: object, message: str, tmp_path: Path
) -> None:
    config = {"model_type": model_type, "auto_map": {"AutoConfig": "code.Config", "AutoModelForCausalLM": "code.Model"}}
    (tmp_path / "config.json").write_text(json.dumps(config))
    (tmp_path / "code.py").write_text("raise SystemExit('run')")
    with pytest.raises(ValueError, match=f"family {model_type!r} {message}"):
        load_model(tmp_path)


def test_so_it_is_on_the_hub(monkeypatch: pytest.MonkeyPatch) -> None:
    asked = lambda name, **options: ({"model_type": "rwkv"}, {})  # noqa: E731
    monkeypatch.setattr(transformers.PreTrainedConfig, "get_config_dict", asked)
    with pytest.raises(ValueError, match="family 'rwkv' is not supported"):
        load_model("RWKV/rwkv-4-169m-pile")


@pytest.mark.parametrize("config", ["{", "[1]", "{}", '"gpt2"', "", "\0"])
def test_a_config_that_is_none_is_one_message(config: str, tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text(config)
    with pytest.raises(ValueError, match=rf"^{tmp_path} (cannot be read|is no model of transformers)"):
        load_model(tmp_path)


def test_a_quantised_checkpoint_is_refused_before_its_weights_are_read(tmp_path: Path) -> None:
    config = {"model_type": "llama", "quantization_config": {"quant_method": "gptq", "bits": 4}}
    (tmp_path / "config.json").write_text(json.dumps(config))
    with pytest.raises(ValueError, match=r"is quantised \(gptq\)"):
        load_model(tmp_path)


@pytest.mark.parametrize(
    ("kind", "way"), [("LORA", "is merged by peft"), ("PROMPT_TUNING", "cannot be merged"), (None, "is merged by peft")]
)
def test_an_adapter_is_called_one(kind: str | None, way: str, tmp_path: Path) -> None:
    config = {"peft_type": kind, "base_model_name_or_path": "gpt2"} if kind else {}
    (tmp_path / "adapter_config.json").write_text(json.dumps(config))
    (tmp_path / "adapter_model.safetensors").touch()
    named = rf"\({kind}\) for gpt2" if kind else r"\(of an unknown kind\) for a model that it does not name"
    with pytest.raises(FileNotFoundError, match=rf"holds no model but an adapter {named}.* {way}"):
        load_model(tmp_path)


# ---- weights that are not all there ----------------------------------------------------------------------------------


@pytest.fixture
def damaged(folder: Path, tmp_path: Path) -> Path:
    """A copy of the model that a test may damage."""
    return Path(shutil.copytree(folder, tmp_path / "damaged"))


@pytest.mark.parametrize("share", [0, 0.001, 0.5, 0.99, None])
def test_weights_that_are_cut_or_gone_are_one_message(share: float | None, damaged: Path) -> None:
    weights = damaged / "model.safetensors"
    if share is None:
        weights.unlink()
    else:
        weights.write_bytes(weights.read_bytes()[: int(share * weights.stat().st_size)])
    with pytest.raises(ValueError, match=f"^{damaged} cannot be read: "):
        load_model(damaged)


def change_weights(folder: Path, change: Callable[[dict[str, torch.Tensor]], object]) -> None:
    weights = load_file(folder / "model.safetensors")
    change(weights)
    save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})


@pytest.mark.parametrize("name", ["lm_head.weight", "model.layers.1.mlp.up_proj.weight", "model.norm.weight"])
def test_absent_weights_are_never_random_ones(name: str, damaged: Path) -> None:
    change_weights(damaged, lambda weights: weights.pop(name))
    with pytest.raises(ValueError, match=f"does not hold all weights of a LlamaForCausalLM: 1 are .* such as {name}"):
        load_model(damaged)


def test_nor_are_those_of_another_shape(damaged: Path) -> None:
    name = "model.layers.0.mlp.up_proj.weight"
    change_weights(damaged, lambda weights: weights.update({name: weights[name][:-1].clone()}))
    with pytest.raises(ValueError, match=f"1 are missing or of another shape than its config says, such as {name}"):
        load_model(damaged)


def test_a_model_without_its_head_is_none_unless_its_head_is_its_embedding(folder: Path, tmp_path: Path) -> None:
    load_model(folder).model.save_pretrained(tmp_path / "llama")
    with pytest.raises(ValueError, match=r"such as lm_head\.weight"):
        load_model(tmp_path / "llama")
    stock = load_model("tiny-ioi")
    stock.transformer.save_pretrained(tmp_path / "gpt2")
    assert torch.equal(load_model(tmp_path / "gpt2").lm_head.weight, stock.lm_head.weight)


@pytest.mark.parametrize("content", [b"", b"text\n" * 10, b"GGUF", b"GGUF\3\0\0\0" + b"\xff" * 40])
@pytest.mark.parametrize("load", [load_model, load_tokenizer])
def test_a_damaged_gguf_file_is_one_message(load, content: bytes, tmp_path: Path) -> None:
    (tmp_path / "m.gguf").write_bytes(content)
    with pytest.raises(ValueError, match=r"m\.gguf cannot be read: "):
        load(tmp_path)


def test_a_cut_gguf_file_is_one_message(folder: Path, tmp_path: Path) -> None:
    write_gguf(tmp_path / "m.gguf", load_model(folder))
    whole = (tmp_path / "m.gguf").read_bytes()
    for share in (0.01, 0.1, 0.5, 0.95):
        (tmp_path / "m.gguf").write_bytes(whole[: int(share * len(whole))])
        with pytest.raises(ValueError, match=r"m\.gguf cannot be read: "):
            load_model(tmp_path)


@pytest.mark.parametrize("name", [None, 3, ""])
def test_what_is_no_name_is_a_type_error(name: object) -> None:
    with pytest.raises(TypeError, match="a model is given by its name or its folder, got"):
        load_model(name)  # type: ignore[arg-type]
