"""experiment: what the GPU work pool runs. Load the clips; per candidate the cascade → persist."""

from __future__ import annotations

from typing import Annotated

from prefect import flow, get_run_logger
from pydantic import Field

from codec.errors import BadInputError, StoreError
from flows.progress import BatchProgress
from tasks.campaign import Batch
from tasks.store.store import Store
from tasks.store.terms import require_same_frames


@flow(name="experiment", flow_run_name="{batch.campaign.name}: experiment")
def experiment(
    batch: Annotated[Batch, Field(title="Batch", description="The candidates to measure, and under which terms.")],
) -> dict[str, str]:
    """Measure a batch of candidates and keep the records. Returns the status of each experiment."""
    # Imported here: the loop's process loads this module's neighbours and must never load torch or a codec.
    from tasks.execute.attempt import lost_attempt
    from tasks.execute.clips import clip_set_hash, load_clip
    from tasks.execute.forkserver import SERVER
    from tasks.execute.step import execute, execute_sealed
    from tasks.store.step import persist

    SERVER.start()  # it imports torch while this process loads the clips
    campaign = batch.campaign
    store = Store.open(campaign.store)
    progress = BatchProgress(campaign.name, [ref.experiment_id for ref in batch.candidates])
    statuses: dict[str, str] = {}
    if batch.sealed:
        for ref in batch.candidates:
            attempt = execute_sealed(ref, campaign, progress.of(ref.experiment_id))
            statuses[ref.experiment_id] = persist(attempt, campaign.store)
        return statuses
    clips = [load_clip(name, campaign.max_frames) for name in campaign.clips]
    require_same_frames(store.experiments(campaign.name), clip_set_hash(clips))
    for clip in clips:
        for warning in clip.warnings:
            get_run_logger().warning("%s: %s", clip.name, warning)
    for ref in batch.candidates:
        try:
            attempt = execute(ref, campaign, clips, progress.of(ref.experiment_id))
        except (BadInputError, StoreError):  # the clips, the limits or the store: everybody's
            raise
        except Exception as error:  # noqa: BLE001 - recorded, and the task run has its traceback
            # What nobody foresaw in one candidate must not end the campaign, at every attempt to resume it too.
            attempt = lost_attempt(ref, campaign, error)
        statuses[ref.experiment_id] = persist(attempt, campaign.store)
    progress.done()
    return statuses
