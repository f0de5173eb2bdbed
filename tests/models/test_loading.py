"""Loading models and tokenizers by name, from everywhere they may be."""

from __future__ import annotations

from pathlib import Path

import gguf
import huggingface_hub
import numpy as np
import pytest
import torch
from transformers import LlamaConfig, LlamaForCausalLM

from lightning_circuits.models import loading as pretrained
from lightning_circuits.models.loading import load_model, load_tokenizer


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
        (tmp_path, "holds no model: neither a config.json nor a .gguf file"),
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
