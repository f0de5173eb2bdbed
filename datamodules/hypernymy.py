"""Hypernymy: what is it a kind of?

    They wrote about pears and other    ->    fruits, fruit          They wrote about swords and other    ->    weapons

The answers are words for the kind of thing, of which there may be several; the corrupt prompt has a thing of another
kind, whose words are the distractors. The task is that of Hanna et al. (2024), "Have Faith in Faithfulness"; the texts
are our own.
"""

from __future__ import annotations

from collections.abc import Iterator
from itertools import zip_longest

from lightning_circuits.datamodules.tasks import TaskDataModule, filled, partner, sweep
from lightning_circuits.datamodules.tokenising import PromptPair

__all__ = ["KINDS", "TEMPLATES", "HypernymyDataModule"]

TEMPLATES = (
    "They wrote about {HYPONYM} and other",
    "The article was about {HYPONYM} and other",
    "She has many pictures of {HYPONYM} and other",
    "He drew {HYPONYM} and other",
    "We saw {HYPONYM} and other",
    "The story mentions {HYPONYM} and other",
    "The children learned about {HYPONYM} and other",
    "The museum has paintings of {HYPONYM} and other",
    "In the film there were {HYPONYM} and other",
    "She made a list of {HYPONYM} and other",
    "You can find {HYPONYM} and other",
)

KINDS = {
    ("mammals", "animals"): "bears cows deer dogs elephants goats horses lions monkeys rabbits",
    ("birds", "animals"): "crows eagles falcons geese hawks owls parrots pigeons sparrows swans",
    ("buildings", "structures"): "barns castles churches cottages hospitals hotels houses mosques palaces temples",
    ("clothes", "clothing", "garments"): "blouses coats dresses jackets jeans pants shirts skirts socks sweaters",
    (
        "devices",
        "gadgets",
        "electronics",
    ): "cameras computers laptops phones printers radios smartphones speakers tablets televisions",
    ("flowers",): "carnations daffodils daisies lilies orchids pansies roses sunflowers tulips violets",
    ("fruits", "fruit"): "apples bananas cherries grapes lemons melons oranges peaches pears plums",
    ("furniture",): "beds benches bookshelves cabinets chairs couches desks dressers stools tables",
    ("insects", "bugs", "animals"): "ants bees beetles butterflies crickets flies grasshoppers mosquitoes moths wasps",
    ("instruments",): "cellos clarinets drums flutes guitars harps pianos saxophones trumpets violins",
    ("relatives", "family"): "aunts brothers cousins grandmothers grandparents nephews nieces parents sisters uncles",
    ("tools",): "chisels drills hammers pliers rakes saws screwdrivers shovels spades wrenches",
    ("vegetables", "veggies"): "beans carrots cucumbers leeks onions peas peppers potatoes radishes turnips",
    ("vehicles",): "ambulances buses cars motorcycles scooters taxis tractors trams trucks vans",
    ("weapons", "arms"): "bombs cannons daggers grenades guns missiles pistols rifles spears swords",
}
"""Things in the plural, by the words for what they are. Kinds that share a word do not stand in for each other."""


class HypernymyDataModule(TaskDataModule):
    """Things of a kind, and the words for the kind; the distractors are the words for another kind.

    No thing stands in prompts of two splits; every split has as many things of each kind, in turn. Of the words for a
    kind those are asked for that are a single token; a kind without any makes pairs that do not fit. Things of as many
    tokens stand in for each other. The places of a prompt are HYPONYM and END; its group is its template. Arguments:
    see `TaskDataModule`.
    """

    def candidates(self, split: str) -> Iterator[PromptPair]:
        kind_of = {thing: kind for kind, things in KINDS.items() for thing in things.split()}
        tokens = self.token_counts(kind_of, "about")
        single = self.possible_answers([word for kind in KINDS for word in kind], "and other")

        def words(thing: str) -> tuple[str, ...]:
            kind = kind_of[thing]
            return tuple(f" {word}" for word in [word for word in kind if word in single] or kind)

        of_each = [self.share(split, things.split(), kind[0]) for kind, things in KINDS.items()]
        mine = [thing for of_round in zip_longest(*of_each) for thing in of_round if thing]
        for number, (template, thing) in enumerate(sweep(TEMPLATES, mine)):
            other = partner(mine, number, tokens.__getitem__, lambda a, b: set(kind_of[a]).isdisjoint(kind_of[b]))
            clean, places = filled(template, HYPONYM=thing)
            corrupt, _ = filled(template, HYPONYM=other)
            yield PromptPair(clean, corrupt, words(thing), words(other), f"{split} prompt {number}", places, template)
