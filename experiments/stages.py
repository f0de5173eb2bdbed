"""What every experiment does alike: its options, its stages, each kept as soon as it is made, and what it leaves.

A *stage* is a circuit or plain JSON data that takes a while. It is made once and kept in `OUTPUT/stages`; whoever comes
to it later reads it, so that a run that was killed goes on where it was, and another process may make other stages of
the same run meanwhile. The options that a run was begun with are kept beside them: others would make other stages.

    >>> args = options("What the experiment asks.", seeds=2, steps=150)                               # doctest: +SKIP
    >>> run = Run(args)                                                                                # doctest: +SKIP
    >>> circuit = run.circuit("ioi-eap-ig-0", lambda: attributed("ioi", seed=0))                       # doctest: +SKIP
    >>> run.finish({"rows": rows}, {"Faithfulness": markdown(rows)}, "overlap.md")                     # doctest: +SKIP
"""

from __future__ import annotations

import argparse
import json
import math
import re
import shlex
import shutil
import sys
import time
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any

import torch
from filelock import FileLock, Timeout

from lightning_circuits import Circuit, printable
from lightning_circuits.drawing.style import save
from lightning_circuits.files.atomic import write_atomically
from lightning_circuits.weights.weight_circuit import WeightCircuit

sys.path.append(str(Path(__file__).parents[1] / "benchmarks"))

# What the scripts of experiments/ take from those of benchmarks/, they take from here: it is found from now on.
from measuring import quiet_trainer as quiet_trainer
from results_page import machine
from results_page import markdown as markdown
from smollm2 import NAME
from smollm2 import located as located

QUICK_MODEL = "tiny-ioi"
PAPERS = Path(__file__).parents[1] / "docs" / "papers"
RUNNING = ("output", "threads", "quick", "write")
"""Options that say how a run is made, not what comes of it."""


def options(description: str | None, quick: Mapping[str, Any], **defaults: Any) -> argparse.Namespace:
    """What the command line says; sets the number of threads.

    Args:
        description: the script's docstring.
        quick: other defaults under ``--quick``, which shows in less than a minute that everything runs, on a tiny
            model; its figures mean nothing.
        defaults: by name, ``steps=150`` for ``--steps``; a value on the command line is of the same type.
    """
    parser = argparse.ArgumentParser(description=description, formatter_class=argparse.RawDescriptionHelpFormatter)
    output = Path("runs") / Path(sys.argv[0]).stem
    for name, default in {"model": NAME, "output": output, **defaults, "threads": 1}.items():
        parser.add_argument(f"--{name}", type=type(default), default=default, help="default: %(default)s")
    parser.add_argument("--quick", action="store_true", help="only show that it runs, in less than a minute")
    parser.add_argument("--write", action="store_true", help="put tables and figures into the paper's page of the docs")
    args = parser.parse_args()
    if args.quick:
        if args.write:
            parser.error("figures of --quick mean nothing: not to be written into the docs")
        parser.set_defaults(**{"model": QUICK_MODEL, "output": Path(f"{output}-quick"), **quick})
        args = parser.parse_args()
    torch.set_num_threads(args.threads)
    return args


class Run:
    """The folder of a run: ``stages/``, then ``results.json``, ``results.md`` and the figures.

    Args:
        args: from `options`.

    Raises:
        SystemExit: the folder is another run's, of other options.
    """

    def __init__(self, args: argparse.Namespace) -> None:
        self.folder, self.stages, self.write = args.output, args.output / "stages", args.write
        self.settings = {name: value for name, value in vars(args).items() if name not in RUNNING}
        self.stages.mkdir(parents=True, exist_ok=True)
        self._inside, self._wait = 0.0, True
        kept = self.stages / "settings.json"
        before = json.loads(kept.read_text()) if kept.exists() else self.settings
        if changed := [name for name in self.settings | before if self.settings.get(name) != before.get(name)]:
            said = ", ".join(f"--{name} {before.get(name)}, now {self.settings.get(name)}" for name in changed)
            sys.exit(f"{self.folder} holds a run of other options: {said}. Give those again, or another --output.")
        write_atomically(kept, json.dumps(self.settings, indent=1).encode())

    def circuit(self, name: str, make: Callable[[], Circuit]) -> Circuit:
        """The circuit of a stage, with its scores: read if it was made before."""
        path = self.stages / f"{name}.safetensors"
        self._stage(path, lambda: make().save(path))
        return Circuit.load(path)

    def weight_circuit(self, name: str, make: Callable[[], WeightCircuit]) -> WeightCircuit:
        """The circuit of weights of a stage: read if it was made before."""
        path = self.stages / f"{name}.safetensors"
        self._stage(path, lambda: make().save(path))
        return WeightCircuit.load(path)

    def data(self, name: str, make: Callable[[], Any]) -> Any:
        """The plain JSON data of a stage: read if they were made before."""
        path = self.stages / f"{name}.json"
        self._stage(path, lambda: write_atomically(path, json.dumps(make(), indent=1).encode()))
        return json.loads(path.read_text())

    def has(self, name: str) -> bool:
        """Whether the data of a stage are made."""
        return (self.stages / f"{name}.json").exists()

    def each(self, parts: Iterable[Callable[[], object]]) -> None:
        """Make some parts, in order. One that comes to a stage that another process is at is put off to the end."""
        put_off: list[Callable[[], object]] = []
        self._wait = False
        for part in parts:
            try:
                part()
            except Timeout:
                put_off.append(part)
        self._wait = True
        for part in put_off:
            part()

    def _stage(self, path: Path, make: Callable[[], object]) -> None:
        # Another process that comes to the same stage waits for it, or does something else meanwhile.
        with FileLock(path.with_suffix(".lock"), timeout=-1 if self._wait else 0):
            if path.exists():
                return
            start, others = time.process_time(), self._inside
            self._inside = 0.0
            make()
            whole = time.process_time() - start
            seconds, self._inside = whole - self._inside, others + whole  # its own, without stages that it came to
            write_atomically(path.with_suffix(".seconds"), f"{seconds:.1f}".encode())
            print(f"{path.stem}: {seconds:.0f} CPU seconds", flush=True)

    def figure(self, name: str, figure: Any) -> None:
        """A figure of the run, in SVG and PNG."""
        save(figure, self.folder / name)

    def finish(self, results: Mapping[str, Any], tables: Mapping[str, str], page: str) -> None:
        """Write ``results.json`` and ``results.md``, and show the latter; under ``--write``, the paper's page, too.

        Args:
            results: plain JSON data: every number of the run.
            tables: in Markdown, by their headings, each with the words that say what it was measured on.
            page: of docs/papers, see `write_page`.
        """
        seconds = {path.stem: float(path.read_text()) for path in sorted(self.stages.glob("*.seconds"))}
        about = {"command": command(), "machine": machine(), "settings": self.settings, "cpu_seconds": seconds}
        write_atomically(self.folder / "results.json", json.dumps({**about, **results}, indent=1).encode())
        total = f"{sum(seconds.values()) / 60:.0f} CPU minutes"
        text = "\n\n".join(
            [
                f"`{command()}`, {machine()}, {total}.",
                *(f"## {heading}\n\n{table}" for heading, table in tables.items()),
            ]
        )
        write_atomically(self.folder / "results.md", f"{text}\n".encode())
        print(text)
        if self.write:
            write_page(PAPERS / page, self.folder, tables)


def command() -> str:
    """How the script was called."""
    return shlex.join(["python", f"experiments/{Path(sys.argv[0]).name}", *sys.argv[1:]])


def write_page(page: Path, folder: Path, tables: Mapping[str, str]) -> None:
    """Put the tables and figures of a run into a page of docs/papers that asks for them.

    A table stands between the markers of its heading; a figure is a PNG that the page shows.

    Raises:
        ValueError: the page asks for a table that the run does not have.
    """

    def table(at: re.Match[str]) -> str:
        if at[2] not in tables:
            raise ValueError(f"{page} asks for the table {at[2]!r}; the run has {', '.join(map(repr, tables))}")
        return f"{at[1]}\n\n{tables[at[2]].strip()}\n\n{at[3]}"

    marked = r"(<!-- table: (.+?) -->).*?(<!-- end of table -->)"
    text = re.sub(marked, table, page.read_text(), flags=re.DOTALL)
    page.write_text(text)
    for name in re.findall(r"\(([\w-]+\.png)\)", text):
        shutil.copy(folder / name, page.parent / name)


def number(value: float) -> str:
    """A number in the cell of a table; ``-`` for one that does not exist."""
    return printable.number(value, ".2f")


def with_interval(value: float, low: float, high: float, between: str = ", ") -> str:
    """A number and the ends of its interval; ``-`` for one that does not exist."""
    if math.isnan(value):
        return "-"
    return f"{number(value)} [{number(low)}{between}{number(high)}]"
