"""Prefect tasks: send a run to a work pool, wait for it, cancel it when it is late.

The same `run_deployment` call serves a process pool on a laptop and ECS on AWS; only the pool behind the deployment
differs. Invariants:
- the same work is never in flight twice: a run that a loop before this one left behind is waited for, not repeated;
- the time in a queue is not the run's: each has a limit of its own;
- a Prefect server that does not answer for minutes costs nothing but those minutes.
"""

from __future__ import annotations

import time
from contextlib import suppress
from dataclasses import dataclass
from typing import Any, cast
from uuid import UUID, uuid4

import httpx
from prefect import get_run_logger, task
from prefect.cache_policies import NO_CACHE
from prefect.client.orchestration import SyncPrefectClient, get_client
from prefect.client.schemas.filters import (
    DeploymentFilter,
    DeploymentFilterName,
    FlowFilter,
    FlowFilterName,
    FlowRunFilter,
    FlowRunFilterState,
    FlowRunFilterStateType,
    FlowRunFilterTags,
)
from prefect.client.schemas.objects import FlowRun, StateType
from prefect.deployments import run_deployment
from prefect.exceptions import ObjectNotFound, PrefectException
from prefect.logging import get_logger
from prefect.states import Cancelled, Cancelling

from codec.errors import EvocodecError
from tasks.store.records import Status

EXPERIMENT = "experiment/evocodec"
ANCHORS = "anchors/evocodec"
VERIFY = "verify/evocodec"

POLL_SECONDS = 1.0  # SQLite locks under faster polling by several loops
CANCEL_GRACE_SECONDS = 30.0  # what a worker gets to stop a run before the run is declared cancelled over its head
# And for one that has not begun. The ECS worker leaves its task in the queue: once begun, it sees its state and ends.
QUEUED_GRACE_SECONDS = 5.0
SERVER_SILENCE_SECONDS = 1800.0  # longer than a server takes to be moved to another host

ALIVE = (StateType.SCHEDULED, StateType.PENDING, StateType.RUNNING, StateType.PAUSED)

# Prefect's words for SIGTERM, which a container gets when its instance is taken away.
TOLD_TO_STOP = "Execution was aborted by a termination signal."
# prefect-aws's observer of ECS events: what it says in the state, and in the run's log of the reason.
CONTAINER_STOPPED = "The following containers stopped with a non-zero exit code"
OBSERVER_LOG = "observer"
INTERRUPTIONS = ("Task terminated by infrastructure", "exited with code 143")
EXPLANATION_SECONDS = 10.0  # the log arrives after the state: its sender waits for more to send


@dataclass(frozen=True)
class RunOutcome:
    """How a dispatched run ended. `message` explains every outcome but `completed`.

    interrupted  it was told to stop from outside, by whoever owns the machine
    seconds      that it held a worker, as the server saw it
    """

    completed: bool
    late: bool
    state: str
    message: str
    started: bool = True
    interrupted: bool = False
    seconds: float = 0.0

    def lost_status(self, candidates: int, lost: int) -> Status:
        """What this makes of a candidate that left no record, after `lost` attempts that were lost before.

        One that had a run to itself, and did not come to an end in time again, has had its chance. Of several nobody
        knows which one it was.
        """
        alone_again = candidates == 1 and lost > 0
        return "timeout" if self.late and self.started and alone_again else "infrastructure"


@task(name="dispatch", task_run_name="dispatch {deployment}", cache_policy=NO_CACHE)
def dispatch(deployment: str, parameters: dict[str, Any], campaign: str) -> UUID:
    """Create a run of `deployment` on its work pool, without waiting. Returns the flow run's id.

    A run that does this very work already, left behind by a loop that was killed, is returned instead.
    """
    tags = ["evocodec", f"campaign:{campaign}"]
    with get_client(sync_client=True) as client:
        left_behind = _in_flight(client, deployment, parameters, tags)
    if left_behind is not None:
        get_run_logger().info("%s is in flight already as run %s", deployment, left_behind.name)
        return left_behind.id
    try:
        # Typed for async callers too; called from a plain function it returns the run itself. The key is for a request
        # whose answer gets lost: the client sends it again, and would have made a second run.
        run = run_deployment(deployment, parameters=parameters, timeout=0, tags=tags, idempotency_key=str(uuid4()))
    except ObjectNotFound as error:
        raise EvocodecError(f"there is no deployment {deployment!r} on this server: run `evocodec deploy`") from error
    flow_run = cast(FlowRun, run)
    get_run_logger().info("dispatched %s as run %s", deployment, flow_run.name)
    return flow_run.id


def _in_flight(
    client: SyncPrefectClient, deployment: str, parameters: dict[str, Any], tags: list[str]
) -> FlowRun | None:
    flow_name, deployment_name = deployment.split("/")
    runs = client.read_flow_runs(
        flow_filter=FlowFilter(name=FlowFilterName(any_=[flow_name])),
        deployment_filter=DeploymentFilter(name=DeploymentFilterName(any_=[deployment_name])),
        flow_run_filter=FlowRunFilter(
            tags=FlowRunFilterTags(all_=tags),
            state=FlowRunFilterState(type=FlowRunFilterStateType(any_=list(ALIVE))),
        ),
    )
    return next((run for run in runs if _work(run.parameters) == _work(parameters)), None)


def _work(parameters: dict[str, Any]) -> tuple[Any, ...]:
    """What a run does, by its parameters; what may change between two runs of a campaign is left out."""
    batch = parameters.get("batch") or {}
    campaign = batch.get("campaign") or parameters.get("campaign") or {}
    candidates = [(ref["experiment_id"], ref["attempt"]) for ref in batch.get("candidates", ())]
    return campaign.get("name"), campaign.get("store"), candidates, batch.get("sealed", False)


@task(name="wait", cache_policy=NO_CACHE)
def wait(flow_run_id: UUID, timeout_seconds: float, queue_seconds: float) -> RunOutcome:
    """Wait until the run is over; cancel it when it is late, or when this wait is itself stopped.

    It may be `queue_seconds` in the queue and then take `timeout_seconds`. Raises EvocodecError where the Prefect
    server does not answer any more.
    """
    with get_client(sync_client=True) as client:
        try:
            return _follow(client, flow_run_id, timeout_seconds, queue_seconds)
        except BaseException:
            # The loop was cancelled: its batch must not go on using a GPU that nobody waits for.
            with suppress(httpx.HTTPError, PrefectException):
                client.set_flow_run_state(flow_run_id, Cancelling())
            raise


def _follow(client: SyncPrefectClient, flow_run_id: UUID, timeout_seconds: float, queue_seconds: float) -> RunOutcome:
    begun = False
    heard = time.monotonic()
    deadline = heard + queue_seconds
    while True:
        run = _read(client, flow_run_id)
        if run is not None:
            heard = time.monotonic()
            if run.state is not None and run.state.is_final():
                return _outcome(client, run)
            if not begun and _has_begun(run):
                begun, deadline = True, heard + timeout_seconds
            if heard >= deadline:
                return _cancel_late(client, flow_run_id, timeout_seconds if begun else queue_seconds, begun=begun)
        elif time.monotonic() - heard >= SERVER_SILENCE_SECONDS:
            raise EvocodecError(
                f"the Prefect server at {client.api_url} has not answered for {SERVER_SILENCE_SECONDS:.0f} s: bring it "
                "back and run the campaign again, which resumes it"
            )
        time.sleep(POLL_SECONDS)


def _read(client: SyncPrefectClient, flow_run_id: UUID) -> FlowRun | None:
    """None while the server does not answer."""
    try:
        return client.read_flow_run(flow_run_id)
    except httpx.HTTPError as error:
        get_logger("evocodec").warning("the Prefect server does not answer: %s", error)
        return None


def _has_begun(run: FlowRun) -> bool:
    """By its count: Prefect gives a start time to what ended in the queue, too."""
    return run.run_count > 0


def _outcome(client: SyncPrefectClient, run: FlowRun) -> RunOutcome:
    assert run.state is not None
    message = run.state.message or ""
    if message.startswith(CONTAINER_STOPPED):
        message = _explanation(client, run.id) or message
    return RunOutcome(
        completed=run.state.is_completed(),
        late=False,
        state=run.state.name or run.state.type.value,
        message=message,
        started=_has_begun(run),
        interrupted=run.state.is_crashed() and any(words in message for words in (TOLD_TO_STOP, *INTERRUPTIONS)),
        seconds=run.total_run_time.total_seconds(),
    )


def _explanation(client: SyncPrefectClient, flow_run_id: UUID) -> str:
    """What the observer of ECS events wrote about the container's end into the run's log; "" where nothing comes."""
    wanted = {"logs": {"flow_run_id": {"any_": [str(flow_run_id)]}}, "sort": "TIMESTAMP_DESC", "limit": 50}
    deadline = time.monotonic() + EXPLANATION_SECONDS
    while time.monotonic() < deadline:
        with suppress(httpx.HTTPError):
            for log in client.request("POST", "/logs/filter", json=wanted).json():
                if log["name"].endswith(OBSERVER_LOG):
                    return str(log["message"])
        time.sleep(POLL_SECONDS)
    return ""


def _cancel_late(client: SyncPrefectClient, flow_run_id: UUID, seconds: float, *, begun: bool) -> RunOutcome:
    client.set_flow_run_state(flow_run_id, Cancelling())
    grace = time.monotonic() + (CANCEL_GRACE_SECONDS if begun else QUEUED_GRACE_SECONDS)
    while (run := _read(client, flow_run_id)) is None or run.state is None or not run.state.is_final():
        if time.monotonic() >= grace:
            client.set_flow_run_state(flow_run_id, Cancelled(), force=True)
            break
        time.sleep(POLL_SECONDS)
    what = "not finished" if begun else "no worker took it"
    message = f"cancelled: {what} after {seconds:.0f} s"
    return RunOutcome(False, True, "Cancelled", message, started=begun, seconds=seconds if begun else 0.0)
