"""What a model makes of every task: is it right, by how much, and how many pairs fit its tokenizer?

    python benchmarks/tasks.py --write

Figures are of the full model, on prompts of the validation split: a task that the model cannot do has no circuit.
Accuracy: the best answer stands above the best distractor. The differences are those of the clean prompt's answers and
distractors, after the clean prompt and after the corrupt one. A few pairs of each task are printed, to be read.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import results_page
import torch
from options import parse, parser, write_json
from shapes import llama
from smollm2 import NAME, located
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import AutoModelForCausalLM, PreTrainedTokenizerBase, PreTrainedTokenizerFast

from lightning_circuits.datamodules import (
    CountryCapitalDataModule,
    GenderBiasDataModule,
    GreaterThanDataModule,
    HypernymyDataModule,
    IOIDataModule,
    SequenceDataModule,
    SubjectVerbAgreementDataModule,
    TaskDataModule,
    country_capital,
    gender_bias,
    greater_than,
    hypernymy,
    ioi,
    sequence,
    subject_verb_agreement,
)
from lightning_circuits.measures import correct, logit_difference, probability_difference
from lightning_circuits.models import CircuitModel, wrap
from lightning_circuits.models.loading import load_model, load_tokenizer

PAGE = results_page.ROOT / "docs" / "tasks.md"
QUICK = {"model": "tiny", "prompts": 4, "train": 4, "examples": 1}

TASKS: dict[str, Callable[..., TaskDataModule]] = {
    "IOI": IOIDataModule,
    "IOI, IO once more": partial(IOIDataModule, extra_io=1),
    "IOI, IO twice more": partial(IOIDataModule, extra_io=2),
    **{f"sequence of {members}": partial(SequenceDataModule, members=members) for members in sequence.SEQUENCES},
    "sequence of numerals, +10": partial(SequenceDataModule, step=10),
    "capital": CountryCapitalDataModule,
    "hypernymy": HypernymyDataModule,
    "gender": GenderBiasDataModule,
    "agreement": SubjectVerbAgreementDataModule,
    **{
        f"agreement, {n} attractors": partial(SubjectVerbAgreementDataModule, attractors=n)
        for n in subject_verb_agreement.ATTRACTORS
    },
    "greater-than, units": GreaterThanDataModule,
    "greater-than, tens": partial(GreaterThanDataModule, digit="tens"),
}


def main() -> None:
    options = parser(__doc__, model=NAME, seed=0, train=300, prompts=64, examples=3)
    args = parse(options, QUICK)

    if args.model == "tiny":
        tokenizer = made_tokenizer()
        model = wrap(AutoModelForCausalLM.from_config(llama(3, 4, 2, 32, 48, len(tokenizer))))
    else:
        name = located(args.model)
        tokenizer, model = load_tokenizer(name), wrap(load_model(name))
    rows = []
    for task, of_task in TASKS.items():
        data = of_task(tokenizer, n_train=args.train, n_val=args.prompts, n_test=args.prompts, seed=args.seed)
        rows.append({"task": task, **measured(model, data)})
        for pair in list(data.make_splits()["val"])[: args.examples]:
            answers, distractors = (
                [word if isinstance(word, str) else tokenizer.decode(word) for word in words[:4]]
                for words in (pair.answers, pair.distractors)
            )
            print(f"{task}: {pair.clean!r} (not {pair.corrupt!r}) -> {answers}, not {distractors}")
    table = [as_cells(row) for row in rows]
    results_page.show(table, f"{args.model}, {args.prompts} validation prompts each")
    if args.write:
        seen = f"{args.prompts} validation prompts each, seed {args.seed}; pairs are of all splits"
        results_page.write_table("tasks", table, f"{seen}. {results_page.command()}, {results_page.machine()}.", PAGE)
    write_json(args, rows=rows)


@torch.no_grad()
def measured(model: CircuitModel, data: TaskDataModule) -> dict[str, Any]:
    """Means over the validation prompts, and pairs of all splits counted by what became of them."""
    found: dict[str, list[torch.Tensor]] = {}
    for batch in data.val_dataloader():
        for prompt in ("clean", "corrupt"):
            logits = model.run(batch[f"{prompt}_ids"], batch["attention_mask"], batch["positions"])
            right = correct(logits, batch).double()
            found.setdefault(f"accuracy_{prompt}", []).append(right)
            found.setdefault(f"logit_difference_{prompt}", []).append(logit_difference(logits, batch))
            found.setdefault(f"probability_difference_{prompt}", []).append(probability_difference(logits, batch))
    numbers = [number.to_dict() for number in data.fitting.values()]
    counts = {why: sum(number[why] for number in numbers) for why in numbers[0]}
    return {name: torch.cat(values).mean().item() for name, values in found.items()} | counts


def as_cells(row: dict[str, Any]) -> results_page.Row:
    def both(name: str, digits: int) -> str:
        numbers = (round(row[f"{name}_{prompt}"], digits) + 0.0 for prompt in ("clean", "corrupt"))  # 0.0, not -0.0
        return " / ".join(f"{number:.{digits}f}" for number in numbers)

    return {
        "task": row["task"],
        "accuracy": f"{row['accuracy_clean']:.2f}",
        "logit difference, clean / corrupt": both("logit_difference", 1),
        "probability difference, clean / corrupt": both("probability_difference", 2),
        "pairs drawn": str(row["drawn"]),
        "misaligned": str(row["misaligned"]),
        "several tokens": str(row["several_token"]),
        "kept": str(row["kept"]),
    }


def made_tokenizer() -> PreTrainedTokenizerBase:
    """A byte-level tokenizer that has learned the words of the tasks, digits one by one."""
    words = [
        *(name for pair in country_capital.CAPITALS for name in pair),
        *(*gender_bias.HERS, *gender_bias.HIS, "man woman he she"),
        *greater_than.NOUNS,
        *(word for kind, things in hypernymy.KINDS.items() for word in (*kind, things)),
        *(*ioi.NAMES, *ioi.PLACES, *ioi.OBJECTS, *ioi.CLAUSES),
        *(text for kind in sequence.SEQUENCES.values() for text in (*kind.members, *kind.carriers)),
        *(word for pair in (*subject_verb_agreement.SUBJECTS, *subject_verb_agreement.VERBS) for word in pair),
    ]
    modules = (country_capital, gender_bias, greater_than, hypernymy, ioi, subject_verb_agreement)
    texts = [*(template for module in modules for template in module.TEMPLATES), *(f" {word}" for word in words)]
    tokenizer = Tokenizer(models.BPE())
    digits = pre_tokenizers.Digits(individual_digits=True)
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence([digits, pre_tokenizers.ByteLevel(add_prefix_space=False)])
    tokenizer.decoder = decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(vocab_size=8000, min_frequency=1, initial_alphabet=alphabet, show_progress=False)
    tokenizer.train_from_iterator(texts, trainer)
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer)


if __name__ == "__main__":
    main()
