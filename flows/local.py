"""The embedded default: a Prefect server, two process pools, the deployments and the workers on one machine.

Owns their starting and stopping. Invariants:
- everything listens on loopback and stops with the lab: on success, on error, on Ctrl-C, and when the lab is killed;
- keys reach only whom they are for: model keys the `cpu` worker (it designs), cloud keys those with a cloud store;
- one lab per home folder (its SQLite database has one server).
"""

from __future__ import annotations

import asyncio
import contextlib
import ctypes
import fcntl
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from types import TracebackType
from typing import IO, Any

import httpx

from codec.errors import BadInputError, EvocodecError

POOLS = ("cpu", "gpu")
DEPLOY_FILE = Path(__file__).resolve().parent.parent / "prefect.yaml"

# A new database takes 8-20 s to be made on two cores, and over a minute where they are busy.
SERVER_START_SECONDS = 180.0
STOP_SECONDS = 10.0

MODEL_KEYS = ("ANTHROPIC_", "OPENAI_")
CLOUD_KEYS = ("AWS_", "BOTO_")

_PR_SET_PDEATHSIG = 1


class LocalLab:
    """`with LocalLab(home) as lab:` gives a running lab; `lab.api_url` is what a Prefect client needs."""

    def __init__(
        self,
        home: Path,
        *,
        port: int | None = None,
        cloud_keys: bool = False,
        on_step: Callable[[str], None] = lambda text: None,
    ) -> None:
        self.home = home.resolve()
        self._cloud = cloud_keys
        self._on_step = on_step
        self._port = port
        self._server: subprocess.Popen[bytes] | None = None
        self._workers: dict[str, subprocess.Popen[bytes]] = {}
        self._lock: IO[bytes] | None = None
        self.api_url = ""

    @property
    def ui_url(self) -> str:
        return self.api_url.removesuffix("/api")

    def __enter__(self) -> LocalLab:
        try:
            self._start()
        except BaseException:
            self.stop()
            raise
        return self

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.stop()

    def _start(self) -> None:
        self._take_home()
        port = free_port(self._port)
        self.api_url = f"http://127.0.0.1:{port}/api"
        self._on_step("starting the Prefect server")
        self._server = self._spawn(
            "server",
            ["-m", "prefect", "server", "start", "--host", "127.0.0.1", "--port", str(port)],
            self._environment(),
        )
        self._await_server(port)
        self._on_step("creating the work pools")
        with prefect_api(self.api_url):
            asyncio.run(_create_pools(self.home.parent))
            for pool in POOLS:  # what a killed lab left behind would look as if it were running still
                asyncio.run(_crash_runs(pool))
        self._on_step("starting the workers, registering the deployments")
        for pool in POOLS:
            self._start_worker(pool)
        deploy = self._spawn("deploy", ["-m", "prefect", "--no-prompt", "deploy", "--all"], self._environment())
        if deploy.wait() != 0:
            raise EvocodecError(f"the deployments could not be registered: see {self.home / 'logs' / 'deploy.log'}")

    def _take_home(self) -> None:
        try:
            (self.home / "logs").mkdir(parents=True, exist_ok=True)
            self._lock = (self.home / "lab.lock").open("ab")
        except OSError as error:
            raise BadInputError(
                f"cannot write to {self.home}: {error.strerror}; choose another folder with --home"
            ) from error
        try:
            fcntl.flock(self._lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            raise BadInputError(
                f"a lab is already running in {self.home}: use it with --server URL, stop it, or choose another --home"
            ) from error

    def _environment(self, *, model_keys: bool = False, cloud_keys: bool = False) -> dict[str, str]:
        """The parent's environment without its keys, pointed at this lab's server and nobody else's profile."""
        withheld = (() if model_keys else MODEL_KEYS) + (() if cloud_keys else CLOUD_KEYS) + ("PREFECT_",)
        environment = {name: value for name, value in os.environ.items() if not name.startswith(withheld)}
        return environment | {
            "PREFECT_HOME": str(self.home / "prefect"),
            "PREFECT_API_URL": self.api_url,
            "PREFECT_API_DATABASE_CONNECTION_URL": f"sqlite+aiosqlite:///{self.home / 'prefect.db'}",
            "PREFECT_API_DATABASE_TIMEOUT": "60",
            "PREFECT_SERVER_ANALYTICS_ENABLED": "false",
            "PREFECT_WORKER_QUERY_SECONDS": "1",
            "PREFECT_WORKER_CANCELLATION_POLL_SECONDS": "2",
            "PREFECT_LOGGING_TO_API_WHEN_MISSING_FLOW": "ignore",
            "PREFECT_CLI_PROMPT": "false",
            "DO_NOT_TRACK": "1",
            "NO_COLOR": "1",
            "PYTHONUNBUFFERED": "1",
        }

    def _spawn(self, name: str, arguments: list[str], environment: dict[str, str]) -> subprocess.Popen[bytes]:
        with (self.home / "logs" / f"{name}.log").open("ab") as log:
            return subprocess.Popen(
                [sys.executable, *arguments],
                env=environment,
                cwd=DEPLOY_FILE.parent,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                # A session of its own: Ctrl-C in the terminal reaches the lab alone, which stops its parts in order.
                start_new_session=True,
                preexec_fn=_die_with_parent,
            )

    def _await_server(self, port: int) -> None:
        deadline = time.monotonic() + SERVER_START_SECONDS
        log = self.home / "logs" / "server.log"
        while time.monotonic() < deadline:
            if self._server is not None and self._server.poll() is not None:
                raise EvocodecError(f"the Prefect server ended with code {self._server.returncode}: see {log}")
            with contextlib.suppress(httpx.HTTPError):
                if httpx.get(f"{self.api_url}/health", timeout=1).status_code == httpx.codes.OK:
                    return
            time.sleep(0.2)
        raise EvocodecError(
            f"the Prefect server did not answer on port {port} in {SERVER_START_SECONDS:.0f} s: see {log}"
        )

    def _start_worker(self, pool: str) -> None:
        environment = self._environment(model_keys=pool == "cpu", cloud_keys=self._cloud)
        limit = "1" if pool == "gpu" else "4"  # one experiment at a time; several loops may wait side by side
        arguments = [
            "-m",
            "prefect",
            "worker",
            "start",
            "--pool",
            pool,
            "--type",
            "process",
            "--limit",
            limit,
        ]
        self._workers[pool] = self._spawn(f"worker-{pool}", arguments, environment)

    def check(self) -> list[str]:
        """Restart what has died, and give up the runs it held. Returns one line for each such event."""
        events: list[str] = []
        if self._server is not None and self._server.poll() is not None:
            raise EvocodecError(f"the Prefect server died: see {self.home / 'logs' / 'server.log'}")
        for pool, worker in list(self._workers.items()):
            if worker.poll() is None:
                continue
            # Its runs share its session and go with it: nothing is measured twice. Their candidates' processes
            # die with them (see tasks.execute.isolation).
            _signal_group(worker.pid, signal.SIGKILL)
            with prefect_api(self.api_url):
                lost = asyncio.run(_crash_runs(pool))
            self._start_worker(pool)
            events.append(f"the {pool} worker died (code {worker.returncode}); restarted, {lost} runs given up")
        return events

    def stop(self) -> None:
        """End all that was started: workers with their runs, then the server. Nothing is left behind."""
        parts = [*self._workers.values(), *([self._server] if self._server is not None else [])]
        # Candidates run in sessions of their own, which no signal to a worker's group reaches.
        below = [pid for part in parts if part.poll() is None for pid in _descendants(part.pid)]
        for worker in self._workers.values():
            _signal_group(worker.pid, signal.SIGTERM)
        for worker in self._workers.values():
            _wait(worker, STOP_SECONDS)
        if self._server is not None:
            _signal_group(self._server.pid, signal.SIGTERM)
            _wait(self._server, STOP_SECONDS)
        for part in parts:
            _signal_group(part.pid, signal.SIGKILL)
        for pid in below:
            with contextlib.suppress(ProcessLookupError, PermissionError):
                os.kill(pid, signal.SIGKILL)
        self._workers.clear()
        self._server = None
        if self._lock is not None:
            self._lock.close()
            self._lock = None


@contextlib.contextmanager
def prefect_api(api_url: str) -> Iterator[None]:
    """Point the Prefect clients made inside at one server, whatever profile the user has."""
    from prefect.settings import PREFECT_API_URL, PREFECT_CLIENT_MAX_RETRIES, temporary_settings

    # A server that has died must be noticed at the next poll, not after the client's minutes of patience.
    with temporary_settings({PREFECT_API_URL: api_url, PREFECT_CLIENT_MAX_RETRIES: 1}):
        yield


def free_port(wanted: int | None) -> int:
    """`wanted` if nothing listens there, or any free port of the loopback interface."""
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind(("127.0.0.1", wanted or 0))
        except OSError as error:
            raise BadInputError(f"port {wanted} is in use: choose another with --port") from error
        return int(probe.getsockname()[1])


async def _create_pools(working_dir: Path) -> None:
    from prefect.client.orchestration import get_client
    from prefect.client.schemas.actions import WorkPoolCreate
    from prefect.exceptions import ObjectAlreadyExists
    from prefect.workers.process import ProcessWorker

    template = ProcessWorker.get_default_base_job_template()
    properties: dict[str, Any] = template["variables"]["properties"]
    # The engine started by this very Python is a second faster than the default command, which looks for one.
    properties["command"]["default"] = f"{sys.executable} -m prefect.engine"
    properties["working_dir"]["default"] = str(working_dir)
    async with get_client() as client:
        for pool in POOLS:
            with contextlib.suppress(ObjectAlreadyExists):
                await client.create_work_pool(
                    WorkPoolCreate(name=pool, type="process", base_job_template=template), overwrite=True
                )


async def _crash_runs(pool: str) -> int:
    from prefect.client.orchestration import get_client
    from prefect.client.schemas.filters import (
        FlowRunFilter,
        FlowRunFilterState,
        FlowRunFilterStateType,
        WorkPoolFilter,
        WorkPoolFilterName,
    )
    from prefect.client.schemas.objects import StateType
    from prefect.states import Crashed

    held = FlowRunFilter(
        state=FlowRunFilterState(
            type=FlowRunFilterStateType(any_=[StateType.PENDING, StateType.RUNNING, StateType.CANCELLING])
        )
    )
    async with get_client() as client:
        runs = await client.read_flow_runs(
            flow_run_filter=held, work_pool_filter=WorkPoolFilter(name=WorkPoolFilterName(any_=[pool]))
        )
        for run in runs:
            await client.set_flow_run_state(run.id, Crashed(message="its worker died"), force=True)
    return len(runs)


def _prctl(option: int, value: int) -> None:
    if sys.platform == "linux":
        ctypes.CDLL(None, use_errno=True).prctl(option, value, 0, 0, 0)


def _die_with_parent() -> None:
    """A lab that was killed cannot stop its parts: the kernel tells them."""
    _prctl(_PR_SET_PDEATHSIG, signal.SIGTERM)


def _signal_group(group: int, number: signal.Signals) -> None:
    with contextlib.suppress(ProcessLookupError, PermissionError):
        os.killpg(group, number)


def _wait(process: subprocess.Popen[bytes], seconds: float) -> None:
    with contextlib.suppress(subprocess.TimeoutExpired):
        process.wait(seconds)


def _descendants(root: int) -> list[int]:
    """The process tree below `root` (Linux; elsewhere the sessions alone are ended)."""
    found: list[int] = []
    waiting = [root]
    while waiting:
        parent = waiting.pop()
        with contextlib.suppress(OSError):
            for thread in Path(f"/proc/{parent}/task").iterdir():
                children = [int(pid) for pid in (thread / "children").read_text().split()]
                found += children
                waiting += children
    return found
