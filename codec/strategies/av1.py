"""AV1 by SVT-AV1, in process through PyAV; decoded by dav1d."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping

from codec.errors import BitstreamError
from codec.frames import Frames, VideoFormat
from codec.strategies.elementary import ElementaryStrategy, encode_with_pyav, join_options

# One picture at a time keeps the bytes the same from run to run; tune 1 is PSNR; one key frame starts the scene.
DEFAULTS = {"lp": "1", "tune": "1", "keyint": "-1"}
TEMPORAL_DELIMITER = 2

# SVT-AV1 reports its settings on stderr at every start unless this is set before it is first opened.
os.environ.setdefault("SVT_LOG", "1")


def encode_stream(frames: Frames, video: VideoFormat, rate: float, preset: str, options: Mapping[str, str]) -> bytes:
    """AV1 low-overhead OBUs at CRF `rate`, in quarter steps. `options` are SVT-AV1's own."""
    chosen = {"crf": f"{rate:g}", **DEFAULTS, **options}
    settings = {"preset": preset, "svtav1-params": join_options("av1", chosen), "err_detect": "explode"}
    return b"".join(encode_with_pyav("libsvtav1", frames, video, settings))


def temporal_units(stream: bytes) -> Iterator[bytes]:
    """Cut a low-overhead OBU stream before every temporal delimiter (AV1 specification, 5.3 and 7.5)."""
    start = position = 0
    while position < len(stream):
        header = stream[position]
        if header >> 3 & 0xF == TEMPORAL_DELIMITER and position > start:
            yield stream[start:position]
            start = position
        position = _next_obu(stream, position)
    if start < len(stream):
        yield stream[start:]


def _next_obu(stream: bytes, position: int) -> int:
    has_extension, has_size = stream[position] >> 2 & 1, stream[position] >> 1 & 1
    cursor = position + 1 + has_extension
    size = 0
    for shift in range(0, 56, 7):
        if not has_size or cursor >= len(stream):
            break
        byte = stream[cursor]
        size |= (byte & 0x7F) << shift
        cursor += 1
        if not byte & 0x80:
            if cursor + size > len(stream):
                break
            return cursor + size
    raise BitstreamError(f"the av1 payload is damaged: no whole OBU at byte {position}")


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
    split_stream=temporal_units,
)
