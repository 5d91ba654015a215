"""Coding at a smaller size: integer-exact resampling of 8-bit planes to a scaled size and back.

Owns the scales, the sizes they give and the filters. Padding a picture to what an encoder accepts is
`codec.strategies.elementary`'s.

The filter is a separable Lanczos-3, stretched by the ratio when shrinking so that it also removes aliasing,
with integer taps that sum to 128 in every phase. Both passes keep full precision in 32-bit integers and one
rounding ends them, `clip((sum + 2**13) >> 14)`, so that every machine gets the same samples. Every plane is
treated as an image with its first sample's corner at the origin: luma and chroma alike, which is the centred
4:2:0 siting.
"""

from __future__ import annotations

from fractions import Fraction
from functools import lru_cache
from math import ceil, floor, pi, sin

import numpy as np
import numpy.typing as npt

from codec.frames import REMAINDER_BITS, Frames, Plane, RemainderPlane, Remainders, VideoFormat

# The position of a scale is its code in a payload: append, never reorder.
SCALES: dict[str, Fraction] = {
    "1": Fraction(1),
    "3/4": Fraction(3, 4),
    "2/3": Fraction(2, 3),
    "1/2": Fraction(1, 2),
}
TAP_SUM_BITS = 7
SUM_BITS = 2 * TAP_SUM_BITS  # of a sample that both passes made
LOBES = 3


def scaled_size(size: int, scale: str) -> int:
    """Luma samples along one side of the scaled picture: rounded up, so at least 1."""
    return ceil(size * SCALES[scale])


def scaled_format(video: VideoFormat, scale: str) -> VideoFormat:
    """The format of `shrink`'s output."""
    width, height = scaled_size(video.width, scale), scaled_size(video.height, scale)
    return VideoFormat(width, height, video.frame_rate, video.color)


def shrink(frames: Frames, video: VideoFormat, scale: str) -> Frames:
    """Frames at the size of `video` to frames at the size of `scaled_format(video, scale)`."""
    return _resize(frames, scaled_format(video, scale), SCALES[scale])


def enlarge(frames: Frames, video: VideoFormat, scale: str) -> Frames:
    """The way back: frames at the size of `scaled_format(video, scale)` to frames at the size of `video`."""
    return _resize(frames, video, 1 / SCALES[scale])


def enlarge_finely(frames: Frames, video: VideoFormat, scale: str) -> tuple[Frames, Remainders]:
    """As `enlarge`, and what its rounding took."""
    ratio = 1 / SCALES[scale]
    planes, remainders = [], []
    for plane, shape in zip(frames.planes(), _shapes(video), strict=True):
        sums = np.stack([_weighted_sums(picture, ratio, shape) for picture in plane])
        planes.append(_rounded(sums))
        remainders.append(_remainder(sums, planes[-1]))
    return Frames(*planes), Remainders(*remainders)


def _resize(frames: Frames, target: VideoFormat, ratio: Fraction) -> Frames:
    if ratio == 1:
        return frames
    pairs = zip(frames.planes(), _shapes(target), strict=True)
    return Frames(*(resize_plane(plane, ratio, shape) for plane, shape in pairs))


def _shapes(video: VideoFormat) -> tuple[tuple[int, int], ...]:
    chroma = (video.chroma_height, video.chroma_width)
    return (video.height, video.width), chroma, chroma


def resize_plane(plane: Plane, ratio: Fraction, shape: tuple[int, int]) -> Plane:
    """`plane` uint8 [T, h, w] resampled by `ratio` to uint8 [T, *shape]; samples beyond an edge repeat it."""
    out = np.empty((len(plane), *shape), dtype=np.uint8)
    for picture, result in zip(plane, out, strict=True):
        result[:] = _rounded(_weighted_sums(picture, ratio, shape))
    return out


def _weighted_sums(picture: Plane, ratio: Fraction, shape: tuple[int, int]) -> npt.NDArray[np.int32]:
    """The samples of one resampled picture, times 2**14."""
    rows = _filter_rows(picture.astype(np.int32), ratio, shape[0])
    return _filter_rows(np.ascontiguousarray(rows.T), ratio, shape[1]).T


def _rounded(sums: npt.NDArray[np.int32]) -> Plane:
    eight: Plane = np.clip((sums + (1 << (SUM_BITS - 1))) >> SUM_BITS, 0, 255).astype(np.uint8)
    return eight


def _remainder(sums: npt.NDArray[np.int32], rounded: Plane) -> RemainderPlane:
    shift = SUM_BITS - REMAINDER_BITS
    sixteenths = ((sums + (1 << (shift - 1))) >> shift) - (rounded.astype(np.int32) << REMAINDER_BITS)
    remainder: RemainderPlane = np.clip(sixteenths, -8, 7).astype(np.int8)
    return remainder


def _filter_rows(rows: npt.NDArray[np.int32], ratio: Fraction, count: int) -> npt.NDArray[np.int32]:
    index, taps = _row_taps(len(rows), count, ratio)
    total = np.zeros((count, rows.shape[1]), dtype=np.int32)
    for tap in range(taps.shape[1]):
        total += taps[:, tap, None] * rows[index[:, tap]]
    return total


@lru_cache(maxsize=32)
def _row_taps(size: int, count: int, ratio: Fraction) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.int32]]:
    """Which source rows make each of `count` output rows, and with which integer taps: both [count, taps]."""
    phases = [_phase_taps(ratio, phase) for phase in range(ratio.numerator)]
    index = np.empty((count, len(phases[0][1])), dtype=np.int64)
    taps = np.empty(index.shape, dtype=np.int32)
    for row in range(count):
        turn, phase = divmod(row, ratio.numerator)
        first, weights = phases[phase]
        start = turn * ratio.denominator + first
        index[row] = np.clip(np.arange(start, start + len(weights)), 0, size - 1)
        taps[row] = weights
    return index, taps


def _phase_taps(ratio: Fraction, phase: int) -> tuple[int, tuple[int, ...]]:
    """The first source position and the integer taps of output sample `phase`.

    Rounding can move the sum of the taps off its target by a few units: the largest tap takes the difference.
    """
    stretch = max(Fraction(1), 1 / ratio)
    centre = (phase + Fraction(1, 2)) / ratio - Fraction(1, 2)
    reach = LOBES * stretch
    length = ceil(2 * reach)
    first = floor(centre - reach) + 1
    exact = [_lanczos(float((first + tap - centre) / stretch)) for tap in range(length)]
    total = 1 << TAP_SUM_BITS
    taps = [round(total * weight / sum(exact)) for weight in exact]
    taps[taps.index(max(taps))] += total - sum(taps)
    return first, tuple(taps)


def _lanczos(x: float) -> float:
    """The Lanczos window of order 3 (Duchon 1979)."""
    if x == 0:
        return 1.0
    if abs(x) >= LOBES:
        return 0.0
    return LOBES * sin(pi * x) * sin(pi * x / LOBES) / (pi * x) ** 2
