"""The one place from which this project imports Lightning.

Lightning is published twice, as `pytorch_lightning` and as `lightning.pytorch`: the same code under two names, whose
classes do not mix. A module built on one and handed to the `Trainer` of the other is refused (`TypeError: model must be
a LightningModule`). So everything here takes Lightning from this module, which picks one name for the whole process:

1. the one the environment variable `LIGHTNING_CIRCUITS_NAMESPACE` names (`pytorch_lightning` or `lightning.pytorch`);
2. else the one your program has imported already, so that our classes fit your `Trainer`;
3. else the one that is installed.

Where 2 or 3 leaves both, it is `pytorch_lightning`. The choice is made once, when this module is first imported:

    from lightning_circuits.lightning import LightningCLI, pl

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
from importlib import import_module
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from types import ModuleType

__all__ = ["LightningArgumentParser", "LightningCLI", "SaveConfigCallback", "pl"]

_VARIABLE = "LIGHTNING_CIRCUITS_NAMESPACE"
_NAMESPACES = ("pytorch_lightning", "lightning.pytorch")
_CLI_NAMES = ("LightningArgumentParser", "LightningCLI", "SaveConfigCallback")


def _import_lightning() -> ModuleType:
    """Import the namespace that the module's docstring describes."""
    asked = os.environ.get(_VARIABLE)
    if asked and asked not in _NAMESPACES:
        raise ValueError(f"{_VARIABLE} is {asked!r}: set it to one of {', '.join(_NAMESPACES)}, or unset it")
    candidates = [asked] if asked else sorted(_NAMESPACES, key=lambda name: name not in sys.modules)
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
