"""Prefect tasks: keep what an experiment or a verification found."""

from __future__ import annotations

from prefect import task
from prefect.cache_policies import NO_CACHE

from tasks.execute.attempt import Attempt
from tasks.store.records import ExperimentRecord
from tasks.store.store import Store

# What was measured took minutes of a GPU: it outlasts a store that is out of order for as long.
RETRY_SECONDS = [5.0, 30.0, 120.0]


@task(
    name="persist",
    task_run_name="persist {attempt.record.experiment_id}",
    cache_policy=NO_CACHE,
    retries=len(RETRY_SECONDS),
    retry_delay_seconds=RETRY_SECONDS,
)
def persist(attempt: Attempt, store_uri: str) -> str:
    """Write blobs and controls, then the rows; the experiment row comes last and commits. Returns the status."""
    store = Store.open(store_uri)
    on_record = {(record.experiment_id, record.attempt) for record in store.experiments(attempt.record.campaign)}
    for part in (*attempt.controls, attempt):
        if (part.record.experiment_id, part.record.attempt) in on_record:
            continue  # this is a retry, and it was written before the failure
        for blob in (*part.bitstreams.values(), *([part.weights] if part.weights else [])):
            store.put_blob(blob)
        store.write_experiment(part.record, part.points, part.scenes)
    return attempt.record.status


@task(
    name="persist verification",
    cache_policy=NO_CACHE,
    retries=len(RETRY_SECONDS),
    retry_delay_seconds=RETRY_SECONDS,
)
def persist_verification(record: ExperimentRecord, experiment_id: str, store_uri: str) -> str:
    """Write the verification of that experiment; a cheat quarantines the experiment first. Returns the status."""
    store = Store.open(store_uri)
    records = store.experiments(record.campaign)
    if record.status == "cheat":
        latest = max(
            (known for known in records if known.experiment_id == experiment_id), key=lambda known: known.attempt
        )
        if latest.status != "cheat":
            # Records are never changed: the verdict is the experiment's last attempt, which is the one that counts.
            update = {"experiment_id": experiment_id, "kind": latest.kind, "attempt": latest.attempt + 1}
            store.write_experiment(record.model_copy(update=update), (), ())
    if (record.experiment_id, record.attempt) not in {(known.experiment_id, known.attempt) for known in records}:
        store.write_experiment(record, (), ())
    return record.status
