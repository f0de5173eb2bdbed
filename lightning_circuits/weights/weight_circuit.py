"""A circuit of weights: which single weights of a model's blocks are kept. The others are zero, or their mean.

Eight weights take a byte, so a circuit of a hundred million is a file of 13 MB.

    >>> circuit = search.circuit()                                             # of WeightPruning      # doctest: +SKIP
    >>> circuit.density, circuit.save("runs/facts/half.safetensors")                                   # doctest: +SKIP
    >>> with circuit.applied(model):                                                                   # doctest: +SKIP
    ...     model.model(input_ids)                                             # the circuit's         # doctest: +SKIP

A circuit of weights is held against others of the same density: its complement (at half), random ones, and the largest
weights. Random and largest are drawn in the whole, or tensor by tensor as many as the circuit keeps there: a circuit
that keeps most of its norms is not beaten by a random one that lost them.
"""

from __future__ import annotations

import json
import math
import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import numpy as np
import safetensors.torch
import torch
from torch import Tensor

from lightning_circuits.arguments import require_choice, require_seed
from lightning_circuits.files.atomic import require_place, write_atomically
from lightning_circuits.files.base import content_of
from lightning_circuits.files.plain_json import plain_data, read_json
from lightning_circuits.files.safetensors import header_of
from lightning_circuits.models import CircuitModel
from lightning_circuits.weights.choosing import largest
from lightning_circuits.weights.space import WeightSpace, WeightTensor

Within = Literal["whole", "tensor"]
"""Where another circuit has as many weights: in the whole, or in every tensor."""
Rest = Literal["zero", "mean"]
"""What a weight is that is not in the circuit: 0, or the mean of all such weights of its tensor."""


@dataclass(frozen=True, eq=False)
class WeightCircuit:
    """Which weights are kept.

    Args:
        space: the weights that there are.
        bits: for each of its tensors, by name, uint8 ``[ceil(n_weights / 8)]``: bit k of byte i is weight 8 i + k.
        metadata: how it came about, plain JSON data.
    """

    space: WeightSpace
    bits: Mapping[str, Tensor]
    metadata: dict[str, Any] = field(default_factory=dict)

    @classmethod
    def of(
        cls, space: WeightSpace, masks: Mapping[str, Tensor], metadata: dict[str, Any] | None = None
    ) -> WeightCircuit:
        """A circuit of masks, bool ``[*shape]`` by the names of the tensors.

        Raises:
            ValueError: a mask is missing, one too many, or of another shape.
            TypeError: a mask that is not bool.
        """
        space.require_shapes(masks)
        for name, mask in masks.items():
            if mask.dtype != torch.bool:
                raise TypeError(f"the mask of {name} is {mask.dtype}, not bool: choose weights first")
        return cls(space, {tensor.name: _packed(masks[tensor.name]) for tensor in space.tensors}, metadata or {})

    # ---- what it keeps -----------------------------------------------------------------------------------------

    def mask(self, name: str) -> Tensor:
        """bool ``[*shape]``: which weights of a tensor are kept.

        Raises:
            KeyError: no such tensor.
        """
        tensor = next((tensor for tensor in self.space.tensors if tensor.name == name), None)
        if tensor is None:
            raise KeyError(f"the circuit has no weights of {name}")
        return _unpacked(self.bits[name], tensor)

    def masks(self) -> Iterator[tuple[WeightTensor, Tensor]]:
        """Every tensor with its mask, bool ``[*shape]``, one at a time."""
        for tensor in self.space.tensors:
            yield tensor, _unpacked(self.bits[tensor.name], tensor)

    def kept(self, tensor: WeightTensor) -> int:
        """How many weights of a tensor."""
        return int(_BITS[self.bits[tensor.name].long()].sum())

    @property
    def n_weights(self) -> int:
        """How many it keeps."""
        return sum(map(self.kept, self.space.tensors))

    @property
    def density(self) -> float:
        """The share of the weights that it keeps."""
        return self.n_weights / self.space.n_weights

    def __eq__(self, other: object) -> bool:
        """Whether it keeps the same weights of the same space; metadata do not count."""
        if not isinstance(other, WeightCircuit) or self.space != other.space:
            return False
        return all(torch.equal(self.bits[tensor.name], other.bits[tensor.name]) for tensor in self.space.tensors)

    __hash__ = None  # type: ignore[assignment]

    def __repr__(self) -> str:
        return f"WeightCircuit({self.n_weights:,} of {self.space.n_weights:,} weights, {self.density:.1%})"

    # ---- what it is held against -------------------------------------------------------------------------------

    def complement(self) -> WeightCircuit:
        """All weights of the space that this one does not keep."""
        return self._another("complement", {tensor.name: ~mask for tensor, mask in self.masks()})

    def random(self, seed: int, within: Within = "tensor") -> WeightCircuit:
        """As many weights, drawn evenly in the whole or in every tensor."""
        require_seed(seed)
        require_choice("within", within, Within)
        generator = torch.Generator().manual_seed(seed)
        counts = [self.kept(tensor) for tensor in self.space.tensors]
        if within == "whole":
            sizes = [tensor.n_weights for tensor in self.space.tensors]
            drawn = np.random.default_rng(seed).multivariate_hypergeometric(sizes, sum(counts), method="marginals")
            counts = drawn.tolist()
        masks = {}
        for tensor, n in zip(self.space.tensors, counts, strict=True):
            mask = torch.zeros(tensor.n_weights, dtype=torch.bool)
            mask[torch.randperm(tensor.n_weights, generator=generator)[:n]] = True
            masks[tensor.name] = mask.view(tensor.shape)
        return self._another(f"random, as many in the {within}", masks, seed=seed)

    def magnitude(self, model: CircuitModel, within: Within = "tensor") -> WeightCircuit:
        """As many weights, those that are largest in a model by |w|, in the whole or in every tensor."""
        require_choice("within", within, Within)
        sizes = {
            name: parameter.detach().abs().float() for name, parameter in self.space.parameters(model.model).items()
        }
        if within == "whole":
            masks = largest(sizes, self.n_weights)
        else:
            masks = {}
            for tensor in self.space.tensors:
                masks |= largest({tensor.name: sizes[tensor.name]}, self.kept(tensor))
        return self._another(f"largest, as many in the {within}", {name: mask.cpu() for name, mask in masks.items()})

    def _another(self, kind: str, masks: Mapping[str, Tensor], **said: Any) -> WeightCircuit:
        return WeightCircuit.of(self.space, masks, {"weights": kind, **said, "beside": self.metadata})

    # ---- as a model --------------------------------------------------------------------------------------------

    @contextmanager
    def applied(self, model: CircuitModel, rest: Rest = "zero") -> Iterator[CircuitModel]:
        """While open, a language model is the circuit; then it is what it was, to the bit.

        The model's own tensors are not written to: others stand in their place, so there are two of each meanwhile.

        Args:
            model: that the weights are of.
            rest: what the weights are that are not kept.

        Raises:
            ValueError: another model; another rest.
        """
        require_choice("rest", rest, Rest)
        parameters = self.space.parameters(model.model)
        own = {name: parameter.data for name, parameter in parameters.items()}
        try:
            for tensor, mask in self.masks():
                parameter, mask = parameters[tensor.name], mask.to(model.device)
                outside = parameter.data[~mask]
                instead = outside.float().mean().to(outside.dtype) if rest == "mean" and len(outside) else 0.0
                parameter.data = torch.where(mask, parameter.data, instead)
            yield model
        finally:
            for name, parameter in parameters.items():
                parameter.data = own[name]

    # ---- files -------------------------------------------------------------------------------------------------

    def save(self, path: str | os.PathLike[str]) -> Path:
        """Write the bits and the metadata as ``.safetensors``, whole or not at all.

        Raises:
            ValueError: another suffix; metadata that are no plain JSON data.
            OSError: no such folder, or a full disk.
        """
        path = Path(path)
        if path.suffix != ".safetensors":
            raise ValueError(f"a circuit of weights is a .safetensors file, got {path}")
        require_place(path)
        counts = {"n_weights": self.n_weights, "density": self.density}
        said = {"space": self.space.to_dict(), "metadata": plain_data(self.metadata), **counts}
        content = safetensors.torch.save(dict(self.bits), metadata={"weight_circuit": json.dumps(said)})
        write_atomically(path, content)
        return path

    @classmethod
    def load(cls, path: str | os.PathLike[str], space: WeightSpace | None = None) -> WeightCircuit:
        """Read what `save` has written.

        Args:
            path: the file.
            space: the weights that it has to be of, if given.

        Raises:
            FileNotFoundError: no such file.
            ValueError: it holds no circuit of weights, or one of others.
        """
        path = Path(path)
        content = content_of(path, "circuit of weights")
        try:
            circuit = cls._read(content)
        except (ValueError, TypeError, KeyError) as error:
            raise ValueError(f"{path} is no circuit of weights, or damaged: {error}") from None
        if space is not None:
            space.require(circuit.space, f"the circuit of weights in {path}")
        return circuit

    @classmethod
    def _read(cls, content: bytes) -> WeightCircuit:
        try:
            bits = safetensors.torch.load(content)
        except Exception as error:  # the library has classes of its own for what is damaged
            raise ValueError(str(error)) from None
        header = header_of(content)
        if "weight_circuit" not in header:
            raise ValueError("its header does not say what weights it is of; a circuit of edges is read by Circuit")
        said = read_json(header["weight_circuit"].encode())
        tensors = tuple(
            WeightTensor(each["name"], tuple(each["shape"]), each["layer"], each["kind"]) for each in said["space"]
        )
        for tensor in tensors:
            expected = math.ceil(tensor.n_weights / 8)
            if tensor.name not in bits or bits[tensor.name].dtype != torch.uint8:
                raise ValueError(f"it has no bits of {tensor.name}")
            if bits[tensor.name].shape != (expected,):
                raise ValueError(f"{tensor.name} has {list(bits[tensor.name].shape)} bytes, expected {expected}")
        circuit = cls(WeightSpace(tensors), bits, said["metadata"])
        if circuit.n_weights != said["n_weights"]:
            raise ValueError(f"it keeps {circuit.n_weights:,} weights, and says {said['n_weights']:,}")
        return circuit


_BITS = torch.tensor([byte.bit_count() for byte in range(256)], dtype=torch.int64)
"""How many bits of a byte are set."""


def _packed(mask: Tensor) -> Tensor:
    """bool ``[...]`` to uint8, eight a byte."""
    return torch.from_numpy(np.packbits(mask.cpu().flatten().numpy(), bitorder="little"))


def _unpacked(bits: Tensor, tensor: WeightTensor) -> Tensor:
    """uint8 to bool ``[*shape]``."""
    flat = np.unpackbits(bits.numpy(), count=tensor.n_weights, bitorder="little")
    return torch.from_numpy(flat).bool().view(tensor.shape)
