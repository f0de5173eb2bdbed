"""What one training step of the gates costs, in units of the stock model's own forward + backward, and in memory.

    python benchmarks/step_cost.py --model gpt2 --batch 8 --length 32 --write
    python benchmarks/step_cost.py --model llama-2-13b --batch 32 --length 64 --device cuda --dtype bfloat16

A *stock step* is the Hugging Face model's forward on the clean prompts, logits at every position, and the backward to
the input embeddings (weights frozen); `--last-logits` gives the stricter one, with logits at the last position only.
A *gate step* is everything `EdgePruning` does: the stock runs on the clean and the corrupt prompts, the forward with
gated edges, KL, backward, Adam. The two alternate in one process; the ratio is that of the medians. On a CPU seconds
are CPU seconds, and memory is the peak of the resident set above what stood before the first step; on a GPU they are
wall seconds and the allocator's peak.
"""

from __future__ import annotations

import argparse
import json
import statistics
import time
from pathlib import Path

import results_page
import torch
from transformers import AutoModelForCausalLM, GPT2Config, LlamaConfig, PreTrainedModel

from lightning_circuits import EdgePruning
from lightning_circuits.ablation import run_pair
from lightning_circuits.gates import Gate, HardConcrete, TopK
from lightning_circuits.masked import masked_logits
from lightning_circuits.models.loading import load_model
from lightning_circuits.objectives import kl_divergence


def llama(layers: int, heads: int, groups: int, width: int, mlp: int, vocabulary: int) -> LlamaConfig:
    return LlamaConfig(
        num_hidden_layers=layers,
        num_attention_heads=heads,
        num_key_value_heads=groups,
        hidden_size=width,
        intermediate_size=mlp,
        vocab_size=vocabulary,
    )


SHAPES = {
    "gpt2": GPT2Config(),
    "smollm2-135m": llama(30, 9, 3, 576, 1536, 49152),
    "llama-3.1-8b": llama(32, 32, 8, 4096, 14336, 128256),
    "llama-2-7b": llama(32, 32, 32, 4096, 11008, 32000),
    "llama-2-13b": llama(40, 40, 40, 5120, 13824, 32000),
}


def build(name: str, device: str, dtype: str) -> PreTrainedModel:
    """A shape by name with random weights, else a model by id or folder."""
    if name not in SHAPES:
        return load_model(name, dtype).to(device)
    with torch.device(device):
        return AutoModelForCausalLM.from_config(SHAPES[name], dtype=getattr(torch, dtype))


ABOVE = "of it above stock + one layer's readers, stacks"
"""Peak memory of a step above that of the stock step and one layer's readers, in stacks of the writers' outputs."""


class Clock:
    """Seconds and peak bytes of a call: CPU seconds and resident set, or wall seconds and the GPU's allocator."""

    def __init__(self, device: str) -> None:
        self.cuda = device.startswith("cuda")
        self.before = torch.cuda.memory_allocated() if self.cuda else resident("VmRSS")

    def __call__(self, call, *args) -> tuple[float, float]:
        if self.cuda:
            torch.cuda.synchronize()
            torch.cuda.reset_peak_memory_stats()
            start = time.perf_counter()
            call(*args)
            torch.cuda.synchronize()
            return time.perf_counter() - start, torch.cuda.max_memory_allocated() - self.before
        Path("/proc/self/clear_refs").write_text("5")  # begins a new peak
        start = time.process_time()
        call(*args)
        return time.process_time() - start, resident("VmHWM") - self.before


def resident(field: str) -> int:
    """Bytes of a field of /proc/self/status."""
    line = next(line for line in Path("/proc/self/status").read_text().splitlines() if line.startswith(field))
    return int(line.split()[1]) * 1024


def gate_of(density: float) -> Gate:
    """Gates of which only a share is open: `TopK` has none at exactly 0, `HardConcrete` closes the rest for good."""
    return TopK() if density == 1 else HardConcrete()


def name_of(density: float) -> str:
    return "all gates open" if density == 1 else f"{1 - density:.0%} of the gates at 0"


def close(search: EdgePruning, density: float) -> None:
    """Close a random share of the gates of a `HardConcrete`, the others stay open."""
    if density < 1:
        closed = torch.rand(search.layout.n_edges, generator=torch.Generator().manual_seed(0)) >= density
        search.gate.logits.data[closed] = -20.0


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="gpt2", help=f"an id, a folder, or a shape: {', '.join(SHAPES)}")
    parser.add_argument("--batch", type=int, default=8)
    parser.add_argument("--length", type=int, default=32)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--dtype", default="float32")
    parser.add_argument("--density", type=float, nargs="+", default=[1.0, 0.02], help="shares of gates that are not 0")
    parser.add_argument("--repeats", type=int, default=9)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--last-logits", action="store_true", help="stock step: logits at the last position only")
    parser.add_argument("--json", type=Path, help="write the figures here as well")
    parser.add_argument("--write", action="store_true", help="put the figures into docs/results.md")
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    torch.manual_seed(0)

    model = build(args.model, args.device, args.dtype)
    vocabulary = model.config.vocab_size
    shape = (args.batch, args.length)
    batch = {
        "clean_ids": torch.randint(vocabulary, shape, device=args.device),
        "corrupt_ids": torch.randint(vocabulary, shape, device=args.device),
        "attention_mask": torch.ones(shape, dtype=torch.int64, device=args.device),
        "positions": torch.full(shape[:1], args.length - 1, device=args.device),
    }

    def stock_step() -> None:
        embeddings = model.get_input_embeddings()(batch["clean_ids"]).detach().requires_grad_()
        logits = model(
            inputs_embeds=embeddings,
            attention_mask=batch["attention_mask"],
            use_cache=False,
            logits_to_keep=1 if args.last_logits else 0,
        ).logits
        logits.float().logsumexp(-1).sum().backward()

    searches, optimizers = {}, {}
    for density in args.density:
        searches[density] = EdgePruning(model, gate=gate_of(density)).to(args.device)
        close(searches[density], density)
        optimizers[density] = torch.optim.Adam(searches[density].gate.parameters(), lr=1e-3)

    def gate_step(density: float) -> None:
        search = searches[density]
        full, corrupt = run_pair(search.circuit_model, batch)
        gates = search.gate(torch.Generator().manual_seed(0), 0.0)
        logits = masked_logits(
            search.circuit_model,
            gates,
            batch["clean_ids"],
            batch["attention_mask"],
            batch["positions"],
            corrupt,
            skip_closed=search.gate.closed_for_good(0.0),
        )
        penalty = search.gate.penalty(0.0)
        loss = kl_divergence(logits, full).mean()
        optimizers[density].zero_grad()
        (loss if penalty is None else loss + penalty).backward()
        optimizers[density].step()

    clock = Clock(args.device)
    measured: dict[str, list[tuple[float, float]]] = {}
    for repeat in range(args.repeats + 1):
        for name, call in [("stock", stock_step), *((name_of(d), lambda d=d: gate_step(d)) for d in args.density)]:
            figures = clock(call)
            if repeat:  # the first round warms up
                measured.setdefault(name, []).append(figures)

    layout = next(iter(searches.values())).layout
    unit = args.batch * args.length * layout.d_model * torch.finfo(model.dtype).bits // 8
    stack, readers = layout.n_writers * unit, (layout.n_attention_readers + 1) * unit
    seconds = {name: statistics.median(s for s, _ in figures) for name, figures in measured.items()}
    memory = {name: max(m for _, m in figures) for name, figures in measured.items()}
    rows = [
        {
            "step": name,
            "seconds": seconds[name],
            "stock_steps": seconds[name] / seconds["stock"],
            "peak_bytes": memory[name],
            "stacks_above_stock": (memory[name] - memory["stock"] - readers) / stack,
        }
        for name in measured
    ]
    results_page.show(
        [
            {
                "step": row["step"],
                "seconds": f"{row['seconds']:.3f}",
                "stock steps": f"{row['stock_steps']:.2f}",
                "peak memory, MB": f"{row['peak_bytes'] / 1e6:,.0f}",
                ABOVE: "" if row["step"] == "stock" else f"{row['stacks_above_stock']:.2f}",
            }
            for row in rows
        ],
        f"{args.model}, {args.dtype}, batch {args.batch} x {args.length} tokens, {args.device}",
    )
    print(f"{layout.n_edges:,} edges; a stack of writers is {stack / 1e6:,.1f} MB; median of {args.repeats}")
    if args.write:
        gates = rows[1:]
        above = max(row["stacks_above_stock"] for row in gates)
        results_page.write_row(
            "step cost",
            {
                "shape, batch x length": f"{args.model}, {args.batch} x {args.length}, {args.dtype}",
                "edges": f"{layout.n_edges:,}",
                **{row["step"]: f"{row['stock_steps']:.1f}" for row in gates},
                "memory": f"{above:.1f} stacks ({stack / 1e6:,.0f} MB each)",
                "machine": results_page.machine(args.device),
            },
        )
    if args.json:
        settings = {key: value for key, value in vars(args).items() if key != "json"}
        args.json.write_text(json.dumps({"settings": settings, "stack_bytes": stack, "rows": rows}, indent=1))


if __name__ == "__main__":
    main()
