"""Finds the stills behind a scene that holds still, fades, cross-fades or shows one slide after another.

Owns the search; what a shot means is `codec.strategies.procedural.stills`'s. A still is the mean of the frames that
show it: noise averages out, so it costs less than any one of them and is closer to all others.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import cv2
import numpy as np
import numpy.typing as npt

from codec.errors import EncodeError
from codec.frames import Frames, Plane
from codec.strategies.procedural.stills import MAX_STILLS, ONE, Shot, render

BLOCK = 8
# What a block's mean may be off before it counts as motion: grey levels beyond four deviations of its noise.
LOCAL_LIMIT = 5.0
NOISE_DEVIATIONS = 4.0
# Structure that the description misses may be this share of the error that a quality stands for.
STRUCTURE_SHARE = 0.25
QUALITY_PSNR = (30.0, 48.0)
# A fade is fitted to so many samples of a plane.
FIT_SAMPLES = 20_000
# A fade's still is the mean of the frames that show at least this share of the strongest one's contrast.
STRONG = 0.5

_Picture = npt.NDArray[np.float64]


@dataclass(frozen=True)
class Steady:
    """Stills, what each frame makes of them, and the mean squared error that is structure, not noise."""

    stills: Frames
    shots: list[Shot]


def describe_steady(frames: Frames, quality: float) -> Steady:
    """The cheapest description that holds. Raises EncodeError, soon, where there is none."""
    slides = _slides(frames, quality)
    if slides:
        return slides
    if _fades(frames):
        for first, second in _fade_ends(frames):
            fade = _fade(frames, first, second)
            if structure_error(frames, render(fade.stills, fade.shots), quality):
                return fade
    raise EncodeError("procedural: the scene moves in ways that no still, fade or slide describes")


def structure_error(frames: Frames, described: Frames, quality: float) -> bool:
    """Whether what the description misses is noise, in every block of every frame and over the scene.

    Noise of deviation s moves the mean of a block of n samples by s / sqrt(n); structure moves it by more.
    """
    low, high = QUALITY_PSNR
    allowed = STRUCTURE_SHARE * 255**2 / 10 ** ((low + quality * (high - low)) / 10)
    total = 0.0
    for original, picture in zip(frames.y, described.y, strict=True):
        difference = original.astype(np.float32) - picture
        means = block_means(difference)
        noise = float(np.median(np.abs(difference))) / 0.6745
        if float(np.abs(means).max()) > LOCAL_LIMIT + NOISE_DEVIATIONS * noise / BLOCK:
            return False
        total += max(0.0, float((means**2).mean()) - 1.5 * float((difference**2).mean()) / BLOCK**2)
    return total / len(frames) <= allowed


def block_means(difference: npt.NDArray[np.float32]) -> npt.NDArray[np.float32]:
    rows, columns = (max(1, -(-side // BLOCK)) for side in difference.shape)
    padded = np.pad(
        difference,
        ((0, rows * BLOCK - difference.shape[0]), (0, columns * BLOCK - difference.shape[1])),
        mode="symmetric",
    )
    means: npt.NDArray[np.float32] = cv2.resize(padded, (columns, rows), interpolation=cv2.INTER_AREA)
    return means


def _slides(frames: Frames, quality: float) -> Steady | None:
    """One still a run of frames that look alike; None where a run is no still or there are too many."""
    starts = [0]
    for index in range(1, len(frames)):
        difference = frames.y[index].astype(np.float32) - frames.y[starts[-1]]
        noise = float(np.median(np.abs(difference))) / 0.6745
        if float(np.abs(block_means(difference)).max()) > LOCAL_LIMIT + NOISE_DEVIATIONS * noise / BLOCK:
            starts.append(index)
            if len(starts) > max(1, min(MAX_STILLS, len(frames) // 4)):
                return None
    ends = [*starts[1:], len(frames)]
    stills = Frames.concatenate([mean_picture(frames[a:b]) for a, b in zip(starts, ends, strict=True)])
    shots = [Shot(still, 0) for still, (a, b) in enumerate(zip(starts, ends, strict=True)) for _ in range(a, b)]
    steady = Steady(stills, shots)
    return steady if structure_error(frames, render(stills, shots), quality) else None


def mean_picture(frames: Frames) -> Frames:
    """The rounded mean over time, one frame: exact in integers."""
    count = len(frames)
    planes = [(plane.sum(axis=0, dtype=np.int64) * 2 + count) // (2 * count) for plane in frames.planes()]
    return Frames(*(plane.astype(np.uint8)[None] for plane in planes))


def _fades(frames: Frames) -> bool:
    """Whether frames in the middle lie between their neighbours: a cheap no for anything that moves."""
    if len(frames) < 4:
        return False
    ends = _sampled(frames.y, 0), _sampled(frames.y, len(frames) - 1)
    basis = np.stack([*ends, np.ones_like(ends[0])], axis=1)
    for index in np.linspace(1, len(frames) - 2, 3).astype(int):
        wanted = _sampled(frames.y, int(index))
        fitted = basis @ np.linalg.lstsq(basis, wanted, rcond=None)[0]
        left = float(np.median(np.abs(wanted - fitted)))
        if left > 6:
            return False
    return True


def _fade_ends(frames: Frames) -> Sequence[tuple[list[int], list[int]]]:
    """Which frames make the two stills: the ends of the scene; or, for a fade, its strongest frames alone."""
    contrast = frames.y[:, ::4, ::4].reshape(len(frames), -1).std(axis=1)
    strong = [int(index) for index in np.flatnonzero(contrast >= contrast.max() * STRONG)]
    return (strong, []), ([0], [len(frames) - 1])


def _fade(frames: Frames, first: list[int], second: list[int]) -> Steady:
    """Stills from these frames, then every frame's weights by least squares, rounded to the syntax."""
    planes = []
    weights: list[list[tuple[int, int, int]]] = []
    for plane in frames.planes():
        ends = [_estimate(plane, group) for group in (first, second) if group]
        planes.append(np.stack(ends))
        samples = [_sampled(planes[-1], still) for still in range(len(ends))]
        basis = np.stack([*samples, np.ones_like(samples[0])], axis=1)
        solved = [np.linalg.lstsq(basis, _sampled(plane, index), rcond=None)[0] for index in range(len(plane))]
        weights.append([_rounded(row) for row in solved])
    shots = [Shot(0, len(planes[0]) - 1, (y, u, v)) for y, u, v in zip(*weights, strict=True)]
    return Steady(Frames(*planes), shots)


def _rounded(solved: npt.NDArray[Any]) -> tuple[int, int, int]:
    values = [int(np.clip(np.rint(value * ONE), -(1 << 16), 1 << 16)) for value in solved[:-1]]
    offset = int(np.clip(np.rint(solved[-1] * ONE), -(1 << 22), 1 << 22))
    return values[0], values[1] if len(values) > 1 else 0, offset


def _estimate(plane: Plane, group: list[int]) -> Plane:
    """The strongest of the frames, with the others brought to its level and averaged in."""
    strongest = max(group, key=lambda index: float(plane[index, ::4, ::4].std()))
    reference = _sampled(plane, strongest)
    basis = np.stack([reference, np.ones_like(reference)], axis=1)
    total, weight = np.zeros(plane.shape[1:]), 0.0
    for index in group:
        gain, offset = np.linalg.lstsq(basis, _sampled(plane, index), rcond=None)[0]
        if gain > STRONG / 2:
            total += gain * (plane[index] - offset)
            weight += gain * gain
    if not weight:
        return np.array(plane[strongest])
    mean: Plane = np.clip(np.rint(total / weight), 0, 255).astype(np.uint8)
    return mean


def _sampled(plane: Plane, index: int) -> _Picture:
    flat: Plane = plane[index].ravel()
    # A stride that shares no factor with usual widths spreads the samples over all columns.
    step = max(1, flat.size // FIT_SAMPLES) | 1
    sampled: _Picture = flat[::step].astype(np.float64)
    return sampled
