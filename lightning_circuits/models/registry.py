"""Which class reads which Hugging Face family. A new family is one file beside this one and one line here."""

from __future__ import annotations

from typing import Any

from lightning_circuits.models.base import CircuitModel
from lightning_circuits.models.gpt2 import GPT2CircuitModel
from lightning_circuits.models.llama import LlamaCircuitModel

FAMILIES: list[type[CircuitModel]] = [GPT2CircuitModel, LlamaCircuitModel]


def wrap(model: Any, kv: str = "head") -> CircuitModel:
    """Read a Hugging Face language model in memory as writers and readers.

    Args:
        model: a ``...ForCausalLM`` module of a supported family. It is frozen and put in eval mode, else left alone.
        kv: key and value readers ``"head"`` by query head, or ``"group"`` by K/V group.

    Raises:
        TypeError: not a Hugging Face model with a language-model head.
        ValueError: a family that is not supported; or its weights cannot be read as writers and readers.
    """
    config: Any = getattr(model, "config", None)
    if not hasattr(config, "model_type") or not hasattr(model, "lm_head"):
        raise TypeError(
            f"expected a Hugging Face language model with its head (such as GPT2LMHeadModel or LlamaForCausalLM), "
            f"got {type(model).__name__}"
        )
    for family in FAMILIES:
        if config.model_type in family.model_types:
            read = family(model, kv)
            read.verify()
            return read
    supported = ", ".join(sorted(name for family in FAMILIES for name in family.model_types))
    raise ValueError(
        f"model family {config.model_type!r} is not supported; supported are {supported}. "
        "To add one: a file in lightning_circuits/models/ and its class in FAMILIES of models/registry.py"
    )
