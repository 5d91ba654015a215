"""One loop a campaign: a later one gives way to an earlier one that lives.

Owns telling a loop that runs from one whose process is gone. A process that was killed together with its worker, or
with its machine, can tell the server nothing, and its run stays Running for ever. Its heartbeats end, though; they are
switched on in prefect.yaml.
"""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Final
from uuid import UUID

from prefect import get_run_logger
from prefect.client.orchestration import SyncPrefectClient, get_client
from prefect.client.schemas.filters import (
    FlowFilter,
    FlowFilterName,
    FlowRunFilter,
    FlowRunFilterState,
    FlowRunFilterStateType,
)
from prefect.client.schemas.objects import FlowRun, State, StateType
from prefect.events.filters import EventFilter, EventNameFilter, EventResourceFilter
from prefect.runtime import flow_run
from prefect.states import Crashed

from codec.errors import BadInputError
from tasks.campaign import Campaign

HEARTBEAT: Final = "prefect.flow-run.heartbeat"
# Ten beats: a server that restarts, or a network that is down for a minute, is no death.
SILENCE_SECONDS: Final = 300.0


def refuse_twin(flow_name: str, campaign: str) -> None:
    """Two loops on one campaign would design and measure everything twice: raises BadInputError in the later one.

    A run that has sent heartbeats and sends none any more is marked Crashed and stands in nobody's way.
    """
    own = flow_run.id
    with get_client(sync_client=True) as client:
        mine = client.read_flow_run(UUID(own)) if own else None
        running = FlowRunFilter(state=FlowRunFilterState(type=FlowRunFilterStateType(any_=[StateType.RUNNING])))
        loops = client.read_flow_runs(
            flow_filter=FlowFilter(name=FlowFilterName(any_=[flow_name])), flow_run_filter=running
        )
        for other in loops:
            theirs = (other.parameters.get("campaign") or {}).get("name", Campaign().name)
            if mine is None or theirs != campaign or other.id == mine.id or _began(other) > _began(mine):
                continue
            silent = _silent_seconds(client, other)
            if silent is None or silent <= SILENCE_SECONDS:
                raise BadInputError(
                    f"campaign {campaign!r} is running already as {other.name!r} ({other.id}): wait for it or cancel "
                    f"it; one that was killed stands in the way for {SILENCE_SECONDS / 60:g} minutes"
                )
            get_run_logger().warning("run %r (%s) has died: no heartbeat for %.0f s", other.name, other.id, silent)
            died: State[object] = Crashed(message=f"its process is gone: no heartbeat for {silent:.0f} s")
            client.set_flow_run_state(other.id, died, force=True)


def _began(run: FlowRun) -> tuple[datetime, str]:
    return run.start_time or datetime.max.replace(tzinfo=UTC), str(run.id)


def _silent_seconds(client: SyncPrefectClient, run: FlowRun) -> float | None:
    """Since the last heartbeat; None where it never sent one, so that nothing follows from its silence."""
    resource = EventResourceFilter(id=[f"prefect.flow-run.{run.id}"])
    beats = client.read_events(EventFilter(event=EventNameFilter(name=[HEARTBEAT]), resource=resource), limit=1)
    if not beats.events:
        return None
    return (datetime.now(UTC) - beats.events[0].occurred).total_seconds()
