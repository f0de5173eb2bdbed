"""Whether a change of the code changed a number: every method's scores, circuits and rows, and the quickstart.

    python benchmarks/same_numbers.py --write before.json       # before the change
    python benchmarks/same_numbers.py --against before.json     # after it: every difference, to the bit

Two models, the embedded one and a Llama with grouped K/V and random weights; every method under every ablation that it
takes; circuits of MIB's sizes by exact ablation. Only names that a user would write are used, so that it runs on both
sides of a change of the inside. ``--one-model`` leaves out the second model and most ablations,
``--quick`` nearly everything.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import subprocess
import sys
import tempfile
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch

try:
    import pytorch_lightning as pl
except ImportError:
    import lightning.pytorch as pl

import lightning_circuits as lc
from lightning_circuits.callbacks import FaithfulnessCurve
from lightning_circuits.datamodules import IOIDataModule

ABLATIONS = ("interchange", "zero", "mean", "mean-positional")
QUICK = ("EAP", "EdgePruning")
CIRCUIT_FIELDS = ("nodes", "edges")


def digest(values: torch.Tensor | None) -> str | None:
    if values is None:
        return None
    values = values.detach().cpu().contiguous()
    return (
        f"{values.dtype} {hashlib.sha256(values.numpy().tobytes()).hexdigest()[:16]} sum {values.double().sum():.12g}"
    )


def llama() -> Any:
    from transformers import LlamaConfig, LlamaForCausalLM

    torch.manual_seed(3)
    vocabulary = len(IOIDataModule("tiny-ioi").tokenizer)
    config = LlamaConfig(
        vocab_size=vocabulary,
        hidden_size=32,
        intermediate_size=48,
        num_hidden_layers=3,
        num_attention_heads=4,
        num_key_value_heads=2,
    )
    model = LlamaForCausalLM(config)
    for parameter in model.parameters():
        torch.nn.init.normal_(parameter, std=0.2)
    return model


def methods(model: Any, ablation: str, kv: str) -> Iterator[tuple[str, Any]]:
    """Every method by a name, made anew."""
    common = {"model": model, "ablation": ablation, "kv": kv}
    yield "EAP", lc.EAP(**common)
    yield "EAPIG left", lc.EAPIG(**common)
    yield "EAPIG gauss-legendre", lc.EAPIG(**common, steps=3, rule="gauss-legendre")
    yield "CleanCorrupted", lc.CleanCorrupted(**common)
    yield "EAPIGActivations pooled", lc.EAPIGActivations(**common, steps=2)
    yield "EAPIGActivations own", lc.EAPIGActivations(**common, steps=2, pooled=False)
    yield "ActivationPatching", lc.ActivationPatching(**common, edges_per_batch=256)
    yield "EdgePruning", lc.EdgePruning(**common, lr=0.1)
    yield "EdgePruning warm", lc.EdgePruning(**common, lr=0.1, warm_start=lc.EAP())
    if ablation == "interchange":
        yield "InformationFlowRoutes", lc.InformationFlowRoutes(model=model, kv=kv)
        yield "RandomScores", lc.RandomScores(model=model, kv=kv, seed=5)


def measure(search: Any, ablation: str, folder: Path, few: bool) -> dict[str, Any]:
    """One method: its scores, its circuits, and their rows."""
    data = IOIDataModule("tiny-ioi", n_train=32, n_val=24, n_test=16, batch_size=8)
    sizes = [0.05, 0.2, 1.0] if few else [0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1.0]
    curve = FaithfulnessCurve(sizes=sizes, ablations=list(ABLATIONS[: 1 if few else None]), dirpath=folder)
    pl.seed_everything(0, verbose=False)
    trainer = pl.Trainer(
        max_epochs=4,
        logger=False,
        callbacks=[curve],
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        num_sanity_val_steps=0,
        accelerator="cpu",
        devices=1,
    )
    trainer.fit(search, data)
    found = json.loads((folder / "curve.json").read_text())
    circuit = search.circuit(size=0.1)
    return {
        "edge scores": digest(search.edge_scores()),
        "node scores": digest(search.node_scores()),
        "circuit": digest(circuit.members),
        "greedy": digest(search.circuit(size=0.1, greedy=True).members),
        "pruned": digest(circuit.prune().members),
        "rows": found["rows"],
        "summary": found["summary"],
    }


def quickstart(folder: Path) -> dict[str, Any]:
    """The README's main job: what it prints in its tables, and what its circuit files hold."""
    program = Path(sys.executable).parent / "lightning-circuits"
    run = subprocess.run(
        [program, "fit", "--config", "quickstart.yaml"],
        cwd=folder,
        env=os.environ | {"OMP_NUM_THREADS": "1"},  # sums in another order differ in their last bits
        capture_output=True,
        text=True,
        check=True,
    )
    files = {}
    for file in sorted(folder.rglob("circuit-*.json")):
        content = json.loads(file.read_text())
        files[file.name] = {field: content[field] for field in CIRCUIT_FIELDS}
    for file in sorted(folder.rglob("circuit-*.pt")):
        content = torch.load(file, weights_only=True)
        files[file.name] = {name: digest(content[name]) for name in ("edges_scores", "edges_in_graph")}
    metrics = sorted(folder.rglob("metrics.csv"))[-1].read_text()
    table = run.stdout[run.stdout.index("Circuits by exact ablation") :].splitlines()
    table = [line.rstrip() for line in table if not line.lstrip().startswith(("/", "runs"))]
    return {"table": table, "files": files, "metrics": metrics}


def measure_all(one_model: bool, quick: bool) -> dict[str, Any]:
    models = {"tiny-ioi": ("tiny-ioi", "head")}
    if not one_model:
        models |= {"llama per head": (llama(), "head"), "llama per group": (llama(), "group")}
    numbers = {}
    for name, (model, kv) in models.items():
        for ablation in ABLATIONS[: 1 if one_model else None]:
            for method, search in methods(model, ablation, kv):
                if quick and method not in QUICK:
                    continue
                with tempfile.TemporaryDirectory() as folder:
                    numbers[f"{name}, {ablation}, {method}"] = measure(search, ablation, Path(folder), one_model)
                print(".", end="", flush=True, file=sys.stderr)
    if not quick:
        with tempfile.TemporaryDirectory() as folder:
            numbers["quickstart"] = quickstart(Path(folder))
    print(file=sys.stderr)
    return json.loads(json.dumps(numbers))


def differences(before: Any, after: Any, where: str = "") -> Iterator[str]:
    """Every place at which two trees of plain data differ; what only the second has is no difference."""
    if isinstance(before, dict) and isinstance(after, dict):
        for key in before:
            yield from differences(before[key], after.get(key, "nothing"), f"{where} / {key}")
    elif isinstance(before, list) and isinstance(after, list) and len(before) == len(after):
        for index, (one, other) in enumerate(zip(before, after, strict=True)):
            yield from differences(one, other, f"{where} [{index}]")
    elif before != after:
        yield f"{where}: {before} before, {after} now"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--write", type=Path, help="keep the numbers in this file")
    parser.add_argument("--against", type=Path, help="compare with this file")
    parser.add_argument("--one-model", action="store_true", help="one model, interchange ablation: a minute or two")
    parser.add_argument("--quick", action="store_true", help="only two methods of it, to see that it runs")
    options = parser.parse_args()
    warnings.simplefilter("ignore")
    torch.set_num_threads(1)

    numbers = measure_all(options.one_model or options.quick, options.quick)
    if options.write:
        options.write.write_text(json.dumps(numbers))
    leaves = sum(len(entry.get("rows", [])) for entry in numbers.values())
    print(f"{len(numbers)} runs, {leaves} rows of circuits")
    if options.against:
        before = json.loads(options.against.read_text())
        found = list(differences(before, {key: numbers.get(key, "nothing") for key in before}))
        print(*found[:40], sep="\n")
        print(f"{len(found)} differences to {options.against}")
        raise SystemExit(1 if found else 0)


if __name__ == "__main__":
    main()
