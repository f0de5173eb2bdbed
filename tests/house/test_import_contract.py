"""Who may import whom (DESIGN.md, section 4), read from the source with `ast`, so that nothing needs to be imported.

The house has floors. A module imports from its own floor and those below, and never in a circle. Beyond the floors:

- the core never imports callbacks or data modules (only `commands/` do, so that their class names resolve in configs);
- Lightning enters through `lightning_circuits.namespace` alone, and only search, callbacks, data modules and the
  command line go there: everything numerical can be called without a Trainer;
- `transformers` is known to `models/` alone;
- data modules know nothing of layouts, models or methods; configs import nothing;
- wandb is imported inside the function that needs it, never with a module.

An import counts wherever it stands, in a function or under `TYPE_CHECKING` too: it is knowledge of the other module
all the same. Only the rule on wandb asks where.
"""

from __future__ import annotations

import ast
import graphlib
import subprocess
import sys
from collections.abc import Iterable, Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
PACKAGE = "lightning_circuits"
MAPPED = ("callbacks", "datamodules", "configs")

FLOORS = [
    {"layout", "objectives", "batch", "registry", "gates", "arguments", "namespace", "pages", "configs"},
    {"models", "files", "datamodules"},
    {"circuit", "masked", "ablation", "selection"},
    {"scoring", "evaluation"},
    {"search", "drawing"},
    {"callbacks"},
    {"commands", ""},  # "" is lightning_circuits/__init__.py, which shows users the names of the others
]
LIGHTNING = {"lightning", "pytorch_lightning", "lightning_fabric", "lightning_utilities"}
KNOW_LIGHTNING = {"search", "callbacks", "datamodules", "commands"}
KNOW_TRANSFORMERS = {"models"}


def room(module: str) -> str:
    """The part of the house that a module belongs to: `lightning_circuits.models.gpt2` to `models`."""
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


def violations(sources: dict[str, str]) -> list[str]:
    """What breaks the contract in a package given as module name -> source; a package's name ends in `.__init__`."""
    trees = {name: ast.parse(text) for name, text in sources.items()}
    modules = {name.removesuffix(".__init__"): name for name in trees}
    floor = {name: level for level, names in enumerate(FLOORS) for name in names}
    found: list[str] = []
    graph: dict[str, set[str]] = {}

    for module, source_name in modules.items():
        here = room(module)
        if here not in floor:
            found.append(f"{module} stands on no floor: give {here!r} one in FLOORS")
            continue
        is_package = source_name != module
        inside: set[str] = set()
        for name in imports(module, is_package, ast.walk(trees[source_name])):
            top = name.partition(".")[0]
            if top in LIGHTNING and here != "namespace":
                found.append(f"{module} imports {top}: Lightning comes from {PACKAGE}.namespace")
            if top == "transformers" and here not in KNOW_TRANSFORMERS:
                found.append(f"{module} imports transformers: only {' and '.join(sorted(KNOW_TRANSFORMERS))} know it")
            if top == PACKAGE:
                target = name
                while target not in modules and "." in target:
                    target = target.rpartition(".")[0]
                inside.add(target)

        for target in sorted(inside - {module}):
            there = room(target)
            if there not in floor:
                continue  # said above, where the module itself is looked at
            if here == "configs":
                found.append(f"{module} imports {target}: configs import nothing")
            elif floor[there] > floor[here]:
                found.append(f"{module} imports {target} from the floor above")
            elif there in {"callbacks", "datamodules"} and here not in {there, "commands"}:
                found.append(f"{module} imports {target}: only commands do")
            elif here == "datamodules" and there == "layout":
                found.append(f"{module} imports {target}: data modules know nothing of layouts")
            elif there == "namespace" and here not in KNOW_LIGHTNING:
                found.append(f"{module} knows Lightning: only {', '.join(sorted(KNOW_LIGHTNING))} do")
        graph[module] = inside - {module}

        now = imports(module, is_package, run_on_import(trees[source_name]))
        if any(name.partition(".")[0] == "wandb" for name in now):
            found.append(f"{module} imports wandb when it is imported")

    try:
        graphlib.TopologicalSorter(graph).prepare()
    except graphlib.CycleError as error:
        found.append("circle: " + " -> ".join(reversed(error.args[1])))
    return found


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
    assert {room(name) for name in sources} >= {"layout", "models", "search", "callbacks", "datamodules", "configs"}
    assert violations(sources) == []


def planted(module: str, line: str) -> list[str]:
    """Violations in a house with one module a room, all of them clean, after `line` is added to one of them."""
    sources = {f"{PACKAGE}.{name}" if name else f"{PACKAGE}.__init__": "" for floor in FLOORS for name in floor}
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
            "imports lightning_circuits.datamodules: only commands",
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
        ("datamodules", "from lightning_circuits.layout import X", "know nothing of layouts"),
        ("configs", "from lightning_circuits.layout import X", "configs import nothing"),
        ("search.__init__", "import pytorch_lightning as pl", "Lightning comes from lightning_circuits.namespace"),
        ("callbacks", "from lightning.pytorch import Callback", "Lightning comes from lightning_circuits.namespace"),
        ("masked", "from lightning_circuits.namespace import pl", "masked knows Lightning"),
        ("gates", "from lightning_circuits.namespace import pl", "gates knows Lightning"),
        ("datamodules", "from transformers import AutoTokenizer", "datamodules imports transformers"),
        ("masked", "def f():\n    import transformers.models", "masked imports transformers"),
        ("callbacks", "import wandb", "callbacks imports wandb when it is imported"),
        (
            "callbacks",
            "try:\n    from wandb.sdk import x\nexcept ImportError: ...",
            "imports wandb when it is imported",
        ),
        ("callbacks", "class A:\n    import wandb.sdk", "callbacks imports wandb when it is imported"),
        ("utilities", "", "lightning_circuits.utilities stands on no floor"),
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
    rooms = {room(name) for name in package_sources()} - {"", "configs"}
    without_lightning = sorted(rooms - KNOW_LIGHTNING - {"namespace"})
    loaded = imported_with(f"{PACKAGE}.{name}" for name in without_lightning)
    # torchmetrics brings lightning_utilities, a handful of helpers without Lightning in them.
    assert not loaded & (LIGHTNING - {"lightning_utilities"} | {"wandb"})
    assert "wandb" not in imported_with(f"{PACKAGE}.{name}" for name in sorted(rooms))
