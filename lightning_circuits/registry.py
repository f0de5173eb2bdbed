"""Things by name: one pattern for methods, gates, ablations, objectives and whatever else can be chosen.

A kind of thing has a base class, and everything of that kind a name. Whoever wants one may give the object, its class
or the name, and whoever makes one of his own registers it under a name that configs and command lines then know:

    >>> class Shape: ...
    >>> SHAPES = Registry("shape", Shape)
    >>> @SHAPES.register
    ... class Circle(Shape): ...
    >>> SHAPES.names(), type(SHAPES.make("circle")).__name__
    (['Circle'], 'Circle')
    >>> SHAPES.make("square")
    Traceback (most recent call last):
    ValueError: unknown shape 'square'; choose one of Circle
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterator
from difflib import get_close_matches
from importlib import import_module
from typing import Any, Generic, TypeVar

from lightning_circuits.arguments import shortened

Thing = TypeVar("Thing")
Registered = TypeVar("Registered", bound=Callable[..., Any])


class Registry(Generic[Thing]):
    """Classes of one kind by their names, and functions where these will do.

    Each is called by its ``name``, if it says one, else as it is in Python. Names are looked up without regard to case,
    hyphens and underscores, so ``"eap-ig"`` finds ``EAPIG``. What is registered nowhere goes by where it stands, as
    ``"my_module.margin"``.

    Args:
        kind: what they are, for messages: ``"ablation"``.
        base: the class that all of them derive from.
        accepts: objects of other classes that will do too, such as plain functions for objectives.
    """

    def __init__(self, kind: str, base: type[Thing], accepts: Callable[[Any], bool] | None = None) -> None:
        self.kind, self.base, self.accepts = kind, base, accepts
        self._classes: dict[str, Any] = {}

    def register(self, cls: Registered) -> Registered:
        """Take in a class or a function; for use as a decorator. One of the same name takes the place of another.

        Raises:
            TypeError: not a subclass of the base class, nor a function that will do as one of its objects.
        """
        takes_functions = self.accepts is not None and self.accepts(cls)
        if not (issubclass(cls, self.base) if isinstance(cls, type) else takes_functions and inspect.isfunction(cls)):
            or_function = " or a function" if self.accepts is not None else ""
            raise TypeError(f"a registered {self.kind} is a subclass of {self.base.__name__}{or_function}, got {cls!r}")
        self._classes[_key(_name(cls))] = cls
        return cls

    def names(self) -> list[str]:
        return [_name(cls) for cls in self._classes.values()]

    def __iter__(self) -> Iterator[str]:
        """The names, as of a dict."""
        return iter(self.names())

    def __contains__(self, name: str) -> bool:
        return _key(name) in self._classes

    def __getitem__(self, name: str) -> type[Thing]:
        """The class, or the function, of this name.

        Raises:
            ValueError: there is none; those that are there are named, and one that is spelt almost so.
        """
        if name not in self:
            keys = {_key(each): each for each in self.names()}
            near = [keys[key] for key in get_close_matches(_key(name), keys, n=1)]
            meant = f" (did you mean {near[0]}?)" if near else ""
            raise ValueError(f"unknown {self.kind} {shortened(name)}{meant}; choose one of {', '.join(self.names())}")
        return self._classes[_key(name)]

    def make(self, given: Any, what: str | None = None) -> Thing:
        """The object itself, or one made of a class or of a name, with the class's default options.

        Args:
            given: an object, a class, or a name.
            what: the argument that it was given as, for messages.

        Raises:
            ValueError: an unknown name; a module that cannot be imported, or has nothing of that name.
            TypeError: something else; a class that has no defaults for its options.
        """
        if isinstance(given, str):
            given = self._imported(given) if "." in given and given not in self else self[given]
        if isinstance(given, type) and issubclass(given, self.base):
            if needed := _required(given):
                raise TypeError(f"{given.__name__} needs {', '.join(needed)}: give an object, {given.__name__}(...)")
            return given()
        if isinstance(given, self.base) or (self.accepts is not None and self.accepts(given)):
            return given
        raise TypeError(
            f"{what or self.kind} takes {_article(self.base.__name__)} or a name ({', '.join(self.names())}), "
            f"got {shortened(given)}"
        )

    def _imported(self, path: str) -> Any:
        module, _, name = path.rpartition(".")
        try:
            return getattr(import_module(module), name)
        except (ImportError, AttributeError, ValueError) as error:
            raise ValueError(
                f"unknown {self.kind} {shortened(path)}: {error}; give the module and name of one, or choose one of "
                f"{', '.join(self.names())}"
            ) from error


def _name(cls: Any) -> str:
    name = vars(cls).get("name")
    return name if isinstance(name, str) else cls.__name__


def _key(name: str) -> str:
    return name.lower().replace("-", "").replace("_", "")


def _required(cls: type) -> list[str]:
    """The arguments without a default that the class is made with."""
    parameters = inspect.signature(cls).parameters.values()
    return [p.name for p in parameters if p.default is p.empty and p.kind in (p.POSITIONAL_OR_KEYWORD, p.KEYWORD_ONLY)]


def _article(noun: str) -> str:
    return f"{'an' if noun[:1] in 'AEIOU' else 'a'} {noun}"
