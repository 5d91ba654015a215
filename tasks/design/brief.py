"""What the next candidate is to be: which kind of change, from which parent, beside which rivals and failures.

Owns the shape of that order, and the plain rule that stands where no other is given.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Final

from tasks.design.designer import Past
from tasks.design.search import bd_rates

MOST_RIVALS: Final = 3
MOST_FAILURES: Final = 5
# Each third candidate starts afresh: more of the same is what every search does too much of.
DRAFT_EVERY: Final = 3


@dataclass(frozen=True)
class Brief:
    """Experiments by id. `note` is one line for the designer: why this kind of change is asked for."""

    change_class: str
    parent: str | None = None
    rivals: tuple[str, ...] = ()
    failures: tuple[str, ...] = ()
    note: str = ""


# The order for candidate `number` (from 1) of the past's iteration. The same past and number give the same order.
Choose = Callable[[Past, int], Brief]


def plain_brief(past: Past, number: int) -> Brief:
    """Improve the best so far by mean BD-rate, with the next best as rivals; each third candidate is a fresh draft."""
    scores = bd_rates(past)
    ranked = sorted(scores, key=lambda experiment_id: (scores[experiment_id], experiment_id))
    failures = tuple(
        record.experiment_id
        for record in reversed(past.experiments)
        if record.kind == "candidate" and record.status not in ("measured", "infrastructure", "duplicate")
    )[:MOST_FAILURES]
    if not ranked:
        return Brief("draft", failures=failures, note="nothing has a score yet")
    if number % DRAFT_EVERY == 0:
        return Brief("draft", None, tuple(ranked[:MOST_RIVALS]), failures, "a fresh idea, unlike those below")
    return Brief("improve", ranked[0], tuple(ranked[1 : 1 + MOST_RIVALS]), failures, "the best so far")
