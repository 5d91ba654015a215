"""The insights in the ledger: what a model makes of the experiments so far, rewritten once every ten of them.

Invariants:
- the computed facts stay: insights follow them, marked as opinions, and never replace a figure;
- each line cites experiments that are on record; one that cites none, or another, is dropped, and the record of the
  rewriting says so;
- a rewriting is one request: counted, priced and kept like every other answer, and on record as kind `insights`.
Owns what a rewriting must look like, and its record. Asking for it is `tasks.design.model_designer`'s.
"""

from __future__ import annotations

import re
import socket
from collections.abc import Iterable
from dataclasses import dataclass
from datetime import UTC, datetime
from importlib.metadata import version
from typing import Final

from pydantic import BaseModel, ConfigDict, Field

from tasks.candidate import Paid
from tasks.design.answers import Answer, Tool, Unusable, read_use
from tasks.design.designer import Past
from tasks.store.records import ExperimentRecord
from tasks.store.store import Store

LEDGER_STEP: Final = 10
MAX_LINES: Final = 30
# Of one line in a record's log.
LINE_CHARACTERS: Final = 200


class Insight(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)

    insight: str = Field(
        min_length=1, max_length=600, description="One sentence or two that help whoever designs next."
    )
    experiments: tuple[str, ...] = Field(description="Ids of the experiments that show it; at least one.")


class Rewriting(BaseModel):
    """The input of the tool that rewrites the ledger."""

    model_config = ConfigDict(extra="forbid")

    lines: tuple[Insight, ...] = Field(
        max_length=MAX_LINES, description="The whole ledger, the most useful line first."
    )


REWRITE: Final = Tool(
    "rewrite_ledger",
    "Replace the insights in the ledger. Use it exactly once, where the request asks for it.",
    Rewriting.model_json_schema(),
)


@dataclass(frozen=True)
class Insights:
    """What holds of a rewriting after `count` experiments, and what was `dropped` from it, with the reason."""

    count: int
    lines: tuple[Insight, ...] = ()
    dropped: tuple[str, ...] = ()
    problem: str = ""


def settled(past: Past) -> int:
    """How many experiments the ledger is of: all full tens."""
    tried = {record.experiment_id for record in past.experiments if record.kind == "candidate"}
    return len(tried) // LEDGER_STEP * LEDGER_STEP


def insights_id(campaign: str, count: int) -> str:
    return f"{campaign}-insights-{count:04d}"


def read_insights(answer: Answer, past: Past, count: int) -> Insights:
    """What of an answer may stand in the ledger."""
    if not answer.complete:
        return Insights(count, problem=f"the answer never came whole: {answer.error}")
    try:
        lines = read_use(answer, REWRITE.name, Rewriting).lines
    except Unusable as error:
        return Insights(count, problem=str(error))
    known = _known(past, count)
    problems = [(line, _problem(line, known, past.campaign.name)) for line in lines]
    return Insights(
        count,
        tuple(line for line, problem in problems if not problem),
        tuple(f"{problem}: {_line(line.insight)}" for line, problem in problems if problem),
    )


def record_insights(store: Store, past: Past, insights: Insights, designer: str, paid: Paid) -> None:
    """Once: a design that is resumed after a kill comes here again."""
    experiment_id = insights_id(past.campaign.name, insights.count)
    if any(record.experiment_id == experiment_id for record in store.experiments(past.campaign.name)):
        return
    now = datetime.now(UTC)
    nothing = insights.problem or f"all {len(insights.dropped)} lines were dropped"
    store.write_experiment(
        ExperimentRecord(
            campaign=past.campaign.name,
            experiment_id=experiment_id,
            kind="insights",
            iteration=past.iteration,
            status="measured" if insights.lines else "rejected",
            reason="" if insights.lines else nothing,
            stage="design",
            designer=designer,
            hypothesis=f"{len(insights.lines)} lines of {insights.count} experiments, {len(insights.dropped)} dropped",
            log="\n".join(f"dropped, {line}" for line in insights.dropped),
            **paid.model_dump(),
            harness_version=version("evocodec"),
            host=socket.gethostname(),
            started_at=now,
            finished_at=now,
        ),
        (),
        (),
    )


def _known(past: Past, count: int) -> set[str]:
    """What the writer was shown: an id that came into being later was made up when it was cited."""
    tried = sorted({(row.iteration, row.experiment_id) for row in past.experiments if row.kind == "candidate"})
    anchors = {row.experiment_id for row in past.experiments if row.kind == "anchor"}
    return anchors | {experiment_id for _, experiment_id in tried[:count]}


def _problem(line: Insight, known: Iterable[str], campaign: str) -> str:
    """Why a line may not stand, "" where it may. An id in its text is a citation too."""
    if not line.experiments:
        return "it cites no experiment"
    named = re.findall(rf"{re.escape(campaign)}-\d{{3,}}-\d+", line.insight)
    unknown = sorted({*line.experiments, *named} - set(known))
    return f"it cites {', '.join(map(_line, unknown))}, which is not on record" if unknown else ""


def _line(text: str) -> str:
    return " ".join(text.split())[:LINE_CHARACTERS]
