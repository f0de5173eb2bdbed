"""What a checkpoint says of its run, and whether another run may go on from it.

Three parts. What the *search* is: its method with all options, the language model, weights and all. Which *prompts* it
was trained on. How the Trainer and the loader *run* it: how long, in how many processes, in which batches. The first
two make the numbers, and a run whose numbers were made in two ways would carry one label: it is refused. The third is
taken over as it is asked for, said in a warning, and written into every file of the run.

And what Lightning passes over in silence: a checkpoint without its learned state, its optimizer or its progress.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any, NamedTuple

from torch import Tensor

from lightning_circuits.arguments import UNKNOWN, as_data
from lightning_circuits.namespace import pl
from lightning_circuits.search.splits import Training

RECORD = "lightning_circuits"
"""Where it stands in a checkpoint of Lightning."""
PROGRESS = ("optimizer_states", "lr_schedulers", "loops", "callbacks", "epoch", "global_step")
"""What a checkpoint holds for going on, beside what was learned."""


_KINDS = ("class", "function", "kind", "method")
"""By which entry a record says what kind of thing it is of."""


class Difference(NamedTuple):
    """A value in a checkpoint, and the one that is in its place here."""

    name: str
    there: Any
    here: Any

    def __str__(self) -> str:
        return f"{self.name} {self.there!r} there, {self.here!r} here"

    @property
    def unknown(self) -> bool:
        """Whether it cannot be told if there is one."""
        return UNKNOWN in (self.there, self.here)


def differences(there: Any, here: Any, name: str = "") -> Iterator[Difference]:
    """Where two records differ, or may do so: `UNKNOWN` is like nothing.

    Args:
        there: of a checkpoint.
        here: of the run.
        name: of the two.
    """
    if isinstance(there, Mapping) and isinstance(here, Mapping):
        kinds = [next((each[kind] for kind in _KINDS if kind in each), None) for each in (there, here)]
        if kinds[0] != kinds[1]:  # then everything in them is another thing too
            yield Difference(name or "method", *kinds)
            return
        for key in dict.fromkeys([*here, *there]):
            yield from differences(there.get(key), here.get(key), f"{name}.{key}".strip("."))
    elif there != here or UNKNOWN in (there, here):
        yield Difference(name, there, here)


def read_record(checkpoint: Mapping[str, Any], where: str) -> dict[str, Any]:
    """What a checkpoint says of its run, as plain JSON data.

    Args:
        checkpoint: of Lightning.
        where: it is, for the message.

    Raises:
        ValueError: nothing, or not all.
    """
    said = checkpoint.get(RECORD)
    kinds = {"model": Mapping, "search": Mapping, "trained_on": Mapping, "run": Mapping, "resumed": list}
    if not isinstance(said, Mapping) or any(not isinstance(said.get(name), kind) for name, kind in kinds.items()):
        raise ValueError(
            f"{where} does not say of which circuit search it is: it was written by another program, or by an earlier "
            "version of this one. Start without it"
        )
    return {name: as_data(said[name]) for name in kinds}


def run_settings(trainer: pl.Trainer, training: Training) -> dict[str, Any]:
    """What the Trainer and the loader decide, as plain JSON data."""
    return {
        "max_steps": trainer.max_steps,
        "max_epochs": trainer.max_epochs,
        "processes": trainer.world_size,
        "batch_size": training.batch_size,
        "order_seed": training.order_seed,
        "limit_train_batches": trainer.limit_train_batches,
        "overfit_batches": getattr(trainer, "overfit_batches", 0),
        "accumulate_grad_batches": trainer.accumulate_grad_batches,
        "gradient_clip_val": trainer.gradient_clip_val,
        "precision": trainer.precision,
    }


def plain_options(made_with: Mapping[str, Any]) -> dict[str, Any]:
    """Of what a search was made with, the numbers and texts, which say all of themselves."""
    plain = {name: value for name, value in made_with.items() if isinstance(value, (bool, int, float, str))}
    return {name: value for name, value in plain.items() if name != "method" and value != UNKNOWN}


def refuse_another(there: Mapping[str, Any], here: Mapping[str, Any], where: str, prompts: bool) -> list[str]:
    """See that two records are of the same search; gives the names of what cannot be compared.

    Args:
        there: of a checkpoint.
        here: of the run.
        where: the checkpoint is, for the message.
        prompts: whether it has to be trained on the same prompts too.

    Raises:
        ValueError: they are not. All differences stand in it.
    """
    found = [*differences(there["model"], here["model"]), *differences(there["search"], here["search"])]
    if {"model_hash", "dtype"} & {each.name for each in found}:  # then so are the weights, which says nothing more
        found = [each for each in found if each.name != "weights_hash"]
    if prompts:
        found += _as_one(there["trained_on"].get("prompts"), here["trained_on"].get("prompts"), "training prompts")
    if known := [str(each) for each in found if not each.unknown]:
        raise ValueError(
            f"{where} does not fit (give what it was made with, or start without it), it is of another model or "
            f"search: {'; '.join(known)}"
        )
    return [each.name for each in found]


def _as_one(there: Any, here: Any, name: str) -> list[Difference]:
    return [Difference(name, there, here)] if there != here or UNKNOWN in (there, here) else []


def state_faults(expected: Mapping[str, Tensor], found: Any) -> list[str]:
    """What is wrong with learned state that a search should go on from.

    Args:
        expected: what the search holds: tensors of any shape by name.
        found: the ``state_dict`` of a checkpoint.
    """
    if not isinstance(found, Mapping):
        return ["its state_dict is none"]
    faults = [f"it has no {name}" for name in expected if name not in found]
    faults += [f"it has {name}, for which there is no place here" for name in found if name not in expected]
    for name in expected.keys() & found.keys():
        mine, theirs = expected[name], found[name]
        if not isinstance(theirs, Tensor):
            faults.append(f"{name} is no tensor")
        elif (theirs.shape, theirs.dtype) != (mine.shape, mine.dtype):
            faults.append(f"{name} is {_kind(theirs)}, not {_kind(mine)}")
        elif not theirs.isfinite().all():
            faults.append(f"{name} holds NaN or infinity")
    return sorted(faults)


def count_faults(state: Any, name: str, least: int = 0) -> list[str]:
    """What is wrong with a tensor of a checkpoint that counts something: it has to be whole, and not below ``least``.

    Args:
        state: the ``state_dict`` of a checkpoint: tensors of any shape by name.
        name: of the one.
        least: the smallest number that there may be.
    """
    count = state.get(name) if isinstance(state, Mapping) else None
    if not isinstance(count, Tensor) or not count.isfinite().all():
        return []  # said already
    whole = bool((count == count.round()).all()) if count.is_floating_point() else True
    if whole and bool((count >= least).all()):
        return []
    return [f"{name} is {count.min().item()}, and counts from {least} up"]


def loop_faults(checkpoint: Mapping[str, Any], name: str, loop: Mapping[str, Any]) -> list[str]:
    """What is wrong with the step that a checkpoint is of, and with the loop that a Trainer takes from it.

    Args:
        checkpoint: of Lightning.
        name: of the loop: ``fit_loop``, ``test_loop``, ...
        loop: the state of the Trainer's own, whose entries are looked for.
    """
    step, loops = checkpoint.get("global_step"), checkpoint.get("loops")
    faults = [] if isinstance(step, int) and step >= 0 else [f"its global_step is {step!r}"]
    if loops is not None:
        there = loops.get(name) if isinstance(loops, Mapping) else None
        faults += [f"its loops have no {missing}" for missing in _missing(loop, there, name)]
    return faults


def progress_faults(checkpoint: Mapping[str, Any], loader_goes_on: bool | None) -> list[str]:
    """What is wrong with the progress that a training should go on from; its loop has no `loop_faults`.

    Args:
        checkpoint: of Lightning.
        loader_goes_on: whether the loader here can begin in the middle of an epoch; None if that is not known.
    """
    if faults := [f"it has no {name}" for name in PROGRESS if checkpoint.get(name) is None]:
        if "optimizer_states" not in checkpoint:
            faults.append("it was perhaps written with save_weights_only=True, and can be tested, but not gone on from")
        return faults
    loop, step, states = checkpoint["loops"]["fit_loop"], checkpoint["global_step"], checkpoint["optimizer_states"]
    if step != (stepped := _steps(loop)):
        faults.append(f"its global_step is {step}, and its loops have made {stepped} steps")
    if loop["state_dict"].get("combined_loader") and loader_goes_on is False:
        faults.append("it says how far its loader was, and the loader here has no load_state_dict to be told that")
    if step and not states:
        faults.append("its optimizer_states are empty")
    if any(not each.isfinite().all() for each in _tensors(states)):
        faults.append("its optimizer_states hold NaN or infinity")
    return faults


def adam_faults(states: Any, groups: list[list[Tensor]], begun: bool) -> list[str]:
    """What is wrong with the state of an Adam that should go on.

    Args:
        states: ``optimizer_states`` of a checkpoint.
        groups: the parameters that it moves, of any shape, by group.
        begun: whether it has moved them.
    """
    state = states[0] if isinstance(states, list) and len(states) == 1 else None
    if not isinstance(state, Mapping) or not isinstance(state.get("state"), Mapping):
        return ["its optimizer_states are not those of one optimizer"]
    there = [len(group.get("params", ())) for group in state.get("param_groups", ()) if isinstance(group, Mapping)]
    if there != [len(group) for group in groups]:
        return [f"its optimizer moves {there} parameters, not {[len(group) for group in groups]}"]
    faults = []
    for index, parameter in enumerate(each for group in groups for each in group):
        moments = state["state"].get(index, {})
        for name in ("exp_avg", "exp_avg_sq"):
            moment = moments.get(name) if isinstance(moments, Mapping) else None
            if (begun or moments) and not (isinstance(moment, Tensor) and moment.shape == parameter.shape):
                faults.append(f"its optimizer has no {name} for parameter {index}, {_kind(parameter)}")
    return faults


def _missing(expected: Mapping[str, Any], found: Any, name: str) -> Iterator[str]:
    """The names of entries that are not there, those within entries too."""
    if not isinstance(found, Mapping):
        yield name
        return
    for key, value in expected.items():
        if key not in found:
            yield f"{name}.{key}"
        elif isinstance(value, Mapping) and not key.endswith("state_dict"):  # what is in there is up to the loader
            yield from _missing(value, found[key], f"{name}.{key}")
        elif isinstance(value, int) and not (isinstance(found[key], int) and found[key] >= 0):
            yield f"{name}.{key}"


def _steps(loop: Mapping[str, Any]) -> int:
    """How many steps of an optimizer a training has made, by its loop."""
    of_lightning = loop["epoch_loop.automatic_optimization.optim_progress"]["optimizer"]["step"]
    of_the_module = loop["epoch_loop.manual_optimization.optim_step_progress"]
    return sum(each["total"]["completed"] for each in (of_lightning, of_the_module))


def _tensors(values: Any) -> Iterator[Tensor]:
    """All tensors in dicts and lists."""
    if isinstance(values, Tensor):
        yield values
    elif isinstance(values, (Mapping, list, tuple)):
        for each in values.values() if isinstance(values, Mapping) else values:
            yield from _tensors(each)


def _kind(tensor: Tensor) -> str:
    return f"{str(tensor.dtype).removeprefix('torch.')} {list(tensor.shape)}"
