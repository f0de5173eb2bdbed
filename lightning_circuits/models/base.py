"""A Hugging Face model, read as writers and readers of the residual stream.

The masked computation needs a transformer's layers one *reader* at a time: head 3's query may read another sum of
writers than head 3's key. Hugging Face modules take one stream for a whole layer. `CircuitModel` closes that gap
without touching the module: it reads the module's own parameters, and computes a layer from a stack of streams, one
for each reader. A family (GPT-2, Llama, ...) is a subclass that says where its weights are (`ModelParts`); the
arithmetic that all share stands here.

    >>> model = wrap(AutoModelForCausalLM.from_pretrained("gpt2"))          # doctest: +SKIP
    >>> context = model.context(attention_mask)                             # doctest: +SKIP
    >>> heads = model.attention(0, x, context)    # [readers, B, T, d] -> [n_heads, B, T, d]    # doctest: +SKIP

Nothing here is copied or changed: `wrap` freezes the parameters and puts the model in eval mode, no more.

What Hugging Face models have in common (a config with the sizes, a decoder and `lm_head`) is asked for in three places,
`read_dimensions`, `logits` and `head`. A subclass that says these too reads a model of any other origin.
"""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import AbstractContextManager, ExitStack, nullcontext
from copy import copy
from typing import Any, ClassVar, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from lightning_circuits.batch import Batch, on_device, require_batch
from lightning_circuits.layout import Layout
from lightning_circuits.models.context import Context, PromptLimit, causal_mask, position_ids
from lightning_circuits.models.head_norms import normed_by_head
from lightning_circuits.models.head_outputs import HeadOutputs
from lightning_circuits.models.norms import Norm
from lightning_circuits.models.parts import ModelParts
from lightning_circuits.models.projections import NormedProjection
from lightning_circuits.models.prompts import refuse_prompts
from lightning_circuits.models.rules import DERIVATIVES, Derivatives
from lightning_circuits.models.sharding import gathered
from lightning_circuits.models.stock import embedded_as, first_of, scaled, streams_recorded, writers_recorded


class Dimensions(NamedTuple):
    """Of a model: decoder blocks, query heads of a block, K/V groups of a block, width of the residual stream; whether
    the MLP of a block reads the stream that its attention reads, instead of the one after it; and whether what a head
    writes depends on what other heads of its layer read."""

    n_layers: int
    n_heads: int
    n_groups: int
    d_model: int
    parallel: bool = False
    coupled: bool = False


class CircuitModel(ModelParts):
    """A frozen language model with a `Layout`; make one with `wrap`.

    Args:
        model: the module, in memory. Its parameters lose ``requires_grad`` and it goes to eval mode.
        kv: ``"head"``, a key and a value reader for every query head (EAP-IG, MIB); ``"group"``, for every K/V group.
        freeze: False leaves ``requires_grad`` and train mode as they are, for a model that goes on training. Whoever
            says so sees to eval mode, and takes gradients by `torch.autograd.grad` alone.
    """

    model_types: ClassVar[Sequence[str]] = ()
    """The ``config.model_type`` values that a family reads."""

    module_types: ClassVar[tuple[type, ...]] = ()
    """The classes that an adapter reads, of models that are not Hugging Face's."""

    pads_left = True
    """False of a model that does not read the attention mask, as `verify` finds: its padding stands on the right."""

    rules: Derivatives = DERIVATIVES
    """By what gradients are taken back through its parts, where that is done part by part."""

    fused = True
    """False of a model whose attention weights are no plain softmax of scaled, masked scores."""

    def __init__(self, model: Any, kv: str = "head", freeze: bool = True) -> None:
        if kv not in ("head", "group"):
            raise ValueError(f"kv must be 'head' or 'group', got {kv!r}")
        self.model = model.eval().requires_grad_(False) if freeze else model
        dimensions = self.read_dimensions(model)
        self.n_groups = dimensions.n_groups
        self.layout = Layout(
            dimensions.n_layers,
            dimensions.n_heads,
            dimensions.d_model,
            dimensions.n_heads if kv == "head" else dimensions.n_groups,
            parallel=dimensions.parallel,
            coupled=dimensions.coupled or self.has_norm_after_attention,
        )
        self.place()

    def in_spans(self, names: Sequence[str]) -> CircuitModel:
        """The same model with edges told apart in spans of these names; none: each edge holds for all tokens."""
        other = copy(self)
        other.layout = self.layout.in_spans(names)
        return other

    # ---- what Hugging Face models have in common ---------------------------------------------------------------

    @staticmethod
    def read_dimensions(model: Any) -> Dimensions:
        """How large a module is, from its config."""
        config = model.config.get_text_config()
        heads = config.num_attention_heads
        groups = getattr(config, "num_key_value_heads", None) or heads
        return Dimensions(config.num_hidden_layers, heads, groups, config.hidden_size)

    def logits(self, input_ids: Tensor, attention_mask: Tensor, positions: Tensor) -> Tensor:
        """The model's own forward: prompts ``[B, T]`` to logits ``[B, V]`` at ``positions`` ``[B]``.

        Padding, on either side, is not attended to, and positions count from the first real token.

        As it stands it calls decoder and head, and not ``model.forward``, which would put a whole vocabulary out at
        every token. What a ``forward`` does beyond these two would be lost, so `verify` calls it once and compares.
        """
        places = position_ids(attention_mask)
        hidden = self.backbone(
            input_ids=input_ids, attention_mask=attention_mask, position_ids=places, use_cache=False
        )[0]
        return self.head(hidden[torch.arange(len(hidden), device=hidden.device), positions])

    def token_logits(self, input_ids: Tensor, attention_mask: Tensor) -> Tensor:
        """The same at every token, ``[B, T, V]``."""
        positions = position_ids(attention_mask)
        hidden = self.backbone(
            input_ids=input_ids, attention_mask=attention_mask, position_ids=positions, use_cache=False
        )
        return self.head(hidden[0])

    def head(self, x: Tensor) -> Tensor:
        """``[..., d]``, normed, to logits ``[..., V]``."""
        return self.model.lm_head(x)

    # ---- what a family says ------------------------------------------------------------------------------------

    def projection(self, layer: int, units: Tensor | None = None) -> NormedProjection:
        """What makes queries, keys, values of the streams of a layer; of some units, int64 ``[n]``, see `attention`."""
        norm = self.read_norm(self.attention_norm(layer))
        if self.live_heads is not None:
            return self.live_heads[layer].projection(norm)
        return NormedProjection(norm, self.projections_of(layer, units), self.readers(units))

    def readers(self, units: Tensor | None = None) -> tuple[int, int, int]:
        """How many queries, keys and values an attention reads; of units, int64 ``[n]``, K/V readers with heads."""
        layout = self.layout
        n = layout.n_kv_readers if units is None else len(units)
        return n * (layout.n_heads // layout.n_kv_readers), n, n

    def heads(self, units: Tensor) -> Tensor:
        """int64 ``[n_heads]``: the heads of some units ``[n]``."""
        of_each = self.layout.n_heads // self.layout.n_kv_readers
        return (units[:, None] * of_each + torch.arange(of_each, device=units.device)).flatten()

    def projections_of(self, layer: int, units: Tensor | None) -> list[tuple[Tensor, Tensor | None]]:
        """Of some units, int64 ``[n]``, the `projections`, a block for each reader; of all, these themselves."""
        if units is None:
            return self.projections(layer)
        chosen = []
        for (weight, bias), n, readers in zip(
            self.projections(layer), self.readers(), (self.heads(units), units, units), strict=True
        ):
            blocks = readers // (n // len(weight))  # readers of a group share its block
            chosen.append((weight[blocks], None if bias is None else bias[blocks]))
        return chosen

    def head_norms(self, layer: int) -> tuple[Norm, Norm] | None:
        """The norms of queries and of keys, where each head has its own: a gain ``[n_heads, d_head]``, and one of keys
        for each K/V group. What all heads of a layer share, `turn` does."""
        return None

    def turn(self, layer: int, q: Tensor, k: Tensor, context: Context) -> tuple[Tensor, Tensor]:
        """What happens to projected queries and keys ``[readers, B, T, d_head]`` before they meet: rotations, norms."""
        return q, k

    def scaling(self, layer: int) -> float:
        """What attention scores are multiplied with."""
        scaling: float = self.attention_module(layer).scaling
        return scaling

    @property
    def prompt_limit(self) -> PromptLimit | None:
        """How long a prompt may be; None where the model computes something sensible at any length."""
        return None

    def position_embedding(self, context: Context) -> Tensor | None:
        """``[B, T, d]``: learned positions, a constant of the stream and never a writer. None for rotary models."""
        return None

    def context(self, attention_mask: Tensor) -> Context:
        """The masks and positions of a batch, from its attention mask ``[B, T]``; padding on either side."""
        return Context(mask=causal_mask(attention_mask), position_ids=position_ids(attention_mask))

    def layer_mask(self, layer: int, context: Context) -> Tensor:
        """bool ``[B, T, T]``: the attention mask of a layer."""
        return context.mask

    # ---- the arithmetic on readers, which all families share ---------------------------------------------------

    @property
    def device(self) -> torch.device:
        return self.token_embedding.weight.device

    @property
    def dtype(self) -> torch.dtype:
        return self.token_embedding.weight.dtype

    @property
    def vocabulary(self) -> int:
        """How many tokens the model knows."""
        return len(self.token_embedding.weight)

    def new_stack(self, shape: Sequence[int]) -> Tensor:
        """An uninitialised stack ``[n_writers, B, T, d]`` for prompts of shape ``[B, T]``."""
        return torch.empty(self.layout.n_writers, *shape, self.layout.d_model, dtype=self.dtype, device=self.device)

    def at_hand(self, layer: int) -> AbstractContextManager[None]:
        """While open, the weights of a layer can be read: always, unless processes share them out (`sharding`)."""
        blocks = getattr(self, "blocks", None)
        return nullcontext() if blocks is None else gathered(blocks[layer])

    def embed(self, input_ids: Tensor) -> Tensor:
        """``[B, T]`` to ``[B, T, d]``: what the writer ``input`` puts into the stream."""
        return scaled(self.token_embedding(input_ids), self.embedding_multiplier)

    def attention(self, layer: int, x: Tensor, context: Context, units: Tensor | None = None) -> Tensor:
        """What the heads of a layer write when each reader sees its own stream.

        Args:
            layer: which layer.
            x: ``[n_attention_readers, B, T, d]``: queries of all heads, then keys, then values.
            context: of the prompts.
            units: int64 ``[n]``, some of the K/V readers: only the heads that read them are computed, and ``x`` has
                these heads' readers alone. Default: all.

        Returns:
            ``[n_heads, B, T, d]``, without the attention's output bias.
        """
        with self.at_hand(layer):
            q, k, v = self.projection(layer, units)(x)
            return self.outputs(layer, units)(self.mix(layer, q, k, v, context, units))

    def mix(self, layer: int, q: Tensor, k: Tensor, v: Tensor, context: Context, units: Tensor | None = None) -> Tensor:
        """Queries, keys and values ``[readers, B, T, d_head]``, as projected, to the heads' mixed values.

        Returns:
            ``[n_heads, B, T, d_head]``, or of the heads of some units.
        """
        if (norms := self.head_norms(layer)) is not None:
            q = normed_by_head(norms[0], q, None if units is None else self.heads(units))
            k = normed_by_head(norms[1], k, units, self.layout.n_kv_readers)
        q, k = self.turn(layer, q, k, context)
        if len(k) < len(q):
            k, v = (t.repeat_interleave(len(q) // len(k), dim=0) for t in (k, v))
        return self.attend(layer, q, k, v, context, units)

    def attend(
        self, layer: int, q: Tensor, k: Tensor, v: Tensor, context: Context, units: Tensor | None = None
    ) -> Tensor:
        """The same of turned queries, keys and values, ``[n_heads, B, T, d_head]`` each."""
        if not self.fused:
            return self.attention_weights(layer, q, k, context, units) @ v
        # Heads stand where scaled_dot_product_attention wants the batch: each has its own streams, all share the mask.
        return F.scaled_dot_product_attention(
            q, k, v, attn_mask=self.layer_mask(layer, context), scale=self.scaling(layer)
        )

    def attention_weights(
        self, layer: int, q: Tensor, k: Tensor, context: Context, units: Tensor | None = None
    ) -> Tensor:
        """``[n_heads, B, T, T]``: how much each token attends to each.

        Args:
            layer: which layer.
            q: ``[n_heads, B, T, d_head]``, turned.
            k: the keys, likewise, one for each head.
            context: of the prompts.
            units: whose heads they are; None for all.
        """
        scores = self.attention_scores(layer, q, k, context, units)
        wide = scores.to(torch.promote_types(q.dtype, torch.float32))
        return wide.masked_fill(~self.layer_mask(layer, context), float("-inf")).softmax(-1).to(q.dtype)

    def attention_scores(
        self, layer: int, q: Tensor, k: Tensor, context: Context, units: Tensor | None = None
    ) -> Tensor:
        """``[n_heads, B, T, T]``: of each token's query with each token's key, before the mask; as above."""
        return q @ k.mT * self.scaling(layer)

    def outputs(self, layer: int, units: Tensor | None = None) -> HeadOutputs:
        """What makes of the heads' mixed values what they write; of some units, int64 ``[n]``, see `attention`."""
        weight, norm = self.output_weight(layer), self.norm_after_attention(layer)
        after = None if isinstance(norm, nn.Identity) else self.read_norm(norm)
        if units is not None and self.live_heads is None:
            weight = weight[self.heads(units)]
        return HeadOutputs(weight, after)

    def mlp(self, layer: int, x: Tensor) -> Tensor:
        """``[..., T, d]`` to ``[..., T, d]``: what the MLP of a layer writes when it sees the stream ``x``."""
        prompts = x.flatten(0, -3)  # a router takes no other shape
        with self.at_hand(layer):
            written = first_of(self.mlp_module(layer)(self.mlp_norm(layer)(prompts)))
            return scaled(self.norm_after_mlp(layer)(written), self.residual_multiplier).view(x.shape)

    def unembed(self, x: Tensor) -> Tensor:
        """``[..., d]`` to logits ``[..., V]``."""
        return self.head(self.final_norm(x))

    # ---- the stock model at work -------------------------------------------------------------------------------

    def receive(self, batch: Batch) -> Batch:
        """A batch as a loader yields it, checked and on the model's device.

        Raises:
            TypeError: no dict of tensors with whole numbers.
            ValueError: it does not keep the contract (`lightning_circuits.batch`).
        """
        require_batch(batch, self.vocabulary)
        return on_device(batch, self.device)

    @torch.no_grad()
    def run(
        self,
        input_ids: Tensor,
        attention_mask: Tensor,
        positions: Tensor,
        writers: Tensor | None = None,
        subtract: bool = False,
        streams: Tensor | None = None,
    ) -> Tensor:
        """The stock forward of the model.

        Args:
            input_ids: ``[B, T]``; or in their place what the writer ``input`` is to put out, ``[B, T, d]``.
            attention_mask: ``[B, T]``.
            positions: ``[B]``: where logits are wanted; no others are computed.
            writers: ``[n_writers, b, T, d]``, ``b <= B``: filled in place with what every writer put into the stream
                in the *last* ``b`` prompts, so that one forward serves a clean batch and the corrupt one behind it.
            subtract: take what they put into the stream off what stands in ``writers``.
            streams: ``[n_streams, B, T, d]``: filled in place with the residual stream before every component.

        Returns:
            logits ``[B, V]``.

        Raises:
            ValueError: a prompt that is too long for the model, or (looked for on the CPU alone, where it costs
                nothing) with token ids that it does not have.
        """
        refuse_prompts(self, input_ids, attention_mask)
        with ExitStack() as hooks:
            if input_ids.is_floating_point():
                hooks.enter_context(embedded_as(self, input_ids))
                input_ids = torch.zeros_like(attention_mask, dtype=torch.int64)
            if writers is not None:
                hooks.enter_context(writers_recorded(self, writers, subtract))
            if streams is not None:
                hooks.enter_context(streams_recorded(self, streams))
            return self.logits(input_ids, attention_mask, positions)

    def run_pair(self, batch: Batch) -> tuple[Tensor, Tensor]:
        """The stock model on both prompts of every pair, in one forward.

        Returns:
            the full model's logits on the clean prompts ``[B, V]``, and every writer's output on the corrupt ones
            ``[n_writers, B, T, d]``, freshly allocated: the masked computation may consume it.
        """
        n = len(batch["clean_ids"])
        corrupt = self.new_stack(batch["clean_ids"].shape)
        logits = self.run(
            torch.cat([batch["clean_ids"], batch["corrupt_ids"]]),
            batch["attention_mask"].repeat(2, 1),
            batch["positions"].repeat(2),
            writers=corrupt,
        )
        return logits[:n], corrupt
