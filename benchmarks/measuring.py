"""What a call costs, in seconds, in bytes, and in *stock steps*.

A stock step is the Hugging Face model's forward on the clean prompts and the backward to the input embeddings, weights
frozen: what no method that takes a gradient can do without, so the unit that says what is added to it.
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import results_page
import torch
from torch import Tensor

from lightning_circuits.models import CircuitModel
from lightning_circuits.namespace import pl


class Cost(NamedTuple):
    """Of a call: median seconds, and the most bytes above what stood before."""

    seconds: float
    peak_bytes: int


class Clock:
    """Seconds and peak bytes of a call: CPU seconds and resident set, or wall seconds and the GPU's allocator."""

    def __init__(self, device: str = "cpu") -> None:
        self.cuda = device.startswith("cuda")
        self.before = torch.cuda.memory_allocated() if self.cuda else resident("VmRSS")

    def __call__(self, call: Callable[[], object]) -> Cost:
        if self.cuda:
            torch.cuda.synchronize()
            torch.cuda.reset_peak_memory_stats()
            start = time.perf_counter()
            call()
            torch.cuda.synchronize()
            return Cost(time.perf_counter() - start, torch.cuda.max_memory_allocated() - self.before)
        Path("/proc/self/clear_refs").write_text("5")  # begins a new peak
        start = time.process_time()
        call()
        return Cost(time.process_time() - start, resident("VmHWM") - self.before)

    def alternate(self, calls: Mapping[str, Callable[[], object]], repeats: int) -> dict[str, Cost]:
        """What each call costs. They take turns, to share the machine's slow minutes alike; a first turn warms up."""
        measured: dict[str, list[Cost]] = {name: [] for name in calls}
        for repeat in range(repeats + 1):
            for name, call in calls.items():
                cost = self(call)
                if repeat:
                    measured[name].append(cost)
        return {
            name: Cost(statistics.median(cost.seconds for cost in costs), max(cost.peak_bytes for cost in costs))
            for name, costs in measured.items()
        }


def quiet_trainer(*callbacks: pl.Callback, accelerator: str = "cpu", **options: Any) -> pl.Trainer:
    """A Trainer that prints and writes nothing of its own; the callbacks do."""
    return pl.Trainer(
        accelerator=accelerator,
        devices=1,
        logger=False,
        enable_checkpointing=False,
        enable_model_summary=False,
        enable_progress_bar=False,
        callbacks=[*callbacks],
        **options,
    )


def resident(field: str) -> int:
    """Bytes of a field of /proc/self/status."""
    line = next(line for line in Path("/proc/self/status").read_text().splitlines() if line.startswith(field))
    return int(line.split()[1]) * 1024


def stock_step(model: Any, batch: Mapping[str, Tensor], logits_to_keep: int = 0) -> None:
    """Forward on the clean prompts of a Hugging Face model, logits everywhere or at the last few, and backward."""
    embeddings = model.get_input_embeddings()(batch["clean_ids"]).detach().requires_grad_()
    logits = model(
        inputs_embeds=embeddings,
        attention_mask=batch["attention_mask"],
        use_cache=False,
        logits_to_keep=logits_to_keep,
    ).logits
    logits.float().logsumexp(-1).sum().backward()


def step_rows(costs: Mapping[str, Cost], model: CircuitModel, batch: Mapping[str, Tensor]) -> list[dict[str, Any]]:
    """A row for each kind of step. Memory is that above the ``stock`` step and one layer's readers, in stacks."""
    readers = (model.layout.n_attention_readers + 1) * stream_bytes(model, batch)
    stock, stack = costs["stock"], stack_bytes(model, batch)
    return [
        {
            "step": name,
            "seconds": cost.seconds,
            "stock_steps": cost.seconds / stock.seconds,
            "peak_bytes": cost.peak_bytes,
            "stacks_above_stock": (cost.peak_bytes - stock.peak_bytes - readers) / stack,
        }
        for name, cost in costs.items()
    ]


def stream_bytes(model: CircuitModel, batch: Mapping[str, Tensor]) -> int:
    """Of one residual stream of all tokens of a batch."""
    return batch["clean_ids"].numel() * model.layout.d_model * torch.finfo(model.dtype).bits // 8


def stack_bytes(model: CircuitModel, batch: Mapping[str, Tensor]) -> int:
    """Of the outputs of all writers, the largest thing that a step keeps."""
    return model.layout.n_writers * stream_bytes(model, batch)


ABOVE = "of it above stock + one layer's readers, stacks"
"""Peak memory of a step above that of the stock step and one layer's readers, in stacks of the writers' outputs."""


def show_steps(title: str, rows: list[dict[str, Any]], model: CircuitModel, batch: Mapping[str, Tensor]) -> None:
    """Print the rows of `step_rows` as a table, with what a stack is."""
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
        f"{title}, batch {' x '.join(map(str, batch['clean_ids'].shape))} tokens",
    )
    print(f"{model.layout.n_edges:,} edges; a stack of writers is {stack_bytes(model, batch) / 1e6:,.1f} MB")
