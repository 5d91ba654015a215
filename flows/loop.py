"""research_loop: design → dispatch → wait → analyze, until the targets hold.

Owns the order of things and nothing else. It never touches frames and never imports torch: codecs run on the GPU work
pool. What happened is in the store; running the loop again folds those records and goes on from there.
"""

from __future__ import annotations

import socket
from datetime import UTC, datetime
from typing import Annotated

from prefect import flow, get_run_logger
from pydantic import Field

from codec.errors import BadInputError, EvocodecError
from flows.progress import ProgressArtifact
from tasks.analyze.step import analyze
from tasks.analyze.summary import artifact_key
from tasks.campaign import Batch, Campaign, CandidateRef
from tasks.design.step import design
from tasks.dispatch.pending import MAX_ATTEMPTS, pending
from tasks.dispatch.step import ANCHORS, EXPERIMENT, RunOutcome, dispatch, wait
from tasks.store.records import ExperimentRecord
from tasks.store.store import Store

# What may change when a campaign is taken up again; anything else would mix numbers that cannot be compared.
MAY_CHANGE = {
    "iterations",
    "candidates",
    "stop_when_met",
    "experiment_timeout_seconds",
    "store",
    "targets",
    "designer",
}


@flow(name="research-loop", flow_run_name="{campaign.name}")
def research_loop(
    campaign: Annotated[
        Campaign, Field(title="Campaign", description="What to search, on what, and for how long.")
    ] = Campaign(),
) -> dict[str, bool | int]:
    """Design candidates, dispatch them to the GPU pool, wait, analyze; resume what this campaign has done before."""
    store = open_campaign(campaign)
    progress = ProgressArtifact(artifact_key("loop", campaign.name))

    progress.update(0.0, "measuring the anchors", force=True)
    measure_anchors(store, campaign)

    met = False
    iteration = 0
    for iteration in range(1, campaign.iterations + 1):
        share = (iteration - 1) / campaign.iterations
        progress.update(share, f"iteration {iteration} of {campaign.iterations}: designing", force=True)
        refs = design(campaign, iteration)
        while batch := pending(refs, store.experiments(campaign.name)):
            progress.update(
                share,
                f"iteration {iteration} of {campaign.iterations}: {len(batch)} candidates on the GPU pool",
                force=True,
            )
            parameters = {"batch": Batch(campaign=campaign, candidates=batch).model_dump(mode="json")}
            outcome = wait(dispatch(EXPERIMENT, parameters, campaign.name), campaign.experiment_timeout_seconds)
            record_lost(store, campaign, batch, outcome)
            if outcome.state == "Failed":
                # A candidate's failure is a record, so this one is everybody's: the clips, the store, the harness.
                raise EvocodecError(f"the experiment run failed: {outcome.message}")
        met = analyze(campaign, iteration)
        if met and campaign.stop_when_met:
            break
    store.compact(campaign.name)
    progress.update(1.0, "targets met" if met else f"{iteration} iterations done", force=True)
    return {"iterations": iteration, "met": met}


def open_campaign(campaign: Campaign) -> Store:
    """The store, with the campaign's terms on record. Refuses to go on under terms that make numbers incomparable."""
    store = Store.open(campaign.store, create=True)
    before = store.read_campaign(campaign.name)
    if before is not None:
        changed = [
            name
            for name in type(campaign).model_fields
            if name not in MAY_CHANGE and getattr(before, name) != getattr(campaign, name)
        ]
        if changed:
            raise BadInputError(
                f"campaign {campaign.name!r} was begun with other {', '.join(changed)}: "
                "use the same, or give this one another name"
            )
    store.write_campaign(campaign)
    return store


def measure_anchors(store: Store, campaign: Campaign) -> None:
    """All anchors measured, now or before. Without them no candidate can be judged, so their failure ends the loop."""
    parameters = {"campaign": campaign.model_dump(mode="json")}
    for _ in range(MAX_ATTEMPTS):
        outcome = wait(dispatch(ANCHORS, parameters, campaign.name), campaign.experiment_timeout_seconds)
        if outcome.state != "Crashed":  # a crash is the worker's; anything else would only happen again
            break
    if not outcome.completed:
        raise EvocodecError(f"the anchors could not be measured: {outcome.message}")
    anchors = [record for record in store.experiments(campaign.name) if record.kind == "anchor"]
    measured = {record.experiment_id for record in anchors if record.status == "measured"}
    for record in anchors:
        if record.experiment_id not in measured:
            raise EvocodecError(f"the anchor {record.experiment_id} could not be measured: {record.reason}")


def record_lost(store: Store, campaign: Campaign, batch: tuple[CandidateRef, ...], outcome: RunOutcome) -> None:
    """An attempt that left no record was lost by the infrastructure; that never counts against its idea."""
    recorded = {(record.experiment_id, record.attempt) for record in store.experiments(campaign.name)}
    now = datetime.now(UTC)
    for ref in batch:
        if (ref.experiment_id, ref.attempt) in recorded:
            continue
        reason = f"the run on the GPU pool left no record: {outcome.state}: {outcome.message}"
        get_run_logger().warning("%s attempt %d lost: %s", ref.experiment_id, ref.attempt, reason)
        store.write_experiment(
            ExperimentRecord(
                campaign=campaign.name,
                experiment_id=ref.experiment_id,
                iteration=ref.iteration,
                attempt=ref.attempt,
                status="infrastructure",
                reason=reason,
                stage="dispatch",
                candidate_hash=ref.candidate_hash,
                host=socket.gethostname(),
                started_at=now,
                finished_at=now,
            ),
            (),
            (),
        )
