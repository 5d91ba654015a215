"""Decodes damaged .evc files made from the golden one, in a process that a hang or a crash may end.

    python -m tests.codec.hostile_streams FIRST COUNT

Each stream follows from its number. One line at the end tells how many were decoded and how many scenes were lost; any
error but a lost scene is a traceback. A stream that takes longer than its limit, or more memory, ends the process.
"""

from __future__ import annotations

import io
import resource
import signal
import sys

import numpy as np

from codec.bitstream import EvcReader, EvcWriter
from codec.decoding_agent import DecodingAgent
from codec.errors import BitstreamError
from tests.codec.golden_file import GOLDEN

SECONDS = 20  # for one scene of 4 frames of 96x64, on a machine that may be busy
ADDRESS_SPACE = 8 * 2**30  # torch alone reserves some


def damaged(data: bytes, rng: np.random.Generator) -> bytes:
    """The payload with some bytes changed, inserted, left out, repeated, set to one value, or its end cut off."""
    out = bytearray(data)
    for _ in range(int(rng.integers(1, 4))):
        kind = rng.integers(6)
        at = int(rng.integers(0, len(out) + 1))
        size = int(2 ** rng.uniform(0, 6))
        if kind == 0:
            out[at : at + 1] = bytes([rng.integers(256)])
        elif kind == 1:
            del out[at:]
        elif kind == 2:
            out[at:at] = rng.bytes(size)
        elif kind == 3:
            del out[at : at + size]
        elif kind == 4:
            out[at:at] = out[at : at + size]
        else:
            out[at : at + size] = bytes([rng.choice([0, 0x7F, 0x80, 0xFF])]) * size
    return bytes(out)


def stream(number: int) -> bytes:
    """A damaged file. In one of 16 the damage is to the file as it stands, else beneath a checksum that is right."""
    rng = np.random.default_rng(number)
    golden = GOLDEN.read_bytes()
    if number % 16 == 0:
        return damaged(golden, rng)
    reader = EvcReader(io.BytesIO(golden))
    entries = list(reader.scenes())
    entry = entries[int(rng.integers(len(entries)))]
    sink = io.BytesIO()
    writer = EvcWriter(sink, reader.header.video)
    writer.add_scene(entry.frame_count, entry.strategy, damaged(reader.payload(entry), rng), entry.frames_hash)
    writer.close()
    return sink.getvalue()


def main(first: int, count: int) -> None:
    resource.setrlimit(resource.RLIMIT_AS, (ADDRESS_SPACE, ADDRESS_SPACE))
    decoded = lost = refused = 0
    for number in range(first, first + count):
        sys.stdout.write(f"\r{number}")
        sys.stdout.flush()
        signal.alarm(SECONDS)  # its default action ends the process, also within C code
        try:
            for scene in DecodingAgent().decode(io.BytesIO(stream(number)), conceal=True):
                decoded, lost = decoded + (scene.frames is not None), lost + (scene.frames is None)
        except BitstreamError:
            refused += 1
        signal.alarm(0)
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024
    sys.stdout.write(f"\r{decoded} scenes decoded, {lost} lost, {refused} files refused, {peak} MiB\n")


if __name__ == "__main__":
    main(int(sys.argv[1]), int(sys.argv[2]))
