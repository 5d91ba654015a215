"""Candidates' processes without a candidate's share of start-up: one process imports torch, and forks one per job.

Owns starting that process, the request to fork, and the end of what it forked. What a forked process is given, how it
is watched and what its answer means is `tasks.execute.isolation`'s; what it then does is `tasks.execute.child`'s.

    this process ──request: folder, environment, descriptors──> fork server ──fork──> job: bounds itself, sandbox, work
                 <──process id, descriptor of the process────

Importing torch costs 1.5 s of processor time, forking 10 ms. It is the same isolation as a fresh interpreter's, because
the server is trusted code that never sees a job: nothing of one job can reach the next through it. Invariants:
- the server has one thread, a replaced environment, no clip, no key, and no descriptor but its end of one socket;
- a job's process lives in a session of its own and dies with the server, and the server with this process;
- a process that has ended keeps its number until it is reaped here, so a kill can never hit another.
"""

from __future__ import annotations

import atexit
import contextlib
import fcntl
import gc
import importlib
import json
import os
import select
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import threading
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO, Final

# All that the environment of a job holds, beside the folders of its own scratch space. One thread each: rate points
# run side by side, and results must not depend on how many cores a machine has.
ENVIRONMENT: Final = {
    "PATH": "/usr/local/bin:/usr/bin:/bin",
    "LANG": "C.UTF-8",
    "OMP_NUM_THREADS": "1",
    "MKL_NUM_THREADS": "1",
    "OPENBLAS_NUM_THREADS": "1",
}
# The one name taken over from this process: a device list is no secret, and a user who hid a GPU meant it.
INHERITED: Final = "CUDA_VISIBLE_DEVICES"
# What nearly every candidate imports. Importing must start no thread and touch no GPU: neither survives a fork.
PRELOADED: Final = ("torch", "numpy", "av", "cv2", "codec.encoding_agent", "codec.decoding_agent", "codec.complexity")
# Importing all that, and priming the models that pack streams, takes 4 s on an idle core; a cold disk or a busy machine
# takes many times that.
START_SECONDS: Final = 120.0
END_SECONDS: Final = 10.0
PROCESS_NAME: Final = "candidate"
MAX_MESSAGE_BYTES: Final = 64 * 1024
MAX_DESCRIPTORS: Final = 8
# Above every number that a job's own descriptors get, so that putting them in place overwrites none.
SPARE_DESCRIPTOR: Final = 64


@dataclass(frozen=True)
class End:
    """How a process ended. `exit_code` is minus the number of the signal that ended it, where one did."""

    exit_code: int
    peak_rss_kb: int


_Answer = int | str | list[int]  # a process id, an error, an End


def environment() -> dict[str, str]:
    """What the server and every job are told of this machine."""
    inherited = {INHERITED: os.environ[INHERITED]} if INHERITED in os.environ else {}
    return ENVIRONMENT | inherited


class ForkServer:
    """Start with `fork`; any number of threads may use one. Ends with the process that made it, at the latest."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._process: subprocess.Popen[bytes] | None = None
        self._socket: socket.socket | None = None
        self._errors: BinaryIO | None = None

    def start(self) -> None:
        """Begin importing now, where it has not begun: the first job then waits less."""
        with self._lock:
            if self._socket is None:
                self._socket = self._start()

    def fork(self, folder: Path, environment: Mapping[str, str], descriptors: Sequence[int]) -> Forked:
        """A process that runs `tasks.execute.child`, with `descriptors` as its 0, 1, 2 and so on, and no others.

        It starts in `folder`, whose parent is the job's scratch space and goes with the job if this process is killed.

        Starts the server where there is none yet or it has died. Raises OSError with the server's last words.
        """
        message = json.dumps({"folder": str(folder), "environment": dict(environment)}).encode()
        with self._lock:
            answer, descriptor = self._ask(message, descriptors)
            if not isinstance(answer, int):
                raise OSError(answer)
            return Forked(self, answer, descriptor)

    def reap(self, pid: int) -> End | None:
        """Kill the group of a forked process and wait for it. None where its server ended before, which killed it."""
        with self._lock:
            if self._socket is None:
                return None
            try:
                answer, _ = self._exchange(self._socket, json.dumps({"reap": pid}).encode(), ())
            except OSError:
                self._stop()
                return None
            return End(*answer) if isinstance(answer, list) else None

    def stop(self) -> None:
        """End the server and all that it forked."""
        with self._lock:
            self._stop()

    def _ask(self, message: bytes, descriptors: Sequence[int]) -> tuple[_Answer, int | None]:
        if self._socket is not None:
            with contextlib.suppress(OSError):
                return self._exchange(self._socket, message, descriptors)
            self._stop()
        self._socket = self._start()
        try:
            return self._exchange(self._socket, message, descriptors)
        except OSError as error:
            words = self._last_words()
            self._stop()
            raise OSError(words or f"the fork server does not answer: {error}") from error

    def _exchange(
        self, connection: socket.socket, message: bytes, descriptors: Sequence[int]
    ) -> tuple[_Answer, int | None]:
        socket.send_fds(connection, [message], list(descriptors))
        data, received, _, _ = socket.recv_fds(connection, MAX_MESSAGE_BYTES, 1)
        if not data:
            raise ConnectionError("it has ended")
        answer: _Answer = json.loads(data)
        return answer, received[0] if received else None

    def _start(self) -> socket.socket:
        # Packets keep their borders, so neither side has to frame anything.
        ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        ours.settimeout(START_SECONDS)
        self._errors = tempfile.TemporaryFile()  # noqa: SIM115 - lives as long as the server
        with theirs:
            self._process = subprocess.Popen(
                [sys.executable, "-I", "-B", "-u", "-m", __name__, str(theirs.fileno())],
                stdin=subprocess.DEVNULL,
                stdout=self._errors,
                stderr=self._errors,
                pass_fds=(theirs.fileno(),),
                cwd="/",
                env=environment(),
                start_new_session=True,  # Ctrl-C is for this process alone; the server ends after it
            )
        return ours

    def _last_words(self) -> str:
        if self._errors is None:
            return ""
        self._errors.seek(0)
        lines = self._errors.read().decode(errors="replace").split("\n")
        return next((line.strip() for line in reversed(lines) if line.strip()), "")

    def _stop(self) -> None:
        if self._socket is not None:
            self._socket.close()  # which the server takes for the order to end
            self._socket = None
        if self._process is not None:
            try:
                self._process.wait(END_SECONDS)
            except subprocess.TimeoutExpired:
                self._process.kill()
                self._process.wait()
            self._process = None
        if self._errors is not None:
            self._errors.close()
            self._errors = None


class Forked:
    """A forked process. `descriptor` is readable once it has ended; None where the system has no such thing."""

    def __init__(self, server: ForkServer, pid: int, descriptor: int | None) -> None:
        self.pid = pid
        self.descriptor = descriptor
        self._server = server

    def has_ended(self, *, otherwise: bool) -> bool:
        """Whether it has ended; `otherwise` where the system cannot tell of a process that is not a child."""
        if self.descriptor is None:
            return otherwise
        poll = select.poll()
        poll.register(self.descriptor, select.POLLIN)
        return bool(poll.poll(0))

    def end(self) -> End | None:
        """Kill its whole group, also after a normal end: it may have left children behind. Then as `reap`. Once."""
        if self.descriptor is not None:
            os.close(self.descriptor)
            self.descriptor = None
        return self._server.reap(self.pid)


# One for the whole process: what is forked differs by job, the server never.
SERVER: Final = ForkServer()
atexit.register(SERVER.stop)


def serve(connection: socket.socket) -> None:
    """Answer requests until the other side is gone. Returns only in a forked process, made ready for its job."""
    for name in PRELOADED:
        importlib.import_module(name)
    importlib.import_module("codec.strategies.packing").prime_all()
    gc.collect()
    gc.freeze()  # a collection in a job's process would copy all these pages
    folders: dict[int, Path] = {}  # of the processes that have not been reaped
    while True:
        message, descriptors, _, _ = socket.recv_fds(connection, MAX_MESSAGE_BYTES, MAX_DESCRIPTORS)
        if not message:
            _end_all(folders)
            os._exit(0)
        request = json.loads(message)
        if "reap" in request:
            connection.send(json.dumps(_reap(int(request["reap"]), folders)).encode())
            continue
        try:
            pid = os.fork()
        except OSError as error:
            connection.send(json.dumps(f"no process could be forked: {error.strerror}").encode())
            pid = -1
        if pid == 0:
            _become_job(descriptors, request["folder"], request["environment"])
            return
        for descriptor in descriptors:
            os.close(descriptor)
        if pid > 0:
            folders[pid] = Path(request["folder"]).parent
            _send_process(connection, pid)


def _end_all(folders: Mapping[int, Path]) -> None:
    """The other side has ended, perhaps killed: what it would have cleared away is cleared away here."""
    for pid, folder in folders.items():
        _kill_group(pid)
        os.waitpid(pid, 0)
        shutil.rmtree(folder, ignore_errors=True)


def _reap(pid: int, folders: dict[int, Path]) -> _Answer:
    if pid not in folders:
        return "another server's"
    _kill_group(pid)
    _, status, usage = os.wait4(pid, 0)
    del folders[pid]
    return [os.waitstatus_to_exitcode(status), usage.ru_maxrss]


def _send_process(connection: socket.socket, pid: int) -> None:
    answer = json.dumps(pid).encode()
    if not hasattr(os, "pidfd_open"):
        connection.send(answer)
        return
    descriptor = os.pidfd_open(pid)
    socket.send_fds(connection, [answer], [descriptor])
    os.close(descriptor)


def _become_job(descriptors: Sequence[int], folder: str, environment: Mapping[str, str]) -> None:
    """In the forked process: its own session, descriptors, folder and environment, and nothing of the server's."""
    os.setsid()
    spare = [fcntl.fcntl(descriptor, fcntl.F_DUPFD, SPARE_DESCRIPTOR) for descriptor in descriptors]
    for number, descriptor in enumerate(spare):
        os.dup2(descriptor, number)
    os.closerange(len(descriptors), os.sysconf("SC_OPEN_MAX"))
    os.chdir(folder)
    for name in set(os.environ) - set(environment):
        del os.environ[name]
    os.environ.update(environment)
    tempfile.tempdir = None
    with contextlib.suppress(OSError):  # only so that `ps` and `top` can tell it from the server
        Path("/proc/self/comm").write_text(PROCESS_NAME)
    # Python's own generator is seeded anew by the fork, numpy's is not: two jobs would draw the same numbers.
    importlib.import_module("numpy").random.seed()


def _kill_group(pid: int) -> None:
    """It may not have come to leading a group yet, or may have left a group behind that outlives it."""
    for kill in (os.killpg, os.kill):
        with contextlib.suppress(ProcessLookupError, PermissionError):  # macOS refuses for a group of zombies
            kill(pid, signal.SIGKILL)


def _schedule_ordinarily() -> None:
    """A real-time priority is inherited: two jobs that never pause would starve the thread that is to stop them."""
    if hasattr(os, "sched_setscheduler"):  # not on macOS; an ordinary process may always do this
        os.sched_setscheduler(0, os.SCHED_OTHER, os.sched_param(0))


def main() -> None:
    server_pid = os.getpid()
    _schedule_ordinarily()
    serve(socket.socket(fileno=int(sys.argv[1])))
    # A job's process from here on. It runs the candidate as this program's main thread, so that an exit, an uncaught
    # error or a signal ends it as it would any Python program.
    from tasks.execute import child

    child.main(server_pid)


if __name__ == "__main__":
    main()
