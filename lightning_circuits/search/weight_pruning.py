"""Weight pruning: a logit on every weight of the blocks, trained to keep the model's answers with some of the weights.

A step runs the model as it is and with the weights below a threshold taken for zero, first on the task's prompts, then
on ordinary text, and asks each time how what is said differs. The threshold is where it keeps the share asked for.

    >>> search = WeightPruning(model="gpt2", density=0.5)                               # doctest: +SKIP
    >>> pl.Trainer(max_steps=100).fit(search, FactsDataModule(tokenizer="gpt2"))        # doctest: +SKIP
    >>> search.circuit().save("half.safetensors")                                       # doctest: +SKIP

After "Understanding Language Model Circuits through Knowledge Editing" (Ge et al. 2024), with two differences. The
objective asks for ordinary text as well: else what is found is a lookup table in a model that can no longer speak. And
the mask is no sample of random gates but the logits above a threshold, from the first step on, so that what is trained
is what is judged.

Training begins at the weights whose loss would hurt most, to second order (`weights.start`), and a step moves every
logit by as much, up or down, as the sign of its gradient says. By their size, gradients would move the largest weights
the farthest, whose loss to first order says least about their loss as a whole; and the batch that a gradient is of says
more about its size than about its direction.

Memory: beside the model the logits, and as much again, in float32, for their gradients; the weights that are kept are
made for one module after the other (`weights.straight_through`). Signs want no state of an optimizer.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from itertools import islice
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim.lr_scheduler import LambdaLR

from lightning_circuits.arguments import require_numbers, require_seed
from lightning_circuits.batch import Batch, TextBatch, TextSource, n_prompts
from lightning_circuits.measures import kl_divergence
from lightning_circuits.models.loading import DType
from lightning_circuits.models.model_weights import WeightKind
from lightning_circuits.objectives import OBJECTIVES, AnyObjective, losses
from lightning_circuits.search.frozen_model import LanguageModel
from lightning_circuits.search.splits import whole_split
from lightning_circuits.search.weight_search import WeightSearch
from lightning_circuits.weights.choosing import largest
from lightning_circuits.weights.space import OF_BLOCKS, WeightSpace
from lightning_circuits.weights.start import start
from lightning_circuits.weights.straight_through import threshold_of, with_kept
from lightning_circuits.weights.weight_circuit import WeightCircuit

SEEN = 8
"""So many batches of prompts, and as many of text, say at the beginning what the loss would gain without a weight."""


class WeightPruning(WeightSearch):
    """Train which weights to keep.

    Args:
        model: a Hugging Face id, a folder, a GGUF file, ``tiny-ioi``, or a model.
        text: ordinary text, such as ``TextLines(tokenizer)``, that the circuit is to go on speaking as the model does.
        density: the share of the weights to keep, in (0, 1).
        kinds: which weights may go: of ``attention``, ``mlp`` and ``norm`` in the blocks, ``embedding`` and ``head``.
        layers: of which blocks, counted from 0. Default: all.
        objective: what is asked on the task's prompts: an `Objective`, its name, or a function like it.
        text_weight: how much ordinary text weighs against the prompts: where training begins, and in how far it goes.
        lr: how far logits move in a step, which lie from ``density - 1`` to ``density`` at first; linearly to zero.
        seed: of where training begins, and of where the threshold is looked for.
        dtype: of a model loaded by name.

    Raises:
        FileNotFoundError: no such model.
        ValueError: a density outside (0, 1); another kind, or a layer that the model does not have; a learning rate or
            weight that is not positive; no text; an unknown objective; a model of a family that is not supported.
        TypeError: an argument of a wrong type.
    """

    def __init__(
        self,
        model: LanguageModel,
        text: TextSource | None = None,
        *,
        density: float = 0.5,
        kinds: Sequence[WeightKind] = OF_BLOCKS,
        layers: Sequence[int] | None = None,
        objective: AnyObjective = "KL",
        text_weight: float = 1.0,
        lr: float = 0.002,
        seed: int = 0,
        dtype: DType = "float32",
    ) -> None:
        require_numbers(density=density, lr=lr, text_weight=text_weight)
        require_seed(seed)
        if not 0 < density < 1:
            raise ValueError(f"density is {density}: the share of the weights to keep lies between 0 and 1")
        for name, value in (("lr", lr), ("text_weight", text_weight)):
            if not 0 < value < math.inf:
                raise ValueError(f"{name} has to be positive and finite, got {value}")
        made = OBJECTIVES.make(objective, "objective")
        super().__init__(model, text, dtype)
        self.automatic_optimization = False
        self.objective, self.text_weight = made, text_weight
        self.density, self.lr, self.seed = density, lr, seed
        self.kinds, self.layers = list(kinds), None if layers is None else list(layers)
        self.space = WeightSpace.of(self.circuit_model, kinds, layers)
        logits = {
            name: torch.zeros_like(each, dtype=torch.float32)
            for name, each in self.space.parameters(self.model).items()
        }
        self.logits = nn.ParameterDict({_key(name): nn.Parameter(each) for name, each in logits.items()})

    # ---- what was found ----------------------------------------------------------------------------------------

    def circuit(self, density: float | None = None) -> WeightCircuit:
        """The weights of the highest logits.

        Args:
            density: the share of the weights. Default: that trained for.

        Raises:
            ValueError: a density outside (0, 1]; a logit that is NaN.
        """
        density = self.density if density is None else density
        if not 0 < density <= 1:
            raise ValueError(f"density is {density}: the share of the weights to keep lies in (0, 1]")
        logits = {name: each.half().float() for name, each in self._logits().items()}  # as a checkpoint has them
        masks = largest(logits, round(density * self.space.n_weights))
        return WeightCircuit.of(self.space, {name: mask.cpu() for name, mask in masks.items()}, self.describe())

    def _describe_searched(self) -> dict[str, Any]:
        return {"n_weights": self.space.n_weights, "tensors": len(self.space.tensors)}

    def _logits(self) -> dict[str, Tensor]:
        """Those of the weights, by the same names."""
        return {tensor.name: self.logits[_key(tensor.name)] for tensor in self.space.tensors}

    # ---- training ----------------------------------------------------------------------------------------------

    def on_fit_start(self) -> None:
        super().on_fit_start()
        if self.trainer.ckpt_path is None:
            start(self.model, self._logits(), self._seen(), self.density, torch.Generator().manual_seed(self.seed))

    def _seen(self) -> Iterator[tuple[float, Callable[[], Tensor]]]:
        """Some of what is trained on: how much it weighs, and what gives the logits there, ``[n, V]``."""
        for number, batch in enumerate(islice(whole_split(self.trainer, "train"), SEEN)):
            prompts, text = self.circuit_model.receive(batch), self._text(number)
            yield 1.0, partial(self._answer, prompts)
            yield self.text_weight, partial(self._continue, text)

    def _text(self, number: int) -> TextBatch:
        return {name: each.to(self.circuit_model.device) for name, each in self.text.batch(number).items()}  # type: ignore[return-value, attr-defined]

    def _answer(self, batch: Batch) -> Tensor:
        """Logits ``[B, V]`` of what follows each prompt."""
        return self.circuit_model.logits(batch["clean_ids"], batch["attention_mask"], batch["positions"])

    def _continue(self, text: TextBatch) -> Tensor:
        """Logits ``[n, V]`` of what follows each token of ordinary text."""
        logits = self.circuit_model.token_logits(text["input_ids"], text["attention_mask"])
        return logits[text["attention_mask"].bool()]

    def training_step(self, batch: Batch, batch_idx: int) -> None:
        """Two steps down: for what is said of the prompts, and for ordinary text."""
        batch = self.circuit_model.receive(batch)
        number = self.trainer.fit_loop.total_batch_idx
        text = self._text(number * self.trainer.world_size + self.global_rank)
        with torch.no_grad():
            full_logits = self.circuit_model.run(batch["clean_ids"], batch["attention_mask"], batch["positions"])
            full_text = self._continue(text)

        def of_prompts() -> Tensor:
            return losses(self.objective, self._answer(batch), batch, full_logits).mean()

        def of_text() -> Tensor:
            return kl_divergence(self._continue(text), full_text).mean()

        optimizer: Any = self.optimizers()
        objective = self._descend(of_prompts, 1.0, number)
        optimizer.step()
        optimizer.zero_grad()  # before there are others: gradients are as large as all that is learned
        text_kl = self._descend(of_text, self.text_weight, number)
        optimizer.optimizer.step()  # of the same batch: no step that the Trainer counts
        optimizer.zero_grad()
        self.lr_schedulers().step()  # type: ignore[union-attr]
        report = {"train/objective": objective, "train/text_kl": text_kl}
        self.log_dict(report, prog_bar=True, batch_size=n_prompts(batch))

    def _descend(self, loss: Callable[[], Tensor], weight: float, number: int) -> Tensor:
        """Give the optimizer the signs of the gradient of a loss, by ``weight``; the loss itself, a scalar."""
        logits = self._logits()
        generator = torch.Generator().manual_seed(self.seed * 1_000_003 + number)
        threshold = threshold_of(logits, self.density, generator)
        value = with_kept(self.model, logits, threshold, loss)
        if not value.isfinite():
            raise FloatingPointError(
                f"the loss is {value.item()} at step {self.global_step}; nothing was changed by it. Usual causes: a "
                f"dtype too narrow for this model ({self.circuit_model.dtype}), or a broken prompt"
            )
        gradients = torch.autograd.grad(value, list(logits.values()))
        for parameter, gradient in zip(logits.values(), gradients, strict=True):
            gradient = self.trainer.strategy.reduce(gradient, reduce_op="mean")
            parameter.grad = gradient.sign_().mul_(weight)
        return value.detach()

    def configure_optimizers(self) -> Any:
        total = self.planned_steps()
        optimizer = torch.optim.SGD(self.logits.parameters(), lr=self.lr)
        schedule = LambdaLR(optimizer, lambda step: max(total - step, 0) / total)
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": schedule, "interval": "step"}}

    # ---- checkpoints -------------------------------------------------------------------------------------------

    def state_dict(self, *args: Any, **kwargs: Any) -> dict[str, Any]:  # type: ignore[override]
        """The logits, in half as many bytes."""
        return {name: value.half() for name, value in super().state_dict(*args, **kwargs).items()}

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        super().on_save_checkpoint(checkpoint)
        for logits in self.logits.values():  # the run that goes on has what a resumed one will have
            logits.data.copy_(logits.data.half())


def _key(name: str) -> str:
    """A parameter's name where names have no dots."""
    return name.replace(".", "/")
