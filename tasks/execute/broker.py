"""The VVC broker: runs ffmpeg's VVenC for an encoder whose own process may start nothing.

Owns serving one encoder's requests, one after the other. Their form is `tasks.execute.broker_wire`'s, ffmpeg's command
line `codec.strategies.vvc_encoder`'s, starting and ending this process `tasks.execute.broker_standby`'s, the lock-down
`tasks.execute.sandbox`'s. Imports the standard library only: it reads no file of Python's once it is locked down.

    python -m tasks.execute.broker <request fd> <response fd> <parent pid> <memory bytes> <CPU seconds> <ffmpeg>

Invariants:
- nothing is read from the encoder before this process is locked down, and ffmpeg inherits the lock;
- what is read is numbers in range and pixels; no byte of it becomes text;
- ffmpeg ends with this process, however that ends: nothing here has to survive to clean up.
"""

from __future__ import annotations

import io
import os
import sys
import traceback
from collections.abc import Iterator
from typing import BinaryIO, Final

from codec.errors import EncodeError
from codec.strategies.vvc_encoder import READ_BYTES, encode_with_ffmpeg
from tasks.execute import sandbox
from tasks.execute.broker_wire import DONE, REFUSED, RESPONSE, read_settings
from tasks.execute.sandbox import limits, privileges

MAX_OPEN_FILES: Final = 64
# A clip has a few scenes, and a search over rates a few passes. The wall clock bounds the work; this, a flood.
MAX_REQUESTS: Final = 1024
MAX_REASON_CHARS: Final = 500


def main(request_fd: int, response_fd: int, parent_pid: int, memory_bytes: int, cpu_seconds: int, ffmpeg: str) -> None:
    privileges.die_with(parent_pid)
    limits.bound(memory_bytes, cpu_seconds, MAX_OPEN_FILES, strict=True)
    sandbox.enter_as_broker(ffmpeg, parent_pid)
    # From here on a failure may be the encoder's doing: it ends this process without the exit code of one that could
    # not start.
    try:
        with os.fdopen(request_fd, "rb") as requests, os.fdopen(response_fd, "wb") as responses:
            serve(requests, responses, ffmpeg)
    except BrokenPipeError:  # nobody reads the response
        pass
    except BaseException:  # noqa: BLE001 - reported, and this process ends
        traceback.print_exc()
    os._exit(0)


def serve(requests: io.BufferedReader | io.BytesIO, responses: BinaryIO, ffmpeg: str) -> None:
    """Answer requests until there are no more, one is malformed, or there were too many."""
    own_pid = os.getpid()
    for _ in range(MAX_REQUESTS):
        try:
            settings = read_settings(requests)
        except EncodeError as error:
            respond(responses, REFUSED, _line(error))
            return
        if settings is None:
            return
        pieces = _pieces(requests, settings.input_bytes)
        try:
            answer = DONE, encode_with_ffmpeg(settings, pieces, ffmpeg, lambda: privileges.die_with(own_pid))
        except EncodeError as error:
            answer = REFUSED, _line(error)
        for _ in pieces:  # what an ffmpeg that failed has not taken lies before the next request
            pass
        respond(responses, *answer)
    respond(responses, REFUSED, f"vvc: more than {MAX_REQUESTS} requests".encode())


def respond(responses: BinaryIO, status: bytes, content: bytes) -> None:
    responses.write(RESPONSE.pack(status, len(content)))
    responses.write(content)
    responses.flush()


def _pieces(requests: io.BufferedReader | io.BytesIO, length: int) -> Iterator[bytes]:
    """The next `length` bytes as they come. Where they end early the encoder has gone, and so has the reason to go on:
    this process ends, and ffmpeg with it."""
    while length:
        piece = requests.read1(min(length, READ_BYTES))
        if not piece:
            os._exit(0)
        length -= len(piece)
        yield piece


def _line(error: EncodeError) -> bytes:
    return " ".join(str(error).split())[:MAX_REASON_CHARS].encode(errors="replace")


if __name__ == "__main__":
    in_fd, out_fd, parent, memory, seconds = map(int, sys.argv[1:6])
    main(in_fd, out_fd, parent, memory, seconds, sys.argv[6])
