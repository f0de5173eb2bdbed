"""The one place from which this project imports Lightning.

Lightning is published twice, as `pytorch_lightning` and as `lightning.pytorch`: the same code under two names, whose
classes do not mix. A module built on one and handed to the `Trainer` of the other is refused (`TypeError: model must be
a LightningModule`). So everything here takes Lightning from this module, which picks one name for the whole process:

1. the one the environment variable `LIGHTNING_CIRCUITS_NAMESPACE` names (`pytorch_lightning` or `lightning.pytorch`);
2. else the one your program has imported already, so that our classes fit your `Trainer`;
3. else the one that is installed.

Where 2 or 3 leaves both, it is `pytorch_lightning`, and after 2 a warning says so. The choice is made once, when this
module is first imported; so import your Lightning before `lightning_circuits`, or set the variable. A program in which
the two are mixed all the same is told so by `refuse_mixture`, when one of our objects is made or meets a Trainer.

    from lightning_circuits.namespace import LightningCLI, pl

    class Search(pl.LightningModule): ...

The names of Lightning's command line are looked up when they are asked for, because it pulls in jsonargparse, which
nothing else needs.

Raises at import:
    ValueError: the environment variable names something else.
    ImportError: the namespace asked for, or any at all, is not installed.
"""

from __future__ import annotations

import os
import sys
import warnings
from importlib import import_module
from typing import TYPE_CHECKING

from lightning_circuits.pages import see_page

if TYPE_CHECKING:
    from types import ModuleType

__all__ = ["LightningArgumentParser", "LightningCLI", "SaveConfigCallback", "pl", "refuse_mixture"]

_VARIABLE = "LIGHTNING_CIRCUITS_NAMESPACE"
_NAMESPACES = ("pytorch_lightning", "lightning.pytorch")
_CLI_NAMES = ("LightningArgumentParser", "LightningCLI", "SaveConfigCallback")


def _import_lightning() -> ModuleType:
    """Import the namespace that the module's docstring describes."""
    asked = os.environ.get(_VARIABLE)
    if asked and asked not in _NAMESPACES:
        raise ValueError(f"{_VARIABLE} is {asked!r}: set it to one of {', '.join(_NAMESPACES)}, or unset it")
    candidates = [asked] if asked else sorted(_NAMESPACES, key=lambda name: name not in sys.modules)
    if not asked and all(name in sys.modules for name in _NAMESPACES):
        warnings.warn(
            f"{' and '.join(_NAMESPACES)} have both been imported, and of which your Trainer is cannot be told: "
            f"lightning_circuits takes {candidates[0]}, whose classes a Trainer of the other would refuse. Set the "
            f"environment variable {_VARIABLE} to the one that you use "
            f"{see_page('existing-project', 'Two names of Lightning')}",
            stacklevel=2,
        )
    for name in candidates:
        try:
            return import_module(name)
        except ModuleNotFoundError as error:
            # Only a missing Lightning leads to the next name: an installed one that lacks something itself says so.
            if not f"{name}.".startswith(f"{error.name}."):
                raise
    if asked:
        raise ImportError(f"{_VARIABLE} is {asked!r}, which is not installed: install it, or unset the variable")
    raise ImportError(
        f"PyTorch Lightning is not installed (looked for {' and '.join(_NAMESPACES)}): "
        "pip install 'pytorch-lightning>=2.6.6,<2.7'"
    )


# Nobody had imported Lightning or asked for one, so what was chosen may not be what the program goes on to use.
_CHOSEN_BLINDLY = not os.environ.get(_VARIABLE) and not any(name in sys.modules for name in _NAMESPACES)

if TYPE_CHECKING:
    import pytorch_lightning as pl
    from pytorch_lightning.cli import LightningArgumentParser, LightningCLI, SaveConfigCallback
else:
    pl = _import_lightning()

    def __getattr__(name: str):
        """Look up a name of Lightning's command line (PEP 562)."""
        if name in _CLI_NAMES:
            return getattr(import_module(f"{pl.__name__}.cli"), name)
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


_OTHER = next(name for name in _NAMESPACES if name != pl.__name__)


def refuse_mixture(who: object, trainer: object = None) -> None:
    """Say in time that a Trainer of the other namespace would not know what to do with our objects.

    Args:
        who: one of our objects.
        trainer: the Trainer that it meets. None: there is none yet, and what tells is what has been imported.

    Raises:
        TypeError: the trainer is of the other namespace. Or your program has imported the other namespace only, after
            this module had to choose one: a module of ours would then be refused with nothing but "`model` must be a
            `LightningModule`".
    """
    if trainer is None:
        mixed = _CHOSEN_BLINDLY and _OTHER in sys.modules
        met = f"your program imports {_OTHER}"
    else:
        mixed = not isinstance(trainer, pl.Trainer)
        met = f"the Trainer is one of {_OTHER}"
    if mixed:
        raise TypeError(
            f"{met}, but {type(who).__name__} was built on {pl.__name__}, and classes of the two do not mix: import "
            f"{_OTHER} before lightning_circuits, or set the environment variable {_VARIABLE}={_OTHER} "
            f"{see_page('existing-project', 'Two names of Lightning')}"
        )
