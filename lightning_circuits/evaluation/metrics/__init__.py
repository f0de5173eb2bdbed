"""Numbers that say what a circuit, a ranking of edges or a method is worth.

| metric                   | of what                                  | says                                       |
|--------------------------|------------------------------------------|--------------------------------------------|
| `CircuitFaithfulness`    | one circuit, over prompts                | faithfulness, ratio, KL, accuracy, ...     |
| `KLDivergence`           | one circuit, over prompts                | how far it is from the full model, in nats |
| `CPR`, `CMD`, `LogArea`  | circuits of several sizes, over prompts  | a number for the whole curve               |
| `EdgeAUROC`              | scores of edges, against a known circuit | how well they tell its edges from the rest |
| `EdgeIoU`, `NodeIoU`     | pairs of circuits                        | how much of them is common                 |
| `TokenEdges`             | one circuit, over prompts                | how much of a prompt it is                 |

All are `torchmetrics`: ``update`` as often as there is something, ``compute`` at the end. Under DDP each process
takes in its own share, and the result is that of one process that saw everything. None needs a Trainer. What they
compute stands beside them as plain functions: `faithfulness`, `faithfulness_interval`, `cpr`, `cmd`, `log_area`,
`area_under`, `edge_auroc`, `beside_the_model`, `resampled_means`; see also `measures.kl_divergence` and `Circuit.iou`.
"""

from lightning_circuits.evaluation.metrics.areas import CMD, CPR, LogArea, area_under, cmd, cpr, log_area
from lightning_circuits.evaluation.metrics.bootstrap import Estimate, interval_of, resampled_means
from lightning_circuits.evaluation.metrics.faithfulness import (
    RESOLUTION,
    CircuitFaithfulness,
    faithfulness,
    faithfulness_interval,
)
from lightning_circuits.evaluation.metrics.means import (
    EdgeAUROC,
    EdgeIoU,
    KLDivergence,
    NodeIoU,
    TokenEdges,
    edge_auroc,
)
from lightning_circuits.evaluation.metrics.ratio import FLOOR, beside_the_model

__all__ = [
    "CMD",
    "CPR",
    "FLOOR",
    "RESOLUTION",
    "CircuitFaithfulness",
    "EdgeAUROC",
    "EdgeIoU",
    "Estimate",
    "KLDivergence",
    "LogArea",
    "NodeIoU",
    "TokenEdges",
    "area_under",
    "beside_the_model",
    "cmd",
    "cpr",
    "edge_auroc",
    "faithfulness",
    "faithfulness_interval",
    "interval_of",
    "log_area",
    "resampled_means",
]
