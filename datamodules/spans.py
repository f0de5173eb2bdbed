"""Named places of prompts: from spans of characters to the span of every token.

A pair may name places in its clean prompt, each by the characters where it begins and ends:

    "When Mary and John went to the store, John gave a drink to"        {"S2": (39, 43), "END": (57, 59)}

Tokens are what circuits are found between, so a place becomes the tokens that its characters are in; the corrupt prompt
is aligned token for token, so its tokens are at the same places. What lies between two named places is a span of its
own, ``S2..END``; what lies before the first is ``..S2``, after the last ``END..``. So every token is in one span, and
prompts of different lengths line up by the names.

    >>> names_of_tokens({"S2": (5, 9), "END": (10, 12)}, [(0, 4), (5, 9), (10, 12)], "row 1", "then John to")
    ['..S2', 'S2', 'END']
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Literal

from lightning_circuits.arguments import names_a_span, shortened
from lightning_circuits.models.loading import PreTrainedTokenizerBase

Places = Mapping[str, tuple[int, int] | None]
"""The named places of a prompt: where its characters begin, and behind which they end; None for one that it lacks."""

By = Literal["roles", "token"]
"""Spans are the places that pairs name, or every token is one of its own."""


def require_name(name: object, where: str) -> None:
    """See that a place may be called so; ValueError, with where it comes from, if not."""
    if not isinstance(name, str) or not names_a_span(name) or ".." in name:
        raise ValueError(
            f"{where}: {shortened(name)} cannot be the name of a span: names are printable and without '..', '@' and "
            "'->', which names of edges and of what lies between spans are made with"
        )


def spans_of_tokens(
    places: Sequence[Places],
    texts: Sequence[str],
    wheres: Sequence[str],
    lengths: Sequence[int],
    tokenizer: PreTrainedTokenizerBase,
) -> list[list[str]]:
    """The span of every token of every prompt, by name; nothing of prompts of which none names a place.

    Args:
        places: of each prompt.
        texts: the clean prompts.
        wheres: they come from, for errors.
        lengths: in tokens.
        tokenizer: that they are read with.

    Raises:
        ValueError: what `names_of_tokens` raises; a prompt that lacks a place which another names, and does not say so;
            a tokenizer that does not say which characters a token is of.
    """
    named_by: dict[str, int] = {}  # the name of a place, and a prompt that names it
    for row, named in enumerate(places):
        for name in named:
            named_by.setdefault(name, row)
    if not named_by:
        return [[] for _ in texts]
    for named, where in zip(places, wheres, strict=True):
        if missing := [name for name in named_by if name not in named]:
            raise ValueError(
                f"{where}: no span {missing[0]}, which {wheres[named_by[missing[0]]]} has: name it in every prompt, "
                f"or say that this one has none, by {missing[0]}: null"
            )
    if not tokenizer.is_fast:
        raise ValueError(
            f"{wheres[0]}: spans of characters are named, and {type(tokenizer).__name__} does not say which characters "
            "a token is of: take the fast tokenizer of the model, or leave the spans out"
        )
    offsets = tokenizer(list(texts), return_offsets_mapping=True)["offset_mapping"]
    return [
        names_of_tokens(*of_prompt)
        for of_prompt in zip(places, (o[:n] for o, n in zip(offsets, lengths, strict=True)), wheres, texts, strict=True)
    ]


def names_of_tokens(places: Places, offsets: Sequence[tuple[int, int]], where: str, text: str) -> list[str]:
    """The span of every token, by name.

    Args:
        places: of the prompt.
        offsets: of every token, where its characters begin and end, as fast tokenizers give them.
        where: the prompt comes from, for errors.
        text: of the prompt.

    Raises:
        ValueError: a place outside the prompt, without a token, or through one; two places that overlap.
    """
    named: dict[int, str] = {}
    for name, place in places.items():
        if place is None:
            continue
        begin, end = place
        if not 0 <= begin < end <= len(text):
            raise ValueError(
                f"{where}: the span {name} is from character {begin} to {end}, and the clean prompt has "
                f"{len(text)}: {text!r}"
            )
        inside = []
        for token, (first, last) in enumerate(offsets):
            if text[first:last].strip():  # a token may begin with the space before a word, or be one itself
                first += len(text[first:last]) - len(text[first:last].lstrip())
            if first < last and begin < last and first < end:
                if not begin <= first <= last <= end:
                    raise ValueError(
                        f"{where}: the span {name}, {text[begin:end]!r}, goes through the token {text[first:last]!r}: "
                        "give the characters of whole tokens"
                    )
                inside.append(token)
        if not inside:
            raise ValueError(f"{where}: the span {name}, {text[begin:end]!r}, holds no token")
        for token in inside:
            if token in named:
                raise ValueError(f"{where}: the spans {named[token]} and {name} overlap, at {text[begin:end]!r}")
            named[token] = name
    return _with_gaps([named.get(token) for token in range(len(offsets))])


def _with_gaps(names: Sequence[str | None]) -> list[str]:
    """The tokens in no named span, too, by what stands on either side of them."""
    before, after = "", ""
    left, right = [], []
    for name in names:
        before = name or before
        left.append(before)
    for name in reversed(names):
        after = name or after
        right.append(after)
    return [name or f"{a}..{b}" for name, a, b in zip(names, left, reversed(right), strict=True)]


def behind(names: Sequence[str]) -> str:
    """The span of what follows a prompt, of which the tokens are in those of ``names``."""
    return names[-1] if names[-1].endswith("..") else f"{names[-1]}.."


def in_order(spans: Sequence[Sequence[str]]) -> tuple[str, ...]:
    """The names of all spans, by how far on in the prompts they stand.

    Args:
        spans: of every prompt the names of its tokens' spans.
    """
    far: dict[str, list[float]] = {}
    for names in spans:
        for token, name in enumerate(names):
            far.setdefault(name, []).append(token / len(names))
    return tuple(sorted(far, key=lambda name: sum(far[name]) / len(far[name])))


def one_span_a_token(lengths: Sequence[int], wheres: Sequence[str]) -> list[str]:
    """Names of spans of one token each, ``t0``, ``t1``, ..., for prompts of these lengths in tokens.

    Args:
        lengths: of the prompts.
        wheres: they come from, for errors.

    Raises:
        ValueError: prompts of different lengths.
    """
    for length, where in zip(lengths, wheres, strict=True):
        if length != lengths[0]:
            raise ValueError(
                f"a span for every token needs prompts of one length: {wheres[0]} has {lengths[0]} tokens and {where} "
                f"has {length}. Name places instead, which line up prompts of any length"
            )
    return [f"t{token}" for token in range(lengths[0])]
