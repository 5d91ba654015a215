"""Prefect tasks of the GPU pool: measure a candidate or an anchor, verify what was measured."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from prefect import task
from prefect.cache_policies import NO_CACHE
from prefect.runtime import flow_run

from tasks.campaign import Campaign, CandidateRef
from tasks.candidate import Candidate
from tasks.execute.attempt import Attempt, measure_anchor, measure_sealed, run_attempt
from tasks.execute.clips import LoadedClip
from tasks.execute.harness import Progress
from tasks.execute.known import known_of
from tasks.execute.verification import run_verification
from tasks.store.records import ExperimentRecord
from tasks.store.store import Store


@task(name="execute", task_run_name="execute {ref.experiment_id}", cache_policy=NO_CACHE)
def execute(
    ref: CandidateRef,
    campaign: Campaign,
    clips: Sequence[LoadedClip],
    on_progress: Callable[[Progress], None],
) -> Attempt:
    """Put one candidate through the cascade. Its failure is a result, not an error."""
    store = Store.open(campaign.store)
    candidate = Candidate.from_json_bytes(store.get_blob(ref.candidate_hash))
    known = known_of(store, campaign.name, candidate.track)
    return run_attempt(
        candidate, ref, campaign, clips, known=known, on_progress=on_progress, flow_run_id=str(flow_run.id or "")
    )


@task(name="execute sealed", task_run_name="execute {ref.experiment_id}", cache_policy=NO_CACHE)
def execute_sealed(ref: CandidateRef, campaign: Campaign, on_progress: Callable[[Progress], None]) -> Attempt:
    """Measure the champion on the sealed clips."""
    store = Store.open(campaign.store)
    candidate = Candidate.from_json_bytes(store.get_blob(ref.candidate_hash))
    measured = next(
        record
        for record in store.experiments(campaign.name)
        if record.candidate_hash == ref.candidate_hash and record.status == "measured"
    )
    weights = store.get_blob(measured.weights_hash) if measured.weights_hash else b""
    return measure_sealed(
        candidate, ref, campaign, weights, on_progress=on_progress, flow_run_id=str(flow_run.id or "")
    )


@task(name="execute anchor", task_run_name="execute {ref.experiment_id}", cache_policy=NO_CACHE)
def execute_anchor(
    candidate: Candidate,
    ref: CandidateRef,
    campaign: Campaign,
    clips: Sequence[LoadedClip],
    on_progress: Callable[[Progress], None],
) -> Attempt:
    """Measure one traditional encoder."""
    return measure_anchor(candidate, ref, campaign, clips, on_progress=on_progress, flow_run_id=str(flow_run.id or ""))


@task(name="verify", task_run_name="verify {ref.experiment_id}", cache_policy=NO_CACHE)
def verify_one(ref: CandidateRef, campaign: Campaign, on_progress: Callable[[Progress], None]) -> ExperimentRecord:
    """Decode one candidate's kept bytes again. What it finds is a record, not an error."""
    store = Store.open(campaign.store)
    return run_verification(ref, campaign, store, on_progress=on_progress, flow_run_id=str(flow_run.id or ""))
