"""research_loop: design → dispatch → wait → analyze, until the targets hold.

Owns the order of things and nothing else. It never touches frames and never imports torch: codecs run on the GPU work
pool. What happened is in the store; running the loop again folds those records and goes on from there.
"""

from __future__ import annotations

import socket
import time
from datetime import UTC, datetime
from typing import Annotated, Any

from prefect import flow, get_run_logger
from pydantic import Field

from codec.errors import EvocodecError
from flows.progress import ProgressArtifact
from flows.twins import refuse_twin
from tasks.analyze.promotion import champion
from tasks.analyze.step import analyze
from tasks.analyze.summary import artifact_key
from tasks.campaign import Batch, Campaign, CandidateRef
from tasks.design.budget import ledger, stopped_by
from tasks.design.designer import make_designer
from tasks.design.rejected import paid_for
from tasks.design.step import design
from tasks.dispatch.pending import MAX_ATTEMPTS, MAX_INTERRUPTIONS, next_batch, pending, unverified, verification_of
from tasks.dispatch.step import ANCHORS, EXPERIMENT, VERIFY, RunOutcome, dispatch, wait
from tasks.store.records import INTERRUPTED, ExperimentRecord, Kind
from tasks.store.store import Store
from tasks.store.terms import require_same_terms

# Between two tries to have a run begun: capacity comes back in seconds or in hours.
FIRST_PAUSE_SECONDS = 5.0
LONGEST_PAUSE_SECONDS = 600.0


@flow(name="research-loop", flow_run_name="{campaign.name}")
def research_loop(
    campaign: Annotated[
        Campaign, Field(title="Campaign", description="What to search, on what, and for how long.")
    ] = Campaign(),
) -> dict[str, bool | int | str]:
    """Design candidates, dispatch them to the GPU pool, wait, analyze; resume what this campaign has done before."""
    store = open_campaign(campaign)
    progress = ProgressArtifact(artifact_key("loop", campaign.name))

    progress.update(0.0, "measuring the anchors", force=True)
    measure_anchors(store, campaign)

    started = time.monotonic()
    met = False
    done = 0
    cap = ""
    for iteration in range(1, campaign.iterations + 1):
        cap = reached_cap(store, campaign, iteration)
        if cap:
            get_run_logger().warning("no iteration %d: %s", iteration, cap)
            break
        share = (iteration - 1) / campaign.iterations
        where = f"iteration {iteration} of {campaign.iterations}"
        progress.update(share, f"{where}: designing", force=True)
        refs = design(campaign, iteration)
        while batch := next_batch(pending(refs, store.experiments(campaign.name))):
            progress.update(share, f"{where}: {len(batch)} candidates on the GPU pool", force=True)
            record_lost(store, campaign, batch, on_gpu_pool(EXPERIMENT, campaign, batch))
        while batch := next_batch(unverified(refs, store.experiments(campaign.name))):
            progress.update(share, f"{where}: decoding {len(batch)} candidates again", force=True)
            outcome = on_gpu_pool(VERIFY, campaign, batch)
            record_lost(store, campaign, tuple(verification_of(ref) for ref in batch), outcome, "verification")
        met = analyze(campaign, iteration)
        done = iteration
        if met and campaign.stop_when_met:
            break
        if campaign.hours is not None and time.monotonic() - started >= campaign.hours * 3600:
            break
    if campaign.sealed:
        progress.update(1.0, "measuring the champion on the sealed clips", force=True)
        measure_sealed(store, campaign)
    store.compact(campaign.name)
    ending = "targets met" if met else f"{done} iterations done"
    progress.update(1.0, f"{ending}; {cap}" if cap else ending, force=True)
    return {"iterations": done, "met": met, "stopped_by": cap}


def reached_cap(store: Store, campaign: Campaign, iteration: int) -> str:
    """Which cap forbids to design this iteration; "" where none does. What is designed already is paid for: it runs."""
    designs = store.designs(campaign.name)
    if iteration in designs:
        return ""
    return stopped_by(campaign.budget, ledger(store.experiments(campaign.name), designs))


def measure_sealed(store: Store, campaign: Campaign) -> None:
    """The champion on the clips that nothing was ever chosen by; once."""
    best = champion(store.experiments(campaign.name))
    if best is None:
        return
    refs = [CandidateRef(experiment_id=f"{best.experiment_id}.sealed", candidate_hash=best.candidate_hash)]
    while batch := pending(refs, store.experiments(campaign.name)):
        record_lost(store, campaign, batch, on_gpu_pool(EXPERIMENT, campaign, batch, sealed=True), "control")


def on_gpu_pool(
    deployment: str, campaign: Campaign, batch: tuple[CandidateRef, ...], *, sealed: bool = False
) -> RunOutcome:
    """Have a batch worked on, and wait for it."""
    parameters = {"batch": Batch(campaign=campaign, candidates=batch, sealed=sealed).model_dump(mode="json")}
    outcome = run_begun(deployment, campaign, parameters)
    if outcome.state == "Failed":
        # A candidate's failure is a record, so this one is everybody's: the clips, the store, the harness.
        raise EvocodecError(f"the {deployment.split('/')[0]} run failed: {outcome.message}")
    return outcome


def run_begun(deployment: str, campaign: Campaign, parameters: dict[str, Any]) -> RunOutcome:
    """Dispatch and wait. A run that no machine was found for is nobody's attempt: it is dispatched again."""
    given_up = time.monotonic() + campaign.queue_timeout_seconds
    pause = FIRST_PAUSE_SECONDS
    while True:
        left = max(0.0, given_up - time.monotonic())
        outcome = wait(dispatch(deployment, parameters, campaign.name), campaign.experiment_timeout_seconds, left)
        if outcome.started or outcome.state not in ("Crashed", "Cancelled"):
            return outcome
        if time.monotonic() + pause >= given_up:
            raise EvocodecError(
                f"no {deployment.split('/')[0]} run began in {campaign.queue_timeout_seconds:.0f} s "
                f"({outcome.message}): is a worker running on its work pool, and has it capacity? "
                "Run the campaign again to resume it"
            )
        get_run_logger().warning("%s never began, again in %.0f s: %s", deployment, pause, outcome.message)
        time.sleep(pause)
        pause = min(2 * pause, LONGEST_PAUSE_SECONDS)


def open_campaign(campaign: Campaign) -> Store:
    """The store, with the campaign's terms on record. Refuses to go on under terms that make numbers incomparable."""
    store = Store.open(campaign.store, create=True)
    require_same_terms(store, campaign)
    make_designer(campaign, store)  # a key or a price that is missing is said before anything is measured
    refuse_twin(research_loop.name, campaign.name)
    store.write_campaign(campaign)
    return store


def measure_anchors(store: Store, campaign: Campaign) -> None:
    """All anchors measured, now or before. Without them no candidate can be judged, so their failure ends the loop."""
    parameters = {"campaign": campaign.model_dump(mode="json")}
    lost = 0
    for _ in range(MAX_INTERRUPTIONS):
        outcome = run_begun(ANCHORS, campaign, parameters)
        lost += not outcome.interrupted
        # A crash is the worker's; anything else would only happen again.
        if outcome.state != "Crashed" or lost == MAX_ATTEMPTS:
            break
    if not outcome.completed:
        raise EvocodecError(f"the anchors could not be measured: {outcome.message}")
    anchors = [record for record in store.experiments(campaign.name) if record.kind == "anchor"]
    measured = {record.experiment_id for record in anchors if record.status == "measured"}
    for record in anchors:
        if record.experiment_id not in measured:
            raise EvocodecError(f"the anchor {record.experiment_id} could not be measured: {record.reason}")


def record_lost(
    store: Store,
    campaign: Campaign,
    batch: tuple[CandidateRef, ...],
    outcome: RunOutcome,
    kind: Kind = "candidate",
) -> None:
    """An attempt that left no record was lost by the infrastructure, which never counts against its idea.

    The exception is `RunOutcome.lost_status`'s. The time that the run took beyond what is on record was paid for all
    the same: the attempts that were lost share it.
    """
    recorded = {(record.experiment_id, record.attempt): record for record in store.experiments(campaign.name)}
    lost = [ref for ref in batch if (ref.experiment_id, ref.attempt) not in recorded]
    of_run = (recorded.get((ref.experiment_id, ref.attempt)) for ref in batch)
    unrecorded = max(0.0, outcome.seconds - sum(record.gpu_seconds for record in of_run if record))
    now = datetime.now(UTC)
    for ref in lost:
        paid = paid_for(store, ref) if kind == "candidate" else None
        reason = f"the run on the GPU pool left no record: {outcome.state}: {outcome.message}"
        get_run_logger().warning("%s attempt %d lost: %s", ref.experiment_id, ref.attempt, reason)
        store.write_experiment(
            ExperimentRecord(
                campaign=campaign.name,
                experiment_id=ref.experiment_id,
                kind=kind,
                iteration=ref.iteration,
                attempt=ref.attempt,
                status=outcome.lost_status(len(batch), ref.lost) if kind == "candidate" else "infrastructure",
                reason=reason,
                stage=INTERRUPTED if outcome.interrupted else "dispatch",
                candidate_hash=ref.candidate_hash,
                **(paid.model_dump() if paid is not None else {}),
                host=socket.gethostname(),
                gpu_seconds=unrecorded / len(lost),
                started_at=now,
                finished_at=now,
            ),
            (),
            (),
        )
