"""anchors: the traditional encoders that candidates are compared with, measured by the same tasks on the same clips."""

from __future__ import annotations

from typing import Annotated, get_args

from prefect import flow
from pydantic import Field

from flows.progress import BatchProgress
from tasks.campaign import Campaign, CandidateRef
from tasks.dispatch.pending import pending
from tasks.store.records import Status
from tasks.store.store import Store
from tasks.store.terms import require_same_frames

FAILURES = tuple(status for status in get_args(Status) if status != "measured")


@flow(name="anchors", flow_run_name="{campaign.name}: anchors")
def anchors(
    campaign: Annotated[
        Campaign, Field(title="Campaign", description="Whose clips to measure the anchors on.")
    ] = Campaign(),
) -> dict[str, str]:
    """Measure each anchor that this campaign has not measured yet. Returns the status of each that was tried."""
    # Imported here for the same reason as in flows/experiment.py.
    from tasks.execute.clips import clip_set_hash, load_clip
    from tasks.execute.step import execute_anchor
    from tasks.measure.anchors import anchor_candidates
    from tasks.store.step import persist

    store = Store.open(campaign.store, create=True)
    candidates = {f"{campaign.name}-{name}": candidate for name, candidate in anchor_candidates().items()}
    refs = [
        CandidateRef(experiment_id=experiment_id, candidate_hash=candidate.candidate_hash)
        for experiment_id, candidate in candidates.items()
    ]
    missing = pending(refs, store.experiments(campaign.name), retried=FAILURES)
    if not missing:
        return {}
    clips = [load_clip(name, campaign.max_frames) for name in campaign.clips]
    require_same_frames(store.experiments(campaign.name), clip_set_hash(clips))
    progress = BatchProgress(campaign.name, [ref.experiment_id for ref in missing])
    statuses: dict[str, str] = {}
    for ref in missing:
        attempt = execute_anchor(candidates[ref.experiment_id], ref, campaign, clips, progress.of(ref.experiment_id))
        statuses[ref.experiment_id] = persist(attempt, campaign.store)
    progress.done()
    return statuses
