"""Watch a circuit form: train the embedded model, tiny-ioi, from scratch, with a probe among the callbacks.

The model and its prompts are those of `train_tiny_ioi.py`. Every so many steps a `CircuitProbe` finds the circuits of
indirect object identification, on 32 prompts that the model is not trained on, and judges them on 128 others. In the
end it leaves a figure of the formation, its numbers as JSON, and here a line for each probe.

    python examples/watch_a_circuit_form.py                          # by EAP-IG, into ./watched, in 5 minutes
    python examples/watch_a_circuit_form.py --method EdgePruning     # by gates that are trained for 50 steps each time
    python examples/watch_a_circuit_form.py --quick                  # a few steps, to see that it runs
"""

from __future__ import annotations

import argparse
import warnings
from itertools import islice
from pathlib import Path

import torch
from torch import Tensor
from train_tiny_ioi import SEED, build_data, build_model, build_tokenizer, loss
from transformers import PreTrainedModel

from lightning_circuits.batch import Batch
from lightning_circuits.callbacks import CircuitProbe
from lightning_circuits.datamodules import IOIDataModule
from lightning_circuits.namespace import pl

SIZES = [0.02, 0.05, 0.1, 0.2]


class TinyIOI(pl.LightningModule):
    """The model in training, as a project of its own would have it."""

    def __init__(self, model: PreTrainedModel, steps: int) -> None:
        super().__init__()
        self.model, self.steps = model, steps

    def training_step(self, batch: dict[str, Tensor], batch_idx: int) -> Tensor:
        return loss(self.model, batch)

    def configure_optimizers(self) -> dict[str, object]:
        optimizer = torch.optim.AdamW(self.parameters(), lr=3e-3, betas=(0.9, 0.98), weight_decay=0.01)
        # Up over 100 steps, down over the last 30 %, as in `train_tiny_ioi`.
        rule = torch.optim.lr_scheduler.LambdaLR(
            optimizer, lambda s: min((s + 1) / 100, 1, (self.steps - s) / (0.3 * self.steps))
        )
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": rule, "interval": "step"}}


class HeldOut(pl.LightningDataModule):
    """Prompts that the model is not trained on: some to find circuits with, others to judge them on."""

    def __init__(self, data: IOIDataModule) -> None:
        super().__init__()
        self.data = data

    def train_dataloader(self) -> list[Batch]:
        return list(islice(self.data.val_dataloader(), 1))

    def val_dataloader(self) -> list[Batch]:
        return list(islice(self.data.test_dataloader(), 4))


def main(args: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--method", default="EAPIG", help="that finds the circuits; default: %(default)s")
    parser.add_argument("--steps", type=int, default=2000, help="of the model's training; default: %(default)s")
    parser.add_argument("--every", type=int, default=100, help="steps between two probes; default: %(default)s")
    parser.add_argument("--out", type=Path, default=Path("watched"), help="folder; default: %(default)s")
    parser.add_argument("--quick", action="store_true", help="a few steps, to see that it runs")
    options = parser.parse_args(args)
    steps, every = (4, 2) if options.quick else (options.steps, options.every)

    warnings.filterwarnings("ignore")
    torch.set_num_threads(1)
    torch.manual_seed(SEED)
    tokenizer = build_tokenizer()
    model, data = build_model(tokenizer), build_data(tokenizer)
    probe = CircuitProbe(HeldOut(data), every, SIZES, faithfulness=0.9, method=options.method, dirpath=options.out)
    trainer = pl.Trainer(
        max_steps=steps,
        gradient_clip_val=1.0,
        accelerator="cpu",
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        callbacks=[probe],
    )
    trainer.fit(TinyIOI(model.train(), steps), data.train_dataloader())
    formation = probe.formation()
    size = formation.enough()
    print(f"step  accuracy of the model, of {size} of its edges; faithfulness; overlap with the final one; by chance")
    for step, full, row, common in zip(
        formation.steps, formation.rows("full"), formation.rows(size), formation.overlaps(size), strict=True
    ):
        assert common is not None
        numbers = (full.accuracy, row.accuracy, row.faithfulness, common.iou, common.expected)
        print(f"{step:4d}", *(f"{number:7.2f}" for number in numbers))
    print("Written:", *probe.paths)


if __name__ == "__main__":
    main()
