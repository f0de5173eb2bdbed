"""Models whose circuit is known, because their weights were set by hand: what is right can be said, not only compared.

Three tasks, each a stock Hugging Face module that does one thing with a few components while the others are busy with
something else:

| task        | family               | what it says                                              | components       |
|-------------|----------------------|-----------------------------------------------------------|------------------|
| `Induction` | GPT-2                | what came after the last token before (BOS a b c d a: b)  | a0.h0, a1.h1     |
| `Reversal`  | GPT-2                | the letters before SEP backwards (BOS a b c SEP c: b)     | a0.h0, m0, a1.h1 |
| `Fraction`  | Llama, grouped heads | x, the surer the more of the tokens are x                 | m0, a1.h0        |

    >>> task = Induction()
    >>> task.truth("zero")                  # names of the edges without which the task cannot be done
    >>> task.truth("interchange", "query")  # fewer: an edge that carries the same on both prompts does not matter
    >>> batch = task.batch(8, "query")      # pairs that differ in one respect, a batch as data modules make it

*The stream* is cut into rooms: the token, its position, and one room for everything that a component of the circuit
writes. The other heads and MLPs read all rooms through random weights and write to a room called ``junk``, which
nobody in the circuit reads, the logits included. What a component of the circuit reads is exactly the rooms named in
its weights, so an edge belongs to the circuit only if its writer writes to a room that its reader reads.

*Norms* would let every edge act on every other through the length of the stream. Here they are the identity, exactly:
their epsilon is 2 ** 60, beside which the variance of the stream is nothing, and their gains 2 ** 30. GPT-2's also
take away the mean; there the second half of the stream is minus the first, so that the mean is zero, and weights read
the first half. (These are options of the stock modules. Whether norms are computed right is a question for
`oracle.py`.)

*Attention* is as good as hard: what is attended to in error has a weight below 1e-3. The KL divergence, being smallest
at the full model, feels the square of it. So cutting an edge raises it by more than `SEEN` or changes it by less than
`UNSEEN`, nothing in between. Harder still, and learned masks would have nothing to go by while their gates are soft.
"""

from __future__ import annotations

import random
from typing import Any, ClassVar

import torch
from torch import Tensor, nn
from transformers import AutoModelForCausalLM, GPT2Config, LlamaConfig

SEEN, UNSEEN = 1e-2, 1e-6
"""Nats that an edge of the circuit matters at least, and any other edge at most, on average over a batch of pairs."""

EPSILON, GAIN = 2.0**60, 2.0**30
BOS = 0


class Task:
    """A model that is understood, and pairs of prompts for it.

    Interchange ablation asks what carries the difference between two prompts, so its circuit depends on how they
    differ: ``kinds`` are ways to differ, and ``interchange`` has the true edges of each. For zero ablation (``zero``)
    the pairs do not matter.
    """

    interchange: ClassVar[dict[str, set[str]]]
    zero: ClassVar[set[str]]

    def model(self) -> nn.Module:
        """The stock module with its hand-set weights, in float32."""
        raise NotImplementedError

    def pair(self, kind: str, draw: random.Random) -> tuple[list[int], list[int], int, int]:
        """Clean and corrupt token ids, the answer to each; asked at the last token."""
        raise NotImplementedError

    @property
    def kinds(self) -> list[str]:
        return list(self.interchange)

    def truth(self, ablation: str, kind: str | None = None) -> set[str]:
        """The edges of the circuit. ``kind`` None: of pairs of all kinds, where an edge belongs that any of them needs.

        A K/V reader goes by its query head; `grouped` turns the names into those of K/V groups.
        """
        if ablation == "zero":
            return self.zero
        return set().union(*(self.interchange[k] for k in ([kind] if kind else self.kinds)))

    def batch(self, n: int, kind: str | None = None, seed: int = 0) -> dict[str, Tensor]:
        """``n`` pairs of a kind, or (None) of all kinds in turn, padded on the right."""
        draw = random.Random(seed)
        kinds = [kind] if kind else self.kinds
        rows = [self.pair(kinds[i % len(kinds)], draw) for i in range(n)]
        longest = max(len(clean) for clean, *_ in rows)
        lengths = torch.tensor([len(clean) for clean, *_ in rows])
        return {
            "clean_ids": torch.tensor([clean + [BOS] * (longest - len(clean)) for clean, *_ in rows]),
            "corrupt_ids": torch.tensor([corrupt + [BOS] * (longest - len(corrupt)) for _, corrupt, *_ in rows]),
            "attention_mask": (torch.arange(longest) < lengths[:, None]).long(),
            "positions": lengths - 1,
            "answers": torch.tensor([[answer] for *_, answer, _ in rows]),
            "distractors": torch.tensor([[distractor] for *_, distractor in rows]),
        }


def grouped(edges: set[str], heads_per_group: int) -> set[str]:
    """The same edges where all heads of a K/V group share their key and value readers: ``a1.h3<k>`` to ``a1.g1<k>``."""
    named = set()
    for edge in edges:
        writer, reader = edge.split("->")
        if reader.endswith(("<k>", "<v>")):
            layer, head = reader[:-3].split(".h")
            reader = f"{layer}.g{int(head) // heads_per_group}{reader[-3:]}"
        named.add(f"{writer}->{reader}")
    return named


# ---- GPT-2 ---------------------------------------------------------------------------------------------------------


class _GPT2:
    """Two layers of two heads over rooms; every head and MLP writes noise to ``junk`` until it is told otherwise."""

    def __init__(self, n_tokens: int, **rooms: int) -> None:
        self.rooms, end = {}, 0
        for room, size in rooms.items():
            self.rooms[room] = slice(end, end + size)
            end += size
        self.width = end  # of half the stream, and of a head: two heads are as wide as the stream
        self.module: Any = AutoModelForCausalLM.from_config(
            GPT2Config(
                vocab_size=n_tokens, n_positions=rooms["position"], n_embd=2 * end, n_layer=2, n_head=2, n_inner=16,
                activation_function="relu", layer_norm_epsilon=EPSILON, tie_word_embeddings=False,
                bos_token_id=None, eos_token_id=None,
            )
        ).eval()  # fmt: skip
        noise = torch.Generator().manual_seed(0)
        body, half = self.module.transformer, slice(0, end)
        for name, parameter in self.module.named_parameters():
            parameter.data.fill_(GAIN if ".ln_" in name and name.endswith("weight") else 0.0)
        body.wte.weight.data = self.write(self.route(n_tokens, "token"))
        body.wpe.weight.data = self.write(self.route(rooms["position"], "position"))
        for block in body.h:
            for weight in (block.attn.c_attn.weight, block.mlp.c_fc.weight):
                weight.data[half] = 0.4 * torch.randn(end, weight.shape[1], generator=noise)
            for weight in (block.attn.c_proj.weight, block.mlp.c_proj.weight):
                junk = torch.zeros(len(weight), end)
                junk[:, self.rooms["junk"]] = 0.3 * torch.randn(len(weight), rooms["junk"], generator=noise)
                weight.data = self.write(junk)

    def route(self, n: int, room: str) -> Tensor:
        """``[n, width]``: number i to place i of a room."""
        matrix = torch.zeros(n, self.width)
        matrix[range(n), range(self.rooms[room].start, self.rooms[room].start + n)] = 1.0
        return matrix

    def write(self, matrix: Tensor) -> Tensor:
        """``[n, width]`` to ``[n, 2 * width]``: the second half of the stream is minus the first."""
        return torch.cat([matrix, -matrix], -1)

    def room(self, room: str) -> Tensor:
        """``[width, width]``: a head's projection that takes a room to its first dimensions."""
        place = self.rooms[room]
        matrix = torch.zeros(self.width, self.width)
        matrix[place, : place.stop - place.start] = torch.eye(place.stop - place.start)
        return matrix

    def head(self, layer: int, head: int, q: Tensor, k: Tensor, v: Tensor, into: str) -> None:
        """Make a head of the circuit: it reads what its query, key and value say, and writes its value to a room."""
        attention, width = self.module.transformer.h[layer].attn, self.width
        for i, matrix in enumerate((q, k, v)):
            start = (2 * i + head) * width
            attention.c_attn.weight.data[:width, start : start + width] = matrix
        size = self.rooms[into].stop - self.rooms[into].start
        written = torch.zeros(width, width)
        written[:size, self.rooms[into]] = torch.eye(size)
        attention.c_proj.weight.data[head * width : (head + 1) * width] = self.write(written)

    def sharp(self, score: float) -> float:
        """The factor that makes the attention score of equal one-hot vectors ``score``."""
        return score * self.width**0.5

    def logits(self, room: str, scale: float) -> None:
        """The logits read one room, in order of the tokens."""
        self.module.lm_head.weight.data[:, self.rooms[room]] = scale * torch.eye(self.module.config.vocab_size)


class Induction(Task):
    """The induction circuit of Elhage et al. 2021: a previous-token head, and a head that finds its key there.

    a0.h0 attends from position t to t - 1, by positions alone (constants, not an edge), and writes the token there to
    ``previous``. a1.h1 asks with its own token who has it as ``previous``, and writes the token found to ``found``,
    which the logits read. So all that is read of any writer:

    | edge               | carries                           | without it                                             |
    |--------------------|-----------------------------------|--------------------------------------------------------|
    | input->a0.h0<v>    | the tokens, to who comes after     | no key matches: a1.h1 attends to all alike             |
    | a0.h0->a1.h1<k>    | the previous token of every key   | the same                                               |
    | input->a1.h1<q>    | the token that asks               | no query: the same                                     |
    | input->a1.h1<v>    | the tokens that can be found       | nothing is found                                       |
    | a1.h1->logits      | the answer                        | no answer                                              |

    Under zero ablation the five are the circuit. Under interchange, by kind of pair:

    - ``query``: only the last token differs (... a against ... c). The other tokens, and so the previous tokens of all
      but the last, are the same; the last position itself is found by nobody. What is left: who asks, and the answer.
    - ``order``: a and c change places (a b c d a against c b a d a). The token that asks is the same, and so are those
      that it may find, b and d. What is left: the way of the keys, and the answer.
    - ``next``: the token that is found differs (a b c d a against a e c d a). Where it stands is the same: the token
      whose ``previous`` is e or b is not asked for. What is left: the values, and the answer.
    """

    zero: ClassVar = {"input->a0.h0<v>", "a0.h0->a1.h1<k>", "input->a1.h1<q>", "input->a1.h1<v>", "a1.h1->logits"}
    interchange: ClassVar = {
        "query": {"input->a1.h1<q>", "a1.h1->logits"},
        "order": {"input->a0.h0<v>", "a0.h0->a1.h1<k>", "a1.h1->logits"},
        "next": {"input->a1.h1<v>", "a1.h1->logits"},
    }

    def model(self) -> nn.Module:
        made = _GPT2(7, token=7, position=6, previous=7, found=7, junk=5)
        back = made.room("position").roll(-1, dims=-1)  # position t asks for t - 1
        made.head(0, 0, made.sharp(30) * back, made.room("position"), made.room("token"), into="previous")
        made.head(1, 1, made.sharp(10) * made.room("token"), made.room("previous"), made.room("token"), into="found")
        made.logits("found", 5.0)
        return made.module

    def pair(self, kind: str, draw: random.Random) -> tuple[list[int], list[int], int, int]:
        a, b, c, d, e = draw.sample(range(1, 7), 5)
        if kind == "query":
            return [BOS, a, b, c, d, a], [BOS, a, b, c, d, c], b, d
        if kind == "order":
            return [BOS, a, b, c, d, a], [BOS, c, b, a, d, a], b, d
        return [BOS, a, b, c, d, a], [BOS, a, e, c, d, a], b, e


class Reversal(Task):
    """The letters before SEP (token 1) backwards, one at a time: BOS a b c SEP says c, BOS a b c SEP c says b.

    With SEP at s, position p wants the letter at 2 s - 1 - p. a0.h0 attends to SEP, with a constant query, and writes
    its position to ``separator``. m0 has a hidden unit for each s and p, relu(is s + is p - 1), and writes where to
    look to ``target``. a1.h1 asks with the target for the position, and writes the token there to ``found``.

    | edge               | carries                      | without it                                                  |
    |--------------------|------------------------------|-------------------------------------------------------------|
    | input->a0.h0<k>    | which token is SEP           | a0.h0 attends to all alike: a bit of every position         |
    | a0.h0->m0          | the position of SEP          | no unit of m0 is on                                         |
    | m0->a1.h1<q>       | where to look                | a1.h1 attends to all alike                                  |
    | input->a1.h1<v>    | the letters                  | nothing is found                                            |
    | a1.h1->logits      | the answer                   | no answer                                                   |

    Under zero ablation the five are the circuit. Under interchange, by kind of pair:

    - ``letters``: all letters differ, SEP is where it was, so where to look is the same.
    - ``length``: SEP moves by one (a b SEP b against a b c SEP), and the letter wanted from a, which both prompts have
      at the same place, to c. The letter is not what differs.
    """

    zero: ClassVar = {"input->a0.h0<k>", "a0.h0->m0", "m0->a1.h1<q>", "input->a1.h1<v>", "a1.h1->logits"}
    interchange: ClassVar = {
        "letters": {"input->a1.h1<v>", "a1.h1->logits"},
        "length": {"input->a0.h0<k>", "a0.h0->m0", "m0->a1.h1<q>", "a1.h1->logits"},
    }

    def model(self) -> nn.Module:
        made = _GPT2(9, token=9, position=7, separator=7, target=7, found=9, junk=5)
        nothing, block = torch.zeros(made.width, made.width), made.module.transformer.h[0]
        separator = nothing.clone()
        separator[made.rooms["token"].start + 1, 0] = 1.0
        made.head(0, 0, nothing, separator, made.room("position"), into="separator")
        block.attn.c_attn.bias.data[0] = made.sharp(8)  # the query: dimension 0 of the first head
        units = [(s, p) for s in (2, 3, 4) for p in range(s, 2 * s - 1)]
        for unit, (s, p) in enumerate(units):
            block.mlp.c_fc.weight.data[:, unit] = 0.0
            block.mlp.c_fc.weight.data[made.rooms["separator"].start + s, unit] = 1.0
            block.mlp.c_fc.weight.data[made.rooms["position"].start + p, unit] = 1.0
            block.mlp.c_fc.bias.data[unit] = -1.0
            block.mlp.c_proj.weight.data[unit] = made.write(made.route(7, "target")[[2 * s - 1 - p]])
        made.head(1, 1, made.sharp(10) * made.room("target"), made.room("position"), made.room("token"), into="found")
        made.logits("found", 5.0)
        return made.module

    def pair(self, kind: str, draw: random.Random) -> tuple[list[int], list[int], int, int]:
        a, b, c, d, e, f = draw.sample(range(2, 9), 6)
        if kind == "length":
            return [BOS, a, b, 1, b], [BOS, a, b, c, 1], a, c
        length = draw.choice([1, 2, 3])
        clean, corrupt = [a, b, c][:length], [d, e, f][:length]
        said = draw.randrange(length)
        answer, distractor = ([*letters][::-1][said] for letters in (clean, corrupt))
        clean, corrupt = ([BOS, *letters, 1, *letters[::-1][:said]] for letters in (clean, corrupt))
        return clean, corrupt, answer, distractor


# ---- Llama ---------------------------------------------------------------------------------------------------------


class Fraction(Task):
    """Which part of the tokens is x (token 1): the program "xproportion" of Tracr (Lindner et al. 2023), with BOS.

    Every token but BOS is embedded with ``one`` beside itself. m0 writes ``is_x``; a1.h0 asks with its ``one`` for keys
    with ``one``, that is for all tokens but BOS, and writes the mean of their ``is_x``, to which the logit of x is in
    proportion.

    | edge               | carries                      | without it                                                  |
    |--------------------|------------------------------|-------------------------------------------------------------|
    | input->m0          | which tokens are x           | none is                                                     |
    | m0->a1.h0<v>       | the same, to be averaged     | the mean is 0                                               |
    | input->a1.h0<q>    | ``one`` of who asks          | BOS is counted among the tokens: the fraction is too small  |
    | input->a1.h0<k>    | ``one`` of who is counted    | the same                                                    |
    | a1.h0->logits      | the fraction                 | 0                                                           |

    Under zero ablation the five are the circuit (of Tracr's own model, too). Under interchange three: BOS comes first
    in every prompt, so ``one`` is the same in both.

    The two heads of a layer share a K/V group, so a1.h1 has keys and values from the same weights as a1.h0. With K/V
    readers per head, those of a1.h1 are edges of their own, and not in the circuit: what it writes is junk. Rotary
    positions turn queries and keys; the dimensions that a1.h0 uses turn by 1e-9 per token, which is not at all.
    """

    zero: ClassVar = {"input->m0", "m0->a1.h0<v>", "input->a1.h0<q>", "input->a1.h0<k>", "a1.h0->logits"}
    interchange: ClassVar = {"tokens": {"input->m0", "m0->a1.h0<v>", "a1.h0->logits"}}

    heads_per_group = 2

    def model(self) -> nn.Module:
        n_tokens, one, is_x, fraction, junk, d_model, d_head = 5, 5, 6, 7, slice(8, 12), 12, 8
        module: Any = AutoModelForCausalLM.from_config(
            LlamaConfig(
                vocab_size=n_tokens, hidden_size=d_model, intermediate_size=8, num_hidden_layers=2,
                num_attention_heads=2, num_key_value_heads=1, head_dim=d_head, max_position_embeddings=16,
                rms_norm_eps=EPSILON, rope_parameters={"rope_type": "default", "rope_theta": 1e12},
                bos_token_id=None, eos_token_id=None,
            )
        ).eval()  # fmt: skip
        noise = torch.Generator().manual_seed(0)
        for name, parameter in module.named_parameters():
            parameter.data.fill_(GAIN if parameter.ndim == 1 else 0.0)
            if name.endswith(("q_proj.weight", "k_proj.weight", "v_proj.weight", "gate_proj.weight", "up_proj.weight")):
                parameter.data.copy_(0.6 * torch.randn(parameter.shape, generator=noise))
            if name.endswith(("o_proj.weight", "down_proj.weight")):
                parameter.data[junk] = 0.3 * torch.randn(4, parameter.shape[1], generator=noise)

        module.model.embed_tokens.weight.data[:, :n_tokens] = torch.eye(n_tokens)
        module.model.embed_tokens.weight.data[1:, one] = 1.0
        module.lm_head.weight.data[1, fraction] = 8.0

        mlp = module.model.layers[0].mlp  # hidden unit 0: silu(4 is_x) * is_x
        mlp.gate_proj.weight.data[0], mlp.up_proj.weight.data[0], mlp.down_proj.weight.data[:, 0] = 0.0, 0.0, 0.0
        mlp.gate_proj.weight.data[0, 1], mlp.up_proj.weight.data[0, 1] = 4.0, 1.0
        mlp.down_proj.weight.data[is_x, 0] = 1 / nn.functional.silu(torch.tensor(4.0))

        attention = module.model.layers[1].self_attn
        of_head = slice(0, d_head)  # head 0, and group 0
        for projection in (attention.q_proj, attention.k_proj, attention.v_proj):
            projection.weight.data[of_head] = 0.0
        slow = 3  # dimension 3 turns with dimension 7, by 1e12 ** -0.75 per token
        attention.q_proj.weight.data[slow, one] = 8 * d_head**0.5  # a score of 8
        attention.k_proj.weight.data[slow, one] = 1.0
        attention.v_proj.weight.data[0, is_x] = 1.0
        attention.o_proj.weight.data[:, of_head] = 0.0
        attention.o_proj.weight.data[fraction, 0] = 1.0
        return module

    def pair(self, kind: str, draw: random.Random) -> tuple[list[int], list[int], int, int]:
        while True:  # two prompts with different numbers of x, the clean one with some
            length = draw.randint(2, 4)
            clean, corrupt = ([draw.choice([1, 1, 2, 3, 4]) for _ in range(length)] for _ in range(2))
            if clean.count(1) and clean.count(1) != corrupt.count(1):
                return [BOS, *clean], [BOS, *corrupt], 1, 2


TASKS: dict[str, Task] = {"induction": Induction(), "reversal": Reversal(), "fraction": Fraction()}
