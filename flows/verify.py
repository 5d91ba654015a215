"""verify: decode a batch of measured candidates again from their kept bytes, in a run of its own on the GPU pool."""

from __future__ import annotations

from typing import Annotated

from prefect import flow
from pydantic import Field

from flows.progress import BatchProgress
from tasks.campaign import Batch


@flow(name="verify", flow_run_name="{batch.campaign.name}: verify")
def verify(
    batch: Annotated[Batch, Field(title="Batch", description="The measured candidates to decode again.")],
) -> dict[str, str]:
    """Returns the verdict on each: "measured", or "cheat" where its bytes decode to anything else now."""
    # Imported here for the same reason as in flows/experiment.py.
    from tasks.execute.step import verify_one
    from tasks.store.step import persist_verification

    campaign = batch.campaign
    progress = BatchProgress(campaign.name, [ref.experiment_id for ref in batch.candidates])
    verdicts: dict[str, str] = {}
    for ref in batch.candidates:
        record = verify_one(ref, campaign, progress.of(ref.experiment_id))
        verdicts[ref.experiment_id] = persist_verification(record, ref.experiment_id, campaign.store)
    progress.done()
    return verdicts
