"""What one can do, on one page, before anything is loaded.

The commands that run a search are Lightning's, whose help takes seconds and is about options. Whoever asks
`lightning-circuits --help` wants to know what there is.
"""

from __future__ import annotations

import re
import sys
from collections.abc import Sequence
from difflib import get_close_matches
from pathlib import Path
from textwrap import wrap

from lightning_circuits.commands.config_files import packaged

COMMANDS = {
    "check": "what the full model makes of the prompts, before a search",
    "fit": "train or attribute, judge and export, as a config says",
    "validate": "judge a search or a saved circuit on the validation prompts",
    "test": "the same on the test prompts",
    "evaluate": "the faithfulness curve of a saved ranking, or of a checkpoint",
    "compare": "the curves of several runs in one table and one figure",
    "transfer": "circuits on each other's tasks",
    "view": "a circuit as an interactive page, or as a figure",
}

EXAMPLES = """\
  lightning-circuits fit --config quickstart.yaml
  lightning-circuits fit --config ioi_gpt2.yaml --model.model ./my-model
  lightning-circuits check --config pairs.yaml --data.train mine.jsonl
  lightning-circuits fit --config pairs.yaml --data.train mine.jsonl
  lightning-circuits compare runs/ioi_gpt2 runs/ioi_gpt2_eap_ig
  lightning-circuits view circuit-last-10pct.json --output page.html
"""

ASKED: tuple[list[str], ...] = ([], ["-h"], ["--help"])
"""The words that ask for it."""


def refuse_unknown_command(words: Sequence[str]) -> None:
    """End with code 2 where the first word is the name of no command, and say which was meant."""
    if words and not words[0].startswith("-") and words[0] not in COMMANDS:
        like = get_close_matches(words[0], COMMANDS, n=1)
        meant = f": did you mean {like[0]}?" if like else f": there are {', '.join(COMMANDS)}"
        sys.stderr.write(f"error: no command is called {words[0]!r}{meant} (see lightning-circuits --help)\n")
        raise SystemExit(2)


def overview() -> str:
    """Commands, packaged configs and examples, 80 columns wide."""
    return "\n".join(
        [
            "usage: lightning-circuits COMMAND ...",
            "",
            "Find circuits in language models, judge them by exact ablation, look at them.",
            "",
            "Commands (lightning-circuits COMMAND --help has the options of each):",
            *(f"  {name:<10}{what}" for name, what in COMMANDS.items()),
            "",
            "Packaged configs, by name for --config; those of with/ go behind another one:",
            *(line for name, file in packaged().items() for line in (f"  {name}.yaml", *_subject(file))),
            "",
            "For instance:",
            EXAMPLES,
        ]
    )


def _subject(file: Path) -> list[str]:
    """The first sentence of a config, which is a comment, in lines."""
    words = re.sub(r"(?m)^# ?", "", file.read_text(encoding="utf-8").partition("\n\n")[0].partition("\n#\n")[0])
    sentence = re.split(r"(?<=[.?])\s", " ".join(words.split()))[0]
    return wrap(sentence, 80, initial_indent=" " * 6, subsequent_indent=" " * 6)
