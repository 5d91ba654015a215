"""What the next candidate is to be: which kind of change, from which parents, beside which rivals and failures.

Owns the shape of that order. Whose turn it is, by which rule, is `tasks.design.archive`'s.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from tasks.candidate import Candidate
from tasks.design.archive import Archive, is_failure, nearest_failures, rivals, turns
from tasks.design.designer import Past


@dataclass(frozen=True)
class Brief:
    """Experiments by id; two parents for a crossover. `note` is one line for the designer: why this is asked for."""

    change_class: str
    parents: tuple[str, ...] = ()
    rivals: tuple[str, ...] = ()
    failures: tuple[str, ...] = ()
    note: str = ""


# The candidate of a hash; None where its sources are gone.
Load = Callable[[str], Candidate | None]
# The order for candidate `number` (from 1) of the past's iteration. The same past and number give the same order.
Choose = Callable[[Past, int, Load], Brief]


def archive_brief(past: Past, number: int, load: Load) -> Brief:
    """The archive's turn for this number, whatever became of the numbers before it; failures are near in code."""
    archive = Archive.of(past)
    turn = turns(past, number, past.campaign.seed)[-1]
    first = turn.parents[0] if turn.parents else ""
    failures = nearest_failures(archive, first, sources=_sources(archive, first, load))
    return Brief(
        turn.change_class,
        turn.parents,
        tuple(entry.experiment_id for entry in rivals(archive, first) if entry.experiment_id not in turn.parents),
        tuple(row.experiment_id for row in failures if row.experiment_id not in turn.parents),
        turn.why,
    )


def _sources(archive: Archive, parent: str, load: Load) -> dict[str, Candidate]:
    """Of the parent and of all that failed, where they are on record; of nothing for a draft, which is near to none."""
    if not parent:
        return {}
    wanted = {
        record.experiment_id: record.candidate_hash
        for record in archive.tried
        if record.candidate_hash and (record.experiment_id == parent or is_failure(record))
    }
    found = {experiment_id: load(digest) for experiment_id, digest in wanted.items()}
    return {experiment_id: candidate for experiment_id, candidate in found.items() if candidate is not None}
