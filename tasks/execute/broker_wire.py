"""What an encoder's process and its broker say to each other, and the encoder's end of it.

Owns the framing and the caps. There is no text in a request: presets and options are indices into the tables of
`codec.strategies.vvc_encoder`, so that nothing of a candidate's can become a word of ffmpeg's command line. Imports the
standard library only, since the encoder's process imports it before it is in the sandbox.

    request     HEADER · OPTION, once for each option · planes: 8-bit Y, U and V of one picture after the other
    response    RESPONSE · raw elementary stream, or one line that says what is wrong

A request that breaks this framing is answered, and is the last one: where the next would begin is not known.
"""

from __future__ import annotations

import contextlib
import itertools
import os
import struct
import threading
from collections.abc import Iterable
from fractions import Fraction
from typing import BinaryIO, Final

from codec.errors import EncodeError
from codec.strategies.vvc_encoder import OPTIONS, PRESETS, Settings, require

MAGIC: Final = b"VVC1"
# magic, width, height, frames, frame rate as a fraction, QP, preset, primaries, transfer, matrix, full range, options
HEADER: Final = struct.Struct("<4sHHIIIBBBBBBB")
OPTION: Final = struct.Struct("<Bh")  # index into OPTIONS, value
RESPONSE: Final = struct.Struct("<cQ")  # status, bytes that follow
DONE, REFUSED = b"K", b"E"

# One picture of VVC's level 6.2, and as many as a scene of an .evc file may have.
MAX_PIXELS: Final = 8192 * 4352
MAX_FRAMES: Final = 65536
MAX_INPUT_BYTES: Final = 1 << 36
MAX_RATE: Final = 240
MAX_RATE_DENOMINATOR: Final = 1001


class BrokerClient:
    """An Encoder of `codec.strategies.vvc_encoder` that asks the broker at the other end of two pipes."""

    def __init__(self, request_fd: int, response_fd: int) -> None:
        self._requests = os.fdopen(request_fd, "wb", buffering=0)
        self._responses = os.fdopen(response_fd, "rb")
        self._lock = threading.Lock()  # one exchange at a time, whichever thread asks

    def __call__(self, settings: Settings, pieces: Iterable[bytes]) -> bytes:
        with self._lock:
            # A broker that refuses does not read on; its response says why.
            with contextlib.suppress(BrokenPipeError):
                for piece in itertools.chain([pack(settings)], pieces):
                    rest = memoryview(piece)
                    while rest:
                        rest = rest[self._requests.write(rest) :]
            header = self._responses.read(RESPONSE.size)
            require(len(header) == RESPONSE.size, "cannot be encoded: the broker that runs ffmpeg has ended")
            status, length = RESPONSE.unpack(header)
            content = self._responses.read(length)
            require(len(content) == length, "cannot be encoded: the broker ended in the middle of its response")
        if status != DONE:
            raise EncodeError(content.decode(errors="replace"))
        return content


def pack(settings: Settings) -> bytes:
    """HEADER and OPTIONs of a request."""
    header = HEADER.pack(
        *(MAGIC, settings.width, settings.height, settings.frames),
        *settings.frame_rate.as_integer_ratio(),
        *(settings.qp, PRESETS.index(settings.preset), *settings.color, settings.full_range, len(settings.options)),
    )
    return header + b"".join(OPTION.pack(OPTIONS.index(name), value) for name, value in settings.options)


def read_settings(requests: BinaryIO) -> Settings | None:
    """The settings of the next request; None where there is none. Raises EncodeError where they cannot be taken."""
    data = requests.read(HEADER.size)
    if len(data) < HEADER.size:
        return None
    magic, width, height, frames, rate, per, qp, preset, *color, full_range, count = HEADER.unpack(data)
    require(magic == MAGIC, "request does not begin as one")
    require(width * height <= MAX_PIXELS, f"request is for {width}×{height} pictures, more than {MAX_PIXELS} pixels")
    require(frames <= MAX_FRAMES, f"request is for {frames} frames, more than {MAX_FRAMES}")
    in_range = 0 < per <= MAX_RATE_DENOMINATOR and per <= rate <= per * MAX_RATE
    require(in_range, f"request is for {rate}/{per} frames a second")
    require(preset < len(PRESETS), f"request names preset {preset} of {len(PRESETS)}")
    require(full_range < 2, "request says neither limited nor full range")
    require(count <= len(OPTIONS), f"request has {count} options, more than there are")
    data = requests.read(count * OPTION.size)
    if len(data) < count * OPTION.size:
        return None
    options = list(OPTION.iter_unpack(data))
    require(all(index < len(OPTIONS) for index, _ in options), "request names an option that does not exist")
    settings = Settings(
        *(width, height, frames, Fraction(rate, per), qp, PRESETS[preset], (color[0], color[1], color[2])),
        full_range=bool(full_range),
        options=tuple((OPTIONS[index], value) for index, value in options),
    )
    require(settings.input_bytes <= MAX_INPUT_BYTES, f"request is for {settings.input_bytes} bytes of pictures")
    return settings
