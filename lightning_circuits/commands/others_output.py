"""What libraries under a command print by themselves, and nobody who runs it has asked for or could mend."""

from __future__ import annotations

import logging
import re
import warnings

from lightning_circuits.namespace import pl

LIGHTNING = (pl.__name__, f"{pl.__name__}.utilities.rank_zero", "lightning_fabric", "lightning.fabric")
"""Its loggers."""

NO_NEWS = re.compile(r"Tip: |to estimate number of stepping batches|^TPU available: False|^HPU available: False")
"""Advertisements, what it does by itself, and hardware that is not there."""


def leave_out_what_is_not_ours() -> None:
    """From now on, leave out what is no news: tips of other products, and what libraries warn each other of."""
    for name in LIGHTNING:
        logging.getLogger(name).addFilter(_is_news)
    # Of libraries against each other; of ours none is of these classes.
    for category in (DeprecationWarning, PendingDeprecationWarning, FutureWarning):
        warnings.simplefilter("ignore", category)
    warnings.filterwarnings("ignore", r".*isinstance\(treespec, LeafSpec\)")


def say_nothing() -> None:
    """From now on, leave out all but errors."""
    warnings.simplefilter("ignore")
    for name in LIGHTNING:
        logging.getLogger(name).setLevel(logging.ERROR)


def _is_news(record: logging.LogRecord) -> bool:
    return NO_NEWS.search(record.getMessage()) is None
