"""Start a campaign's flow run on a server and follow it to its end: what `evocodec run` shows while it waits."""

from __future__ import annotations

import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from typing import Any, cast

import httpx
from prefect.client.orchestration import SyncPrefectClient, get_client
from prefect.client.schemas.filters import ArtifactFilter, ArtifactFilterKey
from prefect.client.schemas.objects import FlowRun, State
from prefect.deployments import run_deployment
from prefect.exceptions import ObjectNotFound, PrefectException, PrefectHTTPStatusError
from prefect.states import Cancelled, Cancelling
from rich.console import Console
from rich.progress import BarColumn, Progress, SpinnerColumn, TextColumn, TimeElapsedColumn
from rich.text import Text

from codec.errors import EvocodecError
from tasks.analyze.summary import artifact_key
from tasks.campaign import Campaign
from tasks.store.records import VERIFIED, ExperimentRecord
from tasks.store.store import Store

LOOP = "research-loop/evocodec"
POLL_SECONDS = 1.0
LOST_SECONDS = 600.0  # of silence, after which a server is taken for dead; a restart takes minutes


@dataclass(frozen=True)
class LoopOutcome:
    completed: bool
    message: str


def run_campaign(
    campaign: Campaign,
    console: Console,
    *,
    check: Callable[[], list[str]] = lambda: [],
    stop_at_once: bool = False,
) -> LoopOutcome:
    """Run `campaign` through its deployment and show its progress until it is over.

    `check` is called at every poll and returns lines to show. When interrupted, the run is cancelled: over the head of
    its worker if `stop_at_once` (the caller ends the workers), else by asking the worker.
    """
    with get_client(sync_client=True) as client:
        flow_run = _create(campaign)
        try:
            return _follow(client, flow_run, campaign, console, check)
        except BaseException:
            state: State[Any] = Cancelled(message="interrupted") if stop_at_once else Cancelling(message="interrupted")
            # Where the server has died there is nothing to cancel, and the first error is the one to tell.
            with suppress(httpx.HTTPError, PrefectException):
                client.set_flow_run_state(flow_run.id, state, force=stop_at_once)
            raise


def _create(campaign: Campaign) -> FlowRun:
    try:
        # Typed for async callers too; called from a plain function it returns the run itself.
        flow_run = run_deployment(
            LOOP,
            parameters={"campaign": campaign.model_dump(mode="json")},
            timeout=0,
            as_subflow=False,
            tags=["evocodec", f"campaign:{campaign.name}"],
        )
        return cast(FlowRun, flow_run)
    except ObjectNotFound as error:
        raise EvocodecError(f"the server has no deployment {LOOP!r}: run `evocodec deploy` against it") from error
    except PrefectHTTPStatusError as error:
        if error.response.status_code != httpx.codes.CONFLICT:
            raise
        raise EvocodecError(
            f"the server's deployment {LOOP!r} is of another version: run `evocodec deploy` against it"
        ) from error


def _follow(
    client: SyncPrefectClient,
    flow_run: FlowRun,
    campaign: Campaign,
    console: Console,
    check: Callable[[], list[str]],
) -> LoopOutcome:
    columns = (SpinnerColumn(), TextColumn("{task.description}", markup=False), BarColumn(), TimeElapsedColumn())
    keys = {kind: artifact_key(kind, campaign.name) for kind in ("loop", "experiment")}
    store = Store.open(campaign.store, create=True)
    shown = {_identity(record) for record in store.experiments(campaign.name)}
    with Progress(*columns, console=console, transient=True, disable=not console.is_terminal) as progress:
        lost_since: float | None = None
        bars = {kind: progress.add_task(kind, total=100.0) for kind in keys}
        while True:
            for line in check():
                console.print(line, style="yellow", markup=False)
            for kind, key in keys.items():
                percent, text = _progress(client, key, flow_run)
                progress.update(bars[kind], completed=percent, description=f"{kind:<10} {text}")
            for record in store.experiments(campaign.name):
                if _identity(record) not in shown:
                    shown.add(_identity(record))
                    console.print(_line(record))
            state = _state(client, flow_run)
            if state is not None:
                lost_since = None
                if state.is_final():
                    return LoopOutcome(state.is_completed(), state.message or state.name or "")
            else:
                lost_since = lost_since or time.monotonic()
                if time.monotonic() - lost_since > LOST_SECONDS:
                    raise EvocodecError(f"the Prefect server at {client.api_url} does not answer any more")
            time.sleep(POLL_SECONDS)


def _state(client: SyncPrefectClient, flow_run: FlowRun) -> State[Any] | None:
    """None while the server does not answer."""
    try:
        return client.read_flow_run(flow_run.id).state
    except httpx.HTTPError:
        return None


def _progress(client: SyncPrefectClient, key: str, since: FlowRun) -> tuple[float, str]:
    filters = ArtifactFilter(key=ArtifactFilterKey(any_=[key]))
    try:
        artifacts = client.request(
            "POST",
            "/artifacts/latest/filter",
            json={"artifacts": filters.model_dump(mode="json"), "limit": 1},
        ).json()
    except httpx.HTTPError:
        return 0.0, "the server does not answer"
    if not artifacts or artifacts[0]["created"] < (since.created.isoformat() if since.created else ""):
        return 0.0, "waiting for a worker"
    return float(artifacts[0]["data"]), str(artifacts[0]["description"])


def _identity(record: ExperimentRecord) -> tuple[str, int]:
    return record.experiment_id, record.attempt


def _line(record: ExperimentRecord) -> Text:
    """One finished experiment. Text and not markup: candidates write hypotheses and errors."""
    measured = record.status == "measured"
    status, what = str(record.status), record.reason
    if measured and record.kind == "verification":
        status, what = "verified", "its bytes decode to the same frames in another run"
    elif measured and record.kind == "insights":
        status, what = "written", record.hypothesis
    elif measured and record.kind == "control":
        what = record.stages[-1].note if record.stages else "measured for comparison"
    elif measured:
        what = record.hypothesis or record.config_json
    what = "".join(char if char.isprintable() else " " for char in what)  # a terminal obeys control characters
    line = Text(status, style="green" if measured else "red")
    name = record.experiment_id.removesuffix(VERIFIED)
    return line.append(f" {name} in {record.gpu_seconds:.0f} s: {what}", style="default")
