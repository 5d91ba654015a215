"""What the tests of the codec share: real frames, and synthetic ones of any size."""

from __future__ import annotations

from collections.abc import Callable
from fractions import Fraction
from pathlib import Path

import av
import numpy as np
import pytest

from codec.frames import Frames, VideoFormat

ReadClip = Callable[[str, int], tuple[Frames, VideoFormat]]
MovingPicture = Callable[[int, int, int], tuple[Frames, VideoFormat]]


@pytest.fixture
def read_clip(clips: Path) -> ReadClip:
    """Read the first frames of a real clip, straight from FFmpeg."""

    def read(name: str, count: int) -> tuple[Frames, VideoFormat]:
        planes: list[list[np.ndarray]] = [[], [], []]
        with av.open(clips / name) as container:
            rate = container.streams.video[0].average_rate
            for index, picture in enumerate(container.decode(video=0)):
                if index == count:
                    break
                for rows, plane in zip(planes, picture.planes, strict=True):
                    samples = np.frombuffer(plane, dtype=np.uint8).reshape(-1, plane.line_size)
                    rows.append(samples[: plane.height, : plane.width].copy())
        y, u, v = (np.stack(rows) for rows in planes)
        return Frames(y, u, v), VideoFormat(y.shape[2], y.shape[1], Fraction(rate))

    return read


@pytest.fixture
def moving_picture() -> MovingPicture:
    """A seeded smooth texture that slides by one sample a frame: (width, height, frames)."""

    def make(width: int, height: int, count: int) -> tuple[Frames, VideoFormat]:
        rows, columns = np.mgrid[0 : height + count, 0 : width + count]
        noise = np.random.default_rng(7).normal(0, 3, rows.shape)
        picture = 120 + 60 * np.sin(rows / 9) * np.cos(columns / 7) + noise
        wide = np.clip(picture, 0, 255).astype(np.uint8)
        y = np.stack([wide[t : t + height, t : t + width] for t in range(count)])
        return Frames(y, y[:, ::2, ::2] // 2 + 60, 255 - y[:, ::2, ::2]), VideoFormat(width, height, Fraction(25))

    return make
