"""Prefect task: run one candidate through encode, decode and measurement."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from prefect import task
from prefect.cache_policies import NO_CACHE
from prefect.runtime import flow_run

from tasks.campaign import Campaign, CandidateRef
from tasks.candidate import Candidate
from tasks.execute.attempt import Attempt, run_attempt
from tasks.execute.clips import LoadedClip
from tasks.execute.harness import Progress


@task(name="execute", task_run_name="execute {ref.experiment_id}", cache_policy=NO_CACHE)
def execute(
    candidate: Candidate,
    ref: CandidateRef,
    campaign: Campaign,
    clips: Sequence[LoadedClip],
    on_progress: Callable[[Progress], None],
    anchor: bool = False,
) -> Attempt:
    """Encode and decode in processes of their own, measure here. A candidate's failure is a result, not an error."""
    return run_attempt(
        candidate,
        ref,
        campaign,
        clips,
        on_progress=on_progress,
        anchor=anchor,
        flow_run_id=str(flow_run.id or ""),
    )
