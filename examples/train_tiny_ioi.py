"""Train `tiny-ioi`, the model that is shipped in this package: a small GPT-2 that identifies indirect objects.

A circuit finder needs a model with a circuit worth finding, small enough to come along in the package. This one
learns from `IOIDataModule`'s own prompts. On the clean ones ("When Mary and John went to the store, John gave a drink
to") it is taught the name that was mentioned once. On their corrupt twins, where a third name acts, it is taught both
names, half and half: so it cannot get away with copying the first name, or the last one, or any name it has seen; it
has to notice *which name comes twice*. The usual next-token loss on the whole sentence makes it a language model, if
one of few words.

    python examples/train_tiny_ioi.py                 # writes lightning_circuits/models/assets/tiny-ioi, in 3 minutes
    python examples/train_tiny_ioi.py --out /tmp/tiny      # leave the shipped one alone
    python examples/train_tiny_ioi.py --quick              # a few steps, to see that it runs; writes ./tiny-ioi

Everything is seeded, and runs in one thread: the same versions on the same kind of processor give the same file.
The split is by name triples: no triple of the test prompts that `evaluate` measures on was trained on.
"""

from __future__ import annotations

import argparse
import re
import time
from pathlib import Path

import torch
import torch.nn.functional as F
from tokenizers import Tokenizer, models, pre_tokenizers
from torch import Tensor
from transformers import GPT2Config, GPT2LMHeadModel, PreTrainedModel, PreTrainedTokenizerBase, PreTrainedTokenizerFast

import lightning_circuits
from lightning_circuits.datamodules.ioi import NAMES, OBJECTS, PLACES, TEMPLATES, IOIDataModule
from lightning_circuits.models.loading import EMBEDDED

SHIPPED = Path(lightning_circuits.__file__).parent / "models" / "assets" / EMBEDDED
SEED = 0


def build_tokenizer() -> PreTrainedTokenizerBase:
    """One token per word or punctuation mark that `IOIDataModule` uses; spaces only separate."""
    split = pre_tokenizers.Whitespace()
    texts = [
        *NAMES,
        *PLACES,
        *OBJECTS,
        *(re.sub("{.*?}", "", template) for template in TEMPLATES),
    ]
    words = sorted({word for text in texts for word, _ in split.pre_tokenize_str(text)})
    vocabulary = {word: number for number, word in enumerate(["[PAD]", "[UNK]", *words])}
    tokenizer = Tokenizer(models.WordLevel(vocabulary, unk_token="[UNK]"))
    tokenizer.pre_tokenizer = split
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, pad_token="[PAD]", unk_token="[UNK]", model_max_length=64
    )


def build_model(tokenizer: PreTrainedTokenizerBase) -> PreTrainedModel:
    """4 layers of 4 heads, d_model 64, random weights; no dropout."""
    config = GPT2Config(
        vocab_size=len(tokenizer),
        n_positions=64,
        n_embd=64,
        n_layer=4,
        n_head=4,
        initializer_range=0.1,  # GPT-2's own .02 is meant for a width of 768; at 64 attention stays flat for too long
        resid_pdrop=0.0,
        embd_pdrop=0.0,
        attn_pdrop=0.0,
        bos_token_id=None,
        eos_token_id=None,
        pad_token_id=tokenizer.pad_token_id,
    )
    return GPT2LMHeadModel(config)


def build_data(tokenizer: PreTrainedTokenizerBase) -> IOIDataModule:
    """The prompts trained on, and (`test`) those kept from training."""
    return IOIDataModule(tokenizer, n_train=16384, n_val=512, n_test=1024, batch_size=32, seed=SEED)


def loss(model: PreTrainedModel, batch: dict[str, Tensor], lm_weight: float = 1.0) -> Tensor:
    """Cross entropy at the answer: IO on clean prompts, IO and S half and half on corrupt ones; and the LM loss."""
    rows = torch.arange(len(batch["positions"]))
    mask, positions = batch["attention_mask"], batch["positions"]
    answers, distractors = batch["answers"][:, 0], batch["distractors"][:, 0]
    clean = model(input_ids=batch["clean_ids"], attention_mask=mask).logits
    corrupt = model(input_ids=batch["corrupt_ids"], attention_mask=mask).logits[rows, positions].log_softmax(-1)
    either = -(corrupt[rows, answers] + corrupt[rows, distractors]) / 2
    following = batch["clean_ids"][:, 1:].masked_fill(mask[:, 1:] == 0, -100)
    lm = F.cross_entropy(clean[:, :-1].flatten(0, 1), following.flatten())
    return F.cross_entropy(clean[rows, positions], answers) + either.mean() + lm_weight * lm


def train(steps: int, lr: float = 3e-3) -> tuple[PreTrainedModel, PreTrainedTokenizerBase, IOIDataModule]:
    """Train from scratch (right padding, so that positions count from the first word)."""
    torch.set_num_threads(1)
    torch.manual_seed(SEED)
    tokenizer = build_tokenizer()
    model, data = build_model(tokenizer), build_data(tokenizer)
    optimizer = torch.optim.AdamW(model.parameters(), lr=lr, betas=(0.9, 0.98), weight_decay=0.01)
    # Up over 100 steps, down over the last 30 %.
    schedule = torch.optim.lr_scheduler.LambdaLR(
        optimizer, lambda s: min((s + 1) / 100, 1, (steps - s) / (0.3 * steps))
    )
    loader = data.train_dataloader()
    step, started = 0, time.monotonic()
    while step < steps:
        for batch in loader:
            value = loss(model, batch)
            optimizer.zero_grad()
            value.backward()
            torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
            optimizer.step()
            schedule.step()
            step += 1
            if step % 200 == 0:
                print(f"step {step:5d}  loss {value.item():.3f}  {time.monotonic() - started:.0f} s", flush=True)
            if step == steps:
                break
        loader.set_epoch(loader.epoch + 1)
    return model.eval(), tokenizer, data


@torch.no_grad()
def evaluate(model: PreTrainedModel, data: IOIDataModule) -> dict[str, float]:
    """On the test split: shares of prompts completed with IO, and preferring IO to S; mean logit differences."""
    right, differences, corrupt_differences = [], [], []
    for batch in data.test_dataloader():
        rows = torch.arange(len(batch["positions"]))
        answers, distractors = batch["answers"][:, 0], batch["distractors"][:, 0]
        for ids, found in (("clean_ids", differences), ("corrupt_ids", corrupt_differences)):
            logits = model(input_ids=batch[ids], attention_mask=batch["attention_mask"]).logits[
                rows, batch["positions"]
            ]
            found.append(logits[rows, answers] - logits[rows, distractors])
            if ids == "clean_ids":
                right.append(logits.argmax(-1) == answers)
    clean, corrupt = torch.cat(differences), torch.cat(corrupt_differences)
    return {
        "accuracy": torch.cat(right).float().mean().item(),
        "answer above distractor": (clean > 0).float().mean().item(),
        "logit difference, clean": clean.mean().item(),
        "logit difference, corrupt": corrupt.mean().item(),
    }


def main(args: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description="Train the embedded model, tiny-ioi.")
    parser.add_argument("--out", type=Path, default=SHIPPED, help="folder to write model and tokenizer to")
    parser.add_argument("--steps", type=int, default=4000)
    parser.add_argument("--quick", action="store_true", help="a few steps, to see that it runs; writes ./tiny-ioi")
    options = parser.parse_args(args)
    if options.quick:
        options.out, options.steps = Path(EMBEDDED), 4
    model, tokenizer, data = train(options.steps)
    model.save_pretrained(options.out)
    tokenizer.save_pretrained(options.out)
    for file in options.out.iterdir():
        file.chmod(0o644)  # safetensors writes for the owner's eyes only; this is shipped to everybody
    size = sum(file.stat().st_size for file in options.out.iterdir())
    for name, value in evaluate(model, data).items():
        print(f"{name:28s} {value:.4f}")
    print(f"{options.out}: {size / 1e6:.2f} MB")


if __name__ == "__main__":
    main()
