"""What a designer is: it sees the past and proposes candidates. Which past it may see is decided here.

Running candidates is `tasks.execute`'s; keeping designs is `tasks.design.step`'s.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from datetime import timedelta
from typing import Final, Protocol

from codec.errors import BadInputError
from tasks.campaign import Campaign
from tasks.candidate import Candidate
from tasks.store.records import ExperimentRecord, PointRecord

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
        shown = campaign.model_copy(update={"select": (), "sealed": ()})
        return cls(
            shown,
            iteration,
            tuple(_shown(record) for record in experiments if record.kind in ("candidate", "anchor")),
            tuple(point for point in points if point.split == "dev"),
        )


def _shown(record: ExperimentRecord) -> ExperimentRecord:
    stages = tuple(stage for stage in record.stages if stage.name not in HIDDEN_STAGES)
    if record.kind == "anchor" or len(stages) == len(record.stages):
        return record
    seconds = sum(stage.seconds for stage in stages)
    finished = record.started_at + timedelta(seconds=seconds)
    hidden: dict[str, object] = {"stages": stages, "noise_percent": {}, "gpu_seconds": seconds, "finished_at": finished}
    return record.model_copy(update=hidden)


class Designer(Protocol):
    """Proposes candidates. Keeps nothing between calls: the past is all it knows."""

    name: str

    def propose(self, past: Past, count: int) -> list[Candidate]:
        """`count` candidates, or fewer where nothing untried is left."""
        ...


def make_designer(campaign: Campaign) -> Designer:
    """The designer a campaign asks for. Raises BadInputError, naming the known ones."""
    if campaign.designer == "search":
        from tasks.design.search import SearchDesigner

        return SearchDesigner(campaign.seed)
    raise BadInputError(f"unknown designer {campaign.designer!r}: choose search")
