"""A stand-in for ECS on EC2: moto's AWS in this process, and an agent that runs ECS tasks as local processes.

Like the real agent it starts a task's command with the task's environment and nothing else, hands out the task role's
credentials on an address of its own, stops a container by SIGTERM to its main process and SIGKILL to all of it after
the container's stopTimeout, and each change of state becomes an EventBridge message in the events queue. What it has
not: images (the command runs from this Python), cgroups, a read-only root, the network of a VPC, a GPU, IAM.

`python agent.py` prints one line of JSON: {"aws": the endpoint of AWS, "orders": the address of the control below}.
What tasks print is in ./tasks.

    POST /capacity/none     tasks stay PROVISIONING, as while an instance is sought      POST /capacity/some
    POST /place/fail        tasks in PROVISIONING end as `TaskFailedToStart`
    POST /spot              the interruption notice: SIGTERM, stopTimeout, SIGKILL
    POST /host              the instance is gone at once; its containers leave no exit code
    POST /kill              SIGKILL for the running containers, as by the kernel out of memory: exit code 137
    GET  /tasks             [{arn, status, pid, started, exit_code, reason, environment}, …]
"""

from __future__ import annotations

import ctypes
import json
import os
import signal
import subprocess
import sys
import threading
import time
import uuid
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

ACCOUNT = "123456789012"
REGION = "us-east-1"
QUEUE = "evocodec-ecs-events"
POLL_SECONDS = 0.1
NEVER = 10**9
DEFAULT_STOP_TIMEOUT = 30.0
PR_SET_CHILD_SUBREAPER = 36


@dataclass
class Running:
    """One task as the agent sees it."""

    task: Any  # moto's
    container: Mapping[str, Any]  # of its definition
    environment: dict[str, str] = field(default_factory=dict)
    process: subprocess.Popen[bytes] | None = None
    kill_at: float = float("inf")
    stop_code: str = "EssentialContainerExited"
    reason: str = "Essential container in task exited"
    lost_with_host: bool = False
    exit_code: int | None = None
    done: bool = False


class Agent:
    def __init__(self, endpoint: str) -> None:
        from moto.ecs.models import ecs_backends

        self._endpoint = endpoint
        self._backend = ecs_backends[ACCOUNT][REGION]
        self._tasks: dict[str, Running] = {}
        self._capacity = True
        self._lock = threading.Lock()
        self._folder = Path.cwd() / "tasks"
        self._folder.mkdir()
        self.credentials_uri = ""

    # What a task is

    def poll(self) -> None:
        """Bring every task one step on: start it, stop it, report its end."""
        with self._lock:
            for cluster in list(self._backend.clusters):
                self._have_room(cluster)
            for tasks in list(self._backend.tasks.values()):
                for task in list(tasks.values()):
                    if task.task_arn not in self._tasks:
                        self._tasks[task.task_arn] = self._seen(task)
            for running in self._tasks.values():
                if not running.done:
                    self._step(running)
            self._reap_orphans()

    def _have_room(self, cluster: str) -> None:
        """On its instances always: moto refuses what does not fit, where a capacity provider lets it wait."""
        for instance in list(self._backend.container_instances.get(cluster, {}).values()):
            for resource in instance.remaining_resources:
                resource["integerValue"] = NEVER

    def _seen(self, task: Any) -> Running:
        definition = self._backend.describe_task_definition(task.task_definition_arn)
        running = Running(task, definition.container_definitions[0])
        self._report(running, "PROVISIONING")
        return running

    def _step(self, running: Running) -> None:
        task = running.task
        asked_to_stop = task.desired_status == "STOPPED"
        if running.process is None:
            if asked_to_stop:
                self._end(running, "UserInitiated", task.stopped_reason)
            elif self._capacity:
                self._start(running)
            return
        code = running.process.poll()
        if code is not None:
            running.exit_code = None if running.lost_with_host else (128 - code if code < 0 else code)
            self._end(running, running.stop_code, running.reason)
        elif asked_to_stop and running.kill_at == float("inf"):
            self._terminate(running, "UserInitiated", task.stopped_reason)
        elif time.monotonic() >= running.kill_at:
            kill_tree(running.process.pid)

    def _start(self, running: Running) -> None:
        (override,) = running.task.overrides["containerOverrides"]
        declared = [*running.container.get("environment", []), *override.get("environment", [])]
        running.environment = {
            # The image's own. A task's credentials and its way to AWS are the agent's to give.
            "PATH": f"{Path(sys.executable).parent}:/usr/bin:/bin",
            "AWS_CONTAINER_CREDENTIALS_FULL_URI": self.credentials_uri,
            "AWS_ENDPOINT_URL": self._endpoint,
            **{item["name"]: item["value"] for item in declared},
        }
        working_directory = self._folder / str(running.task.id)
        working_directory.mkdir()
        with working_directory.with_suffix(".log").open("wb") as log:
            running.process = subprocess.Popen(
                override["command"],
                executable=sys.executable if override["command"][0] == "python" else None,
                env=running.environment,
                cwd=working_directory,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )
        self._report(running, "RUNNING")

    def _terminate(self, running: Running, stop_code: str, reason: str) -> None:
        """To the main process alone, as an init in the container passes it on."""
        assert running.process is not None
        running.stop_code, running.reason = stop_code, reason
        running.kill_at = time.monotonic() + float(running.container.get("stopTimeout") or DEFAULT_STOP_TIMEOUT)
        os.kill(running.process.pid, signal.SIGTERM)

    def _end(self, running: Running, stop_code: str, reason: str) -> None:
        running.done = True
        running.stop_code, running.reason = stop_code, reason
        running.task.desired_status = "STOPPED"
        running.task.stopped_reason = reason
        self._report(running, "STOPPED")

    def _report(self, running: Running, status: str) -> None:
        """The task's new state in AWS's eyes, and the event that EventBridge makes of it."""
        task = running.task
        task.last_status = status
        container: dict[str, Any] = {"name": running.container["name"], "lastStatus": status, "taskArn": task.task_arn}
        if running.exit_code is not None:
            container["exitCode"] = running.exit_code
        never_ran = status == "STOPPED" and running.process is None
        detail = {
            "clusterArn": task.cluster_arn,
            "taskArn": task.task_arn,
            "taskDefinitionArn": task.task_definition_arn,
            "lastStatus": status,
            "desiredStatus": task.desired_status,
            "containers": [] if never_ran and running.stop_code == "TaskFailedToStart" else [container],
        }
        if status == "STOPPED":
            detail |= {"stopCode": running.stop_code, "stoppedReason": running.reason}
        event = {
            "version": "0",
            "id": str(uuid.uuid4()),
            "detail-type": "ECS Task State Change",
            "source": "aws.ecs",
            "account": ACCOUNT,
            "time": datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%SZ"),
            "region": REGION,
            "resources": [task.task_arn],
            "detail": detail,
        }
        self._send(event)

    def _send(self, event: dict[str, Any]) -> None:
        from moto.sqs.models import sqs_backends

        sqs_backends[ACCOUNT][REGION].send_message(QUEUE, json.dumps(event))

    def _reap_orphans(self) -> None:
        """A container's other processes end with its main one."""
        mains = {running.process.pid for running in self._tasks.values() if running.process is not None}
        for pid in children(os.getpid()):
            if pid not in mains:
                kill_tree(pid)
                try:
                    os.waitpid(pid, os.WNOHANG)
                except ChildProcessError:
                    continue

    # What a test orders

    def order(self, path: str) -> None:
        with self._lock:
            if path in ("/capacity/none", "/capacity/some"):
                self._capacity = path.endswith("some")
                return
            for running in self._tasks.values():
                if running.done:
                    continue
                if running.process is None:
                    if path == "/place/fail":
                        self._end(running, "TaskFailedToStart", "RESOURCE:GPU: no instance could be had in time")
                elif path == "/spot":
                    self._terminate(running, "SpotInterruption", "Your Spot Task was interrupted.")
                elif path == "/host":
                    running.lost_with_host = True
                    running.stop_code, running.reason = "TerminationNotice", "Host EC2 (instance i-0) terminated."
                    kill_tree(running.process.pid)
                elif path == "/kill":
                    running.reason = "OutOfMemoryError: Container killed due to memory usage"
                    kill_tree(running.process.pid)

    def tasks(self) -> list[dict[str, Any]]:
        with self._lock:
            return [
                {
                    "arn": arn,
                    "status": running.task.last_status,
                    "pid": running.process.pid if running.process is not None else None,
                    "exit_code": running.exit_code,
                    "reason": running.reason if running.done else "",
                    "environment": running.environment,
                }
                for arn, running in self._tasks.items()
            ]

    def stop(self) -> None:
        for pid in children(os.getpid()):
            kill_tree(pid)


def children(pid: int) -> list[int]:
    found: list[int] = []
    for thread in Path(f"/proc/{pid}/task").glob("*/children"):
        try:
            found += [int(child) for child in thread.read_text().split()]
        except OSError:
            continue
    return found


def kill_tree(pid: int) -> None:
    below = children(pid)
    try:
        os.kill(pid, signal.SIGKILL)
    except ProcessLookupError:
        return
    for child in below:
        kill_tree(child)


def serve_orders(agent: Agent) -> str:
    """The control address; it is also where tasks find their role's credentials."""

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            if self.path == "/tasks":
                self._answer(agent.tasks())
                return
            until = (datetime.now(UTC) + timedelta(hours=6)).strftime("%Y-%m-%dT%H:%M:%SZ")
            self._answer({"AccessKeyId": "role", "SecretAccessKey": "role", "Token": "role", "Expiration": until})

        def do_POST(self) -> None:
            agent.order(self.path)
            self._answer({})

        def _answer(self, value: object) -> None:
            body = json.dumps(value).encode()
            self.send_response(200)
            self.send_header("Content-Type", "application/json")
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, format: str, *args: Any) -> None:
            return

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    return f"http://127.0.0.1:{server.server_address[1]}"


def main() -> None:
    from moto.moto_api import state_manager
    from moto.server import ThreadedMotoServer

    ctypes.CDLL(None).prctl(PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0)
    stopped = threading.Event()
    signal.signal(signal.SIGTERM, lambda number, frame: stopped.set())
    # A described task would move on by itself.
    state_manager.set_transition("ecs::task", {"progression": "manual", "times": NEVER})
    aws = ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
    aws.start()
    host, port = aws.get_host_and_port()
    agent = Agent(f"http://{host}:{port}")
    orders = serve_orders(agent)
    agent.credentials_uri = f"{orders}/credentials"
    sys.stdout.write(json.dumps({"aws": f"http://{host}:{port}", "orders": orders}) + "\n")
    sys.stdout.flush()
    while not stopped.wait(POLL_SECONDS):
        agent.poll()
    agent.stop()
    aws.stop()


if __name__ == "__main__":
    main()
