"""Subject-verb agreement: is or are?

    The doctor near the windows never    ->    is, has, ...        The doctors near the windows never    ->    are, have

The answers are all verbs of a small lexicon that agree with the subject, the distractors the same verbs in the other
number; the corrupt prompt has the subject in the other number. Between subject and verb stands an adverb, and in some
templates a phrase with a noun of its own, which the verb must not agree with. The task is that of Newman et al. (2021)
in the form of Hanna et al. (2024), "Have Faith in Faithfulness"; texts and lists are our own.

With attractors (Linzen, Dupoux and Goldberg 2016), nouns that stand nearer to the verb than the subject, in the other
number, models err:

    The pilots that the neighbor near the door admired usually    ->    are, have    (and the model may say: is)
"""

from __future__ import annotations

from collections.abc import Iterator
from itertools import islice
from pathlib import Path
from typing import Any

from lightning_circuits.arguments import require_whole_numbers
from lightning_circuits.datamodules.shuffling import shuffled
from lightning_circuits.datamodules.tasks import TaskDataModule, dealt, filled, in_turn, sweep
from lightning_circuits.datamodules.tokenising import PromptPair
from lightning_circuits.models.loading import PreTrainedTokenizerBase

__all__ = ["ATTRACTORS", "SUBJECTS", "TEMPLATES", "VERBS", "SubjectVerbAgreementDataModule"]

TEMPLATES = (
    "The {SUBJECT} never",
    "The {SUBJECT} always",
    "As we know, the {SUBJECT} still",
    "In this story, the {SUBJECT} often",
    "The {SUBJECT} near the windows never",
    "The {SUBJECT} behind the door always",
    "The {SUBJECT} with the red hats often",
    "The {SUBJECT} from the village still",
    "The {SUBJECT} beside the trees usually",
    "The {SUBJECT} in the picture never",
    "At night, the {SUBJECT} on the hill often",
)

ATTRACTORS = {
    1: (
        "The {SUBJECT} that the {ATTRACTOR} saw never",
        "The {SUBJECT} near the {ATTRACTOR} never",
        "The {SUBJECT} behind the {ATTRACTOR} still",
        "As we know, the {SUBJECT} that the {ATTRACTOR} liked always",
        "In this story, the {SUBJECT} beside the {ATTRACTOR} often",
        "The {SUBJECT} who met the {ATTRACTOR} usually",
    ),
    2: (
        "The {SUBJECT} that the {ATTRACTOR} near the {SECOND} saw never",
        "The {SUBJECT} behind the {ATTRACTOR} beside the {SECOND} still",
        "The {SUBJECT} who met the {ATTRACTOR} near the {SECOND} always",
        "As we know, the {SUBJECT} that the {ATTRACTOR} with the {SECOND} liked often",
        "In this story, the {SUBJECT} near the {ATTRACTOR} and the {SECOND} usually",
        "The {SUBJECT} that met the {ATTRACTOR} of the {SECOND} never",
    ),
}
"""Templates with so many nouns between the subject and its verb."""

SUBJECTS = tuple(
    tuple(pair.split("/"))
    for pair in """
    actor/actors artist/artists author/authors baker/bakers boy/boys brother/brothers captain/captains cat/cats
    chef/chefs child/children clerk/clerks coach/coaches cousin/cousins dancer/dancers daughter/daughters
    dog/dogs doctor/doctors driver/drivers engineer/engineers expert/experts farmer/farmers fisherman/fishermen
    friend/friends gardener/gardeners girl/girls guard/guards guest/guests horse/horses hunter/hunters
    judge/judges king/kings lady/ladies lawyer/lawyers leader/leaders man/men manager/managers mayor/mayors
    monkey/monkeys mother/mothers musician/musicians neighbor/neighbors nurse/nurses officer/officers
    owner/owners painter/painters parent/parents patient/patients pilot/pilots player/players poet/poets
    priest/priests prince/princes queen/queens sailor/sailors scientist/scientists senator/senators
    servant/servants singer/singers sister/sisters soldier/soldiers son/sons student/students surgeon/surgeons
    teacher/teachers thief/thieves tourist/tourists uncle/uncles visitor/visitors waiter/waiters
    witness/witnesses wolf/wolves woman/women worker/workers writer/writers
    """.split()
)

VERBS = tuple(
    tuple(pair.split("/"))
    for pair in """
    is/are was/were has/have does/do appears/appear asks/ask becomes/become believes/believe brings/bring
    carries/carry comes/come eats/eat enjoys/enjoy feels/feel finds/find gets/get gives/give goes/go helps/help
    keeps/keep knows/know likes/like lives/live looks/look loves/love makes/make needs/need plays/play
    remains/remain runs/run says/say sees/see seems/seem sits/sit speaks/speak stands/stand takes/take
    tells/tell thinks/think tries/try uses/use wants/want wears/wear works/work
    """.split()
)
"""Each in the singular and in the plural, like `SUBJECTS`."""


class SubjectVerbAgreementDataModule(TaskDataModule):
    """A subject, and the verbs that agree with it; the distractors are the verbs that do not.

    No subject stands in prompts of two splits, and as many subjects are singular as plural. The lexicon is those of
    `VERBS` of which both forms are single tokens. A subject whose singular and plural are not as many tokens makes a
    pair that does not fit. The places of a prompt are SUBJECT and END, and ATTRACTOR and SECOND where it has these; its
    group is its template.

    Args:
        tokenizer: see `TaskDataModule`.
        attractors: how many nouns stand between the subject and its verb, 0, 1 or 2. They are in the other number than
            the subject of the clean prompt, and the same in both prompts.
        options: see `TaskDataModule`.

    Raises:
        ValueError: another number of attractors; when set up, no verb of which both forms are single tokens; what
            `TaskDataModule` raises.
    """

    def __init__(self, tokenizer: str | Path | PreTrainedTokenizerBase, *, attractors: int = 0, **options: Any) -> None:
        super().__init__(tokenizer, **options)
        require_whole_numbers(attractors=attractors)
        if attractors not in (0, *ATTRACTORS):
            raise ValueError(f"attractors are 0, 1 or 2 nouns between the subject and its verb, got {attractors}")
        self.attractors = attractors

    def describe_task(self) -> dict[str, Any]:
        return {"attractors": self.attractors} if self.attractors else {}

    def candidates(self, split: str) -> Iterator[PromptPair]:
        tokens = self.token_counts([noun for pair in SUBJECTS for noun in pair], "the")
        single = self.possible_answers([verb for pair in VERBS for verb in pair], "the man never")
        lexicon = [pair for pair in VERBS if all(verb in single for verb in pair)]
        if not lexicon:
            raise ValueError(
                f"of no verb both forms are a single token for the tokenizer {self.tokenizer_name!r}: take "
                "another one, or PromptPairDataModule with verbs that fit"
            )
        agreeing = [tuple(f" {pair[number]}" for pair in lexicon) for number in (0, 1)]

        def fits(subject: tuple[str, ...]) -> bool:
            singular, plural = subject
            return tokens[singular] == tokens[plural]

        subjects = self.share(split, SUBJECTS, "subjects", kind=fits)

        def of(number: int) -> Iterator[tuple[PromptPair, bool]]:
            """Of subjects in the singular (0) or in the plural (1)."""
            mine = shuffled(subjects, split, number, self.seed)
            between = dealt(subjects, split, number, self.seed, "attractors")
            templates = ATTRACTORS.get(self.attractors, TEMPLATES)
            for row, (template, subject) in enumerate(sweep(templates, mine)):
                nouns: list[tuple[str, ...]] = []
                while len(nouns) < self.attractors:
                    nouns += [other for other in islice(between, 1) if other not in (subject, *nouns)]
                others = {name: noun[1 - number] for name, noun in zip(("ATTRACTOR", "SECOND"), nouns, strict=False)}
                clean, places = filled(template, SUBJECT=subject[number], **others)
                corrupt, _ = filled(template, SUBJECT=subject[1 - number], **others)
                where = f"{split} prompt {row} in the {('singular', 'plural')[number]}"
                verbs = agreeing[number], agreeing[1 - number]
                yield PromptPair(clean, corrupt, *verbs, where, places, template), fits(subject)

        return in_turn(of(0), of(1))
