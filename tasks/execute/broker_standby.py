"""The trusted side's end of the VVC broker: started when an encoder first asks for it, and ended with the job.

Owns the two pipes between encoder and broker until the broker has them, and the broker's process. What it does is
`tasks.execute.broker`'s. Most encoders never ask, and cost two pipes.

Invariants:
- no byte of the encoder's is read here: that there are some is all that is looked at;
- after `__exit__` the broker's process group is dead, the broker reaped and every descriptor closed. If this process
  dies itself, the kernel kills the broker, and with it ffmpeg.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import signal
import subprocess
import sys
import termios
from typing import BinaryIO, Final

from codec.errors import EncodeError
from codec.strategies.vvc_encoder import find_ffmpeg
from tasks.execute import broker

ENVIRONMENT: Final = {"PATH": "/usr/local/bin:/usr/bin:/bin", "LANG": "C.UTF-8"}


class BrokerStandby(contextlib.AbstractContextManager["BrokerStandby"]):
    """The broker of one encode job. All of it is called from one thread, which the broker dies with.

    requests   becomes readable when the encoder writes its first request: time for `start_if_asked`
    child_fds  the encoder's ends, for requests and for responses; to be closed by `child_started`
    failure    one line; not empty where a broker was asked for and could not run, which is no fault of the encoder's
    """

    def __init__(self, memory_bytes: int, cpu_seconds: int, log_fd: int) -> None:
        """The limits hold for broker and ffmpeg each; `log_fd` takes what a broker that fails has to say."""
        self._arguments = (str(os.getpid()), str(memory_bytes), str(cpu_seconds))
        self._process: subprocess.Popen[bytes] | None = None
        self._could_not_start = ""
        with contextlib.ExitStack() as stack:
            self._log = stack.enter_context(os.fdopen(os.dup(log_fd), "wb", buffering=0))
            self.requests, self._child_requests = _pipe(stack)
            self._child_responses, self._responses = _pipe(stack)
            self._stack = stack.pop_all()

    def __exit__(self, *_: object) -> None:
        with self._stack:
            if self._process is not None:
                with contextlib.suppress(ProcessLookupError):
                    os.killpg(self._process.pid, signal.SIGKILL)
                self._process.wait()

    @property
    def child_fds(self) -> tuple[int, int]:
        return self._child_requests.fileno(), self._child_responses.fileno()

    @property
    def failure(self) -> str:
        """To be asked after `__exit__`."""
        code = self._process.returncode if self._process else 0
        if code > 0:
            return f"the VVC broker could not start: exit code {code}"
        return self._could_not_start

    def child_started(self) -> None:
        self._child_requests.close()
        self._child_responses.close()

    def start_if_asked(self) -> None:
        """Start the broker if there is a request; an encoder that has closed its end without one needs none."""
        try:
            if _waiting_bytes(self.requests):
                self._start()
        except (OSError, EncodeError) as error:
            self._could_not_start = f"the VVC broker could not start: {error}"
        # With these open the encoder would wait for ever for a broker that is gone.
        self.requests.close()
        self._responses.close()

    def _start(self) -> None:
        fds = self.requests.fileno(), self._responses.fileno()
        self._process = subprocess.Popen(
            [
                *(sys.executable, "-I", "-B", "-m", broker.__name__),
                *(*map(str, fds), *self._arguments, find_ffmpeg()),
            ],
            stdin=subprocess.DEVNULL,
            stdout=self._log,
            stderr=self._log,
            pass_fds=fds,
            cwd="/",
            env=ENVIRONMENT,
            start_new_session=True,
        )


def _pipe(stack: contextlib.ExitStack) -> tuple[BinaryIO, BinaryIO]:
    read_fd, write_fd = os.pipe()
    return (
        stack.enter_context(os.fdopen(read_fd, "rb", buffering=0)),
        stack.enter_context(os.fdopen(write_fd, "wb", buffering=0)),
    )


def _waiting_bytes(pipe: BinaryIO) -> int:
    return int.from_bytes(fcntl.ioctl(pipe, termios.FIONREAD, bytes(4)), sys.byteorder)
