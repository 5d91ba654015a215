"""AV1 by SVT-AV1, in process through PyAV; decoded by dav1d."""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass

from codec.errors import BitstreamError
from codec.frames import Frames, VideoFormat
from codec.strategies.elementary import ElementaryStrategy, encode_with_pyav, join_options
from codec.strategies.packing import Packing
from codec.varint import decode_varint, encode_varint

# One picture at a time keeps the bytes the same from run to run; tune 1 is PSNR; one key frame starts the scene.
DEFAULTS = {"lp": "1", "tune": "1", "keyint": "-1"}
# OBU types, and the flags with which a frame header begins (AV1 specification, 6.2.2 and 5.9.2).
SEQUENCE_HEADER, TEMPORAL_DELIMITER, TILE_GROUP = 1, 2, 4
FRAME_HEADERS = (3, 6)
SHOW_EXISTING_FRAME, SHOW_FRAME = 0x80, 0x10
HAS_SIZE = 2
DELIMITER = bytes([TEMPORAL_DELIMITER << 3 | HAS_SIZE, 0])


def encode_stream(frames: Frames, video: VideoFormat, rate: float, preset: str, options: Mapping[str, str]) -> bytes:
    """AV1 low-overhead OBUs at CRF `rate`, in quarter steps. `options` are SVT-AV1's own."""
    os.environ.setdefault("SVT_LOG", "1")  # or it reports its settings on stderr at every start
    chosen = {"crf": f"{rate:g}", **DEFAULTS, **options}
    settings = {"preset": preset, "svtav1-params": join_options("av1", chosen), "err_detect": "explode"}
    return b"".join(encode_with_pyav("libsvtav1", frames, video, settings))


@dataclass(frozen=True)
class Obu:
    """Where an open bitstream unit lies in a stream: it begins at `start`, its payload at `payload`."""

    kind: int
    start: int
    payload: int
    end: int


def obus(stream: bytes) -> Iterator[Obu]:
    """The units of a low-overhead stream (AV1 specification, 5.3). Raises BitstreamError at one that is not whole."""
    position = 0
    while position < len(stream):
        header = stream[position]
        if not header & HAS_SIZE:
            raise BitstreamError(f"the av1 payload is damaged: the OBU at byte {position} has no size")
        size, payload = decode_varint(stream, position + _header_bytes(header))
        if payload + size > len(stream):
            raise BitstreamError(f"the av1 payload is damaged: no whole OBU at byte {position}")
        yield Obu(header >> 3 & 0xF, position, payload, payload + size)
        position = payload + size


def temporal_units(stream: bytes) -> Iterator[bytes]:
    """Cut a low-overhead OBU stream before every temporal delimiter (AV1 specification, 7.5)."""
    start = 0
    for obu in obus(stream):
        if obu.kind == TEMPORAL_DELIMITER and obu.start > start:
            yield stream[start : obu.start]
            start = obu.start
    if start < len(stream):
        yield stream[start:]


def split_units(stream: bytes) -> list[bytes]:
    """Each unit but the temporal delimiters, without its size."""
    return [
        stream[obu.start : obu.start + _header_bytes(stream[obu.start])] + stream[obu.payload : obu.end]
        for obu in obus(stream)
        if obu.kind != TEMPORAL_DELIMITER
    ]


def join_units(units: Iterable[bytes]) -> bytes:
    """The reverse: a temporal unit ends with the one frame that it shows, so its delimiter need not be told."""
    parts: list[bytes] = []
    shown = True
    for unit in units:
        kind, length = unit[0] >> 3 & 0xF, min(_header_bytes(unit[0]), len(unit))
        if shown and kind != TILE_GROUP:
            parts.append(DELIMITER)
            shown = False
        parts += (unit[:length], encode_varint(len(unit) - length), unit[length:])
        if kind in FRAME_HEADERS and len(unit) > length:
            shown = bool(unit[length] & (SHOW_EXISTING_FRAME | SHOW_FRAME))
    return b"".join(parts)


def _header_bytes(first: int) -> int:
    """With or without the extension."""
    return 1 + (first >> 2 & 1)


PACKING = Packing(
    name="av1",
    split=split_units,
    join=join_units,
    kind_bytes=1,
    modelled_bytes=16,
    is_parameters=lambda unit: unit[0] >> 3 & 0xF == SEQUENCE_HEADER,
)

STRATEGY = ElementaryStrategy(
    name="av1",
    code=7,
    decoder="libdav1d",
    bit_depth=8,
    presets=tuple(str(preset) for preset in range(13, -1, -1)),
    default_preset="4",
    default_quality_range=(70, 13),
    rate_step=0.25,
    minimum_side=64,
    encode_stream=encode_stream,
    packing=PACKING,
    split_stream=temporal_units,
)
