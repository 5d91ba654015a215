"""What the next candidate is to be: which kind of change, from which parents, beside which rivals and failures.

Owns the shape of that order. Whose turn it is, by which rule, is `tasks.design.archive`'s.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from tasks.design.archive import Archive, nearest_failures, rivals, turns
from tasks.design.designer import Past


@dataclass(frozen=True)
class Brief:
    """Experiments by id; two parents for a crossover. `note` is one line for the designer: why this is asked for."""

    change_class: str
    parents: tuple[str, ...] = ()
    rivals: tuple[str, ...] = ()
    failures: tuple[str, ...] = ()
    note: str = ""


# The order for candidate `number` (from 1) of the past's iteration. The same past and number give the same order.
Choose = Callable[[Past, int], Brief]


def archive_brief(past: Past, number: int) -> Brief:
    """The archive's turn for this number, whatever became of the numbers before it."""
    archive = Archive.of(past)
    turn = turns(past, number, past.campaign.seed)[-1]
    first = turn.parents[0] if turn.parents else ""
    return Brief(
        turn.change_class,
        turn.parents,
        tuple(entry.experiment_id for entry in rivals(archive, first) if entry.experiment_id not in turn.parents),
        tuple(row.experiment_id for row in nearest_failures(archive, first) if row.experiment_id not in turn.parents),
        turn.why,
    )
