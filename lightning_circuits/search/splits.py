"""The data of a run: the whole of a split, on every process, whenever it is wanted, and what is said of them.

Lightning hands out loaders when a loop runs, and shares them out among processes, repeating prompts until all have
equally many. Means and measurements need each prompt once, and between two training steps.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import torch
from torch.utils.data.distributed import DistributedSampler

from lightning_circuits.ablation import Ablation
from lightning_circuits.arguments import UNKNOWN
from lightning_circuits.batch import Batch, SharedLoader, n_prompts, own_tokens, unshared
from lightning_circuits.layout import Layout
from lightning_circuits.models import CircuitModel
from lightning_circuits.namespace import pl
from lightning_circuits.pages import see_page
from lightning_circuits.progress import length_of
from lightning_circuits.search.identity import hash_of_prompts
from lightning_circuits.search.random_numbers import drawing_nothing, undisturbed


def whole_split(trainer: pl.Trainer, split: str) -> Any:
    """A fresh loader over all of a split, the same on every process.

    Raises:
        ValueError: there is no such loader, or a collection of several, or it repeats prompts.
    """
    loops: dict[str, Any] = {
        "train": trainer.fit_loop,
        "val": trainer.fit_loop.epoch_loop.val_loop if trainer.state.fn == "fit" else trainer.validate_loop,
        "test": trainer.test_loop,
    }
    # Lightning has no public way to ask where the loaders of a split come from (a datamodule, the module, the call)
    # before its loop has run, and with it come distributed samplers, which repeat prompts.
    source = loops[split]._data_source
    found = source.dataloader() if source.is_defined() else []
    loaders = list(found) if isinstance(found, (list, tuple, dict)) else [found]
    if not loaders or loaders[0] is None:
        purpose = "mean ablation takes its means over" if split == "train" else "circuits are measured on"
        page = f" {see_page('reading-the-numbers', 'Mean ablation')}" if split == "train" else ""
        raise ValueError(
            f"{purpose} the {split} split, and there is none: give the Trainer a datamodule with a {split}_dataloader"
            + page
        )
    if len(loaders) > 1 or isinstance(found, dict):
        raise ValueError(f"there are several {split} loaders: give one, so that it is clear what is measured")
    loader = loaders[0]
    if isinstance(getattr(loader, "sampler", None), DistributedSampler):
        raise ValueError(
            f"the {split} loader has a DistributedSampler, which repeats prompts to even out the processes: leave it "
            "out, the prompts are shared out here, each once"
        )
    return unshared(loader)


def fitted_on(trainer: pl.Trainer, ablation: Ablation) -> Any:
    """What an ablation is given to be fitted on: the training prompts, if it needs any."""
    return whole_split(trainer, "train") if ablation.needs_data else ()


def require_training_prompts(trainer: pl.Trainer) -> None:
    """See that there is something to search on; of a loader that does not know its length that shows later.

    Raises:
        ValueError: the training loader has no batch.
    """
    with undisturbed():
        loader = _training_loader(trainer)
    if length_of(loader) == 0:
        raise ValueError(
            f"there are no training prompts to search on: the training loader ({type(loader).__name__}) has no batch"
        )


def first_batch(trainer: pl.Trainer) -> Batch | None:
    """The first of the training batches, looked at without disturbing the run.

    None where that cannot be: there are several loaders, or one that does not know its length, and so may be one that
    gives its batches only once.
    """
    with undisturbed():
        if length_of(loader := _training_loader(trainer)) is None:
            return None
        with drawing_nothing(loader):
            return next(iter(loader), None)


def _training_loader(trainer: pl.Trainer) -> Any:
    """`whole_split` of the training prompts; None where there are several loaders, or one that repeats prompts."""
    try:
        return whole_split(trainer, "train")
    except ValueError:
        return None


def live_tokens(loader: Iterable[Batch], ablation: Ablation) -> dict[str, float]:
    """At how many tokens of a prompt cutting an edge may change something: the mean over all prompts, by span.

    The spans stand in the order of the first prompts, those of no such token too. What is in no span goes by ``""``.
    """
    found: Counter[str] = Counter()
    prompts = 0
    with undisturbed(), drawing_nothing(loader):
        for batch in loader:
            names = ("", *batch.get("span_names", ()))
            spans = batch["spans"] if len(names) > 1 else torch.full_like(batch["clean_ids"], -1)
            live = ablation.live(batch) & own_tokens(batch)
            numbers = torch.bincount(spans[live] + 1, minlength=len(names))
            found.update(dict(zip(names, numbers.tolist(), strict=True)))
            prompts += n_prompts(batch)
    return {name: number / prompts for name, number in found.items()}


def live_spans(loader: Iterable[Batch], ablation: Ablation) -> dict[str, float]:
    """The spans in which cutting an edge may change something, in the order of the prompts, each with the mean number
    of its tokens at which it may.

    Raises:
        ValueError: prompts without spans; none of them is live.
    """
    tokens = live_tokens(loader, ablation)
    if not tokens.keys() - {""}:
        raise ValueError(
            "edges are to be told apart by spans, and the training prompts have none: make the data with "
            f"spans='roles', of prompts that name their places {see_page('own-task', 'As a file')}"
        )
    live = {name: number for name, number in tokens.items() if name and number}
    if not live:
        raise ValueError("in no span of the training prompts do clean and corrupt differ: there is nothing to find")
    return live


@dataclass(frozen=True)
class Training:
    """What is trained on: which prompts, in which batches and order, `UNKNOWN` where a loader does not say."""

    prompts: dict[str, Any] | str
    batch_size: int | str | None = UNKNOWN
    order_seed: int | str | None = UNKNOWN
    goes_on: bool | None = None
    """Whether the loader can begin in the middle of an epoch; None if that is not known."""

    @classmethod
    def of(cls, trainer: pl.Trainer) -> Training:
        """Look at the training prompts, all of them once, without disturbing the run."""
        with undisturbed():
            if (loader := _training_loader(trainer)) is None:
                return cls(UNKNOWN)
            prompts: dict[str, Any] | str = UNKNOWN
            if length_of(loader) is not None:
                with drawing_nothing(loader):
                    number, found = hash_of_prompts(loader)
                prompts = {"number": number, "hash": found}
            batch_size, seed = (getattr(loader, name, UNKNOWN) for name in ("batch_size", "seed"))
            return cls(prompts, batch_size, seed, goes_on=hasattr(loader, "load_state_dict"))

    def describe(self, trainer: pl.Trainer) -> dict[str, Any]:
        """What a search says, after the run too, of what the Trainer had it trained on."""
        return {"prompts": self.prompts, "data": describe_data(trainer)}


def describe_data(trainer: pl.Trainer) -> dict[str, Any] | None:
    """What the Trainer's data module says of itself, in plain JSON values; None if it says nothing."""
    describe = getattr(getattr(trainer, "datamodule", None), "describe", None)
    return None if describe is None else describe()


def describe_spans(layout: Layout, live_tokens: dict[str, float], trainer: pl.Trainer | None) -> dict[str, Any]:
    """The spans that edges are told apart in, and what the Trainer's data module says of them, if it says anything.

    Args:
        layout: of the edges; without spans, there is nothing to say.
        live_tokens: as `live_spans` counts them.
        trainer: of the run, if it is one that trains.
    """
    if not layout.spans:
        return {}
    describe = getattr(getattr(trainer, "datamodule", None), "describe_spans", None)
    said = {"spans": list(layout.spans), "live_tokens": live_tokens}
    return said if describe is None else {**said, **describe()}


def require_fit(data: Any, model: CircuitModel) -> None:
    """Let a data module that can, as a `PairDataModule`, see before anything runs that a model can read its prompts.

    Raises:
        ValueError: a prompt that is too long for the model, or a token that it does not have.
    """
    check = getattr(data, "require_fit", None)
    if check is not None:
        check(model)


@dataclass(frozen=True)
class Share:
    """How a loader shares its rows out: this process gets every ``replicas``-th one, from ``rank`` on.

    ``total``: how many rows there are; None if they are not shared out. What comes after them are rows once more, so
    that all processes get equally many.
    """

    total: int | None = None
    replicas: int = 1
    rank: int = 0

    def new_rows(self, seen: int, rows: int) -> int:
        """How many of the next ``rows`` of this process come for the first time, ``seen`` being those before."""
        if self.total is None:
            return rows
        of_its_own = -(-(self.total - self.rank) // self.replicas)
        return max(0, min(rows, of_its_own - seen))


def share_of(loader: Any, world_size: int) -> Share:
    """How a training loader, as Lightning has made it ready, shares its rows out.

    Raises:
        ValueError: several processes, and a loader that does not know its length.
    """
    sampler = getattr(loader, "sampler", None)
    if isinstance(sampler, DistributedSampler):
        return Share(len(sampler.dataset), sampler.num_replicas, sampler.rank)  # type: ignore[arg-type]
    if isinstance(loader, SharedLoader) and loader.replicas > 1:
        return Share(len(loader.pairs), loader.replicas, loader.rank)
    if world_size > 1 and length_of(loader) is None:
        raise ValueError(
            f"the training loader ({type(loader).__name__}) does not know its length, so {world_size} processes cannot "
            "tell which prompts are repeated to even them out: give a dataset with a length, or one process"
        )
    return Share()
