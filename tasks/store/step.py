"""Prefect task: keep what an experiment found."""

from __future__ import annotations

from prefect import task
from prefect.cache_policies import NO_CACHE

from tasks.execute.attempt import Attempt
from tasks.store.store import Store


@task(name="persist", task_run_name="persist {attempt.record.experiment_id}", cache_policy=NO_CACHE, retries=2)
def persist(attempt: Attempt, store_uri: str) -> str:
    """Write the bitstreams, then the rows; the experiment row comes last and commits. Returns the status."""
    store = Store.open(store_uri)
    for bitstream in attempt.bitstreams.values():
        store.put_blob(bitstream)
    store.write_experiment(attempt.record, attempt.points, attempt.scenes)
    return attempt.record.status
