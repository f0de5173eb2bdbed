"""Public functions that take or give tensors say their shapes; the sections of docstrings have an entry a name.

Read from the source with `ast`. A method that a base class documents inherits what is said there.
"""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator

from tests.house.test_import_contract import package_sources

SHAPE = re.compile(r"`[^`]*\[[^`]*\][^`]*`|\bscalars?\b|\bshape\b")
TWO_NAMES = re.compile(r"[a-z_]\w*(, [a-z_]\w*)+: ")

Function = ast.FunctionDef


def functions(module: str, source: str) -> Iterator[tuple[str, Function, ast.ClassDef | None]]:
    """The public functions and methods of a module: name, function, and the class that a method is in."""
    for node in ast.parse(source).body:
        if isinstance(node, Function) and not node.name.startswith("_"):
            yield f"{module}.{node.name}", node, None
        if isinstance(node, ast.ClassDef) and not node.name.startswith("_") and not is_protocol(node):
            for method in node.body:
                if isinstance(method, Function) and not method.name.startswith("_"):
                    yield f"{module}.{node.name}.{method.name}", method, node


def is_protocol(owner: ast.ClassDef) -> bool:
    """A protocol says what it needs of others, who say what it is."""
    return any(isinstance(base, ast.Name) and base.id == "Protocol" for base in owner.bases)


def has_tensors(function: Function) -> bool:
    arguments = [*function.args.posonlyargs, *function.args.args, *function.args.kwonlyargs]
    annotations = [argument.annotation for argument in arguments] + [function.returns]
    names = [node for each in annotations if each is not None for node in ast.walk(each)]
    return any(isinstance(node, ast.Name) and node.id == "Tensor" for node in names)


def says_no_shape(sources: dict[str, str]) -> list[str]:
    """Functions with tensors whose docstrings, and those of the base classes' methods, say nothing of shapes."""
    nodes = [node for source in sources.values() for node in ast.parse(source).body]
    classes = {node.name: node for node in nodes if isinstance(node, ast.ClassDef)}

    def docstrings(owner: ast.ClassDef, method: str) -> Iterator[str]:
        for node in owner.body:
            if isinstance(node, Function) and node.name == method:
                yield ast.get_docstring(node) or ""
        for base in owner.bases:
            if isinstance(base, ast.Name) and base.id in classes:
                yield from docstrings(classes[base.id], method)

    found = []
    for module, source in sources.items():
        for name, function, owner in functions(module, source):
            said = [ast.get_docstring(function) or ""] if owner is None else docstrings(owner, function.name)
            if has_tensors(function) and not any(SHAPE.search(each) for each in said):
                found.append(name)
    return found


def two_names_in_an_entry(sources: dict[str, str]) -> list[str]:
    """Lines of docstrings that describe two arguments at once: pages of the API show them under no name."""
    found = []
    for module, source in sources.items():
        for node in ast.walk(ast.parse(source)):
            if isinstance(node, ast.FunctionDef | ast.ClassDef):
                lines = (ast.get_docstring(node) or "").splitlines()
                found += [f"{module}.{node.name}: {line.strip()}" for line in lines if TWO_NAMES.match(line.strip())]
    return found


def test_functions_with_tensors_say_their_shapes() -> None:
    sources = package_sources()
    with_tensors = [name for module in sources for name, f, _ in functions(module, sources[module]) if has_tensors(f)]
    assert len(with_tensors) > 100, "the checker does not find them"
    assert says_no_shape(sources) == []


def test_every_argument_has_an_entry_of_its_own() -> None:
    assert two_names_in_an_entry(package_sources()) == []


PLANTED = """
class Base:
    def said(self, x: Tensor) -> None:
        \"\"\"Of ``[n]``.\"\"\"

    def unsaid(self, x: Tensor) -> None:
        \"\"\"Of some tensor.

        Args:
            x, y: both.
        \"\"\"


class Derived(Base):
    def said(self, x: Tensor) -> None: ...

    def _hidden(self) -> Tensor: ...


def scalar() -> dict[str, Tensor]:
    \"\"\"A scalar by name.\"\"\"


def nothing(x: Tensor | None) -> None: ...


def no_tensor(x: list[int]) -> int: ...
"""


def test_the_checker_finds_what_is_planted() -> None:
    assert says_no_shape({"planted": PLANTED}) == ["planted.Base.unsaid", "planted.nothing"]
    assert two_names_in_an_entry({"planted": PLANTED}) == ["planted.unsaid: x, y: both."]
