"""Pairs of prompts for a circuit search, as JSON Lines: the corrupt twin's subject has the other number.

python pairs.py > pairs.jsonl
"""

import json
import random

from agreement import NOUNS, PLACES, VERBS


def pair(draw):
    (subject, subjects), (other, others) = draw.sample(sorted(NOUNS.items()), 2)
    rest = f"{draw.choice(PLACES)} the {draw.choice([other, others])}"
    one, many = [f" {verb}" for verb in VERBS], [f" {verb}" for verb in VERBS.values()]
    singular, plural = (f"the {subject} {rest}", one), (f"the {subjects} {rest}", many)
    (clean, answers), (corrupt, distractors) = draw.sample([singular, plural], 2)
    return {"clean": clean, "corrupt": corrupt, "answers": answers, "distractors": distractors}


if __name__ == "__main__":
    draw = random.Random(1)
    for _ in range(160):
        print(json.dumps(pair(draw)))
