"""Who may import whom (DESIGN.md, section 4), read from the source with `ast`, so that nothing needs to be imported.

The house has floors. A room imports from its own floor and those below, and never in a circle. Some things not every
room may know, whatever its floor: `GUARDED`. `HOUSE` has a line for each room.

An import counts wherever it stands, in a function or under `TYPE_CHECKING` too: it is knowledge of the other module
all the same. Only the rule that wandb is imported inside the function that needs it, never with a module, asks where.
"""

from __future__ import annotations

import ast
import graphlib
import subprocess
import sys
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import NamedTuple

import pytest

ROOT = Path(__file__).parents[2]
PACKAGE = "lightning_circuits"
MAPPED = ("callbacks", "datamodules", "configs")

LIGHTNING = {"lightning", "pytorch_lightning", "lightning_fabric", "lightning_utilities"}
GUARDED = {
    "Lightning": LIGHTNING,  # it has two names: everybody else takes it from `namespace`
    "namespace": {f"{PACKAGE}.namespace"},  # so what is numerical can be called without a Trainer
    "transformers": {"transformers"},
    "layout": {f"{PACKAGE}.layout"},
    "data modules": {f"{PACKAGE}.datamodules"},
    "wandb": {"wandb"},
}


class Room(NamedTuple):
    floor: int
    knows: set[str] = set()
    """What it may know of `GUARDED`."""


HOUSE = {
    "configs": Room(0),
    "components": Room(1),
    "layout": Room(1, {"layout"}),
    "measures": Room(1),
    "objectives": Room(1),
    "batch": Room(1),
    "gates": Room(1),
    "registry": Room(1),
    "arguments": Room(1),
    "printable": Room(1),
    "pages": Room(1),
    "progress": Room(1),
    "namespace": Room(1, {"namespace", "Lightning"}),
    "nodes": Room(1, {"layout"}),
    "places": Room(1, {"layout"}),
    "alive": Room(1, {"layout"}),
    "blocks": Room(1, {"layout"}),
    "products": Room(1),
    "models": Room(2, {"layout", "transformers"}),
    "files": Room(2, {"layout"}),
    "datamodules": Room(2, {"data modules", "namespace"}),
    "circuit": Room(3, {"layout"}),
    "tape": Room(3),
    "captured": Room(3),
    "masked": Room(3, {"layout"}),
    "memory": Room(3, {"layout"}),
    "ablation": Room(3, {"layout"}),
    "selection": Room(3, {"layout"}),
    "listing": Room(3, {"layout"}),
    "scoring": Room(4, {"layout"}),
    "evaluation": Room(4, {"layout"}),
    "weights": Room(4),
    "extracted": Room(4),
    "search": Room(5, {"layout", "namespace"}),
    "drawing": Room(5, {"layout"}),
    "callbacks": Room(6, {"layout", "namespace", "wandb"}),
    "commands": Room(7, {"layout", "namespace", "data modules", "wandb"}),
    "notebook": Room(7, {"namespace", "data modules"}),
    "": Room(7),  # lightning_circuits/__init__.py, which shows users the names of the others
}


def room(module: str) -> str:
    """The part of the house that a module belongs to: `lightning_circuits.models.families.gpt2` to `models`."""
    return module.removeprefix(PACKAGE).lstrip(".").partition(".")[0]


def imports(module: str, is_package: bool, nodes: Iterable[ast.AST]) -> Iterator[str]:
    """Absolute names of what `nodes` import; `from a import b` gives `a.b`, which may be a module or a name in one."""
    for node in nodes:
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            base = [node.module] if node.module else []
            if node.level:
                parts = module.split(".")
                base = parts[: len(parts) - node.level + is_package] + base
            yield from (".".join([*base, alias.name]) for alias in node.names)


def run_on_import(tree: ast.AST) -> Iterator[ast.AST]:
    """Every node of a module but those inside its functions."""
    for node in ast.iter_child_nodes(tree):
        if not isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            yield node
            yield from run_on_import(node)


def guarded(name: str) -> str | None:
    """Which of `GUARDED` an imported name is, or is in."""
    parts = name.split(".")
    prefixes = {".".join(parts[: n + 1]) for n in range(len(parts))}
    return next((key for key, names in GUARDED.items() if names & prefixes), None)


def violations(sources: dict[str, str]) -> list[str]:
    """What breaks the contract in a package given as module name -> source; a package's name ends in `.__init__`."""
    trees = {name: ast.parse(text) for name, text in sources.items()}
    modules = {name.removesuffix(".__init__"): name for name in trees}
    found: list[str] = []
    graph: dict[str, set[str]] = {}

    for module, source_name in modules.items():
        here = HOUSE.get(room(module))
        if here is None:
            found.append(f"{module} stands in no room: give {room(module)!r} a line in HOUSE")
            continue
        is_package = source_name != module
        imported = set(imports(module, is_package, ast.walk(trees[source_name])))
        inside = {within(name, modules) for name in imported if name.partition(".")[0] == PACKAGE} - {module}
        above = {name for name in inside if room(name) in HOUSE and HOUSE[room(name)].floor > here.floor}
        found += [f"{module} imports {name} from the floor above" for name in sorted(above)]
        unknown = {key for name in imported if within(name, modules) not in above and (key := guarded(name))}
        found += [f"{module} knows {key}: its line does not say so" for key in sorted(unknown - here.knows)]
        graph[module] = inside

        now = imports(module, is_package, run_on_import(trees[source_name]))
        if any(guarded(name) == "wandb" for name in now):
            found.append(f"{module} imports wandb when it is imported")

    try:
        graphlib.TopologicalSorter(graph).prepare()
    except graphlib.CycleError as error:
        found.append("circle: " + " -> ".join(reversed(error.args[1])))
    return found


def within(name: str, modules: Iterable[str]) -> str:
    """The module that an imported name is, or is in."""
    while name not in modules and "." in name:
        name = name.rpartition(".")[0]
    return name


def package_sources() -> dict[str, str]:
    """The package as it is installed: the folders at the top of the repository inside `lightning_circuits`."""
    folders = {PACKAGE: ROOT / PACKAGE} | {f"{PACKAGE}.{name}": ROOT / name for name in MAPPED}
    return {
        ".".join([name, *path.relative_to(folder).with_suffix("").parts]): path.read_text(encoding="utf-8")
        for name, folder in folders.items()
        for path in sorted(folder.rglob("*.py"))
    }


def test_the_package_keeps_the_contract() -> None:
    sources = package_sources()
    assert {room(name.removesuffix(".__init__")) for name in sources} == HOUSE.keys()
    assert violations(sources) == []


def planted(module: str, line: str) -> list[str]:
    """Violations in a house with one module a room, all of them clean, after `line` is added to one of them."""
    sources = {f"{PACKAGE}.{name}" if name else f"{PACKAGE}.__init__": "" for name in HOUSE}
    sources |= {f"{PACKAGE}.models.__init__": "", f"{PACKAGE}.search.__init__": "", f"{PACKAGE}.models.gpt2": ""}
    for package in ("models", "search"):
        del sources[f"{PACKAGE}.{package}"]
    name = f"{PACKAGE}.{module}"
    sources[name] = sources.get(name, "") + line
    return violations(sources)


@pytest.mark.parametrize(
    ("module", "line", "said"),
    [
        (
            "layout",
            "from lightning_circuits.circuit import Circuit",
            "layout imports lightning_circuits.circuit from the",
        ),
        ("layout", "from .circuit import Circuit", "layout imports lightning_circuits.circuit from the floor above"),
        ("layout", "from . import circuit", "layout imports lightning_circuits.circuit from the floor above"),
        (
            "models.gpt2",
            "from ..masked import run",
            "models.gpt2 imports lightning_circuits.masked from the floor above",
        ),
        (
            "models.__init__",
            "from .gpt2 import x\nfrom ..masked import y",
            "models imports lightning_circuits.masked from",
        ),
        (
            "circuit",
            "def f():\n    import lightning_circuits.evaluation.rows",
            "circuit imports lightning_circuits.evaluation from the floor above",
        ),
        ("gates", "from lightning_circuits import Circuit", "gates imports lightning_circuits from the floor above"),
        (
            "evaluation",
            "import lightning_circuits.search",
            "evaluation imports lightning_circuits.search from the floor",
        ),
        (
            "evaluation",
            "from lightning_circuits.datamodules import X",
            "evaluation knows data modules: its line",
        ),
        (
            "search.__init__",
            "from lightning_circuits.callbacks import X",
            "imports lightning_circuits.callbacks from the floor above",
        ),
        (
            "datamodules",
            "from lightning_circuits.circuit import Circuit",
            "imports lightning_circuits.circuit from the floor",
        ),
        ("datamodules", "from lightning_circuits.search import X", "imports lightning_circuits.search from the floor"),
        ("datamodules", "from lightning_circuits.layout import X", "datamodules knows layout: its line"),
        (
            "configs",
            "from lightning_circuits.layout import X",
            "configs imports lightning_circuits.layout from the floor",
        ),
        ("search.__init__", "import pytorch_lightning as pl", "search knows Lightning: its line"),
        ("callbacks", "from lightning.pytorch import Callback", "callbacks knows Lightning: its line"),
        ("masked", "from lightning_circuits.namespace import pl", "masked knows namespace: its line"),
        ("gates", "from lightning_circuits.namespace import pl", "gates knows namespace: its line"),
        ("datamodules", "from transformers import AutoTokenizer", "datamodules knows transformers: its line"),
        ("masked", "def f():\n    import transformers.models", "masked knows transformers: its line"),
        ("callbacks", "import wandb", "callbacks imports wandb when it is imported"),
        (
            "callbacks",
            "try:\n    from wandb.sdk import x\nexcept ImportError: ...",
            "imports wandb when it is imported",
        ),
        ("callbacks", "class A:\n    import wandb.sdk", "callbacks imports wandb when it is imported"),
        ("search.__init__", "def f():\n    import wandb", "search knows wandb: its line"),
        ("utilities", "", "lightning_circuits.utilities stands in no room"),
        ("evaluation", "import lightning_circuits.selection", None),
        ("callbacks", "def f():\n    import wandb", None),
        ("models.gpt2", "from ..layout import Layout\nimport transformers", None),
        ("search.__init__", "from lightning_circuits.namespace import pl", None),
        ("datamodules", "from .namespace import pl\nfrom .models.loading import load_tokenizer", None),
        (
            "commands",
            "from lightning_circuits import callbacks, datamodules\nfrom .namespace import LightningCLI",
            None,
        ),
    ],
)
def test_the_checker_finds_what_is_planted(module: str, line: str, said: str | None) -> None:
    found = planted(module, line)
    if said is None:
        assert found == []
    else:
        assert len(found) == 1 and said in found[0], found


def test_the_checker_finds_a_circle_within_a_floor() -> None:
    sources = {
        "lightning_circuits.masked": "from .selection import top",
        "lightning_circuits.selection": "def f():\n    from lightning_circuits.ablation import mean",
        "lightning_circuits.ablation": "from lightning_circuits import masked",
    }
    [found] = violations(sources)
    assert found.startswith("circle: ")
    assert set(found.removeprefix("circle: ").split(" -> ")) == set(sources)


def imported_with(modules: Iterable[str]) -> set[str]:
    """Top-level packages that a fresh process holds after importing `modules`."""
    program = f"import sys, {', '.join(modules)}\nprint(*{{name.partition('.')[0] for name in sys.modules}})"
    done = subprocess.run([sys.executable, "-c", program], stdout=subprocess.PIPE, text=True, check=True)
    return set(done.stdout.split())


def test_the_numerical_core_runs_without_lightning_and_nothing_brings_wandb() -> None:
    """What the source says, seen in a process: through other packages, too, nothing comes in that must not."""
    rooms = HOUSE.keys() - {"", "configs"}
    without_lightning = sorted(name for name in rooms if not HOUSE[name].knows & {"namespace", "Lightning"})
    loaded = imported_with(f"{PACKAGE}.{name}" for name in without_lightning)
    # torchmetrics brings lightning_utilities, a handful of helpers without Lightning in them.
    assert not loaded & (LIGHTNING - {"lightning_utilities"} | {"wandb"})
    assert "wandb" not in imported_with(f"{PACKAGE}.{name}" for name in sorted(rooms))
