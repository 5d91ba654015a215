"""What a designer is: it sees the past and proposes candidates. Which past it may see is decided here.

Running candidates is `tasks.execute`'s; keeping designs is `tasks.design.step`'s.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

from codec.errors import BadInputError
from tasks.campaign import Campaign
from tasks.candidate import Candidate
from tasks.store.records import ExperimentRecord, PointRecord


@dataclass(frozen=True)
class Past:
    """What has happened in a campaign before `iteration`, anchors included."""

    campaign: Campaign
    iteration: int
    experiments: tuple[ExperimentRecord, ...]
    points: tuple[PointRecord, ...]


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
