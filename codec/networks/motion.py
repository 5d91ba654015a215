"""`aligned`: a neighbouring picture moved onto the current one, by motion that the decoder finds for itself.

Owns the search and the interpolation. Both use integers only, and look only at decoded pictures, so encoder and decoder
find the same motion and none is sent.

    both pictures, halved three times
    1/8 size: full search of ±3 for each block of 8x8
    1/4, 1/2, 1/1: twice the vector and its 8 neighbours, and the vectors of the 4 blocks around
    half samples: the 8 neighbours, on the reference interpolated with HEVC's half-sample filter
    blocks of 4x4: the same again, and the vectors of the 4 blocks around

A vector's cost is the sum of absolute differences over a window of twice the block's side, and a small price for moving
away from the prediction, so that flat blocks keep the vectors of what is around them.
"""

from __future__ import annotations

import cv2
import numpy as np
import numpy.typing as npt

from codec.frames import Plane

BLOCK = 8
LEVELS = 4
REACH = 3
PRICE = 24  # of a step away from the prediction, in grey levels summed over the window
HALF_TAPS = np.array([-1, 4, -11, 40, 40, -11, 4, -1], np.int32)  # HEVC (H.265, 8.5.3.3.3.1), sum 64

_Vectors = npt.NDArray[np.int32]  # [2, rows, columns] of blocks: down, right


def aligned(current: Plane, reference: Plane) -> Plane:
    """`reference` uint8 [H, W] as it looks moved onto `current`, in half samples."""
    height, width = current.shape
    unit = BLOCK << (LEVELS - 1)
    edges = ((0, -height % unit), (0, -width % unit))
    targets, sources = ([np.pad(plane, edges, mode="edge")] for plane in (current, reference))
    for _ in range(LEVELS - 1):
        targets.append(_halved(targets[-1]))
        sources.append(_halved(sources[-1]))
    vectors = np.zeros((2, targets[-1].shape[0] // BLOCK, targets[-1].shape[1] // BLOCK), np.int32)
    steps = [(down, right) for down in range(-REACH, REACH + 1) for right in range(-REACH, REACH + 1)]
    vectors = _search(targets[-1], sources[-1], 1, vectors, steps, neighbours=False)
    near = [(down, right) for down in (-1, 0, 1) for right in (-1, 0, 1)]
    for target, source in zip(targets[-2::-1], sources[-2::-1], strict=True):
        vectors = 2 * vectors.repeat(2, axis=1).repeat(2, axis=2)
        vectors = _search(target, source, 1, vectors, near, neighbours=True)
    fine = _with_half_samples(sources[0])
    vectors = _search(targets[0], fine, 2, 2 * vectors, near, neighbours=False)
    vectors = vectors.repeat(2, axis=1).repeat(2, axis=2)
    vectors = _search(targets[0], fine, 2, vectors, near, neighbours=True)
    return _moved(fine, 2, vectors)[:height, :width]


def shifted(plane: Plane, down: int, right: int) -> Plane:
    """The whole picture read so many half samples further down and right; beyond an edge the edge repeats."""
    height, width = plane.shape
    rows = np.clip(np.arange(0, 2 * height, 2) + down, 0, 2 * height - 2)
    columns = np.clip(np.arange(0, 2 * width, 2) + right, 0, 2 * width - 2)
    if down % 2 == 0 and right % 2 == 0:
        return plane[np.ix_(rows // 2, columns // 2)]
    return _with_half_samples(plane)[np.ix_(rows, columns)]


def _halved(plane: Plane) -> Plane:
    wide = plane.astype(np.uint16)
    total = wide[::2, ::2] + wide[1::2, ::2] + wide[::2, 1::2] + wide[1::2, 1::2]
    return (total + 2 >> 2).astype(np.uint8)


def _search(
    target: Plane, source: Plane, zoom: int, start: _Vectors, steps: list[tuple[int, int]], neighbours: bool
) -> _Vectors:
    """The best of the start vectors, these steps away from them, and the start vectors of the blocks around."""
    best = start
    lowest = _cost(target, source, zoom, start)
    price = PRICE * (target.shape[0] // start.shape[1]) // BLOCK
    tried = [start + np.array(step, np.int32)[:, None, None] for step in steps if step != (0, 0)]
    if neighbours:
        around = np.pad(start, ((0, 0), (1, 1), (1, 1)), mode="edge")
        tried += [around[:, :-2, 1:-1], around[:, 2:, 1:-1], around[:, 1:-1, :-2], around[:, 1:-1, 2:]]
    for vectors in tried:
        cost = _cost(target, source, zoom, vectors) + price
        better = cost < lowest
        best, lowest = np.where(better, vectors, best), np.minimum(cost, lowest)
    return best


def _cost(target: Plane, source: Plane, zoom: int, vectors: _Vectors) -> npt.NDArray[np.int32]:
    difference = cv2.absdiff(target, _moved(source, zoom, vectors))
    block = target.shape[0] // vectors.shape[1]
    window = (2 * block, 2 * block)
    sums = cv2.boxFilter(difference, cv2.CV_32S, window, normalize=False, borderType=cv2.BORDER_REPLICATE)
    return np.asarray(sums[block // 2 :: block, block // 2 :: block])


def _moved(source: Plane, zoom: int, vectors: _Vectors) -> Plane:
    """`source`, `zoom` times as fine as the result, read at each block's vector; beyond an edge the edge repeats."""
    height, width = source.shape
    block = height // zoom // vectors.shape[1]
    down, right = (vector.repeat(block, axis=0).repeat(block, axis=1) for vector in vectors)
    rows = np.clip(down + np.arange(0, height, zoom, dtype=np.int32)[:, None], 0, height - 1)
    columns = np.clip(right + np.arange(0, width, zoom, dtype=np.int32), 0, width - 1)
    moved: Plane = np.take(source, rows * width + columns)
    return moved


def _with_half_samples(plane: Plane) -> Plane:
    """Twice the size: samples at even places, half samples between them, each rounded to 8 bits."""
    height, width = plane.shape
    fine = np.empty((2 * height, 2 * width), np.uint8)
    across = _filtered(plane.astype(np.int32))
    fine[::2, ::2] = plane
    fine[::2, 1::2] = np.clip(across + 32 >> 6, 0, 255)
    fine[1::2, ::2] = np.clip(_filtered(plane.astype(np.int32).T).T + 32 >> 6, 0, 255)
    fine[1::2, 1::2] = np.clip(_filtered(np.ascontiguousarray(across.T)).T + 2048 >> 12, 0, 255)
    return fine


def _filtered(rows: npt.NDArray[np.int32]) -> npt.NDArray[np.int32]:
    """Between each sample and the next along a row, times 64."""
    width = rows.shape[1]
    padded = np.pad(rows, ((0, 0), (3, 4)), mode="edge")
    total = np.zeros_like(rows)
    for tap, weight in enumerate(HALF_TAPS):
        total += weight * padded[:, tap : tap + width]
    return total
