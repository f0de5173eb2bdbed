"""Subject-verb agreement: a small GPT-2 learns that the keys near the cabinet *are*, and the key *is*.

A complete Lightning project, as one finds them: sentences and a tokenizer, a LightningDataModule, a LightningModule.
"""

import random

import lightning.pytorch as pl
import torch
from tokenizers import Tokenizer, models, pre_tokenizers
from torch.utils.data import DataLoader
from transformers import GPT2Config, GPT2LMHeadModel, PreTrainedTokenizerFast

NOUNS = {"key": "keys", "cabinet": "cabinets", "dog": "dogs", "author": "authors", "truck": "trucks", "tree": "trees"}
PLACES = ["near", "behind", "above", "beside"]
VERBS = {"is": "are", "was": "were", "looks": "look"}
ENDS = ["old", "new", "small", "big"]
WORDS = ["[PAD]", "the", *NOUNS, *NOUNS.values(), *PLACES, *VERBS, *VERBS.values(), *ENDS]


def make_tokenizer():
    tokenizer = Tokenizer(models.WordLevel({word: number for number, word in enumerate(WORDS)}, unk_token="[PAD]"))
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, pad_token="[PAD]")


def sentence(draw):
    first, second = draw.sample(sorted(NOUNS), 2)
    plural, other_plural = draw.random() < 0.5, draw.random() < 0.5
    verb = draw.choice(sorted(VERBS))
    subject, other = NOUNS[first] if plural else first, NOUNS[second] if other_plural else second
    return f"the {subject} {draw.choice(PLACES)} the {other} {VERBS[verb] if plural else verb} {draw.choice(ENDS)}"


class Sentences(pl.LightningDataModule):
    def __init__(self, n_train: int = 4096, n_val: int = 128, batch_size: int = 32, seed: int = 0):
        super().__init__()
        self.save_hyperparameters()

    def setup(self, stage=None):
        tokenizer, draw = make_tokenizer(), random.Random(self.hparams.seed)
        total = self.hparams.n_train + self.hparams.n_val
        ids = tokenizer([sentence(draw) for _ in range(total)], return_tensors="pt").input_ids
        self.train, self.val = ids[: self.hparams.n_train], ids[self.hparams.n_train :]

    def train_dataloader(self):
        return DataLoader(self.train, batch_size=self.hparams.batch_size, shuffle=True)

    def val_dataloader(self):
        return DataLoader(self.val, batch_size=self.hparams.batch_size)


class Agreement(pl.LightningModule):
    def __init__(self, width: int = 32, layers: int = 2, heads: int = 4, dropout: float = 0.1, lr: float = 3e-3):
        super().__init__()
        self.save_hyperparameters()
        config = GPT2Config(
            vocab_size=len(WORDS), n_positions=16, n_embd=width, n_layer=layers, n_head=heads, initializer_range=0.1,
            resid_pdrop=dropout, embd_pdrop=dropout, attn_pdrop=dropout, bos_token_id=None, eos_token_id=None,
        )  # fmt: skip
        self.model = GPT2LMHeadModel(config)

    def training_step(self, batch, batch_idx):
        loss = self.model(input_ids=batch, labels=batch).loss
        self.log("train/loss", loss, prog_bar=True)
        return loss

    def validation_step(self, batch, batch_idx):
        logits, verbs = self.model(input_ids=batch).logits[:, 4], batch[:, 5]
        plural = torch.isin(verbs, torch.tensor([WORDS.index(verb) for verb in VERBS.values()], device=verbs.device))
        singular_ids, plural_ids = [WORDS.index(v) for v in VERBS], [WORDS.index(v) for v in VERBS.values()]
        says_plural = logits[:, plural_ids].logsumexp(-1) > logits[:, singular_ids].logsumexp(-1)
        self.log("val/accuracy", (says_plural == plural).float().mean(), prog_bar=True)

    def configure_optimizers(self):
        return torch.optim.AdamW(self.parameters(), lr=self.hparams.lr)
