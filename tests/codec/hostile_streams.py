"""Decodes damaged .evc files made from the golden one, in a process that a hang or a crash may end.

    python -m tests.codec.hostile_streams FIRST COUNT

Each stream follows from its number, and is decoded as `evocodec decode --conceal` does it. One line at the end tells
how many files came out whole, with losses and not at all; any error but a refused file is a traceback. A stream that
takes longer than its limit, or more memory, ends the process.
"""

from __future__ import annotations

import io
import resource
import signal
import sys
from fractions import Fraction
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
from rich.console import Console

from codec.bitstream import MAX_SCENE_FRAMES, MAX_SIDE, EvcReader, EvcWriter, most_scene_frames
from codec.errors import BitstreamError
from codec.frames import VideoFormat
from flows.commands.coding import DecodeOrder, decode_file
from tests.codec.golden_file import FRAMES, GOLDEN, HEIGHT, WIDTH

SECONDS = 20  # for one file, on a machine that may be busy
ADDRESS_SPACE = 8 * 2**30  # torch alone reserves some
# Luma samples that a drawn size and frame count may claim for a scene that is decoded. The format allows 1024 times as
# many, which are gigabytes: 2^20 keep a run far below its 1500 MiB, and each file within its seconds.
MOST_DRAWN = 2**20


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


def claiming(width: int, height: int, frame_count: int, strategy: int = 5, payload: bytes = b"payload") -> bytes:
    """A file of one scene with right checksums whatever it claims, also what `EvcWriter` refuses to write."""
    video = VideoFormat(width, height, Fraction(25))
    header, scene = io.BytesIO(), io.BytesIO()
    writer = EvcWriter(header, video)
    header_bytes = header.tell()
    for first in range(0, frame_count, most_scene_frames(video)):  # only so that the header counts them
        writer.add_scene(min(most_scene_frames(video), frame_count - first), strategy, b"", 0)
    writer.close()
    writer = EvcWriter(scene, VideoFormat(1, 1, video.frame_rate))
    start = scene.tell()
    writer.add_scene(frame_count, strategy, payload, 0)
    return header.getvalue()[:header_bytes] + scene.getvalue()[start:]


def stream(number: int) -> bytes:
    """A hostile file.

    One of 16 is the golden file, damaged as it stands. The others are one scene of it under right checksums: in one of
    16 it claims more than the format allows, in two of 16 another size or length than it has, and else it is damaged.
    """
    rng = np.random.default_rng(number)
    golden = GOLDEN.read_bytes()
    if number % 16 == 0:
        return damaged(golden, rng)
    reader = EvcReader(io.BytesIO(golden))
    entries = list(reader.scenes())
    entry = entries[int(rng.integers(len(entries)))]
    payload = reader.payload(entry)
    if number % 16 == 1:
        return claiming(*_too_large(rng), entry.strategy, payload)
    if number % 16 in (2, 3):
        told = damaged(payload, rng) if rng.integers(2) else payload
        return claiming(*_other_size(rng), entry.strategy, told)
    return claiming(WIDTH, HEIGHT, FRAMES, entry.strategy, damaged(payload, rng))


def _too_large(rng: np.random.Generator) -> tuple[int, int, int]:
    """Width, height and frames of a scene over the limit."""
    width, height = (int(2 ** rng.uniform(10, 14)) for _ in range(2))
    least = most_scene_frames(VideoFormat(width, height, Fraction(25))) + 1
    return width, height, int(rng.integers(least, MAX_SCENE_FRAMES + 1))


def _other_size(rng: np.random.Generator) -> tuple[int, int, int]:
    """Width, height and frames of a scene of at most `MOST_DRAWN` luma samples; often of the true picture size."""
    if rng.integers(2):
        return WIDTH, HEIGHT, int(rng.integers(1, MOST_DRAWN // (WIDTH * HEIGHT) + 1))
    shares = rng.dirichlet((1, 1, 1)) * rng.uniform(0, np.log2(MOST_DRAWN))
    width, height, frames = (int(2**share) for share in shares)
    return min(width, MAX_SIDE), min(height, MAX_SIDE), min(frames, MAX_SCENE_FRAMES)


def main(first: int, count: int) -> None:
    resource.setrlimit(resource.RLIMIT_AS, (ADDRESS_SPACE, ADDRESS_SPACE))
    console = Console(file=io.StringIO())
    whole = lossy = refused = 0
    with TemporaryDirectory() as folder:
        source, out = Path(folder, "in.evc"), Path(folder, "out.y4m")
        for number in range(first, first + count):
            sys.stdout.write(f"\r{number}")
            sys.stdout.flush()
            source.write_bytes(stream(number))
            signal.alarm(SECONDS)  # its default action ends the process, also within C code
            try:
                _, lost = decode_file(source, out, console, lambda _: None, DecodeOrder(conceal=True))
                whole, lossy = whole + (not lost), lossy + lost
            except BitstreamError:
                refused += 1
            signal.alarm(0)
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024
    sys.stdout.write(f"\r{whole} files whole, {lossy} with losses, {refused} refused, {peak} MiB\n")


if __name__ == "__main__":
    main(int(sys.argv[1]), int(sys.argv[2]))
