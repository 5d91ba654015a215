"""What a designer is: it sees the past and proposes candidates. Which past it may see is decided here.

Running candidates is `tasks.execute`'s; keeping designs is `tasks.design.step`'s.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import timedelta
from typing import Final, Protocol

from tasks.campaign import Campaign
from tasks.candidate import Candidate, Paid
from tasks.store.records import ExperimentRecord, PointRecord, Status
from tasks.store.store import Store

# A designer that knows what wins on the select clips would design for them, and they would select no more.
# Whom a candidate was compared with in "repeat" tells who was promoted there.
HIDDEN_STAGES: Final = ("repeat", "select", "sealed")


@dataclass(frozen=True)
class Past:
    """What a designer may know of a campaign before `iteration`, anchors included. Use `Past.of`.

    Nothing measured on select or sealed clips is in it, and nothing that tells of it: no point, no promotion, no log,
    no time that was spent on them.
    """

    campaign: Campaign
    iteration: int
    experiments: tuple[ExperimentRecord, ...]
    points: tuple[PointRecord, ...]

    @classmethod
    def of(
        cls,
        campaign: Campaign,
        iteration: int,
        experiments: Iterable[ExperimentRecord],
        points: Iterable[PointRecord],
    ) -> Past:
        """All that is on record, less what a designer must not see."""
        # An iteration that was cut short has records already: seeing them would change what it designs when resumed.
        before = [
            record
            for record in experiments
            if record.kind == "anchor" or (record.kind == "candidate" and record.iteration < iteration)
        ]
        known = {record.experiment_id for record in before}
        shown = campaign.model_copy(update={"select": (), "sealed": ()})
        return cls(
            shown,
            iteration,
            tuple(_shown(record) for record in before),
            tuple(point for point in points if point.split == "dev" and point.experiment_id in known),
        )


def _shown(record: ExperimentRecord) -> ExperimentRecord:
    stages = tuple(stage for stage in record.stages if stage.name not in HIDDEN_STAGES)
    if record.kind == "anchor" or len(stages) == len(record.stages):
        return record
    seconds = sum(stage.seconds for stage in stages)
    finished = record.started_at + timedelta(seconds=seconds)
    hidden: dict[str, object] = {"stages": stages, "noise_percent": {}, "gpu_seconds": seconds, "finished_at": finished}
    return record.model_copy(update=hidden)


@dataclass(frozen=True)
class Rejected:
    """An attempt at a candidate that ended before anything could be run. It is recorded like every other attempt."""

    experiment_id: str
    designer: str
    reason: str = ""
    status: Status = "rejected"
    hypothesis: str = ""
    change_class: str = ""
    candidate: Candidate | None = None
    paid: Paid | None = None


class Designer(Protocol):
    """Proposes candidates. Keeps nothing between calls: the past, and what it was answered, is all it knows."""

    @property
    def name(self) -> str: ...

    def propose(self, past: Past, count: int) -> Sequence[Candidate | Rejected]:
        """`count` candidates or failed attempts at one, in the order of their numbers; fewer where none is left."""
        ...


def make_designer(campaign: Campaign, store: Store, left: Mapping[str, float] | None = None) -> Designer:
    """The designer a campaign asks for; `left` is what remains of its budget, by cap.

    Raises BadInputError where a model is to design and its key, its client or its price is missing.
    """
    if campaign.designer == "search":
        from tasks.design.search import SearchDesigner

        return SearchDesigner(campaign.seed)
    from tasks.design.model_designer import ModelDesigner

    return ModelDesigner.from_environment(campaign, store, left=left or {})
