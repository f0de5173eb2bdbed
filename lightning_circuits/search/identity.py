"""What language model this is, and which prompts: hashes by which a run is told from another.

They depend on what a thing is, not on where it is: weights are hashed alike on every device, prompts alike in whatever
order, batches and padding they come.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from importlib.metadata import PackageNotFoundError, version
from typing import Any

import numpy as np
import torch
from torch import nn

from lightning_circuits.arguments import hash_of_numbers
from lightning_circuits.batch import NO_TOKEN, Batch


def fingerprint(model: Any) -> str:
    """16 hex digits that depend on the shapes of a model's weights and on its config, not on the weights' values."""
    config = {"class": type(model).__qualname__}
    if hasattr(getattr(model, "config", None), "to_dict"):
        config = model.config.to_dict()
    # Where it was loaded from, in which dtype and by which version does not make it another model.
    for key in ("_name_or_path", "transformers_version", "dtype", "torch_dtype", "use_cache", "quantization_config"):
        config.pop(key, None)
    shapes = {name: list(parameter.shape) for name, parameter in model.named_parameters()}
    return _short_hash(json.dumps([config, shapes], sort_keys=True, default=str))


def package_versions() -> dict[str, str]:
    """The versions of the packages that make the numbers, of those that are installed."""
    found = {}
    for package in ("lightning-circuits", "torch", "transformers", "pytorch-lightning", "lightning"):
        try:
            found[package] = version(package)
        except PackageNotFoundError:
            continue
    return found


class WeightsHash:
    """The hash of a model's weights, taken once as long as nobody changes them."""

    def __init__(self) -> None:
        self._of: Any = None
        self._hash = ""
        self._fixed = False

    def __call__(self, model: nn.Module) -> str:
        """16 hex digits that depend on the dtype and the value of every weight."""
        if self._fixed:
            return self._hash
        weights = model.state_dict()
        # Where each is, and how often it has been written to, by PyTorch's count. Tied ones are at one place.
        of = {name: (each.data_ptr(), each.shape, each.stride(), each._version) for name, each in weights.items()}
        if of != self._of:
            distinct = {of[name]: each for name, each in weights.items()}
            with ThreadPoolExecutor() as threads:  # hashing leaves the interpreter to the others
                hashes = dict(zip(distinct, threads.map(hash_of_numbers, distinct.values()), strict=True))
            named = sorted((name, list(each.shape), hashes[of[name]]) for name, each in weights.items())
            self._of, self._hash = of, _short_hash(json.dumps(named))
        return self._hash

    def fix(self, model: nn.Module) -> None:
        """Take it for good, before processes share the weights out and none can see them all."""
        self(model)
        self._fixed = True


def hash_of_prompts(batches: Iterable[Batch]) -> tuple[int, str]:
    """How many prompts there are in some batches, and 16 hex digits that depend on which.

    Not on their order, nor on the padding. What a batch holds beside the contract counts as well.

    Args:
        batches: the prompts; tensors ``[B, ...]`` by name, of which those as wide as the mask are padded alike.
    """
    prompts, total = 0, 0
    for batch in batches:
        for prompt in _prompts(batch):
            prompts += 1
            total += int(hashlib.sha256(prompt).hexdigest(), 16)  # a sum: as many of each, in any order
    return prompts, _short_hash(f"{prompts} {total % 2**256}")


def _prompts(batch: Batch) -> Iterator[bytes]:
    """Each prompt of a batch as bytes, without padding; with the rows that read on in its answers, if it has any."""
    values = {name: each.cpu().numpy() for name, each in sorted(batch.items()) if isinstance(each, torch.Tensor)}
    mask = values.pop("attention_mask").astype(bool)
    values.pop("groups", None)  # numbered as a loader meets them, which says nothing of a prompt
    values["positions"] = values["positions"] - mask.argmax(1)  # counted from the first token
    said: list[str] = []
    for row, real in enumerate(mask):
        if said and ("continues" not in values or values["continues"][row] == 0):
            yield "\n".join(said).encode()
            said = []
        for name, value in values.items():
            of_row = value[row]
            if value.shape[:2] == mask.shape and name not in ("answers", "distractors"):
                of_row = of_row[real]
            elif name in ("answers", "distractors"):
                # Which candidates come by at a row, but not how many there are in other prompts.
                of_row = np.trim_zeros(of_row - NO_TOKEN, "b") if "continues" in values else of_row[of_row >= 0]
            said.append(f"{name} {of_row.tolist()}")
    if said:
        yield "\n".join(said).encode()


def _short_hash(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()[:16]
