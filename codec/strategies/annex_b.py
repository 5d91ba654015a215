"""Annex B of H.264, HEVC and VVC: NAL units, with a start code before each."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable

START_CODE = re.compile(rb"\x00?\x00\x00\x01")


def nal_units(stream: bytes) -> list[bytes]:
    """What lies between start codes."""
    starts = list(START_CODE.finditer(stream))
    ends = [start.start() for start in starts[1:]] + [len(stream)]
    return [stream[start.end() : end] for start, end in zip(starts, ends, strict=True)]


def with_start_codes(units: Iterable[bytes], is_slice: Callable[[bytes], bool]) -> bytes:
    """The stream: a start code has a fourth byte before parameter sets and before what begins a picture."""
    parts: list[bytes] = []
    begun = False
    for unit in units:
        parts.append(b"\0\0\1" if begun and is_slice(unit) else b"\0\0\0\1")
        parts.append(unit)
        begun = not is_slice(unit)
    return b"".join(parts)
