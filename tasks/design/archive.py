"""The archive of a campaign's candidates: who is worth a child, and what the next candidate should be.

A fold over the past, without memory of its own: the same past and seed give the same choices. Owns

    fronts       by clip: candidates that no other beats in BD-rate, operations and decode time together
    parents      drawn with probability ∝ (share of the clips on whose front it is) / (1 + children)
    turns        improve, repair, crossover or draft, by quotas, with a forced draft after a plateau
    neighbours   of a parent: rival designs, and the failures that are nearest to it

What a candidate looks like is the designer's; whether one was tried already is `tasks.design.duplicates`'.
Sources: parents, ShinkaEvolve (arXiv:2509.19349) for 1/(1+children) and GEPA (arXiv:2507.19457) for membership by task.
"""

from __future__ import annotations

import math
import random
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Final, Literal, NamedTuple, get_args

from tasks.analyze.leaderboard import BARRED_ISOLATION, REFERENCE_ANCHOR, Standing, standings
from tasks.analyze.outcomes import improvements, in_order
from tasks.candidate import Candidate
from tasks.design.designer import Past
from tasks.design.duplicates import similarity
from tasks.store.records import ExperimentRecord, Status

ChangeClass = Literal["improve", "repair", "crossover", "draft"]

# The share of each class among a campaign's candidates. Half of the work is where the gains are; a tenth each way less
# of the others was never tried: they are settings of taste, and a designer is free to pass its own.
QUOTAS: Final[Mapping[ChangeClass, float]] = {"improve": 0.5, "draft": 0.2, "repair": 0.15, "crossover": 0.15}
# So many experiments without improvement are a plateau.
PLATEAU: Final = 8
# Failures of the idea's code, which a repair may mend. A cheat is not repaired, a duplicate is its original's.
REPAIRABLE: Final[tuple[Status, ...]] = ("invalid", "crashed", "timeout", "rejected")
# What two repairs have not mended a third will not.
MAX_REPAIRS: Final = 2
# Decode times on a shared worker differ by this factor between two runs of one decoder: what is within one such step
# is equal. With finer ones every candidate would be on a front by luck.
DECODE_STEP: Final = 1.25


class Costs(NamedTuple):
    """What a front is of, the less the better: percent against the anchor, operations, steps of decode time."""

    bd_rate: float
    tera_ops: float
    decode_steps: int

    def beats(self, other: Costs) -> bool:
        """At least as good in all and better in one."""
        return self != other and all(mine <= theirs for mine, theirs in zip(self, other, strict=True))


@dataclass(frozen=True)
class Entry:
    """One measured candidate that may have children.

    costs     by clip, where it has a BD-rate
    fronts    the clips on whose front it is
    children  candidates that name it as a parent, those that the infrastructure lost aside
    """

    record: ExperimentRecord
    mean_bd_rate: float | None
    costs: Mapping[str, Costs]
    fronts: tuple[str, ...] = ()
    children: int = 0

    @property
    def experiment_id(self) -> str:
        return self.record.experiment_id

    @property
    def weight(self) -> float:
        """Proportional to the probability of being a parent; 0 off every front."""
        return len(self.fronts) / (1 + self.children)


@dataclass(frozen=True)
class Turn:
    """What one candidate should be: a change of `parents` (none for a draft, two for a crossover), and why."""

    change_class: ChangeClass
    parents: tuple[str, ...]
    why: str
    forced: bool = False


@dataclass(frozen=True)
class Archive:
    """`entries` are by id; `tried` is every candidate in order, whatever came of it; `better` are the improvements."""

    entries: Mapping[str, Entry]
    tried: tuple[ExperimentRecord, ...]
    better: tuple[str, ...] = ()

    @classmethod
    def of(cls, past: Past) -> Archive:
        """The fold. Candidates that ran without isolation have no claim to be a parent."""
        board = standings(past.experiments, past.points, past.campaign.targets)
        tried = tuple(row.experiment for row in in_order(board))
        rows = {
            row.experiment_id: row
            for row in board
            if row.kind == "candidate" and row.clips and row.experiment.isolation != BARRED_ISOLATION
        }
        costs = {experiment_id: _costs(row) for experiment_id, row in rows.items()}
        fronts = _fronts(costs)
        children = _children(tried)
        entries = {
            experiment_id: Entry(
                row.experiment,
                row.mean_bd_rate,
                costs[experiment_id],
                tuple(clip for clip, front in sorted(fronts.items()) if experiment_id in front),
                children.get(experiment_id, 0),
            )
            for experiment_id, row in sorted(rows.items())
            if costs[experiment_id]
        }
        return cls(entries, tried, improvements(row for row in board if row.experiment_id in entries))

    @property
    def front(self) -> tuple[Entry, ...]:
        """Whoever is on the front of any clip, the best mean BD-rate first."""
        return tuple(sorted((entry for entry in self.entries.values() if entry.fronts), key=_by_merit))

    @property
    def stale(self) -> tuple[ExperimentRecord, ...]:
        """What was tried since the last improvement, in order; what the infrastructure lost tells nothing."""
        found = [record for record in self.tried if record.status != "infrastructure"]
        last = max((place for place, record in enumerate(found, 1) if record.experiment_id in self.better), default=0)
        return tuple(found[last:])


def choose_parent(archive: Archive, draw: random.Random, *, without: Iterable[str] = ()) -> Entry | None:
    """One of the front, by weight; None where it is empty. `without` names entries that are no choice."""
    barred = set(without)
    choices = [entry for entry in archive.front if entry.experiment_id not in barred]
    if not choices:
        return None
    return draw.choices(choices, [entry.weight for entry in choices])[0]


def turns(
    past: Past,
    count: int,
    seed: int = 0,
    *,
    quotas: Mapping[ChangeClass, float] = QUOTAS,
    plateau: int = PLATEAU,
) -> list[Turn]:
    """What the next `count` candidates should be. Those of one batch count for each other's quotas and parents."""
    archive = Archive.of(past)
    found: list[Turn] = []
    for number in range(1, count + 1):
        draw = random.Random(f"{seed}/{past.iteration}/{number}")
        found.append(_turn(archive, found, draw, quotas, plateau))
        archive = _with_children(archive, found[-1].parents)
    return found


def _turn(
    archive: Archive,
    batch: Sequence[Turn],
    draw: random.Random,
    quotas: Mapping[ChangeClass, float],
    plateau: int,
) -> Turn:
    if _owes_a_change(archive, batch, plateau):
        best = archive.front[0].experiment_id if archive.front else "any line so far"
        why = f"{len(archive.stale)} experiments without improvement: leave the line of {best} for another idea"
        return Turn("draft", (), why, forced=True)
    made = [record.change_class for record in archive.tried] + [turn.change_class for turn in batch]
    total = len(made) + 1
    for change_class in sorted(get_args(ChangeClass), key=lambda name: made.count(name) - quotas.get(name, 0) * total):
        turn = _TURNS[change_class](archive, batch, draw) if quotas.get(change_class) else None
        if turn is not None:
            return turn
    return _draft(archive, batch, draw)


def _owes_a_change(archive: Archive, batch: Sequence[Turn], plateau: int) -> bool:
    """Each `plateau` experiments without improvement are answered by one draft at once."""
    stale = archive.stale
    if len(stale) < plateau or any(turn.change_class == "draft" for turn in batch):
        return False
    since = stale[len(stale) // plateau * plateau :]
    return not any(record.change_class == "draft" for record in since)


def _improve(archive: Archive, batch: Sequence[Turn], draw: random.Random) -> Turn | None:
    parent = choose_parent(archive, draw)
    if parent is None:
        return None
    where = f"on the front of {len(parent.fronts)} of {len(parent.costs)} clips, {parent.children} children"
    return Turn("improve", (parent.experiment_id,), f"{parent.experiment_id} is {where}")


def _repair(archive: Archive, batch: Sequence[Turn], draw: random.Random) -> Turn | None:
    """The latest failure of an open case: what is known of it is freshest. A failed repair belongs to its case."""
    by_id = {record.experiment_id: record for record in archive.tried}
    taken = {_case(by_id, turn.parents[0]) for turn in batch if turn.change_class == "repair"}
    repairs: dict[str, list[ExperimentRecord]] = {}
    for record in archive.tried:
        if record.change_class == "repair":
            repairs.setdefault(_case(by_id, record.experiment_id), []).append(record)
    for record in reversed(archive.tried):
        case = _case(by_id, record.experiment_id)
        mended = any(repair.status == "measured" for repair in repairs.get(case, ()))
        closed = mended or len(repairs.get(case, ())) >= MAX_REPAIRS
        if record.status in REPAIRABLE and case not in taken and not closed:
            return Turn("repair", (record.experiment_id,), f"{record.experiment_id} {record.status}: {record.reason}")
    return None


def _case(by_id: Mapping[str, ExperimentRecord], experiment_id: str) -> str:
    """The failure that a row of repairs began with."""
    for _ in by_id:  # a parent that names itself must not hold the loop for ever
        record = by_id.get(experiment_id)
        if record is None or record.change_class != "repair" or not record.parents:
            break
        experiment_id = record.parents[0]
    return experiment_id


def _crossover(archive: Archive, batch: Sequence[Turn], draw: random.Random) -> Turn | None:
    """Two of the front; the second of another line where there is one."""
    first = choose_parent(archive, draw)
    if first is None:
        return None
    line = {record for record in archive.entries if _steps(archive.tried, first.experiment_id, record) is not None}
    second = choose_parent(archive, draw, without=line) or choose_parent(archive, draw, without=[first.experiment_id])
    if second is None:
        return None
    pair = (first.experiment_id, second.experiment_id)
    return Turn("crossover", pair, f"{pair[0]} and {pair[1]} are both on a front")


def _draft(archive: Archive, batch: Sequence[Turn], draw: random.Random) -> Turn:
    return Turn("draft", (), "a fresh idea" if archive.front else "nothing is on a front yet: a fresh idea")


_TURNS: Final = {"improve": _improve, "repair": _repair, "crossover": _crossover, "draft": _draft}


def rivals(archive: Archive, parent: str, count: int = 3) -> list[Entry]:
    """Other designs of the front to learn from: those of another line first, then by mean BD-rate."""
    others = [entry for entry in archive.front if entry.experiment_id != parent]
    related = {entry.experiment_id: _steps(archive.tried, parent, entry.experiment_id) is not None for entry in others}
    return sorted(others, key=lambda entry: (related[entry.experiment_id], _by_merit(entry)))[:count]


def nearest_failures(
    archive: Archive, parent: str, count: int = 5, *, sources: Mapping[str, Candidate] | None = None
) -> list[ExperimentRecord]:
    """The failures that a change of `parent` is likeliest to repeat, nearest first.

    Near is alike in code where `sources` (candidates by experiment id) hold both, then near in the family tree, then
    recent.
    """
    known = sources or {}
    failed = [
        (place, record)
        for place, record in enumerate(archive.tried)
        if is_failure(record) and record.experiment_id != parent
    ]

    def distance(item: tuple[int, ExperimentRecord]) -> tuple[float, float, int]:
        place, record = item
        mine, theirs = known.get(parent), known.get(record.experiment_id)
        alike = similarity(mine, theirs) if mine is not None and theirs is not None else 0.0
        steps = _steps(archive.tried, parent, record.experiment_id)
        return -alike, math.inf if steps is None else steps, -place

    return [record for _, record in sorted(failed, key=distance)[:count]]


def is_failure(record: ExperimentRecord) -> bool:
    """What the infrastructure lost, and what was a duplicate, has failed at nothing."""
    return record.status not in ("measured", "infrastructure", "duplicate")


def _costs(row: Standing) -> dict[str, Costs]:
    """By clip; a clip without a BD-rate against the reference has none."""
    found: dict[str, Costs] = {}
    for clip in row.clips:
        rate = clip.bd_rates.get(REFERENCE_ANCHOR)
        if rate is None or rate.percent is None:
            continue
        seconds = sum(1 / point.decode_fps for point in clip.points) / len(clip.points)
        operations = max((point.tera_ops_per_frame or 0.0 for point in clip.points), default=0.0)
        found[clip.clip] = Costs(rate.percent, operations, round(math.log(seconds, DECODE_STEP)))
    return found


def _fronts(costs: Mapping[str, Mapping[str, Costs]]) -> dict[str, set[str]]:
    """By clip: who is beaten by nobody there."""
    fronts: dict[str, set[str]] = {}
    for clip in {clip for by_clip in costs.values() for clip in by_clip}:
        mine = {experiment_id: by_clip[clip] for experiment_id, by_clip in costs.items() if clip in by_clip}
        fronts[clip] = {
            experiment_id for experiment_id, own in mine.items() if not any(other.beats(own) for other in mine.values())
        }
    return fronts


def _children(tried: Iterable[ExperimentRecord]) -> dict[str, int]:
    counts: dict[str, int] = {}
    for record in tried:
        if record.status != "infrastructure":
            for parent in set(record.parents):
                counts[parent] = counts.get(parent, 0) + 1
    return counts


def _with_children(archive: Archive, parents: Iterable[str]) -> Archive:
    """The archive once these have one child more."""
    entries = dict(archive.entries)
    for parent in set(parents) & set(entries):
        entries[parent] = replace(entries[parent], children=entries[parent].children + 1)
    return replace(archive, entries=entries)


def _steps(tried: Iterable[ExperimentRecord], one: str, other: str) -> int | None:
    """How many steps from parent to child, either way, lie between two candidates; None where they are unrelated."""
    kin: dict[str, set[str]] = {}
    for record in tried:
        for parent in record.parents:
            kin.setdefault(parent, set()).add(record.experiment_id)
            kin.setdefault(record.experiment_id, set()).add(parent)
    seen, edge, steps = {one}, {one}, 0
    while edge:
        if other in edge:
            return steps
        edge = {next_one for known in edge for next_one in kin.get(known, ())} - seen
        seen |= edge
        steps += 1
    return None


def _by_merit(entry: Entry) -> tuple[float, str]:
    return math.inf if entry.mean_bd_rate is None else entry.mean_bd_rate, entry.experiment_id
