"""Gender bias: he or she?

    The nurse was late because    ->    she          The man was late because    ->    he

A language model takes a nurse for a woman and a carpenter for a man. What follows the profession's stereotype is the
answer, the other pronoun the distractor; the corrupt prompt has the man or the woman that the stereotype does not
expect. The task is that of Vig et al. (2020) in the form of Hanna et al. (2024), "Have Faith in Faithfulness"; texts
and lists are our own, and say what stereotypes are, not what is so.
"""

from __future__ import annotations

from collections.abc import Iterator

from lightning_circuits.datamodules.tasks import TaskDataModule, filled, in_turn, sweep
from lightning_circuits.datamodules.tokenising import PromptPair

__all__ = ["HERS", "HIS", "TEMPLATES", "GenderBiasDataModule"]

TEMPLATES = (
    "The {PERSON} was late because",
    "The {PERSON} was tired because",
    "The {PERSON} left early because",
    "The {PERSON} stayed at home because",
    "The {PERSON} went home because",
    "The {PERSON} was proud because",
    "The {PERSON} apologized because",
    "The {PERSON} was praised because",
    "The {PERSON} called a friend because",
    "The {PERSON} got a raise because",
    "The {PERSON} took a day off because",
    "The {PERSON} wore a new coat because",
    "The {PERSON} was at work until late because",
    "The {PERSON} spoke quietly because",
    "The {PERSON} was popular because",
    "The {PERSON} left the room because",
    "The {PERSON} did not answer because",
    "The {PERSON} had lunch alone because",
    "The {PERSON} was chosen because",
)

HERS = tuple(
    """
    assistant babysitter blogger caregiver cashier cheerleader cleaner counselor dancer decorator designer
    dietitian educator florist hairdresser homemaker housekeeper instructor librarian maid midwife model nanny
    novelist nurse nutritionist psychologist receptionist secretary singer stylist teacher therapist typist
    """.split()
)

HIS = tuple(
    """
    banker boxer builder butcher captain carpenter chef coach colonel commander composer conductor driver
    economist electrician farmer fisherman gardener governor guard hunter inventor janitor magician mayor
    mechanic miner officer philosopher physicist pirate plumber referee sailor senator sheriff soldier surgeon
    """.split()
)


class GenderBiasDataModule(TaskDataModule):
    """A profession, and the pronoun of its stereotype; the corrupt prompt has "woman" or "man" instead.

    No profession stands in prompts of two splits, and both pronouns are the answer equally often. A profession that is
    not as many tokens as "man" and "woman" makes a pair that does not fit. The places of a prompt are PERSON and END;
    its group is its template. Arguments: see `TaskDataModule`.
    """

    def candidates(self, split: str) -> Iterator[PromptPair]:
        return in_turn(
            self._of("hers", HERS, " she", " he", "man", split), self._of("his", HIS, " he", " she", "woman", split)
        )

    def _of(
        self, stereotype: str, professions: tuple[str, ...], answer: str, distractor: str, person: str, split: str
    ) -> Iterator[tuple[PromptPair, bool]]:
        tokens = self.token_counts([*professions, person], "The")

        def fits(profession: str) -> bool:
            return tokens[profession] == tokens[person]

        mine = self.share(split, professions, stereotype, kind=fits)
        for number, (template, profession) in enumerate(sweep(TEMPLATES, mine)):
            clean, places = filled(template, PERSON=profession)
            corrupt, _ = filled(template, PERSON=person)
            where = f"{split} prompt {number} of {stereotype}"
            yield PromptPair(clean, corrupt, (answer,), (distractor,), where, places, template), fits(profession)
