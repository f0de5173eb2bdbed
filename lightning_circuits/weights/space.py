"""Which weights of a model a circuit of weights chooses among: the counterpart of a layout, whose parts are edges.

>>> space = WeightSpace.of(model, kinds=("mlp",), layers=[0, 1])                                    # doctest: +SKIP
>>> space.n_weights, space.tensors[0]                                                             # doctest: +SKIP
(16384, WeightTensor(name='model.layers.0.mlp.gate_proj.weight', shape=(128, 64), layer=0, kind='mlp'))
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple, get_args

from torch import Tensor, nn

from lightning_circuits.arguments import shortened
from lightning_circuits.models import CircuitModel
from lightning_circuits.models.model_weights import WeightKind, model_weights

KINDS: tuple[WeightKind, ...] = get_args(WeightKind)
OF_BLOCKS: tuple[WeightKind, ...] = ("attention", "mlp", "norm")


class WeightTensor(NamedTuple):
    """A tensor of weights: its name in the language model, its shape, its layer (None outside of blocks), its kind."""

    name: str
    shape: tuple[int, ...]
    layer: int | None
    kind: WeightKind

    @property
    def n_weights(self) -> int:
        return math.prod(self.shape)


@dataclass(frozen=True)
class WeightSpace:
    """The tensors whose weights are in a circuit or not, in the order of the model. All others are always there."""

    tensors: tuple[WeightTensor, ...]

    @classmethod
    def of(
        cls, model: CircuitModel, kinds: Sequence[WeightKind] = OF_BLOCKS, layers: Sequence[int] | None = None
    ) -> WeightSpace:
        """The weights of a model's blocks; those of its embeddings and head, too, where that is asked for.

        Args:
            model: the language model.
            kinds: which parts of the model: ``attention``, ``mlp``, ``norm``, ``embedding``, ``head``.
            layers: of which blocks, counted from 0. Default: all. Embeddings and head are in none of them.

        Raises:
            ValueError: another kind, or none; a layer that the model does not have, or none; no such weight.
            TypeError: kinds or layers that are no list.
        """
        if isinstance(kinds, str) or not isinstance(kinds, Sequence) or not kinds or set(kinds) - set(KINDS):
            raise ValueError(f"kinds is a list of some of {', '.join(KINDS)}, got {shortened(kinds)}")
        n_layers = model.layout.n_layers
        if layers is not None:
            if not isinstance(layers, Sequence) or not layers or any(type(layer) is not int for layer in layers):
                raise TypeError(f"layers is a list of at least one whole number, got {shortened(layers)}")
            if outside := [layer for layer in layers if not 0 <= layer < n_layers]:
                raise ValueError(f"layers has {outside[0]}, and the model's are 0 to {n_layers - 1}")
        found = tuple(
            WeightTensor(weight.name, tuple(weight.parameter.shape), weight.layer, weight.kind)
            for weight in model_weights(model)
            if weight.kind in kinds and (layers is None or weight.layer is None or weight.layer in layers)
        )
        if not found:
            raise ValueError(f"the model has no weights of the kind {' or '.join(kinds)} in these layers")
        return cls(found)

    @property
    def n_weights(self) -> int:
        return sum(tensor.n_weights for tensor in self.tensors)

    def parameters(self, model: nn.Module) -> dict[str, nn.Parameter]:
        """The parameters of a language model, by name, in order.

        Raises:
            ValueError: it lacks one, or has one of another shape.
        """
        there = dict(model.named_parameters())
        for tensor in self.tensors:
            if tensor.name not in there or tuple(there[tensor.name].shape) != tensor.shape:
                found = list(there[tensor.name].shape) if tensor.name in there else "none"
                raise ValueError(
                    f"the weights are of another model: {type(model).__name__} has {found} where they have "
                    f"{tensor.name} {list(tensor.shape)}"
                )
        return {tensor.name: there[tensor.name] for tensor in self.tensors}

    def require(self, other: WeightSpace, what: str) -> None:
        """See that something is of the same weights.

        Raises:
            ValueError: it is not; the first tensor that differs is named.
        """
        if self != other:
            mine, theirs = ({tensor.name: tensor for tensor in space.tensors} for space in (self, other))
            odd = next((name for name in [*mine, *theirs] if mine.get(name) != theirs.get(name)), "their order")
            raise ValueError(
                f"{what} is of {other.n_weights:,} weights, and here are {self.n_weights:,}; they differ in {odd}: "
                "it is of another model, or of other kinds or layers"
            )

    def groups(self, by: Callable[[WeightTensor], Any]) -> Iterator[tuple[Any, list[WeightTensor]]]:
        """The tensors that are alike by something, such as their kind, in order."""
        found: dict[Any, list[WeightTensor]] = {}
        for tensor in self.tensors:
            found.setdefault(by(tensor), []).append(tensor)
        yield from found.items()

    def require_shapes(self, masks: Mapping[str, Tensor]) -> None:
        """See that there is a tensor ``[*shape]`` for each, and no other.

        Raises:
            ValueError: one is missing, of another shape, or of no tensor of the space.
        """
        shapes = {tensor.name: tensor.shape for tensor in self.tensors}
        if odd := [name for name in [*shapes, *masks] if name not in masks or name not in shapes]:
            raise ValueError(f"{odd[0]} is {'missing' if odd[0] in shapes else 'none of the weights that there are'}")
        for name, shape in shapes.items():
            if tuple(masks[name].shape) != shape:
                raise ValueError(f"{name} has the shape {list(masks[name].shape)}, expected {list(shape)}")

    def to_dict(self) -> list[dict[str, Any]]:
        """Plain JSON data."""
        return [{**tensor._asdict(), "shape": list(tensor.shape)} for tensor in self.tensors]
