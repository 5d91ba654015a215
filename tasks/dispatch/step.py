"""Prefect tasks: send a run to a work pool, wait for it, cancel it when it is late.

The same `run_deployment` call serves a process pool on a laptop and ECS on AWS; only the pool behind the deployment
differs.
"""

from __future__ import annotations

import time
from dataclasses import dataclass
from typing import Any, cast
from uuid import UUID

from prefect import get_run_logger, task
from prefect.cache_policies import NO_CACHE
from prefect.client.orchestration import SyncPrefectClient, get_client
from prefect.client.schemas.objects import FlowRun
from prefect.deployments import run_deployment
from prefect.exceptions import ObjectNotFound
from prefect.states import Cancelled, Cancelling

from codec.errors import EvocodecError
from tasks.store.records import Status

EXPERIMENT = "experiment/evocodec"
ANCHORS = "anchors/evocodec"
VERIFY = "verify/evocodec"

POLL_SECONDS = 1.0  # SQLite locks under faster polling by several loops
CANCEL_GRACE_SECONDS = 30.0  # what a worker gets to stop a run before the run is declared cancelled over its head


@dataclass(frozen=True)
class RunOutcome:
    """How a dispatched run ended. `message` explains every outcome but `completed`."""

    completed: bool
    late: bool
    state: str
    message: str
    started: bool = True

    def lost_status(self, candidates: int, attempt: int) -> Status:
        """What this makes of a candidate that left no record.

        One that had a run to itself, and did not come to an end in time again, has had its chance. Of several nobody
        knows which one it was, and a first time may have been spent in a queue.
        """
        alone_again = candidates == 1 and attempt > 1
        return "timeout" if self.late and self.started and alone_again else "infrastructure"


@task(name="dispatch", task_run_name="dispatch {deployment}", cache_policy=NO_CACHE)
def dispatch(deployment: str, parameters: dict[str, Any], campaign: str) -> UUID:
    """Create a run of `deployment` on its work pool, without waiting. Returns the flow run's id."""
    try:
        # Typed for async callers too; called from a plain function it returns the run itself.
        run = run_deployment(deployment, parameters=parameters, timeout=0, tags=["evocodec", f"campaign:{campaign}"])
    except ObjectNotFound as error:
        raise EvocodecError(
            f"there is no deployment {deployment!r} on this server: run `prefect deploy --all`"
        ) from error
    flow_run = cast(FlowRun, run)
    get_run_logger().info("dispatched %s as run %s", deployment, flow_run.name)
    return flow_run.id


@task(name="wait", cache_policy=NO_CACHE)
def wait(flow_run_id: UUID, timeout_seconds: float) -> RunOutcome:
    """Wait until the run is over; cancel it when it is late, or when this wait is itself stopped."""
    deadline = time.monotonic() + timeout_seconds
    with get_client(sync_client=True) as client:
        try:
            while (outcome := _read(client, flow_run_id, late=False)) is None:
                if time.monotonic() >= deadline:
                    return _cancel_late(client, flow_run_id, timeout_seconds)
                time.sleep(POLL_SECONDS)
        except BaseException:
            # The loop was cancelled: its batch must not go on using a GPU that nobody waits for.
            client.set_flow_run_state(flow_run_id, Cancelling())
            raise
        return outcome


def _read(client: SyncPrefectClient, flow_run_id: UUID, *, late: bool) -> RunOutcome | None:
    state = client.read_flow_run(flow_run_id).state
    if state is None or not state.is_final():
        return None
    return RunOutcome(state.is_completed(), late, state.name or state.type.value, state.message or "")


def _cancel_late(client: SyncPrefectClient, flow_run_id: UUID, timeout_seconds: float) -> RunOutcome:
    run = client.read_flow_run(flow_run_id)
    never_started = run.start_time is None
    client.set_flow_run_state(flow_run_id, Cancelling())
    grace = time.monotonic() + CANCEL_GRACE_SECONDS
    while _read(client, flow_run_id, late=True) is None:
        if time.monotonic() >= grace:
            client.set_flow_run_state(flow_run_id, Cancelled(), force=True)
            break
        time.sleep(POLL_SECONDS)
    message = f"cancelled: not finished after {timeout_seconds:.0f} s"
    if never_started:
        message += "; no worker took it: is one running on its work pool?"
    return RunOutcome(False, True, "Cancelled", message, started=not never_started)
