"""A Hugging Face model as plain data, and made again of it, without the checkpoint that it is from.

Written are its config and the tensors that it has, which are not all of a model without some of its parts (`stripped`).
Made again, it lacks the same ones.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import torch
import transformers
from torch import Tensor, nn
from torch.nn.modules.module import register_module_parameter_registration_hook
from transformers import PreTrainedModel

from lightning_circuits.models.stripped import take_out


def config_of(model: Any) -> dict[str, Any]:
    """What a model is made again by, in plain JSON values: its class in transformers, and its config.

    Raises:
        ValueError: no such class, or by its config another model would be made.
    """
    owner = type(model).__name__
    if not isinstance(model, PreTrainedModel) or getattr(transformers, owner, None) is not type(model):
        raise ValueError(f"{owner} cannot be made again from a file: it is no class of transformers")
    experts = getattr(model.config, "_experts_implementation", None)
    said = {"class": owner, "config": model.config.to_dict(), "experts_implementation": experts}
    shapes = {name: each.shape for name, each in _without_numbers(said).named_parameters(remove_duplicate=False)}
    for name, each in model.named_parameters(remove_duplicate=False):
        if shapes.get(name) != each.shape:
            raise ValueError(f"{owner} cannot be made again: by its config it has no {name} of {list(each.shape)}")
    return said


def versions() -> dict[str, str]:
    """Of what computes a model."""
    return {"torch": torch.__version__, "transformers": transformers.__version__}


def tensors_of(model: nn.Module) -> tuple[dict[str, Tensor], dict[str, str]]:
    """The tensors of a model by their names, ``[...]`` each, and of those that have several names each other one with
    that by which it is among them."""
    first: dict[int, str] = {}
    tensors, also = dict[str, Tensor](), dict[str, str]()
    for name, each in model.state_dict(keep_vars=True).items():
        if id(each) in first:
            also[name] = first[id(each)]
        else:
            first[id(each)], tensors[name] = name, each.detach()
    return tensors, also


def remade(said: Mapping[str, Any], tensors: Mapping[str, Tensor], also: Mapping[str, str]) -> PreTrainedModel:
    """A model in eval mode, frozen, with these tensors alone.

    Args:
        said: of `config_of`.
        tensors: of `tensors_of`, ``[...]`` each. They are taken as they are, without a copy.
        also: from there.

    Raises:
        ValueError: a class that is none of a language model; tensors that the model has no place for.
        KeyError: a name that stands for no tensor.
    """
    model = _without_numbers(said)
    frozen = {
        name: nn.Parameter(each, requires_grad=False) for name, each in tensors.items() if each.is_floating_point()
    }
    places = {**dict(model.named_parameters(remove_duplicate=False)), **dict(model.named_buffers())}
    for name in (*tensors, *also):
        source = also.get(name, name)
        if name not in places or places[name].shape != tensors[source].shape:
            raise ValueError(f"a {type(model).__name__} has no {name} of shape {list(tensors[source].shape)}")
        path, _, own = name.rpartition(".")
        is_parameter = isinstance(places[name], nn.Parameter)
        setattr(model.get_submodule(path), own, frozen[source] if is_parameter else tensors[source])
    take_out(model, lambda parameter: parameter.is_meta)
    return model.eval()


def _without_numbers(said: Mapping[str, Any]) -> PreTrainedModel:
    """A model whose parameters hold no numbers; what it computes of its config alone, such as angles, it has."""
    found = getattr(transformers, said["class"], None)
    if not isinstance(found, type) or not issubclass(found, PreTrainedModel):
        raise ValueError(f"transformers {transformers.__version__}, which is installed, has no model {said['class']}")
    cls: Any = found
    config = cls.config_class.from_dict(dict(said["config"]))
    with _parameters_on("meta"), torch.random.fork_rng(devices=[]):
        model: PreTrainedModel = cls._from_config(config, experts_implementation=said["experts_implementation"])
    return model


@contextmanager
def _parameters_on(device: str) -> Iterator[None]:
    """While open, every parameter that a module is given stands on a device; buffers stay where they are made."""

    def move(_module: nn.Module, _name: str, parameter: nn.Parameter | None) -> Any:
        if parameter is None or parameter.device.type == device:
            return None
        return nn.Parameter(parameter.to(device), requires_grad=False)

    hook = register_module_parameter_registration_hook(move)
    try:
        yield
    finally:
        hook.remove()
