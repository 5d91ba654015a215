"""What `hybrid_semantic` sends beyond its base layer: gains and a map of blocks, as the entropy coder's symbols."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from codec.entropy import AdaptiveFlag, Coder, Reader, Writer, best_scale
from codec.frames import VideoFormat

MAX_SHIFT = 4
BLOCK_LUMA = 64
GAINS_LARGEST, GAIN_ONE = 127, 64
PLANES, CANDIDATES = 3, 12
# of Y, U and V: differences from other frames are candidates for luma only
CANDIDATES_OF = (12, 6, 6)

Integers = npt.NDArray[np.int32]


@dataclass(frozen=True)
class Enhancement:
    """What a payload says beyond its base layer.

    network  code of the shipped network
    gains    [S, 3, K] in ±127: sets of gains for Y, U and V
    sets     [T, rows, columns]: each block's set, counted from 1; 0 leaves the block as it is
    """

    network: int
    gains: Integers
    sets: Integers


def write_enhancement(enhancement: Enhancement) -> bytes:
    """The bytes after the base layer."""
    writer = Writer()
    _syntax(writer, enhancement, enhancement.sets.shape)
    return writer.to_bytes()


def read_enhancement(data: bytes, video: VideoFormat, frame_count: int) -> Enhancement:
    """The reverse of `write_enhancement`. Raises BitstreamError where no writer wrote this."""
    rows, columns = grid(video)
    return _syntax(Reader(data), nothing((1, 1, 1)), (frame_count, rows, columns))


def nothing(shape: tuple[int, ...]) -> Enhancement:
    """One that leaves every block as it is."""
    return Enhancement(0, np.zeros((1, PLANES, CANDIDATES), np.int32), np.zeros(shape, np.int32))


def _syntax(coder: Coder, told: Enhancement, shape: tuple[int, ...]) -> Enhancement:
    """The syntax, for writing and for reading; a reader gets any `told` and the shape of the map of blocks."""
    network = coder.number(told.network, 4)
    count = coder.number(len(told.gains) - 1, 2) + 1
    gains = np.zeros((count, PLANES, CANDIDATES), np.int32)
    for plane in range(PLANES):
        used = CANDIDATES_OF[plane]
        given = told.gains[:, plane, :used]
        shift = coder.number(_common_shift(given), 3)
        scale = coder.number(best_scale(given >> shift, GAINS_LARGEST), 5)
        coded = coder.laplace(given >> shift, count * used, scale, GAINS_LARGEST)
        gains[:, plane, :used] = np.clip(coded.reshape(count, used) << shift, -GAINS_LARGEST, GAINS_LARGEST)
    return Enhancement(network, gains, _map_syntax(coder, told.sets, shape, count))


def _common_shift(gains: Integers) -> int:
    """The largest of 0 … 4 by which all gains can be shifted down without loss."""
    return next(shift for shift in range(MAX_SHIFT, -1, -1) if not (gains & (1 << shift) - 1).any())


def _map_syntax(coder: Coder, told: Integers, shape: tuple[int, ...], count: int) -> Integers:
    """Each block's set: whether it has one, by the blocks left, above and before it; then which, in unary."""
    writing = told.shape == shape
    # A rim of zeros at the top and left, and a frame of zeros before the first, save all special cases.
    padded = np.zeros((shape[0] + 1, shape[1] + 1, shape[2] + 1), np.int32)
    used = [AdaptiveFlag() for _ in range(8)]
    higher = [[AdaptiveFlag() for _ in range(count + 1)] for _ in range(count)]
    given = told.tolist() if writing else None
    for frame in range(shape[0]):
        before = padded[frame].tolist()
        rows = [[0] * (shape[2] + 1)]
        for row in range(shape[1]):
            line = [0]
            for column in range(shape[2]):
                value = given[frame][row][column] if given else 0
                left, above, then = line[-1], rows[-1][column + 1], before[row + 1][column + 1]
                context = (left > 0) + 2 * (above > 0) + 4 * (then > 0)
                number = 0
                if coder.flag(value > 0, used[context]):
                    likely = then or left or above
                    number = 1
                    while number < count and coder.flag(value > number, higher[number][likely]):
                        number += 1
                line.append(number)
            rows.append(line)
        padded[frame + 1] = rows
    return padded[1:, 1:, 1:]


def grid(video: VideoFormat) -> tuple[int, int]:
    """Rows and columns of blocks."""
    return -(-video.height // BLOCK_LUMA), -(-video.width // BLOCK_LUMA)
