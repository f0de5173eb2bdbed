"""A circuit search for a model that was trained in a Lightning project of one's own.

The language model sits somewhere inside a LightningModule: in an attribute, in a wrapper within one, behind
`torch.compile`. `from_lightning_module` finds it and hands it to a search, weights and all:

    search = from_lightning_module(my_module)                               # the only language model inside
    search = from_lightning_module(my_module, model="student.backbone")     # or the one at this path
    search = from_lightning_module(MyModule, checkpoint="last.ckpt")        # from a file
    pl.Trainer(max_steps=300).fit(search, datamodule)

The module may be built on either of Lightning's two names: only its submodules are looked at.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any, TypeVar

from torch import nn

from lightning_circuits.models.inside import find_language_model
from lightning_circuits.pages import see_page
from lightning_circuits.search.base import CircuitSearch
from lightning_circuits.search.checkpoints import read_checkpoint
from lightning_circuits.search.edge_pruning import EdgePruning

Search = TypeVar("Search", bound=CircuitSearch)


def from_lightning_module(
    module: nn.Module | type,
    model: str | None = None,
    search: type[Search] = EdgePruning,  # type: ignore[assignment]
    checkpoint: str | Path | None = None,
    **options: Any,
) -> Search:
    """A search in the language model inside a LightningModule.

    The language model is used as it is, not copied: the search freezes it and puts it in eval mode.

    Args:
        module: a LightningModule, or any other module; or with ``checkpoint``, its class.
        model: where the language model is, as attributes joined by points. Default: the only one there is.
        search: the method, a subclass of `CircuitSearch`.
        checkpoint: a checkpoint of the class. If it holds more than plain data, which alone is read here, or not the
            arguments of the class, for want of ``save_hyperparameters()``: load the module yourself.
        options: of the search (``ablation``, ``gate``, ``kv``, ...).

    Raises:
        TypeError: not a module, or a class without a checkpoint; a class that cannot be made from its checkpoint.
        FileNotFoundError: no such checkpoint.
        ValueError: a checkpoint that holds more than plain data, is damaged, or none; nothing at this path, with the
            names that are there; no language model of a supported family, or several; an adapter that is not merged.
    """
    made_from = f"{module.__name__ if isinstance(module, type) else type(module).__name__}"
    if isinstance(module, type):
        module, made_from = _load(module, checkpoint), f"{made_from} in {checkpoint}"
    elif checkpoint is not None:
        raise TypeError("a checkpoint goes with the class of the module, not with a module: give one of the two")
    if not isinstance(module, nn.Module):
        raise TypeError(
            f"expected a LightningModule that holds a language model, got {module!r}. From a checkpoint: "
            "from_lightning_module(YourModule, checkpoint=...)"
        )
    path, found = find_language_model(module, model)
    made = search(found, **options)
    # Fine-tuned as it is, it is no longer the model that its config names.
    made.model_name = f"{made_from}, {path}" if path else made_from
    return made


def _load(module: Any, checkpoint: str | Path | None) -> nn.Module:
    if checkpoint is None:
        raise TypeError(f"{module.__name__} is a class: give its checkpoint too, or a module that is trained")
    if not hasattr(module, "load_from_checkpoint"):
        raise TypeError(f"{module.__name__} is not a LightningModule, so it has no checkpoint: give a module")
    if not Path(checkpoint).is_file():
        raise FileNotFoundError(f"there is no checkpoint {checkpoint}")
    by_hand = (
        f"load it yourself, {module.__name__}.load_from_checkpoint(path, ...), and give the module "
        f"{see_page('existing-project', 'Search the trained model')}"
    )
    try:
        read_checkpoint(checkpoint)
    except ValueError as error:
        raise ValueError(f"{error}. If you trust where it is from, {by_hand}") from None
    try:
        return module.load_from_checkpoint(checkpoint, map_location="cpu", weights_only=True)
    except TypeError as error:
        raise TypeError(
            f"{module.__name__} cannot be made from {checkpoint} ({error}). Its arguments are in there only if it "
            f"calls save_hyperparameters(); else {by_hand}"
        ) from error
