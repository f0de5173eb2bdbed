"""Language models inside other modules: in an attribute, in a wrapper within one, behind `torch.compile`."""

from __future__ import annotations

from typing import Any

from torch import nn

from lightning_circuits.models.registry import family_of, supported
from lightning_circuits.pages import see_page


def find_language_model(module: nn.Module, path: str | None = None) -> tuple[str, nn.Module]:
    """The supported language model inside a module, and its path.

    Args:
        module: any module, such as a LightningModule; or the language model itself.
        path: where it is, as attributes joined by points. Default: the only one there is.

    Raises:
        ValueError: nothing at this path, or no language model, with the names that are there; no language model of a
            supported family, or several.
    """
    owner = type(module).__name__
    if path is not None:
        found = _follow(module, path)
        if family_of(found) is None:
            inside = [f"{path}.{name}" for name in language_models(found)] if isinstance(found, nn.Module) else []
            raise ValueError(
                f"{owner}.{path} is a {type(found).__name__}, and no language model that can be read (supported: "
                f"{supported()})" + (f". Inside it is {' and '.join(inside)}" if inside else "")
            )
        return path, found
    candidates = language_models(module)
    if not candidates:
        raise ValueError(
            f"{owner} holds no language model that can be read: a Hugging Face model with its head, of one of the "
            f"families {supported()}. The modules in it: {_names(module)} "
            f"{see_page('own-model', 'From Hugging Face')}"
        )
    if len(candidates) > 1:
        raise ValueError(
            f"{owner} holds {len(candidates)} language models, {' and '.join(candidates)}: say which, such as "
            f"model={next(iter(candidates))!r} "
            f"{see_page('existing-project', 'Search the trained model')}"
        )
    return next(iter(candidates.items()))


def language_models(module: nn.Module) -> dict[str, nn.Module]:
    """Language models inside a module by path; of one within another (behind a wrapper), the outer one."""
    found: dict[str, nn.Module] = {}
    for name, inner in module.named_modules():
        if family_of(inner) is not None and not any(name.startswith(f"{outer}.") or not outer for outer in found):
            found[name] = inner
    return found


def _follow(module: Any, path: str) -> Any:
    owner, here = type(module).__name__, module
    for name in path.split("."):
        if not hasattr(here, name):
            raise ValueError(
                f"there is no {name!r} in {owner}, on the way to {path!r}; there is {_names(here)} "
                f"{see_page('existing-project', 'Search the trained model')}"
            )
        here, owner = getattr(here, name), f"{owner}.{name}"
    return here


def _names(module: Any) -> str:
    names = [name for name, _ in module.named_children()] if isinstance(module, nn.Module) else []
    return ", ".join(names) or "no module"
