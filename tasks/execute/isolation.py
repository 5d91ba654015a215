"""Where a candidate's code runs: the one interface, and behind it the strict sandbox and plain process separation.

Owns starting, bounding, watching and ending one child process per job. What runs inside, and the framing of job
and answer, is `tasks.execute.child`'s; what an answer means is `tasks.execute.harness`'s.

Invariants of both:
- the child sees the job and nothing else: a replaced environment, an empty working folder, no file but its own;
- the child's bytes are opaque here: fixed framing, capped while they are read, never parsed or unpickled;
- its stdout and stderr are a log, of which the end is kept;
- whatever happens, also an exception in this process, the child's whole process group is dead, the child reaped
  and every descriptor closed before `run` returns. If this process dies itself, the kernel kills the child.

Process separation alone is no sandbox: the code runs as the same user, can read the user's files, use the network, and
start a process that leaves the group. It holds against mistakes, not against malice. SandboxIsolation adds
`tasks.execute.sandbox`, which the child enters before it imports anything of the candidate's, and gives the encoder
`tasks.execute.broker_standby`'s broker, because VVC needs a program that the sandbox does not let it start.
"""

from __future__ import annotations

import contextlib
import json
import os
import selectors
import signal
import tempfile
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO, Final, Literal, Protocol

from tasks.campaign import Limits
from tasks.execute import child, forkserver
from tasks.execute.broker_standby import BrokerStandby
from tasks.execute.sandbox import Profile, profile_here

Role = Literal["train", "encode", "decode", "operations"]
OutcomeStatus = Literal["ok", "invalid", "crashed", "timeout", "memory", "oversized", "stopped", "unready"]
# Why watching a child ended: its answer is complete, it ended by itself, or it is to be killed.
Ending = Literal["answered", "ended", "timeout", "memory", "oversized", "stopped"]

ANSWER_STATUS: Final[Mapping[bytes, OutcomeStatus]] = {
    child.OK: "ok",
    child.INVALID: "invalid",
    child.CRASHED: "crashed",
    child.MEMORY: "memory",
}

# From the fork to the candidate's import: 0.1 s on an idle core; a busy machine takes many times that.
STARTUP_SECONDS: Final = 60.0
# How late a stop, a timeout or a breach of the memory limit may be noticed.
POLL_SECONDS: Final = 0.1
READ_BYTES: Final = 64 * 1024  # what a pipe holds
MAX_OPEN_FILES: Final = 256
MAX_REASON_CHARS: Final = 300

_GPU_TURN: Final = threading.Lock()


@dataclass(frozen=True)
class Job:
    """One call of a candidate's function in a process of its own.

    sources           source text by file name; all that can be imported beside what is installed
    payload           bytes the function works on: planar frames for "train" and "encode", else the compressed data
    arguments         JSON: `config`; for "encode" also `width` and `height`, for "train" `clips`: their [T, H, W]
    wall_seconds      counted from the child's ready mark: importing torch is no fault of the candidate
    max_output_bytes  a longer answer is not read
    weights           what a trainer made; empty where there was none
    """

    role: Role
    sources: Mapping[str, str]
    payload: bytes
    arguments: Mapping[str, Any]
    wall_seconds: float
    max_output_bytes: int
    weights: bytes = b""


@dataclass(frozen=True)
class Outcome:
    """What came of a job.

    status       "ok"; "invalid" (the function broke its contract); "crashed"; "timeout"; "memory";
                 "oversized"; "stopped" (on request); "unready" (it never came to run the candidate's code, or the
                 broker that it asked for could not run)
    output       the answer where status is "ok", else empty
    extra        what the child said beside it; untrusted; empty where status is not "ok"
    log          the end of stdout and stderr
    reason       one line, empty where status is "ok"
    seconds      from the child's ready mark to the end of its answer
    peak_rss_mb  the largest resident set, with what it shares with the process that it was forked from
    """

    status: OutcomeStatus
    output: bytes = b""
    extra: bytes = b""
    log: str = ""
    reason: str = ""
    seconds: float = 0.0
    peak_rss_mb: float = 0.0


class Isolation(Protocol):
    """A way to run jobs. `name` is stamped on every record."""

    name: str

    def run(self, job: Job, stop: Callable[[], bool] | None = None) -> Outcome:
        """Blocks until the job has ended or `stop()` is true. A failure is an Outcome, never an error."""
        ...


class ProcessIsolation:
    """A process per job, forked for it, in a session of its own and within rlimits. Many threads may use one.

    `name` is "none" where a user gave up the sandbox for code that is not trusted: such results have no rank.
    """

    def __init__(
        self,
        limits: Limits,
        name: Literal["process", "none"] = "process",
        server: forkserver.ForkServer = forkserver.SERVER,
    ) -> None:
        self.name: str = name
        self._limits = limits
        self._server = server
        self._profile: Profile | None = None

    def run(self, job: Job, stop: Callable[[], bool] | None = None) -> Outcome:
        process = _ChildProcess(job, self._limits, self._profile, self._server)
        with contextlib.ExitStack() as stack:
            try:
                process.start(stack)
            except OSError as error:
                return Outcome("unready", reason=f"no process could be started: {error}")
            ending = process.watch(stop)
        # Leaving the stack has killed and reaped the group: the log is whole and the exit status known.
        return process.outcome(ending)


class SandboxIsolation(ProcessIsolation):
    """The same, and the process enters the strict sandbox first. Where that is not possible, jobs are "unready"."""

    def __init__(self, limits: Limits, profile: Profile | None = None) -> None:
        """`profile` is "gpu" where the machine has an NVIDIA device, unless told."""
        super().__init__(limits)
        self.name = "sandbox"
        self._profile = profile or profile_here()

    def run(self, job: Job, stop: Callable[[], bool] | None = None) -> Outcome:
        """With a GPU, one job at a time: two could talk through its memory, and by taking addresses of sockets."""
        if self._profile != "gpu":
            return super().run(job, stop)
        while not _GPU_TURN.acquire(timeout=POLL_SECONDS):
            if stop is not None and stop():
                return Outcome("stopped", reason="stopped on request")
        try:
            return super().run(job, stop)
        finally:
            _GPU_TURN.release()


class _ChildProcess:
    """One child from start to end: start, watch, (killed and reaped by the stack), outcome."""

    def __init__(self, job: Job, limits: Limits, profile: Profile | None, server: forkserver.ForkServer) -> None:
        self._job = job
        self._server = server
        self._profile = profile
        self._limits = limits
        self._process: forkserver.Forked | None = None
        self._end_of_process: forkserver.End | None = None
        self._broker: BrokerStandby | None = None
        self._answer = bytearray()
        self._answer_closed = False
        self._log = bytearray()
        self._ready_at: float | None = None
        self._ended_at = 0.0

    def start(self, stack: contextlib.ExitStack) -> None:
        """Start the process; `stack` ends it and frees all that it needed. Raises OSError."""
        folder = tempfile.TemporaryDirectory(prefix="evocodec-", ignore_cleanup_errors=True)
        scratch = Path(stack.enter_context(folder))
        # In the sandbox the child is another user. It finds these folders, which stay empty, and cannot write there.
        scratch.chmod(0o711)
        for name in ("home", "tmp", "cache", "work"):
            (scratch / name).mkdir()
            (scratch / name).chmod(0o755)
        self._answer_pipe, answer_end = _pipe(stack)
        self._log_pipe, log_end = _pipe(stack)
        if self._profile is not None and self._job.role == "encode":
            standby = BrokerStandby(self._memory_bytes, self._cpu_seconds, log_end.fileno())
            self._broker = stack.enter_context(standby)
        broker_fds = self._broker.child_fds if self._broker else ()
        job = stack.enter_context(_unlinked_file(scratch / "job", self._job_parts()))
        stack.callback(self._end)
        self._process = self._server.fork(
            scratch / "work",
            _environment(scratch),
            [*(end.fileno() for end in (job, log_end, log_end, answer_end)), *broker_fds],
        )
        answer_end.close()
        log_end.close()
        if self._broker:
            self._broker.child_started()

    def watch(self, stop: Callable[[], bool] | None) -> Ending:
        """Read answer and log until the answer is complete or there is a reason to end the child."""
        deadline = time.monotonic() + STARTUP_SECONDS
        look_at = 0.0
        ending: Ending | None = None
        with selectors.DefaultSelector() as selector:
            selector.register(self._answer_pipe, selectors.EVENT_READ, self._take_answer)
            selector.register(self._log_pipe, selectors.EVENT_READ, self._take_log)
            if self._broker:
                selector.register(self._broker.requests, selectors.EVENT_READ)
            while ending is None:
                for key, _ in selector.select(POLL_SECONDS):
                    if self._broker and key.fileobj is self._broker.requests:
                        selector.unregister(key.fileobj)
                        self._broker.start_if_asked()
                        continue
                    chunk = os.read(key.fd, READ_BYTES)
                    key.data(chunk)
                    if not chunk:
                        selector.unregister(key.fileobj)
                now = time.monotonic()
                if self._ready_at is None and self._take_ready():
                    deadline = now + self._job.wall_seconds
                ending = self._ending_by_answer()
                if ending is None and now > deadline:
                    ending = "timeout"
                if ending is None and now > look_at:
                    ending = self._ending_by_looking(stop)
                    look_at = now + POLL_SECONDS
        self._ended_at = time.monotonic()
        return ending

    def outcome(self, ending: Ending) -> Outcome:
        """What it all means. To be called when the child is reaped."""
        status, output, extra, reason = self._verdict(ending)
        return Outcome(
            status,
            output,
            extra,
            self._log.decode(errors="replace"),
            _one_line(reason),
            max(0.0, self._ended_at - self._ready_at) if self._ready_at is not None else 0.0,
            self._end_of_process.peak_rss_kb / 1024 if self._end_of_process else 0.0,
        )

    def _verdict(self, ending: Ending) -> tuple[OutcomeStatus, bytes, bytes, str]:
        if ending == "stopped":
            return "stopped", b"", b"", "stopped on request"
        if self._ready_at is None:
            return "unready", b"", b"", self._why_unready(ending)
        if self._end_of_process is None:
            return "unready", b"", b"", "the process that forks candidates ended"
        if self._broker and self._broker.failure:
            return "unready", b"", b"", self._broker.failure
        match ending:
            case "answered":
                code, output, extra = self._split_answer()
                status = ANSWER_STATUS.get(code, "crashed")
                if status == "ok":
                    return status, output, extra, ""
                return status, b"", b"", extra.decode(errors="replace")
            case "timeout":
                reason = f"stopped after {self._job.wall_seconds:g} s"
                return "timeout", b"", b"", reason
            case "memory":
                return (
                    "memory",
                    b"",
                    b"",
                    f"used more than the {self._limits.memory_mb} MB of limits.memory_mb",
                )
            case "oversized":
                return "oversized", b"", b"", f"its answer is longer than {self._job.max_output_bytes} bytes"
            case "ended":
                cause = self._exit_cause()
                where = "in the middle of" if len(self._answer) > child.READY.size else "without"
                return "timeout" if "SIGXCPU" in cause else "crashed", b"", b"", f"{cause} {where} its answer"

    def _why_unready(self, ending: Ending) -> str:
        if ending == "timeout":
            return f"the process was not ready after {STARTUP_SECONDS:g} s"
        if ending == "memory":
            return f"starting up took more than the {self._limits.memory_mb} MB of limits.memory_mb: raise it"
        lines = self._log.decode(errors="replace").split("\n")
        last = next((line for line in reversed(lines) if line.strip()), "nothing was printed")
        return f"the process {self._exit_cause()} before the candidate was imported: {last}"

    def _exit_cause(self) -> str:
        code = self._end_of_process.exit_code if self._end_of_process else 0
        if code >= 0:
            return f"ended with exit code {code}"
        name = signal.Signals(-code).name
        # We have not killed it ourselves, or there would be another reason.
        return f"ended by {name} (out of memory?)" if name == "SIGKILL" else f"ended by {name}"

    def _ending_by_answer(self) -> Ending | None:
        lengths = self._answer_lengths()
        if lengths is None:
            return None
        output, extra = lengths
        if output > self._job.max_output_bytes or extra > child.MAX_EXTRA_BYTES:
            return "oversized"
        return "answered" if len(self._answer) >= _ANSWER_PREFIX + output + extra else None

    def _ending_by_looking(self, stop: Callable[[], bool] | None) -> Ending | None:
        if stop is not None and stop():
            return "stopped"
        if self._unshared_kb() > self._limits.memory_mb * 1024:
            return "memory"
        if not (self._process is None or self._process.has_ended(otherwise=self._answer_closed)):
            return None
        # All that it wrote is in the pipe by now, and `_ending_by_answer` bounds what others may still add.
        while (answered := self._ending_by_answer()) is None and (chunk := _read_now(self._answer_pipe)):
            self._answer += chunk
        self._take_ready()
        return answered or "ended"

    def _take_ready(self) -> bool:
        """Whether the candidate's code has begun. The mark was written before it, so it is to be believed."""
        if self._ready_at is None and len(self._answer) >= child.READY.size:
            _, nanoseconds = child.READY.unpack_from(self._answer)
            self._ready_at = nanoseconds / 1e9
        return self._ready_at is not None

    def _answer_lengths(self) -> tuple[int, int] | None:
        if len(self._answer) < _ANSWER_PREFIX:
            return None
        _, output, extra = child.ANSWER_HEADER.unpack_from(self._answer, child.READY.size)
        return output, extra

    def _split_answer(self) -> tuple[bytes, bytes, bytes]:
        code, output, extra = child.ANSWER_HEADER.unpack_from(self._answer, child.READY.size)
        with memoryview(self._answer) as view:
            middle = _ANSWER_PREFIX + output
            return code, bytes(view[_ANSWER_PREFIX:middle]), bytes(view[middle : middle + extra])

    def _take_answer(self, chunk: bytes) -> None:
        self._answer += chunk
        self._answer_closed = not chunk

    def _take_log(self, chunk: bytes) -> None:
        self._log += chunk
        del self._log[: -self._limits.log_kb * 1024]

    def _job_parts(self) -> Iterable[bytes]:
        header = json.dumps(
            {
                "role": self._job.role,
                "sources": dict(self._job.sources),
                "arguments": dict(self._job.arguments),
                "memory_bytes": self._memory_bytes,
                "cpu_seconds": self._cpu_seconds,
                "open_files": MAX_OPEN_FILES,
                "profile": self._profile,
                "weights_bytes": len(self._job.weights),
                "broker": self._broker is not None,
            }
        ).encode()
        return child.JOB_HEADER_LENGTH.pack(len(header)), header, self._job.weights, self._job.payload

    @property
    def _memory_bytes(self) -> int:
        return self._limits.memory_mb * 1024 * 1024

    @property
    def _cpu_seconds(self) -> int:
        """A backstop behind the wall clock, for all cores: encoders have threads of their own."""
        return int((STARTUP_SECONDS + self._job.wall_seconds) * (os.cpu_count() or 1)) + 1

    def _unshared_kb(self) -> int:
        """Memory of the child that no file backs, with what RLIMIT_DATA does not count.

        That is shared mappings, stacks that a program maps itself, and page tables: reading one byte in each 2 MB of
        a mapping that holds nothing takes 4 KB there.
        """
        status = Path(f"/proc/{self._process.pid if self._process else 0}/status")
        try:
            fields = dict(line.split(":", 1) for line in status.read_text().splitlines())
        except OSError:  # no such system, or the child has ended
            return 0
        sizes = {name: int(fields.get(name, "0 kB").split()[0]) for name in ("RssAnon", "RssShmem", "VmPTE")}
        return sum(sizes.values())

    def _end(self) -> None:
        if self._process is None:
            return
        self._end_of_process = self._process.end()
        # Not to the end: a process that left the group may hold the pipe open and write for ever.
        for _ in range(self._limits.log_kb * 1024 // READ_BYTES + 1):
            self._take_log(_read_now(self._log_pipe))


_ANSWER_PREFIX: Final = child.READY.size + child.ANSWER_HEADER.size


def _environment(scratch: Path) -> dict[str, str]:
    folders = {"HOME": "home", "TMPDIR": "tmp", "TORCHINDUCTOR_CACHE_DIR": "cache"}
    return forkserver.environment() | {name: str(scratch / folder) for name, folder in folders.items()}


@contextlib.contextmanager
def _unlinked_file(path: Path, parts: Iterable[bytes]) -> Iterator[BinaryIO]:
    """A file of `parts`, open for reading, that no other process can find."""
    with path.open("wb") as writer:
        for part in parts:
            writer.write(part)
    with path.open("rb") as reader:
        path.unlink()
        yield reader


def _pipe(stack: contextlib.ExitStack) -> tuple[BinaryIO, BinaryIO]:
    """Reading and writing end; both are closed by the stack at the latest."""
    read_fd, write_fd = os.pipe()
    os.set_blocking(read_fd, False)
    return (
        stack.enter_context(os.fdopen(read_fd, "rb", buffering=0)),
        stack.enter_context(os.fdopen(write_fd, "wb", buffering=0)),
    )


def _read_now(pipe: BinaryIO) -> bytes:
    """What lies in the pipe; empty where there is nothing now or no more."""
    return pipe.read(READ_BYTES) or b""


def _one_line(text: str) -> str:
    printable = "".join(char if char.isprintable() else " " for char in text)
    return " ".join(printable.split())[:MAX_REASON_CHARS]
