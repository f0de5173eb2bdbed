"""Which class reads which model. A new family is one file in `families` and one line in its `BUILT_IN`.

A model of one's own becomes searchable with a class that reads it, registered from the outside:

    @register
    class MyTransformerCircuits(CircuitModel):
        module_types = (MyTransformer,)
        ...

`examples/own_model.py` shows a whole one.
"""

from __future__ import annotations

import traceback
from collections.abc import Iterable
from typing import Any, TypeVar

from torch import nn

from lightning_circuits.models.base import CircuitModel
from lightning_circuits.models.families import BUILT_IN
from lightning_circuits.models.readable import refuse_unreadable
from lightning_circuits.models.refused import reason_of
from lightning_circuits.models.verify import verify
from lightning_circuits.pages import see_page
from lightning_circuits.registry import Registry

FAMILIES = Registry("model family", CircuitModel)
for _family in BUILT_IN:
    FAMILIES.register(_family)

Family = TypeVar("Family", bound=type[CircuitModel])


def register(family: Family) -> Family:
    """Let `wrap`, and so every method, read the models of this class; for use as a decorator.

    Of two that read a model, the one that was registered later does. A class of the same name takes the place of the
    one before, so that a notebook's cell can be run again.

    Raises:
        TypeError: not a subclass of `CircuitModel`, or it does not say which models it reads.
    """
    is_family = isinstance(family, type) and issubclass(family, CircuitModel)
    if is_family and not family.module_types and not family.model_types:
        raise TypeError(
            f"{family.__name__} does not say which models it reads: give it module_types = (YourModel,), or "
            "model_types = (...) for a Hugging Face family"
        )
    return FAMILIES.register(family)


def family_of(model: Any) -> type[CircuitModel] | None:
    """The class that reads this model; None if there is none."""
    model_type = getattr(getattr(model, "config", None), "model_type", None)
    for family in _newest_first():
        if isinstance(model, family.module_types):
            return family
        if model_type in family.model_types and _has_head(model):
            return family
    return None


def _has_head(model: Any) -> bool:
    """Whether there is a head; where it is not called ``lm_head``, as in BioGPT, Hugging Face says what it is."""
    found = getattr(model, "get_output_embeddings", lambda: None)
    return hasattr(model, "lm_head") or found() is not None


def supported() -> str:
    """What can be read, for messages."""
    return ", ".join(
        sorted(
            {name for family in _newest_first() for name in family.model_types}
            | {module.__name__ for family in _newest_first() for module in family.module_types}
        )
    )


def refuse_family(model_type: str | None, classes: Iterable[str] = ()) -> None:
    """See from a model's config alone that there is a class for it.

    Args:
        model_type: what the config calls its family.
        classes: the names of the model's classes.

    Raises:
        ValueError: there is none.
    """
    families = _newest_first()
    names = {module.__name__ for family in families for module in family.module_types}
    if not names.intersection(classes) and not any(model_type in family.model_types for family in families):
        raise _not_supported(model_type)


def _not_supported(model_type: str | None) -> ValueError:
    reason = reason_of(model_type)
    if reason is not None:
        return ValueError(f"model family {model_type!r} is not supported: {reason} {see_page('models', 'Refused')}")
    return ValueError(
        f"model family {model_type!r} is not supported; supported are {supported()}. "
        "To add one: a file in lightning_circuits/models/families/ and its class in BUILT_IN there "
        f"{see_page('own-model', 'Another family of Hugging Face')}"
    )


def _newest_first() -> list[type[CircuitModel]]:
    return [FAMILIES[name] for name in reversed(FAMILIES.names())]


def wrap(model: Any, kv: str = "head", freeze: bool = True) -> CircuitModel:
    """Read a language model in memory as writers and readers.

    Args:
        model: a ``...ForCausalLM`` module of a supported Hugging Face family, or a module that a registered class
            reads. What `torch.compile` made of one will do; the module within is used.
        kv: key and value readers ``"head"`` by query head, or ``"group"`` by K/V group.
        freeze: take ``requires_grad`` off its parameters and put it in eval mode. It is else left alone.

    Raises:
        TypeError: not a language model with its head.
        ValueError: a family that is not supported; weights that cannot be read (`readable`: an adapter that is not
            merged, quantised layers); or the model computes something else than what is read (`verify`).
    """
    model = getattr(model, "_orig_mod", model)  # of torch.compile
    config: Any = getattr(model, "config", None)
    if isinstance(model, nn.Module):
        refuse_unreadable(model)
    family = family_of(model)
    if family is None:
        if not hasattr(config, "model_type") or not _has_head(model):
            inside = next((name for name, part in _parts(model).items() if family_of(part)), None)
            hint = "" if inside is None else f", which holds one: give its .{inside}"
            raise TypeError(
                f"expected a Hugging Face language model with its head (such as GPT2LMHeadModel or LlamaForCausalLM), "
                f"got {type(model).__name__}{hint}. To read a model of one's own: lightning_circuits.models.register "
                f"{see_page('own-model', 'Not from Hugging Face')}"
            )
        raise _not_supported(config.model_type)
    try:
        read = family(model, kv, freeze)
        verify(read)
    except ValueError:
        raise
    except Exception as error:  # whatever a model with other modules, or a family that is not finished, comes to
        raise ValueError(_cannot_be_read(model, family, error)) from error
    return read


def _parts(model: Any) -> dict[str, Any]:
    """What a model may stand in, by path: a module, or (as a pipeline) something with an attribute of that name."""
    return dict(model.named_modules()) if isinstance(model, nn.Module) else {"model": getattr(model, "model", None)}


def _cannot_be_read(model: Any, family: type[CircuitModel], error: Exception) -> str:
    place = traceback.extract_tb(error.__traceback__)[-1].name
    reason = str(error).strip().split("\n")[0]
    dtypes = sorted({str(weight.dtype).removeprefix("torch.") for weight in model.parameters()})
    mixed = f". Its weights are in {' and '.join(dtypes)}: are they meant to be?" if len(dtypes) > 1 else ""
    return (
        f"{type(model).__name__} cannot be read as {family.__name__} reads models: {type(error).__name__} in {place}"
        f"{': ' + reason if reason else ''}{mixed} {see_page('own-model', 'What is checked')}"
    )
