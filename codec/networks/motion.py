"""Motion that the decoder finds for itself: `aligned` moves a neighbouring picture onto the current one,
`path_between` tells how samples travel from one picture to a later one.

Owns the search and the interpolation. Both use integers only, and look only at decoded pictures, so encoder and decoder
find the same motion and none is sent.

    both pictures, halved three times
    1/8 size: full search of ±3 for each block of 8x8
    1/4, 1/2, 1/1: twice the vector and its 8 neighbours, and the vectors of the 4 blocks around
    half samples: the 8 neighbours, on the reference interpolated with HEVC's half-sample filter
    blocks of 4x4: the same again, and the vectors of the 4 blocks around

A vector's cost is the sum of absolute differences over a window of twice the block's side, and a small price for moving
away from the prediction, so that flat blocks keep the vectors of what is around them.

Between two pictures the search is the same, but the picture in between is not known: a vector leads from each of its
blocks back into the one picture and as far, by the share of time, forward into the other, and compares these (bilateral
matching). It ends at quarter samples.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import lru_cache

import cv2
import numpy as np
import numpy.typing as npt

from codec.frames import Plane

BLOCK = 8
LEVELS = 4
REACH = 3
PRICE = 24  # of a step away from the prediction, in grey levels summed over the window
HALF_TAPS = np.array([-1, 4, -11, 40, 40, -11, 4, -1], np.int32)  # HEVC (H.265, 8.5.3.3.3.1), sum 64
LARGEST_PLACE = 2**15 - 1  # that OpenCV can read a picture at

Vectors = npt.NDArray[np.int32]  # [2, rows, columns] of blocks: down, right
Costs = npt.NDArray[np.int32]  # [rows, columns] of blocks
NEAR = [(down, right) for down in (-1, 0, 1) for right in (-1, 0, 1)]
FULL = [(down, right) for down in range(-REACH, REACH + 1) for right in range(-REACH, REACH + 1)]


def aligned(current: Plane, reference: Plane) -> Plane:
    """`reference` uint8 [H, W] as it looks moved onto `current`, in half samples."""
    height, width = current.shape
    targets, sources = _pyramid(current), _pyramid(reference)
    vectors = _no_motion(targets[-1])
    vectors = _search(targets[-1], sources[-1], 1, vectors, FULL, neighbours=False)
    for target, source in zip(targets[-2::-1], sources[-2::-1], strict=True):
        vectors = 2 * vectors.repeat(2, axis=1).repeat(2, axis=2)
        vectors = _search(target, source, 1, vectors, NEAR, neighbours=True)
    fine = with_half_samples(sources[0])
    vectors = _search(targets[0], fine, 2, 2 * vectors, NEAR, neighbours=False)
    vectors = vectors.repeat(2, axis=1).repeat(2, axis=2)
    vectors = _search(targets[0], fine, 2, vectors, NEAR, neighbours=True)
    return moved(fine, 2, vectors)[:height, :width]


def path_between(past: Plane, future: Plane, share: tuple[int, int]) -> Vectors:
    """How far each block of 8x8 of a picture between these moves while half of the time between them passes.

    In quarter samples, with the sides padded to whole units of the search. share: the time since the past picture, and
    until the future one.
    """
    pasts, futures = _pyramid(past), _pyramid(future)
    vectors = _no_motion(pasts[-1])
    for level in range(LEVELS - 1, -1, -1):
        if level < LEVELS - 1:
            vectors = 2 * vectors.repeat(2, axis=1).repeat(2, axis=2)
        steps = FULL if level == LEVELS - 1 else NEAR
        vectors = _search_between(pasts[level], futures[level], 1, vectors, steps, share, level < LEVELS - 1)
    one, other = with_half_samples(pasts[0]), with_half_samples(futures[0])
    vectors = _search_between(one, other, 2, 2 * vectors, NEAR, share, neighbours=True)
    return _search_between(with_middles(one), with_middles(other), 4, 2 * vectors, NEAR, share, neighbours=True)


def split_path(vectors: Vectors, share: tuple[int, int]) -> tuple[Vectors, Vectors]:
    """From each block back into the past picture, and forward into the future one."""
    since, until = share
    back = -((2 * since * vectors + (since + until) // 2) // (since + until))
    return back, 2 * vectors + back


def shifted(plane: Plane, down: int, right: int) -> Plane:
    """The whole picture read so many half samples further down and right; beyond an edge the edge repeats."""
    height, width = plane.shape
    rows = np.clip(np.arange(0, 2 * height, 2) + down, 0, 2 * height - 2)
    columns = np.clip(np.arange(0, 2 * width, 2) + right, 0, 2 * width - 2)
    if down % 2 == 0 and right % 2 == 0:
        return plane[np.ix_(rows // 2, columns // 2)]
    return with_half_samples(plane)[np.ix_(rows, columns)]


def _pyramid(plane: Plane) -> list[Plane]:
    """The plane with its sides padded to whole units, and halved again and again."""
    unit = BLOCK << (LEVELS - 1)
    levels = [np.pad(plane, ((0, -plane.shape[0] % unit), (0, -plane.shape[1] % unit)), mode="edge")]
    for _ in range(LEVELS - 1):
        levels.append(_halved(levels[-1]))
    return levels


def _no_motion(plane: Plane) -> Vectors:
    return np.zeros((2, plane.shape[0] // BLOCK, plane.shape[1] // BLOCK), np.int32)


def _halved(plane: Plane) -> Plane:
    wide = plane.astype(np.uint16)
    total = wide[::2, ::2] + wide[1::2, ::2] + wide[::2, 1::2] + wide[1::2, 1::2]
    return (total + 2 >> 2).astype(np.uint8)


def _search(
    target: Plane, source: Plane, zoom: int, start: Vectors, steps: Sequence[tuple[int, int]], neighbours: bool
) -> Vectors:
    block = target.shape[0] // start.shape[1]

    def cost(vectors: Vectors) -> Costs:
        return _windowed(cv2.absdiff(target, moved(source, zoom, vectors)), block)

    return cheapest(cost, start, steps, PRICE * block // BLOCK, neighbours)


def _search_between(
    past: Plane,
    future: Plane,
    zoom: int,
    start: Vectors,
    steps: Sequence[tuple[int, int]],
    share: tuple[int, int],
    neighbours: bool,
) -> Vectors:
    def cost(vectors: Vectors) -> Costs:
        back, forth = split_path(vectors, share)
        return _windowed(cv2.absdiff(moved(past, zoom, back), moved(future, zoom, forth)), BLOCK)

    return cheapest(cost, start, steps, PRICE, neighbours)


def cheapest(
    cost: Callable[[Vectors], Costs], start: Vectors, steps: Sequence[tuple[int, int]], price: int, neighbours: bool
) -> Vectors:
    """The best of the start vectors, these steps away from them, and the start vectors of the blocks around."""
    best = start
    lowest = cost(start)
    tried = [start + np.array(step, np.int32)[:, None, None] for step in steps if step != (0, 0)]
    if neighbours:
        around = np.pad(start, ((0, 0), (1, 1), (1, 1)), mode="edge")
        tried += [around[:, :-2, 1:-1], around[:, 2:, 1:-1], around[:, 1:-1, :-2], around[:, 1:-1, 2:]]
    for vectors in tried:
        found = cost(vectors) + price
        better = found < lowest
        best, lowest = np.where(better, vectors, best), np.minimum(found, lowest)
    return best


def _windowed(difference: Plane, block: int) -> Costs:
    """The sum over a window of twice each block's side."""
    window = (2 * block, 2 * block)
    sums = cv2.boxFilter(difference, cv2.CV_32S, window, normalize=False, borderType=cv2.BORDER_REPLICATE)
    return np.asarray(sums[block // 2 :: block, block // 2 :: block])


def moved(source: Plane, zoom: int, vectors: Vectors) -> Plane:
    """`source`, `zoom` times as fine as the result, read at each block's vector; beyond an edge the edge repeats."""
    height, width = source.shape
    block = height // zoom // vectors.shape[1]
    if max(height, width) + int(np.abs(vectors).max()) <= LARGEST_PLACE:
        # OpenCV only copies samples here: nothing is interpolated. A pair of 16 bits is repeated as one number of 32.
        pairs = np.ascontiguousarray(vectors[::-1].transpose(1, 2, 0).astype(np.int16)).view(np.int32)[..., 0]
        still = _unmoved(height, width, zoom)
        places = pairs.repeat(block, axis=1).repeat(block, axis=0).view(np.int16).reshape(still.shape)
        places += still
        return np.asarray(cv2.remap(source, places, None, cv2.INTER_NEAREST, borderMode=cv2.BORDER_REPLICATE))
    down, right = (vector.repeat(block, axis=0).repeat(block, axis=1) for vector in vectors)
    rows = np.clip(down + np.arange(0, height, zoom, dtype=np.int32)[:, None], 0, height - 1)
    columns = np.clip(right + np.arange(0, width, zoom, dtype=np.int32), 0, width - 1)
    found: Plane = np.take(source, rows.astype(np.int64) * width + columns)
    return found


@lru_cache(maxsize=8)
def _unmoved(height: int, width: int, zoom: int) -> npt.NDArray[np.int16]:
    """Where samples lie in a source of this size: [h, w, 2], right and down."""
    return np.stack(np.meshgrid(np.arange(0, width, zoom), np.arange(0, height, zoom)), axis=2).astype(np.int16)


def with_half_samples(plane: Plane) -> Plane:
    """Twice the size: samples at even places, half samples between them, each rounded to 8 bits."""
    height, width = plane.shape
    fine = np.empty((2 * height, 2 * width), np.uint8)
    across = _filtered(plane.astype(np.int32))
    fine[::2, ::2] = plane
    fine[::2, 1::2] = np.clip(across + 32 >> 6, 0, 255)
    fine[1::2, ::2] = np.clip(_filtered(plane.astype(np.int32).T).T + 32 >> 6, 0, 255)
    fine[1::2, 1::2] = np.clip(_filtered(np.ascontiguousarray(across.T)).T + 2048 >> 12, 0, 255)
    return fine


def with_middles(plane: Plane) -> Plane:
    """Twice the size: between two samples, and between four, lies their mean. Quarter samples, of half samples."""
    height, width = plane.shape
    fine = np.empty((2 * height, 2 * width), np.uint8)
    wide = np.pad(plane, ((0, 1), (0, 1)), mode="edge").astype(np.uint16)
    fine[::2, ::2] = plane
    fine[::2, 1::2] = wide[:-1, :-1] + wide[:-1, 1:] + 1 >> 1
    fine[1::2, ::2] = wide[:-1, :-1] + wide[1:, :-1] + 1 >> 1
    fine[1::2, 1::2] = wide[:-1, :-1] + wide[:-1, 1:] + wide[1:, :-1] + wide[1:, 1:] + 2 >> 2
    return fine


def _filtered(rows: npt.NDArray[np.int32]) -> npt.NDArray[np.int32]:
    """Between each sample and the next along a row, times 64."""
    width = rows.shape[1]
    padded = np.pad(rows, ((0, 0), (3, 4)), mode="edge")
    total = np.zeros_like(rows)
    for tap, weight in enumerate(HALF_TAPS):
        total += weight * padded[:, tap : tap + width]
    return total
