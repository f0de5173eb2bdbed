"""A Hugging Face model, read as writers and readers of the residual stream.

The masked computation needs a transformer's layers one *reader* at a time: head 3's query may read another sum of
writers than head 3's key. Hugging Face modules take one stream for a whole layer. `CircuitModel` closes that gap
without touching the module: it reads the module's own parameters, and computes a layer from a stack of streams, one
for each reader. A family (GPT-2, Llama, ...) is a subclass that says where its weights are; the arithmetic that all
share stands here.

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
from transformers.pytorch_utils import Conv1D

from lightning_circuits.batch import Batch, on_device, require_batch
from lightning_circuits.layout import Layout
from lightning_circuits.models.context import Context, PromptLimit, causal_mask, position_ids
from lightning_circuits.models.norms import Norm, read_norm
from lightning_circuits.models.projections import NormedProjection
from lightning_circuits.models.prompts import refuse_prompts
from lightning_circuits.models.sharding import gathered
from lightning_circuits.models.stock import embedded_as, scaled, streams_recorded, writers_recorded
from lightning_circuits.models.where import Where


class Dimensions(NamedTuple):
    """Of a model: decoder blocks, query heads of a block, K/V groups of a block, width of the residual stream; and
    whether the MLP of a block reads the stream that its attention reads, instead of the one after it."""

    n_layers: int
    n_heads: int
    n_groups: int
    d_model: int
    parallel: bool = False


class CircuitModel:
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

    where: ClassVar[Where]
    """Where the model has its parts; what is not so simple, an adapter says by a method or attribute of its own."""

    pads_left = True
    """False of a model that does not read the attention mask, as `verify` finds: its padding stands on the right."""

    embedding_multiplier = 1.0
    """What the model multiplies its token embeddings with outside of the embedding's module, as Granite does."""

    residual_multiplier = 1.0
    """What it multiplies what attention and MLP modules put out with, before that goes into the stream."""

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
        )
        if hasattr(self, "where"):
            decoder = self.backbone = model.get_submodule(self.where.decoder)
            self.token_embedding = decoder.get_submodule(self.where.token_embedding)
            self.blocks, self.final_norm = map(decoder.get_submodule, (self.where.blocks, self.where.final_norm))

    def in_spans(self, names: Sequence[str]) -> CircuitModel:
        """The same model with edges told apart in spans of these names; none: each edge holds for all tokens."""
        other = copy(self)
        other.layout = self.layout.in_spans(names)
        return other

    # ---- what Hugging Face models have in common ---------------------------------------------------------------

    @staticmethod
    def read_dimensions(model: Any) -> Dimensions:
        """How large a module is, from its config."""
        config = model.config
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

    # As they stand, methods go by `where`, and by what modules of Hugging Face are called.

    backbone: Any  # Hugging Face's decoder without its head
    blocks: Any  # its layers
    token_embedding: Any
    final_norm: nn.Module  # before the head

    def attention_norm(self, layer: int) -> nn.Module:
        """The norm before the attention of a layer; `read_norm` says what it does."""
        return self._part(layer, "attention_norm")

    def mlp_norm(self, layer: int) -> nn.Module:
        """The norm before the MLP of a layer; in parallel blocks it may be that of the attention."""
        return self._part(layer, "mlp_norm")

    @staticmethod
    def read_norm(norm: nn.Module) -> Norm:
        """What a norm does to a stream. As it stands, for layer norms and for RMS norms as Hugging Face has them."""
        return read_norm(norm)

    def mlp_module(self, layer: int) -> nn.Module:
        """The MLP of a layer: the normed stream ``[B, T, d]`` to what it writes, ``[B, T, d]``."""
        return self._part(layer, "mlp")

    def attention_module(self, layer: int) -> Any:
        """The attention of a layer."""
        return self._part(layer, "attention")

    def output_module(self, layer: int) -> Any:
        """The module whose input is all heads' values side by side, ``[B, T, n_heads * d_head]``."""
        return self.attention_module(layer).get_submodule(self.where.output)

    def _part(self, layer: int, name: str) -> Any:
        """A part of a block, by what it is called in `Where`."""
        if not hasattr(self, "where"):
            raise NotImplementedError(f"{type(self).__name__} says neither `where` its parts are nor {name}(layer)")
        return self.blocks[layer].get_submodule(getattr(self.where, name))

    def output_weight(self, layer: int) -> Tensor:
        """``[n_heads, d_head, d_model]``: the output projection, a block for each head; a view, if not multiplied."""
        module = self.output_module(layer)
        weight = module.weight if isinstance(module, Conv1D) else module.weight.T
        return scaled(weight.unflatten(0, (self.layout.n_heads, -1)), self.residual_multiplier)

    def output_bias(self, layer: int) -> Tensor | None:
        """``[d_model]``: the attention's output bias. It belongs to no head: a constant of the stream."""
        bias = self.output_module(layer).bias
        return None if bias is None else scaled(bias, self.residual_multiplier)

    def projections(self, layer: int) -> list[tuple[Tensor, Tensor | None]]:
        """Of queries, keys and values: weights ``[blocks, d_model, d_head]`` as views, and biases ``[blocks, d_head]``.

        Of keys and values there are as many blocks as K/V groups, whatever the readers are.
        """
        raise NotImplementedError

    def projection(self, layer: int, units: Tensor | None = None) -> NormedProjection:
        """What makes queries, keys, values of the streams of a layer; of some units, int64 ``[n]``, see `attention`."""
        norm = self.read_norm(self.attention_norm(layer))
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
            return self.write_heads(layer, self.mix(layer, q, k, v, context), units)

    def mix(self, layer: int, q: Tensor, k: Tensor, v: Tensor, context: Context) -> Tensor:
        """Queries, keys and values ``[readers, B, T, d_head]``, as projected, to the heads' mixed values.

        Returns:
            ``[n_heads, B, T, d_head]``.
        """
        q, k = self.turn(layer, q, k, context)
        if len(k) < len(q):
            k, v = (t.repeat_interleave(len(q) // len(k), dim=0) for t in (k, v))
        # Heads stand where scaled_dot_product_attention wants the batch: each has its own streams, all share the mask.
        return F.scaled_dot_product_attention(
            q, k, v, attn_mask=self.layer_mask(layer, context), scale=self.scaling(layer)
        )

    def write_heads(self, layer: int, z: Tensor, units: Tensor | None = None) -> Tensor:
        """Each head's mixed values ``[n_heads, ..., d_head]``, or those of some units, to what it writes."""
        return torch.bmm(z.flatten(1, -2), self._output_weight(layer, units)).unflatten(1, z.shape[1:-1])

    def heads_gradient(self, layer: int, dwritten: Tensor, units: Tensor | None = None) -> Tensor:
        """The gradient ``[n_heads, ..., d_head]`` at what heads have mixed, from that at what they write."""
        dz = torch.bmm(dwritten.flatten(1, -2), self._output_weight(layer, units).mT)
        return dz.unflatten(1, dwritten.shape[1:-1])

    def _output_weight(self, layer: int, units: Tensor | None) -> Tensor:
        weight = self.output_weight(layer)
        return weight if units is None else weight[self.heads(units)]

    def mlp(self, layer: int, x: Tensor) -> Tensor:
        """``[B, T, d]`` to ``[B, T, d]``: what the MLP of a layer writes when it sees the stream ``x``."""
        with self.at_hand(layer):
            return scaled(self.mlp_module(layer)(self.mlp_norm(layer)(x)), self.residual_multiplier)

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
