"""Training gates: what is learned is right, what is frozen stays, and what cannot work is said before it starts."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from copy import deepcopy
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.distributions import Categorical
from torch.distributions import kl_divergence as kl_of
from torch.utils.data import DataLoader
from transformers import AutoModelForCausalLM, GPT2Config

from lightning_circuits import EAPIG, Circuit, CircuitSearch, EdgePruning, SavedCircuit
from lightning_circuits.datamodules import IOIDataModule
from lightning_circuits.gates import HardConcrete, L0Penalty, SizeRange, TargetSparsity, TopK
from lightning_circuits.layout import Layout
from lightning_circuits.masked import masked_logits
from lightning_circuits.models import wrap
from lightning_circuits.models.loading import EMBEDDED, load_model
from lightning_circuits.namespace import pl
from lightning_circuits.objectives import (
    CrossEntropy,
    LogitDifference,
    MatchLogitDifference,
    Objective,
    ProbabilityDifference,
)
from tests.support.oracle import ALL_OPEN, Pairs, oracle, tiny_model

STEPS = 150
QUIET: dict[str, Any] = dict(
    accelerator="cpu", logger=False, enable_progress_bar=False, enable_model_summary=False, enable_checkpointing=False
)


def data(n_train: int = 64, **options: Any) -> IOIDataModule:
    return IOIDataModule(EMBEDDED, n_train=n_train, n_val=64, n_test=8, **options)


def fit(search: CircuitSearch, steps: int, source: Any = None, **options: Any) -> pl.Trainer:
    trainer = pl.Trainer(max_steps=steps, **QUIET | options)
    trainer.fit(search, data() if source is None else source)
    return trainer


@dataclass(frozen=True)
class Trained:
    search: EdgePruning
    data: IOIDataModule
    trainer: pl.Trainer
    weights_before: dict[str, Tensor]


@pytest.fixture(scope="module")
def trained() -> Trained:
    """The six lines of the README, on the embedded model."""
    search = EdgePruning(model=EMBEDDED, seed=1)
    weights = {name: value.clone() for name, value in search.model.state_dict().items()}
    source = data(n_train=300)
    trainer = fit(search, STEPS, source)
    return Trained(search, source, trainer, weights)


# ---- what is learned -----------------------------------------------------------------------------------------------


def mean_kl(search: CircuitSearch, members: Tensor, batches: Any) -> float:
    """KL of a binary circuit from the full model under interchange ablation."""
    found = []
    with torch.no_grad():
        for batch in batches:
            full, corrupt = search.circuit_model.run_pair(batch)
            ids, mask, positions = batch["clean_ids"], batch["attention_mask"], batch["positions"]
            logits = masked_logits(search.circuit_model, members.float(), ids, mask, positions, corrupt)
            found.append(kl_of(Categorical(logits=full.double()), Categorical(logits=logits.double())))
    return torch.cat(found).mean().item()


def eap_scores(search: CircuitSearch, batches: Any) -> Tensor:
    """Minus the gradient of minus the logit difference with respect to the gates, where all are 1 (FIELD.md 1)."""
    gates = torch.ones(search.layout.n_edges, requires_grad=True)
    for batch in batches:
        full, corrupt = search.circuit_model.run_pair(batch)
        ids, mask, positions = batch["clean_ids"], batch["attention_mask"], batch["positions"]
        logits = masked_logits(search.circuit_model, gates, ids, mask, positions, corrupt)
        rows = torch.arange(len(full))
        (logits[rows, batch["answers"][:, 0]] - logits[rows, batch["distractors"][:, 0]]).sum().backward()
    return gates.grad


def best(scores: Tensor, n: int) -> Tensor:
    return torch.zeros(len(scores), dtype=torch.bool).index_fill_(0, scores.argsort(descending=True)[:n], True)


def test_the_circuit_found_is_far_better_than_attribution_and_chance(trained: Trained) -> None:
    search, held_out = trained.search, list(trained.data.val_dataloader())
    scores = eap_scores(search, trained.data.train_dataloader())
    n = round(0.05 * search.layout.n_edges)
    circuit = search.circuit(size=0.05)
    assert circuit.n_edges == n
    found = mean_kl(search, circuit.members, held_out)
    attributed = min(mean_kl(search, best(ranking, n), held_out) for ranking in (scores, scores.abs()))
    drawn = min(mean_kl(search, Circuit.random(search.layout, n, seed).members, held_out) for seed in range(3))
    assert found < 0.4 * attributed
    assert found < 0.2 * drawn
    everything = best(search.edge_scores(), search.layout.n_edges)
    assert mean_kl(search, everything, held_out) < 1e-6  # the model itself


def test_one_run_ranks_the_edges_for_circuits_of_all_sizes(trained: Trained) -> None:
    search, held_out = trained.search, list(trained.data.val_dataloader())
    values = [mean_kl(search, search.circuit(size).members, held_out) for size in (0.02, 0.05, 0.15, 0.5)]
    assert values[0] > values[1] > values[2] and values[3] < values[1]
    circuits = [search.circuit(size) for size in (10, 24, 70)]
    assert circuits[0] <= circuits[1] <= circuits[2]


def test_hard_concrete_reaches_the_target_it_was_given() -> None:
    """...with multipliers that rise while it is not met, without a warmup that would hide it."""
    multipliers = []

    class Recorder(pl.Callback):
        def on_train_batch_end(self, trainer: Any, pl_module: Any, *_: Any) -> None:
            multipliers.append(pl_module.gate.sparsity.multipliers.detach().clone())

    search = EdgePruning(EMBEDDED, gate=HardConcrete(TargetSparsity(0.9, warmup=0.5)))
    fit(search, 90, data(n_train=300, batch_size=4), callbacks=[Recorder()])
    assert 0.06 < search.gate.openness().item() < 0.15
    assert search.trained_size() == pytest.approx(0.1)
    assert search.circuit().n_edges == round(0.1 * search.layout.n_edges)
    held_out = list(data(n_train=300).val_dataloader())
    found = mean_kl(search, search.circuit().members, held_out)
    assert found < 0.3 * mean_kl(search, Circuit.random(search.layout, search.circuit().n_edges, 0).members, held_out)
    # The target ran ahead of the gates in between: both multipliers had to rise.
    assert max(m[0] for m in multipliers) > 0.5 and max(m[1] for m in multipliers) > 0.5


def test_multipliers_ascend_from_the_first_step_while_the_target_is_missed() -> None:
    search = EdgePruning(EMBEDDED, gate=HardConcrete(TargetSparsity(0.99, warmup=0.0)), lr=0.01)
    risen = []

    class Recorder(pl.Callback):
        def on_train_batch_end(self, trainer: Any, pl_module: Any, *_: Any) -> None:
            risen.append(pl_module.gate.sparsity.multipliers.tolist())

    fit(search, 4, callbacks=[Recorder()])
    for first, second in zip([[0.0, 0.0], *risen], risen, strict=False):
        assert second[0] > first[0] and second[1] > first[1]


def test_a_price_on_open_gates_closes_them() -> None:
    shares = []
    for weight in (0.0, 20.0):
        search = EdgePruning(EMBEDDED, gate=HardConcrete(L0Penalty(weight)))
        fit(search, 25, data(batch_size=2))
        shares.append(search.gate.openness().item())
    assert shares[1] < shares[0] - 0.2


# ---- a model whose circuit is known --------------------------------------------------------------------------------

PLANTED = ("input->a0.h0<v>", "a0.h0->a1.h1<v>", "a1.h1->logits")


def planted_model() -> Any:
    """A GPT-2 with 2 layers of 2 heads that does one thing: it counts the tokens of the prompt.

    The stream has four parts of 8 dimensions. Tokens are embedded in A. Head a0.h0 attends to all alike and copies A to
    B, a1.h1 copies B to C, and the logits read C alone. The others (a0.h1, a1.h0, both MLPs) compute lively things of
    the same tokens and write them to D, which nobody reads.
    """
    config = GPT2Config(
        vocab_size=8, n_embd=32, n_layer=2, n_head=2, n_positions=8, n_inner=16, bos_token_id=None, eos_token_id=None,
        tie_word_embeddings=False,
    )  # fmt: skip
    model = AutoModelForCausalLM.from_config(config)
    noise = torch.Generator().manual_seed(0)
    a, b, c, d = (slice(8 * i, 8 * i + 8) for i in range(4))
    identity = torch.eye(8)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            parameter.fill_(1.0 if "ln_" in name and name.endswith("weight") else 0.0)
        model.transformer.wte.weight[:, a] = 2 * identity
        model.lm_head.weight[:, c] = 8 * identity
        for layer, source, wanted, target in ((0, a, 0, b), (1, b, 1, c)):
            attention, mlp = model.transformer.h[layer].attn, model.transformer.h[layer].mlp
            for head in (0, 1):  # rows in, columns out: queries, keys, values, 16 for each head
                values = slice(64 + 16 * head, 64 + 16 * head + 8)
                out = slice(16 * head, 16 * head + 8)
                if head == wanted:
                    attention.c_attn.weight[source, values] = identity
                    attention.c_proj.weight[out, target] = 3 * identity
                else:
                    attention.c_attn.weight[:24, values] = torch.randn(24, 8, generator=noise)
                    attention.c_proj.weight[out, d] = 0.3 * torch.randn(8, 8, generator=noise)
            mlp.c_fc.weight[:24] = torch.randn(24, 16, generator=noise)
            mlp.c_proj.weight[:, d] = 0.1 * torch.randn(16, 8, generator=noise)
    return model.eval()


def as_loader(batches: list[dict[str, Tensor]]) -> DataLoader[Any]:
    return DataLoader(batches, batch_size=None)  # type: ignore[arg-type]  # Lightning takes a list for several loaders


def planted_batches(n: int) -> list[dict[str, Tensor]]:
    """Random prompts of 4 tokens; corrupt ones differ in all but the last."""
    noise = torch.Generator().manual_seed(1)
    batches = []
    for _ in range(n):
        clean = torch.randint(0, 8, (8, 4), generator=noise)
        corrupt = clean.clone()
        corrupt[:, :3] = (clean[:, :3] + torch.randint(1, 8, (8, 3), generator=noise)) % 8
        batch = {"clean_ids": clean, "corrupt_ids": corrupt, "attention_mask": torch.ones_like(clean)}
        batch |= {"answers": clean[:, :1], "distractors": corrupt[:, :1], "positions": torch.full((8,), 3)}
        batches.append(batch)
    return batches


def test_the_planted_circuit_is_what_the_oracle_says_it_is() -> None:
    """Cutting any of the three edges destroys the behaviour, keeping only the three keeps it."""
    model, batch = planted_model(), planted_batches(1)[0]
    prompts = Pairs(batch["clean_ids"], batch["corrupt_ids"], batch["attention_mask"], batch["positions"])
    carried = oracle(model, ALL_OPEN, prompts.corrupt_ids, prompts).writers
    full = oracle(model, ALL_OPEN, prompts.clean_ids, prompts)
    layout = wrap(model).layout

    def kl(gates: Mapping[str, float]) -> float:
        logits = oracle(model, gates, prompts.clean_ids, prompts, carried).logits
        return kl_of(Categorical(logits=full.logits), Categorical(logits=logits)).mean().item()

    names = layout.edge_names(range(layout.n_edges))
    only = kl({name: float(name in PLANTED) for name in names})
    destroyed = kl(dict.fromkeys(names, 0.0))
    assert destroyed > 0.5 and only < 0.02 * destroyed
    for cut in PLANTED:
        assert kl({name: float(name != cut) for name in names}) > 0.9 * destroyed


@pytest.mark.parametrize(
    "gate",
    [TopK(SizeRange(0.03, 0.5)), HardConcrete(TargetSparsity(1 - 3 / 46, warmup=0.5))],
    ids=lambda gate: type(gate).__name__,
)
def test_a_planted_circuit_is_found_edge_by_edge(gate: Any) -> None:
    search = EdgePruning(planted_model(), gate=gate)
    assert search.layout.n_edges == 46
    fit(search, 100, as_loader(planted_batches(20)))
    assert set(search.circuit(3).edge_names()) == set(PLANTED)


# ---- what is frozen ------------------------------------------------------------------------------------------------


def test_not_a_bit_of_the_language_model_has_changed(trained: Trained) -> None:
    after = trained.search.model.state_dict()
    assert after.keys() == trained.weights_before.keys()
    for name, value in trained.weights_before.items():
        assert torch.equal(after[name], value), name
    assert not any(p.requires_grad or p.grad is not None for p in trained.search.model.parameters())


def test_only_gates_are_trained_and_without_weight_decay(trained: Trained) -> None:
    trainable = [name for name, p in trained.search.named_parameters() if p.requires_grad]
    assert trainable == ["gate.logits"]
    groups = trained.trainer.optimizers[0].param_groups
    assert [group["weight_decay"] for group in groups] == [0.0]
    search = EdgePruning(EMBEDDED, gate=HardConcrete())
    groups = fit(search, 1).optimizers[0].param_groups
    assert [(group["weight_decay"], group["maximize"]) for group in groups] == [(0.0, False), (0.0, True)]
    assert groups[0]["params"][0] is search.gate.logits
    assert groups[1]["params"][0] is search.gate.sparsity.multipliers


def test_the_learning_rate_holds_and_then_falls_to_nothing() -> None:
    rates = []

    class Recorder(pl.Callback):
        def on_train_batch_start(self, trainer: Any, *_: Any) -> None:
            rates.append(trainer.optimizers[0].param_groups[0]["lr"])

    fit(EdgePruning(EMBEDDED, lr=0.3), 10, callbacks=[Recorder()])
    assert rates[:5] == [0.3] * 5  # the last 60 % of 10 steps are 6: 6/6, 5/6, ... 1/6
    torch.testing.assert_close(torch.tensor(rates[4:]), 0.3 * torch.tensor([6, 5, 4, 3, 2, 1]) / 6)


def test_a_model_with_dropout_is_run_without() -> None:
    model = deepcopy(tiny_model("gpt2")).train()
    assert model.config.resid_pdrop > 0 and model.config.attn_pdrop > 0
    search = EdgePruning(model)
    modes = []

    class Recorder(pl.Callback):
        def on_train_batch_start(self, trainer: Any, pl_module: Any, *_: Any) -> None:
            modes.append((pl_module.training, any(module.training for module in pl_module.model.modules())))

    ids = torch.arange(10).view(2, 5)
    batch = {"clean_ids": ids, "corrupt_ids": (ids + 1) % 10, "attention_mask": torch.ones_like(ids)}
    batch |= {"answers": ids[:, :1], "distractors": ids[:, 1:2], "positions": torch.tensor([4, 4])}
    search.train()
    fit(search, 3, as_loader([batch] * 3), callbacks=[Recorder()])
    assert modes == [(True, False)] * 3
    again = [search.circuit_model.run_pair(batch)[0] for _ in range(2)]
    assert torch.equal(*again)


def test_a_checkpoint_holds_the_gates_and_nothing_of_the_model(trained: Trained, tmp_path: Path) -> None:
    path = tmp_path / "gates.ckpt"
    trained.trainer.save_checkpoint(path)
    checkpoint = torch.load(path, weights_only=True)
    assert list(checkpoint["state_dict"]) == ["gate.logits", "gate.average", "gate.averaged"]
    n_edges = trained.search.layout.n_edges
    assert path.stat().st_size < 4 * 4 * n_edges + 8_000  # gates, their mean, two moments of Adam, and loops
    restored = EdgePruning.load_from_checkpoint(path, model=EMBEDDED, weights_only=True)
    assert torch.equal(restored.edge_scores(), trained.search.edge_scores())
    assert restored.circuit(0.05) == trained.search.circuit(0.05)
    assert torch.equal(restored.model.lm_head.weight, trained.search.model.lm_head.weight)


def test_a_model_by_name_and_the_same_in_memory_give_the_same() -> None:
    found = []
    for model in (EMBEDDED, load_model(EMBEDDED)):
        search = EdgePruning(model)
        fit(search, 5)
        found.append(search.edge_scores())
    assert torch.equal(*found) and found[0].unique().numel() > 100


def test_the_seed_decides_what_is_drawn() -> None:
    found = []
    for seed in (0, 0, 1):
        search = EdgePruning(EMBEDDED, gate=HardConcrete(), seed=seed)
        torch.manual_seed(len(found))  # the global generator plays no part
        fit(search, 3)
        found.append(search.edge_scores())
    assert torch.equal(found[0], found[1]) and not torch.equal(found[0], found[2])


@pytest.mark.parametrize("gate", [TopK, HardConcrete])
def test_a_model_cast_by_the_trainer_is_as_one_loaded_narrow(gate: Any) -> None:
    """Gates, multipliers and what is drawn stay float32: only the language model is cast."""
    wide, narrow, cast = (EdgePruning(EMBEDDED, gate=gate(), dtype=d) for d in ("float32", "bfloat16", "float32"))
    for search, precision in ((wide, "32-true"), (narrow, "32-true"), (cast, "bf16-true")):
        fit(search, 12, data(batch_size=8), precision=precision)
    assert cast.describe()["dtype"] == "bfloat16"
    assert all(value.dtype == torch.float32 for value in cast.gate.state_dict().values() if value.is_floating_point())
    assert torch.equal(cast.edge_scores(), narrow.edge_scores())
    assert not torch.equal(cast.edge_scores(), wide.edge_scores())
    assert torch.corrcoef(torch.stack([cast.edge_scores(), wide.edge_scores()]))[0, 1] > 0.8


def test_a_cast_leaves_the_angles_of_rotary_positions_alone(tmp_path: Path) -> None:
    fresh("llama-gqa").save_pretrained(tmp_path)
    ids = torch.arange(60)[None] % 7
    prompts = ids, torch.ones_like(ids), torch.tensor([59])
    cast, narrow = EdgePruning(fresh("llama-gqa")).bfloat16(), EdgePruning(str(tmp_path), dtype="bfloat16")
    assert torch.equal(cast.circuit_model.logits(*prompts), narrow.circuit_model.logits(*prompts))


@pytest.mark.parametrize("ablation", ["zero", "mean", "mean-positional"])
def test_every_ablation_can_be_trained_on(ablation: str) -> None:
    search = EdgePruning(EMBEDDED, ablation=ablation)
    before = search.edge_scores().clone()
    fit(search, 3)
    assert search.edge_scores().isfinite().all() and not torch.equal(search.edge_scores(), before)
    assert search.circuit(0.05).metadata["ablation"] == ablation


def test_means_are_taken_over_all_of_the_training_split() -> None:
    search, source = EdgePruning(EMBEDDED, ablation="mean-positional"), data(n_train=20)
    fit(search, 2, source)
    expected = type(search.ablation)()
    expected.fit(search.circuit_model, source.train_dataloader())
    torch.testing.assert_close(search.ablation.means, expected.means, atol=1e-6, rtol=1e-5)


@pytest.mark.parametrize(
    "objective",
    [LogitDifference(), MatchLogitDifference(), CrossEntropy(), ProbabilityDifference()],
    ids=lambda o: type(o).__name__,
)
def test_every_objective_can_be_trained_on(objective: Objective) -> None:
    search = EdgePruning(EMBEDDED, objective=objective)
    fit(search, 3)
    assert search.edge_scores().isfinite().all() and search.edge_scores().abs().max() > 0
    assert search.circuit(0.05).metadata["objective"] == type(objective).__name__


def test_a_circuit_says_how_it_came_about(trained: Trained) -> None:
    metadata = trained.search.circuit(0.05).metadata
    expected = {
        "method": "EdgePruning", "model": EMBEDDED, "ablation": "interchange", "objective": "KL", "kv": "head",
        "gate": "TopK", "seed": 1, "step": STEPS, "dtype": "float32", "n_edges": trained.search.layout.n_edges,
    }  # fmt: skip
    assert {key: metadata[key] for key in expected} == expected
    assert {"torch", "transformers"} <= metadata["versions"].keys()
    assert len(metadata["model_hash"]) == 16


def test_the_hash_tells_models_apart_by_shapes_and_config_not_by_dtype_or_place(tmp_path: Path) -> None:
    model = load_model(EMBEDDED)
    model.save_pretrained(tmp_path / "copy")
    here = EdgePruning(model).describe()["model_hash"]
    assert EdgePruning(str(tmp_path / "copy"), dtype="bfloat16").describe()["model_hash"] == here
    assert EdgePruning(deepcopy(tiny_model("gpt2"))).describe()["model_hash"] != here
    assert EdgePruning(deepcopy(tiny_model("llama-gqa"))).describe()["model_hash"] != here


# ---- warm start ----------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def some_scores() -> Tensor:
    layout = EdgePruning(EMBEDDED).layout
    return torch.randn(layout.n_edges, generator=torch.Generator().manual_seed(0))


@pytest.mark.parametrize("gate", [TopK, HardConcrete])
@pytest.mark.parametrize("kind", ["tensor", "circuit", ".json", ".pt", ".safetensors"])
def test_gates_begin_from_the_ranks_of_scores(gate: Any, kind: str, some_scores: Tensor, tmp_path: Path) -> None:
    layout = EdgePruning(EMBEDDED).layout
    circuit = Circuit(layout, some_scores > 1, some_scores)
    start: Any = {"tensor": some_scores, "circuit": circuit}.get(kind, tmp_path / f"start{kind}")
    if isinstance(start, Path):
        circuit.save(start)
    search = EdgePruning(EMBEDDED, gate=gate(), warm_start=start)
    assert search.edge_scores().argsort().tolist() == some_scores.argsort().tolist()
    assert search.circuit(30).members.tolist() == best(some_scores, 30).tolist()


def test_a_path_may_be_text(some_scores: Tensor, tmp_path: Path) -> None:
    layout = EdgePruning(EMBEDDED).layout
    path = str(Circuit(layout, some_scores > 1, some_scores).save(tmp_path / "start.json"))
    assert EdgePruning(EMBEDDED, warm_start=path).circuit(5).members.tolist() == best(some_scores, 5).tolist()


def test_a_circuit_without_scores_starts_with_its_members_first(some_scores: Tensor) -> None:
    circuit = Circuit(EdgePruning(EMBEDDED).layout, some_scores > 1)
    assert EdgePruning(EMBEDDED, warm_start=circuit).circuit(circuit.n_edges) == circuit


def test_a_circuit_says_where_its_gates_began(some_scores: Tensor, tmp_path: Path) -> None:
    circuit = Circuit(EdgePruning(EMBEDDED).layout, some_scores > 1, some_scores, {"method": "EAP"})
    path = circuit.save(tmp_path / "start.json")
    method = {"method": "EAPIG", "steps": 3, "rule": "left", "ranking": "absolute", "scores_are": "effects"}
    method |= {"ablation": "zero", "objective": "LogitDifference"}
    starts: list[tuple[Any, Any]] = [
        (None, None),
        (some_scores, {"kind": "scores"}),
        (circuit, {"kind": "circuit", "made_by": "EAP"}),
        (path, {"kind": "file", "path": str(path)}),
        (EAPIG(steps=3, ablation="zero"), {"kind": "method", **method}),
    ]
    for start, expected in starts:
        written = EdgePruning(EMBEDDED, warm_start=start).circuit(5).save(tmp_path / "made.json")
        assert Circuit.load(written).metadata["warm_start"] == expected


@pytest.mark.parametrize("kind", ["tensor", "circuit", "file"])
def test_a_start_for_another_layout_is_refused(kind: str, tmp_path: Path) -> None:
    other = Circuit.random(Layout(3, 4, 64), 50, seed=0)
    start: Any = {"tensor": torch.zeros(other.layout.n_edges), "circuit": other, "file": tmp_path / "other.json"}[kind]
    if kind == "file":
        other.save(start)
    with pytest.raises(ValueError, match=r"479 edges" if kind == "tensor" else r"another layout: n_layers .*3"):
        EdgePruning(EMBEDDED, warm_start=start)


@pytest.mark.parametrize("broken", [math.nan, math.inf, -math.inf])
def test_a_start_without_finite_scores_is_refused_with_the_edge(broken: float, some_scores: Tensor) -> None:
    scores = some_scores.clone()
    scores[EdgePruning(EMBEDDED).layout.edge_index("a1.h2->m2")] = broken
    with pytest.raises(ValueError, match=r"no finite score for edge a1\.h2->m2"):
        EdgePruning(EMBEDDED, warm_start=scores)


def test_a_start_from_a_file_that_is_not_there_is_refused(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match=r"nowhere\.json"):
        EdgePruning(EMBEDDED, warm_start=tmp_path / "nowhere.json")


# ---- what cannot work ----------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def checkpoint(trained: Trained, tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("checkpoints") / "tiny-ioi.ckpt"
    trained.trainer.save_checkpoint(path)
    return path


def fresh(family: str) -> Any:
    return deepcopy(tiny_model(family))


def test_a_checkpoint_of_another_model_is_refused_before_training(checkpoint: Path) -> None:
    search = EdgePruning(fresh("gpt2"))
    before = search.edge_scores().clone()
    with pytest.raises(ValueError, match=r"another model or search: .*model_hash.*n_layers 4 there, 3 here.*d_model"):
        pl.Trainer(max_steps=200, **QUIET).fit(search, data(), ckpt_path=checkpoint, weights_only=True)
    assert torch.equal(search.edge_scores(), before)


def test_a_checkpoint_of_a_model_of_the_same_layout_is_refused_too(checkpoint: Path) -> None:
    config = load_model(EMBEDDED).config
    config.vocab_size += 1
    with pytest.raises(ValueError, match=r"another model or search: model_hash '\w+' there, '\w+' here$"):
        EdgePruning.load_from_checkpoint(checkpoint, model=AutoModelForCausalLM.from_config(config), weights_only=True)


def test_a_checkpoint_of_other_gates_is_refused(checkpoint: Path) -> None:
    with pytest.raises(ValueError, match=r"gate 'TopK' there, 'HardConcrete' here"):
        EdgePruning.load_from_checkpoint(checkpoint, model=EMBEDDED, gate=HardConcrete(), weights_only=True)


class BreaksAtCall(Objective):
    """KL's stand-in that gives NaN at one call."""

    def __init__(self, call: int) -> None:
        self.left = call

    def __call__(self, logits: Tensor, batch: Mapping[str, Tensor], full_logits: Tensor) -> Tensor:
        self.left -= 1
        return (logits - full_logits).square().mean(-1) * (math.nan if self.left == 0 else 1.0)


def test_nan_in_the_objective_stops_and_keeps_the_last_good_checkpoint(tmp_path: Path) -> None:
    keep = pl.callbacks.ModelCheckpoint(tmp_path, every_n_train_steps=1, save_top_k=-1, filename="{step}")
    search = EdgePruning(EMBEDDED, objective=BreaksAtCall(6))
    source = data(n_train=24)  # 3 batches an epoch: the sixth is batch 2 of epoch 1
    with pytest.raises(FloatingPointError, match=r"nan at step 5 \(batch 2 of epoch 1\)"):
        fit(search, 20, source, callbacks=[keep], enable_checkpointing=True)
    assert sorted(path.name for path in tmp_path.iterdir()) == [f"step={step}.ckpt" for step in range(1, 6)]
    last = EdgePruning.load_from_checkpoint(tmp_path / "step=5.ckpt", model=EMBEDDED, weights_only=True)
    assert last.edge_scores().isfinite().all()
    assert torch.equal(last.edge_scores(), search.edge_scores())  # the bad batch has changed nothing
    mended = EdgePruning(EMBEDDED)
    trainer = pl.Trainer(max_steps=8, **QUIET)
    trainer.fit(mended, source, ckpt_path=tmp_path / "step=5.ckpt", weights_only=True)
    assert trainer.global_step == 8 and mended.edge_scores().isfinite().all()


def test_training_without_an_end_is_refused() -> None:
    with pytest.raises(ValueError, match="max_steps or max_epochs"):
        fit(EdgePruning(EMBEDDED), -1, max_epochs=-1)


def test_epochs_are_an_end_too() -> None:
    trainer = pl.Trainer(max_epochs=2, **QUIET)
    trainer.fit(EdgePruning(EMBEDDED), data(n_train=24))
    assert trainer.global_step == 6


def test_an_unknown_family_is_refused_with_those_known_and_the_place_for_more() -> None:
    model = AutoModelForCausalLM.from_config(_opt_config())
    with pytest.raises(ValueError, match=r"'opt' is not supported; supported are .*gpt2.*llama.*FAMILIES"):
        EdgePruning(model)


def _opt_config() -> Any:
    from transformers import OPTConfig

    return OPTConfig(
        vocab_size=8, hidden_size=8, ffn_dim=8, num_hidden_layers=1, num_attention_heads=1, word_embed_proj_dim=8
    )


def test_what_is_no_language_model_is_refused() -> None:
    with pytest.raises(TypeError, match=r"expected a Hugging Face language model.*Linear"):
        EdgePruning(torch.nn.Linear(2, 2))


def test_a_model_that_is_not_there_is_refused(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match="nowhere"):
        EdgePruning(str(tmp_path / "nowhere"))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"lr": 0.0}, "lr must be positive"),
        ({"lr": math.nan}, "lr must be positive"),
        ({"ablation": "resample"}, "unknown ablation 'resample'"),
        ({"kv": "pair"}, "kv is one of 'head', 'group'"),
        ({"dtype": "int8"}, "int8"),
    ],
)
def test_options_that_mean_nothing_are_refused(options: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        EdgePruning(EMBEDDED, **options)


@pytest.mark.parametrize("size", [0.0001, 0, -0.1, 1.5, 480])
def test_a_size_that_is_none_is_refused(size: float, trained: Trained) -> None:
    with pytest.raises((ValueError, TypeError)):
        trained.search.circuit(size)


def test_a_ranking_has_no_size_of_its_own(trained: Trained) -> None:
    with pytest.raises(ValueError, match=r"circuit\(size=0\.01\)"):
        trained.search.circuit()


# ---- methods of one's own, and saved circuits ----------------------------------------------------------------------


def test_a_method_that_says_no_scores_is_named() -> None:
    class Mine(CircuitSearch):
        pass

    with pytest.raises(NotImplementedError, match=r"Mine does not say edge_scores"):
        Mine(EMBEDDED).circuit(0.1)


def test_a_method_of_ones_own_is_one_method(trained: Trained) -> None:
    class Backwards(CircuitSearch):
        def edge_scores(self) -> Tensor:
            return -torch.arange(float(self.layout.n_edges))

    circuit = Backwards(EMBEDDED).circuit(3)
    assert circuit.members.nonzero().flatten().tolist() == [0, 1, 2]
    assert circuit.metadata["method"] == "Backwards"


def _files(directory: Path, circuit: Circuit) -> Iterator[Path]:
    for suffix in (".json", ".pt", ".safetensors"):
        yield circuit.save(directory / f"circuit{suffix}")


def test_a_saved_circuit_is_a_method_and_says_what_it_was_made_by(trained: Trained, tmp_path: Path) -> None:
    circuit = trained.search.circuit(0.05)
    for path in _files(tmp_path, circuit):
        search = SavedCircuit(EMBEDDED, path=path)
        assert search.circuit() == circuit
        assert search.trained_size() == circuit.n_edges
        assert search.circuit(10) == trained.search.circuit(10)
        assert search.circuit().metadata["path"] == str(path)
        with pytest.raises(TypeError, match="a saved circuit is not trained"):
            fit(search, 1)
    with pytest.raises(ValueError, match="another layout"):
        SavedCircuit(fresh("gpt2"), path=tmp_path / "circuit.json")
    with pytest.raises(FileNotFoundError, match=r"nowhere\.pt"):
        SavedCircuit(EMBEDDED, path=tmp_path / "nowhere.pt")
