"""Views: frames that show one still from where a camera stands: shifted, zoomed, turned, and faded.

Owns what a frame says of the still, its syntax, its limits and the exact arithmetic. Which still and path describe a
scene is `codec.strategies.procedural.camera`'s.

    position = centre of the still + place + (1 + growth) · position from the centre of the frame; growth is 2×2
    sample   = clip((gain · still there + offset + rounding) >> 12), per plane

The still has a size of its own, since a pan shows more than a frame does. It is enlarged four times by HEVC's 8-tap
filters, once; between those quarter samples, rounded to 8 bits, lies a straight line in steps of a sixteenth. So a
place counts in 1/64 of a sample. A growth tells how much further the frame's edge lies than its centre, in 1/64 too,
so that one step is as fine at every size. Beyond the edges of the still the edges repeat.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from codec.bitstream import MAX_SIDE
from codec.context_coder import ContextCoder
from codec.errors import BitstreamError
from codec.frames import Frames, Plane, VideoFormat
from codec.strategies.procedural.stills import MAX_OFFSET, MAX_WEIGHT, ONE, ONE_BITS

Motion = tuple[int, int, int, int, int, int]
Weights = tuple[tuple[int, int], ...]
_Wide = npt.NDArray[np.int32]

PLACE_BITS = 6
# Positions are computed in 1/65536 of a sample.
POSITION_BITS = 16
# A still may have so many times the luma samples of a frame, and no more than this: enlarged they are 256 MiB.
MOST_FRAMES = 8
MOST_SAMPLES = 1 << 24
# A frame's corners may lie so many samples outside the still.
MARGIN = 64
# Rows of a frame that are made at a time: their positions stay in a core's cache.
ROWS = 16
QUARTER_TAPS = ((-1, 4, -10, 58, 17, -5, 1, 0), (-1, 4, -11, 40, 40, -11, 4, -1), (0, 1, -5, 17, 58, -10, 4, -1))
TAPS, TAP_BITS = 8, 6

WIDTH, HEIGHT, PLACE, GROWTH, WEIGHT = range(64, 69)


@dataclass(frozen=True)
class View:
    """One frame.

    motion   across and down: where the frame's centre lies from the still's; then how much further across its right
             edge and its lower edge lie than in the frame itself, and how much further down. In 1/64 of a luma sample.
    weights  for Y, U and V: gain and offset, in 1/4096
    """

    motion: Motion
    weights: Weights = ((ONE, 0),) * 3


STILL = View((0,) * 6)


def code_views(
    coder: ContextCoder, video: VideoFormat, count: int, size: tuple[int, int] = (0, 0), views: Sequence[View] = ()
) -> tuple[VideoFormat, list[View]]:
    """Code the still's format and `count` views: from `size` (width, height) and `views`, else from the bytes."""
    width, height = coder.number(WIDTH, (), size[0]), coder.number(HEIGHT, (), size[1])
    if not (1 <= width <= MAX_SIDE and 1 <= height <= MAX_SIDE) or width * height > most_samples(video):
        raise BitstreamError(f"a procedural still of {width}×{height} is out of range for {video.width}×{video.height}")
    still = VideoFormat(width, height, video.frame_rate, video.color)
    done: list[View] = []
    last = older = STILL
    for index in range(count):
        view = _code_view(coder, last, older, views[index] if views else None)
        _require_inside(view, video, still)
        done.append(view)
        older, last = (last if index else view), view
    return still, done


def most_samples(video: VideoFormat) -> int:
    """Luma samples that a still for frames of this size may have."""
    return min(MOST_FRAMES * video.width * video.height, MOST_SAMPLES)


def _code_view(coder: ContextCoder, last: View, older: View, given: View | None) -> View:
    """Each number as what it differs from the line through the last two."""
    view = given or last
    motion = []
    for term, (value, new, old) in enumerate(zip(view.motion, last.motion, older.motion, strict=True)):
        guess = 2 * new - old
        motion.append(coder.signed(PLACE if term < 2 else GROWTH, (term,), value - guess) + guess)
    weights = []
    for plane, (values, news, olds) in enumerate(zip(view.weights, last.weights, older.weights, strict=True)):
        pair = []
        for term, (value, new, old) in enumerate(zip(values, news, olds, strict=True)):
            guess = 2 * new - old
            pair.append(coder.signed(WEIGHT, (plane * 2 + term,), value - guess) + guess)
        if abs(pair[0]) > MAX_WEIGHT or abs(pair[1]) > MAX_OFFSET:
            raise BitstreamError("a procedural frame has a weight that is out of range")
        weights.append((pair[0], pair[1]))
    return View(tuple(motion), tuple(weights))  # type: ignore[arg-type]


def _require_inside(view: View, video: VideoFormat, still: VideoFormat) -> None:
    """Raise BitstreamError where a corner lies far outside the still; else no position leaves 32 bits."""
    for x in (1 - video.width, video.width + 1):
        for y in (1 - video.height, video.height + 1):
            for position, side in zip(_position(view, video, still, x, y), (still.width, still.height), strict=True):
                if not -MARGIN <= position >> POSITION_BITS < side + MARGIN:
                    raise BitstreamError("a procedural frame looks beyond its still")


def _steps(view: View, video: VideoFormat) -> tuple[int, ...]:
    """What one step of half a sample, across or down the frame, adds to the position across and down the still."""
    fine = 1 << POSITION_BITS - PLACE_BITS
    sides = (video.width, video.height) * 2
    return tuple((growth * fine + side // 2) // side for growth, side in zip(view.motion[2:], sides, strict=True))


def _position(view: View, video: VideoFormat, still: VideoFormat, x: int, y: int) -> tuple[int, int]:
    """Where the still is read at (x, y), in half samples from the frame's centre."""
    half, fine = 1 << POSITION_BITS - 1, POSITION_BITS - PLACE_BITS
    ax, ay, dx, dy = _steps(view, video)
    across = (still.width - 1 + x) * half + (view.motion[0] << fine) + ax * x + ay * y
    down = (still.height - 1 + y) * half + (view.motion[1] << fine) + dx * x + dy * y
    return across, down


def render(still: Frames, shape: VideoFormat, views: Sequence[View], video: VideoFormat) -> Frames:
    """The frames that `views` describe of `still`, one frame in the format `shape`; integers throughout."""
    planes = []
    for number, plane in enumerate(still.planes()):
        height, width = (video.chroma_height, video.chroma_width) if number else (video.height, video.width)
        out = np.empty((len(views), height, width), dtype=np.uint8)
        fine = quarter_samples(plane[0])
        last: tuple[Motion, tuple[int, int]] | None = None
        for index, view in enumerate(views):
            recipe = view.motion, view.weights[number]
            if recipe == last:
                out[index] = out[index - 1]
            else:
                _show(fine, shape, view, video, bool(number), out[index])
                _weigh(out[index], *view.weights[number])
            last = recipe
        planes.append(out)
    return Frames(*planes)


def quarter_samples(plane: Plane) -> Plane:
    """Four times the size: the samples, and three between each and the next, across and then down."""
    height, width = plane.shape
    fine = np.empty((4 * height, 4 * width), np.uint8)
    fine[::4, ::4] = plane
    for top in range(0, height, 4 * ROWS):
        bottom = min(top + 4 * ROWS, height)
        rows = np.clip(np.arange(top - TAPS // 2 + 1, bottom + TAPS // 2), 0, height - 1)
        padded = np.pad(plane[rows].astype(np.int32), ((0, 0), (TAPS // 2 - 1, TAPS // 2)), mode="edge")
        inner = slice(TAPS // 2 - 1, TAPS // 2 - 1 + bottom - top)
        for column in range(4):
            if column:
                across = _filtered(padded.T, column, width).T
                fine[4 * top : 4 * bottom : 4, column::4] = _rounded(across[inner], TAP_BITS)
            else:
                across = padded[:, TAPS // 2 - 1 : TAPS // 2 - 1 + width] << TAP_BITS
            for row in range(1, 4):
                down = _filtered(across, row, bottom - top)
                fine[4 * top + row : 4 * bottom : 4, column::4] = _rounded(down, 2 * TAP_BITS)
    return fine


def _filtered(rows: _Wide, quarter: int, count: int) -> _Wide:
    """`count` rows that lie so many quarters after rows[3], rows[4], …, times 64."""
    total = np.zeros((count, rows.shape[1]), np.int32, order="F" if rows.flags.f_contiguous else "C")
    for tap, weight in enumerate(QUARTER_TAPS[quarter - 1]):
        if weight:
            total += weight * rows[tap : tap + count]
    return total


def _rounded(total: _Wide, bits: int) -> _Wide:
    rounded: _Wide = np.clip((total + (1 << bits - 1)) >> bits, 0, 255)
    return rounded


def _show(fine: Plane, shape: VideoFormat, view: View, video: VideoFormat, chroma: bool, out: Plane) -> None:
    """Write the samples of one plane into `out`, without gain and offset."""
    ax, ay, dx, dy = _steps(view, video)
    across, down = _position(view, video, shape, 0, 0)
    # A chroma sample lies in the middle of four luma samples.
    step, first = (4, 2) if chroma else (2, 1)
    x = np.arange(out.shape[1], dtype=np.int64) * step + first - video.width
    y = np.arange(out.shape[0], dtype=np.int64) * step + first - video.height
    half = 1 << POSITION_BITS - 1
    columns = (across + (half + ax) * x).astype(np.int32), (dx * x).astype(np.int32)
    lines = (ay * y).astype(np.int32), (down + (half + dy) * y).astype(np.int32)
    flat = fine.ravel()
    for top in range(0, len(out), ROWS):
        rows = slice(top, top + ROWS)
        u, v = (column + line[rows, None] for column, line in zip(columns, lines, strict=True))
        if chroma:
            u, v = u - half >> 1, v - half >> 1
        u, v = _kept_inside(u, fine.shape[1]), _kept_inside(v, fine.shape[0])
        out[rows] = _between(flat, fine.shape[1], u, v)


def _kept_inside(positions: _Wide, fine_side: int) -> _Wide:
    return np.clip(positions, 0, (fine_side // 4 - 1) << POSITION_BITS)


def _between(flat: Plane, stride: int, u: _Wide, v: _Wide) -> npt.NDArray[np.uint16]:
    """The straight line between the four quarter samples around each position. Sums may wrap: the last one does not."""
    at = (v >> POSITION_BITS - 2).astype(np.intp) * stride + (u >> POSITION_BITS - 2)
    right, below = ((part >> POSITION_BITS - PLACE_BITS & 15).astype(np.uint16) for part in (u, v))
    corners = [np.take(flat, at + aside).astype(np.uint16) for aside in (0, 1, stride, stride + 1)]
    upper = 16 * corners[0] + right * (corners[1] - corners[0])
    lower = 16 * corners[2] + right * (corners[3] - corners[2])
    total = np.asarray(16 * upper + below * (lower - upper) + np.uint16(128), dtype=np.uint16)
    return total >> np.uint16(8)


def _weigh(out: Plane, gain: int, offset: int) -> None:
    if (gain, offset) != (ONE, 0):
        out[:] = np.clip(out.astype(np.int32) * gain + (offset + ONE // 2) >> ONE_BITS, 0, 255)
