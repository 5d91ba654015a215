"""The same loop on ECS: a campaign end to end, and every way in which the machine below it can go.

Real: the Prefect server, prefect-aws's ECS worker with its observer of events, the flows, boto3, the store on S3's API.
Stood in for: AWS by moto, the ECS agent by agent.py, EventBridge by that agent's messages.
"""

from __future__ import annotations

import subprocess
import sys
import threading
import time
from collections import Counter
from typing import Any
from uuid import UUID

import pytest
from cloud import BUCKET, STACK, Cloud, within
from prefect.client.orchestration import get_client
from prefect.client.schemas.objects import FlowRun
from prefect.states import Cancelling
from running import EVOCODEC

from flows.local import prefect_api
from tasks.campaign import Campaign
from tasks.dispatch.step import RunOutcome, dispatch, wait
from tasks.store.store import Store

pytestmark = pytest.mark.slow

STORE = f"s3://{BUCKET}/store"
MINUTES = 300.0  # a limit that only something that hangs reaches
# What a killed worker's last request takes from the queue comes back after the 5 minutes of its visibility timeout.
LONG_POLL_SECONDS = 21.0
LONG_FRAMES = 96  # so many take the anchors longer than that
RUN_LOOP = """
import sys
from flows.loop import research_loop
from tasks.campaign import Campaign
research_loop(Campaign.model_validate_json(sys.argv[1]))
"""


@pytest.fixture(autouse=True)
def keys(cloud: Cloud, monkeypatch: pytest.MonkeyPatch) -> None:
    """This process reads the store and talks to the server as a person at a desk does."""
    for name, value in cloud.environment().items():
        if name.startswith(("AWS_", "PREFECT_")):
            monkeypatch.setenv(name, value)


def campaign(name: str, max_frames: int = 6, **changes: Any) -> Campaign:
    return Campaign(name=name, store=STORE, iterations=1, candidates=1, max_frames=max_frames, **changes)


class Anchors:
    """A run of the anchors, the cheapest work that a GPU task does, waited for as the loop waits."""

    def __init__(
        self, cloud: Cloud, name: str, *, seconds: float = MINUTES, queue: float = MINUTES, frames: int = 6
    ) -> None:
        self._cloud = cloud
        self._outcome: RunOutcome | None = None
        terms = campaign(name, frames).model_dump(mode="json")
        with prefect_api(cloud.api_url):
            self.id: UUID = dispatch("anchors/evocodec", {"campaign": terms}, name)
        self._thread = threading.Thread(target=self._wait, args=(seconds, queue), daemon=True)
        self._thread.start()

    def _wait(self, seconds: float, queue: float) -> None:
        with prefect_api(self._cloud.api_url):
            self._outcome = wait.fn(self.id, seconds, queue)

    def read(self) -> FlowRun:
        with prefect_api(self._cloud.api_url), get_client(sync_client=True) as client:
            return client.read_flow_run(self.id)

    def begun(self) -> None:
        within(120, lambda: self.read().run_count, "the run begins")
        assert len(self._cloud.running()) == 1

    def outcome(self) -> RunOutcome:
        self._thread.join(MINUTES)
        assert self._outcome is not None
        return self._outcome


def test_a_campaign_completes_and_its_records_are_on_s3(cloud: Cloud) -> None:
    before = len(cloud.tasks())
    command = [EVOCODEC, "run", "--server", cloud.api_url, "--store", STORE, "--campaign", "cloud"]
    small = ["--iterations", "2", "--candidates", "1", "--max-frames", "6", "--home", cloud.folder / "home"]
    done = subprocess.run(
        [*command, *small], env=cloud.environment(), capture_output=True, text=True, timeout=2 * MINUTES
    )
    assert done.returncode == 0, done.stderr + done.stdout
    records = Store.open(STORE).experiments("cloud")
    assert Counter(record.kind for record in records) == {"anchor": 2, "candidate": 2, "verification": 2}
    assert {record.status for record in records} == {"measured"}
    report = (cloud.folder / "home" / "report-cloud.html").read_text()
    assert "cloud-002-1" in report

    tasks = cloud.tasks()[before:]
    assert len(tasks) == 5  # the anchors, and an experiment and a verification in each iteration
    assert {task["exit_code"] for task in tasks} == {0}
    for task in tasks:
        names = set(task["environment"])
        assert not {name for name in names if name.startswith(("AWS_ACCESS", "AWS_SECRET", "ANTHROPIC", "OPENAI"))}
        assert not {name for name in names if "DATABASE" in name or "API_KEY" in name}
        assert task["environment"]["AWS_REGION"] == "us-east-1"


def test_all_runs_use_one_task_definition_with_a_gpu(cloud: Cloud) -> None:
    if not cloud.tasks():
        Anchors(cloud, "definition").outcome()
    ecs = cloud.client("ecs")
    [arn] = ecs.list_task_definitions(familyPrefix=f"{STACK}-gpu")["taskDefinitionArns"]
    definition = ecs.describe_task_definition(taskDefinition=arn)["taskDefinition"]
    [container] = definition["containerDefinitions"]
    assert container["resourceRequirements"] == [{"type": "GPU", "value": "1"}]
    assert (container["stopTimeout"], container["readonlyRootFilesystem"]) == (120, True)
    assert container["linuxParameters"]["capabilities"]["drop"] == ["ALL"]
    assert container["linuxParameters"]["sharedMemorySize"] == 2048
    assert container["logConfiguration"]["options"]["awslogs-group"] == f"/{STACK}/gpu"
    assert definition["networkMode"] == "awsvpc"


@pytest.mark.parametrize(
    ("order", "interrupted", "words"),
    [
        ("/spot", True, "code 143"),
        ("/host", True, "terminated by infrastructure"),
        ("/kill", False, "code 137"),
    ],
)
def test_the_end_of_a_container_is_seen_and_told_apart(cloud: Cloud, order: str, interrupted: bool, words: str) -> None:
    anchors = Anchors(cloud, order.strip("/"))
    anchors.begun()
    ordered = time.monotonic()
    cloud.order(order)
    outcome = anchors.outcome()
    assert time.monotonic() - ordered < 60  # a spot instance has 120 s
    assert cloud.all_over()
    assert (outcome.state, outcome.started, outcome.interrupted) == ("Crashed", True, interrupted), outcome
    assert words.lower() in outcome.message.lower()


def test_interruptions_do_not_count_and_nothing_is_lost_or_measured_twice(cloud: Cloud) -> None:
    """More interruptions than a candidate may be lost; and one that dies with the anchors."""
    before = len(cloud.tasks())
    loop = subprocess.Popen(
        [sys.executable, "-c", RUN_LOOP, campaign("hunted").model_dump_json()],
        env=cloud.environment(),
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )
    try:
        store = Store.open(STORE)
        hunted = 0
        while loop.poll() is None and hunted < 5:
            anchors = sum(record.kind == "anchor" for record in store.experiments("hunted"))
            wanted = hunted == 0 or anchors == 2  # the anchors once, then the experiment
            if wanted and cloud.running() and _working(cloud, "hunted"):
                cloud.order("/spot" if hunted % 2 == 0 else "/host")
                hunted += 1
                within(60, cloud.all_over, "the interrupted task ends")
            time.sleep(0.5)
        out, _ = loop.communicate(timeout=MINUTES)
    finally:
        loop.kill()
    assert loop.returncode == 0, out
    records = store.experiments("hunted")
    lost = [record for record in records if record.status == "infrastructure"]
    measured = [record for record in records if record.status == "measured"]
    assert hunted == 5
    assert len(lost) == 4
    assert all(record.interrupted for record in lost)
    assert Counter(record.kind for record in measured) == {"anchor": 2, "candidate": 1, "verification": 1}
    assert len(cloud.tasks()) - before == 2 + 5 + 1
    assert sum(record.usd for record in lost) == 0


def _working(cloud: Cloud, name: str) -> bool:
    from prefect.client.schemas.filters import FlowRunFilter, FlowRunFilterTags

    tags = FlowRunFilterTags(all_=[f"campaign:{name}"])
    with prefect_api(cloud.api_url), get_client(sync_client=True) as client:
        runs = client.read_flow_runs(flow_run_filter=FlowRunFilter(tags=tags))
    return any(run.state is not None and run.state.is_running() for run in runs)


def test_the_queue_has_a_limit_and_does_not_eat_the_time_of_the_run(cloud: Cloud) -> None:
    cloud.order("/capacity/none")
    try:
        queued = len(cloud.tasks())
        refused = Anchors(cloud, "refused")
        within(60, lambda: len(cloud.tasks()) == queued + 1, "a task is there")
        cloud.order("/place/fail")
        outcome = refused.outcome()
        assert (outcome.state, outcome.started) == ("Crashed", False)
        assert "could not place the task" in outcome.message

        given_up = Anchors(cloud, "starved", queue=10)
        outcome = given_up.outcome()
        assert (outcome.state, outcome.late, outcome.started) == ("Cancelled", True, False)
        assert outcome.message == "cancelled: no worker took it after 10 s"
        given_up_task = cloud.tasks()[-1]["arn"]  # prefect-aws leaves it queued

        patient = Anchors(cloud, "patient", seconds=120, queue=MINUTES)
        time.sleep(10)
    finally:
        cloud.order("/capacity/some")
    assert patient.outcome().completed
    within(60, cloud.all_over, "a task that is begun for a run that was given up ends")
    [task] = [task for task in cloud.tasks() if task["arn"] == given_up_task]
    assert task["exit_code"] == 0
    assert Store.open(STORE).experiments("starved") == []


def test_a_campaign_without_capacity_stops_and_says_so(cloud: Cloud) -> None:
    cloud.order("/capacity/none")
    try:
        starving = campaign("starving", queue_timeout_seconds=10).model_dump_json()
        done = subprocess.run(
            [sys.executable, "-c", RUN_LOOP, starving],
            env=cloud.environment(),
            capture_output=True,
            text=True,
            timeout=MINUTES,
        )
    finally:
        cloud.order("/capacity/some")
    assert done.returncode != 0
    assert "no anchors run began in 10 s" in done.stderr
    assert Store.open(STORE).experiments("starving") == []
    within(120, cloud.all_over, "its task ends")


def test_what_is_cancelled_stops(cloud: Cloud) -> None:
    anchors = Anchors(cloud, "unwanted")
    anchors.begun()
    with prefect_api(cloud.api_url), get_client(sync_client=True) as client:
        client.set_flow_run_state(anchors.id, Cancelling())
    assert anchors.outcome().state == "Cancelled"
    within(60, cloud.all_over, "the task of a cancelled run ends")


def test_a_late_run_stops(cloud: Cloud) -> None:
    anchors = Anchors(cloud, "late", seconds=2)
    outcome = anchors.outcome()
    assert (outcome.state, outcome.late, outcome.started) == ("Cancelled", True, True)
    within(60, cloud.all_over, "the task of a late run ends")


def test_a_loop_that_comes_back_waits_for_the_run_that_is_in_flight(cloud: Cloud) -> None:
    anchors = Anchors(cloud, "orphan")
    again = Anchors(cloud, "orphan")
    assert again.id == anchors.id
    assert anchors.outcome().completed
    assert again.outcome().completed


def test_a_worker_that_restarts_costs_nothing(cloud: Cloud) -> None:
    """The task goes on without it; what ended while it was away is in the queue when it comes back."""
    kept = Anchors(cloud, "kept")
    kept.begun()
    cloud.kill("worker-gpu")
    assert kept.outcome().completed
    cloud.start_worker("gpu", "ecs")
    killed = Anchors(cloud, "killed", frames=LONG_FRAMES)
    killed.begun()
    cloud.kill("worker-gpu")
    time.sleep(LONG_POLL_SECONDS)
    cloud.order("/kill")
    within(30, cloud.all_over, "the container is dead")
    assert killed.read().state_name == "Running"
    cloud.start_worker("gpu", "ecs")
    assert killed.outcome().state == "Crashed"


def test_a_server_that_restarts_costs_nothing(cloud: Cloud) -> None:
    anchors = Anchors(cloud, "patience")
    anchors.begun()
    cloud.kill("server")
    time.sleep(20)
    assert not cloud.answers()
    cloud.start_server()
    assert anchors.outcome().completed
    measured = [record for record in Store.open(STORE).experiments("patience") if record.status == "measured"]
    assert len(measured) == 2
