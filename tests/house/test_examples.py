"""The examples, run as their readers run them, for fewer steps."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from lightning_circuits.circuit import Circuit

EXAMPLES = Path(__file__).parents[2] / "examples"
SMALL = "--trainer.max_steps=20 --trainer.enable_progress_bar=false --data.n_train=640 --data.n_val=32".split()


def call(folder: Path, *command: str) -> str:
    environment = {name: value for name, value in os.environ.items() if name != "LIGHTNING_CIRCUITS_NAMESPACE"}
    done = subprocess.run(
        command, cwd=folder, env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, timeout=300
    )
    assert done.returncode == 0, done.stdout[-3000:]
    return done.stdout


def weights(folder: Path) -> dict[str, torch.Tensor]:
    return torch.load(folder / "checkpoints" / "agreement.ckpt", weights_only=False)["state_dict"]


@pytest.mark.slow
def test_an_existing_project_before_and_after_a_few_lines(tmp_path: Path) -> None:
    before, after = tmp_path / "before", tmp_path / "after"
    for folder in (before, after):
        shutil.copytree(EXAMPLES / "existing_project", folder, ignore=shutil.ignore_patterns("__pycache__", "*.md"))
    added = [line for line in (after / "circuits.diff").read_text().splitlines() if line.startswith(("+", "-"))]
    assert len(added) < 40 and "circuit" not in (before / "train.py").read_text()
    call(after, "git", "apply", "circuits.diff")

    fit = (sys.executable, "train.py", "fit", "--config=config.yaml", *SMALL)
    call(before, *fit)
    # A probe more often than the diff says, so that there are some within these few steps.
    train = after / "train.py"
    assert "every_n_steps=100" in train.read_text()
    train.write_text(train.read_text().replace("every_n_steps=100", "every_n_steps=8"))
    call(after, *fit)

    trained, probed = weights(before), weights(after)
    assert trained.keys() == probed.keys() and all(torch.equal(trained[name], probed[name]) for name in trained)
    [log] = after.glob("lightning_logs/*/events.out.tfevents.*")  # Lightning's own logger, where TensorBoard is
    found = EventAccumulator(str(log)).Reload()
    assert [event.step for event in found.Scalars("probe/20%/kl")] == [0, 8, 16, 20]

    call(after, sys.executable, "-c", "import search; search.main(steps=10)")
    circuit = Circuit.load(next((after / "circuits").glob("*.json")))
    assert circuit.layout.n_layers == 2 and circuit.n_edges > 0
    described = json.loads(next((after / "circuits").glob("*.json")).read_text())
    assert "Agreement in checkpoints/agreement.ckpt, model" in json.dumps(described)


@pytest.mark.slow
def test_the_pairs_of_the_existing_project_are_what_its_script_writes() -> None:
    folder = EXAMPLES / "existing_project"
    assert call(folder, sys.executable, "-B", "pairs.py") == (folder / "pairs.jsonl").read_text()


# ---- a model of one's own --------------------------------------------------------------------------------------------


@pytest.fixture
def own_model(monkeypatch: pytest.MonkeyPatch) -> Any:
    monkeypatch.syspath_prepend(str(EXAMPLES))
    import own_model

    yield own_model
    del sys.modules["own_model"]


def test_an_adapter_is_short() -> None:
    lines = (EXAMPLES / "own_model.py").read_text().splitlines()
    start = lines.index("@register")
    end = next(i for i in range(start, len(lines)) if lines[i].startswith("# ----"))
    assert len("\n".join(lines[start:end]).strip().splitlines()) <= 60


@pytest.mark.parametrize("side", ["none", "left", "right"])
def test_an_own_model_is_itself_with_all_edges_and_the_corrupt_run_without(own_model: Any, side: str) -> None:

    from lightning_circuits.masked import masked_logits
    from lightning_circuits.models import wrap
    from tests.support.oracle import pairs

    batch = pairs(side)
    stock = own_model.TinyTransformer(vocabulary=19).double()
    model = wrap(stock)
    assert type(model).__name__ == "TinyTransformerCircuits"
    rows = torch.arange(2)
    for gate, ids in ((1.0, batch.clean_ids), (0.0, batch.corrupt_ids)):
        _, corrupt = model.run_pair(vars(batch))
        gates = torch.full((model.layout.n_edges,), gate)
        logits = masked_logits(model, gates, batch.clean_ids, batch.attention_mask, batch.positions, corrupt)
        expected = stock(ids, batch.attention_mask)[rows, batch.positions]
        torch.testing.assert_close(logits, expected, atol=1e-10, rtol=1e-10)


def test_every_edge_of_an_own_model_is_what_patching_by_hand_says(own_model: Any) -> None:
    """One edge cut, against the model's own modules called with that reader's stream changed."""

    from lightning_circuits.masked import masked_logits
    from lightning_circuits.models import wrap
    from tests.support.oracle import pairs

    batch = pairs("none")
    stock = own_model.TinyTransformer(vocabulary=19).double()
    model = wrap(stock)
    row = torch.arange(2)
    mask = torch.ones(5, 5, dtype=torch.bool).tril().expand(2, 5, 5)

    def embed(ids: torch.Tensor) -> torch.Tensor:
        return stock.tokens(ids)

    cut = embed(batch.corrupt_ids) - embed(batch.clean_ids)  # the edges are those of `input`
    places = stock.places(torch.arange(5))
    for edge in ("input->m0", "input->logits", "input->a1.h2<v>"):
        x = embed(batch.clean_ids) + places
        for layer, block in enumerate(stock.blocks):
            out = block.attention(block.norm1(x), mask)
            if edge == f"input->a{layer}.h2<v>":
                width = x.shape[-1]
                qkv = block.attention.qkv(block.norm1(x)).clone()
                head = slice(2 * width + 2 * width // 4, 2 * width + 3 * width // 4)
                qkv[..., head] = block.attention.qkv(block.norm1(x + cut))[..., head]
                q, k, v = (t.unflatten(-1, (4, -1)).transpose(1, 2) for t in qkv.chunk(3, -1))
                scores = (q @ k.transpose(-1, -2) * q.shape[-1] ** -0.5).masked_fill(~mask[:, None], float("-inf"))
                out = block.attention.out((scores.softmax(-1) @ v).transpose(1, 2).flatten(2))
            x = x + out
            x = x + block.mlp(block.norm2(x + cut if edge == f"input->m{layer}" else x))
        expected = stock.output(stock.norm(x + cut if edge == "input->logits" else x))[row, batch.positions]
        gates = torch.ones(model.layout.n_edges)
        gates[model.layout.edge_index(edge)] = 0.0
        _, corrupt = model.run_pair(vars(batch))
        logits = masked_logits(model, gates, batch.clean_ids, batch.attention_mask, batch.positions, corrupt)
        torch.testing.assert_close(logits, expected, atol=1e-10, rtol=1e-10)


def test_attribution_runs_on_an_own_model_too(own_model: Any) -> None:
    """EAP-IG puts embeddings in the place of tokens, which the model itself has no way to take."""
    from lightning_circuits.ablation import ABLATIONS
    from lightning_circuits.masked import masked_logits
    from lightning_circuits.models import wrap
    from lightning_circuits.objectives import LogitDifference
    from lightning_circuits.scoring.gradients import gradient_scores
    from lightning_circuits.scoring.paths import integral

    model = wrap(own_model.TinyTransformer(own_model.LETTERS).double())
    [batch] = own_model.induction(1, seed=0)
    ablation, objective = ABLATIONS.make("interchange"), LogitDifference()
    gates = torch.ones(model.layout.n_edges, dtype=torch.float64, requires_grad=True)
    full, corrupt = model.run_pair(batch)
    logits = masked_logits(model, gates, batch["clean_ids"], batch["attention_mask"], batch["positions"], corrupt)
    objective(logits, batch, full).sum().backward()
    torch.testing.assert_close(gradient_scores(model, batch, ablation, objective).edges.double(), -gates.grad)
    # Between the ends it is other runs, of a mixture that no token is embedded as.
    between = gradient_scores(model, batch, ablation, objective, integral("midpoint", 3)).edges
    assert between.isfinite().all() and not torch.allclose(between, -gates.grad.to(between))


def test_an_own_model_is_searched(own_model: Any, capsys: pytest.CaptureFixture[str]) -> None:
    search, rows = own_model.main(training_steps=30, search_steps=4)
    assert search.global_step == 4 and search.model_name == "TinyTransformer"
    assert {row.circuit for row in rows} >= {"full", "empty", "10%", "20%", "40%"}
    assert next(row.faithfulness for row in rows if row.circuit == "full") == 1.0
    assert "accuracy:" in capsys.readouterr().out


def test_a_wrong_adapter_is_found_out(own_model: Any) -> None:
    from lightning_circuits.models import register, wrap

    @register
    class Wrong(own_model.TinyTransformerCircuits):
        def scaling(self, layer: int) -> float:
            return 1.0

    model = own_model.TinyTransformer(vocabulary=19)
    for block in model.blocks:
        block.attention.qkv.weight.data *= 5
    with pytest.raises(
        ValueError, match="the attention of layer 0 of this TinyTransformer does not compute what Wrong"
    ):
        wrap(model)


def test_what_cannot_be_registered_is_refused() -> None:
    from lightning_circuits.models import CircuitModel, register

    with pytest.raises(TypeError, match="a registered model family is a subclass of CircuitModel, got 'gpt2'"):
        register("gpt2")  # type: ignore[type-var]
    with pytest.raises(TypeError, match="Says does not say which models it reads"):
        register(type("Says", (CircuitModel,), {}))
