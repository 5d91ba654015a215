"""Finds the rectangles that describe a screen: text that repeats, regions that scroll, pointers that come and go.

Owns the search and the palette; what the rectangles mean is `codec.strategies.procedural.canvas`'s. Every picture is
described exactly after its samples have been mapped to a palette, so the palette alone decides the quality.

    first picture  runs of equal samples as the background, then what differs from it: connected pieces, mostly letters
    others         the picture before it; regions moved since then; then the connected pieces that still differ
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import cv2
import numpy as np
import numpy.typing as npt

from codec.errors import EncodeError
from codec.strategies.procedural.canvas import (
    COPY,
    MAX_CODED_SAMPLES,
    MAX_PALETTE,
    PATCH,
    STAMP,
    SYMBOL_BITS,
    Indices,
    Operation,
    Plan,
)

# Samples that repeat along at least this many belong to the background: wider than the gaps between letters.
BACKGROUND_RUN = 16
# A picture in which this share changes may have scrolled; the last of the run of frames is then coded first.
SCROLL_SHARE = 0.005
ANCHOR_DISTANCE = 64
MAX_MOVES = 4
MIN_MOVED_SAMPLES = 150
SHIFT_REACH = 640
PROBES = 1500
FIRST_PROBES = 100
# A move that this share of the probes supports needs no search for a better one.
CLEAR_MAJORITY = 0.8
PICTURES_BACK = 24
# Smaller pieces cost less as they are than as a copy.
MIN_COPIED_SAMPLES = 9
LINE_GAP = 48
# A full page of small print has fewer; sorting takes the square of it.
MAX_PIECES = 8192

_Mask = npt.NDArray[np.bool_]
_Rectangle = tuple[int, int, int, int]
_Vector = tuple[int, int]


def to_palette(planes: Sequence[npt.NDArray[np.uint8]], colours: int | None) -> tuple[Indices, npt.NDArray[np.uint8]]:
    """Samples of one or two planes as indices [T, h, w] into a palette uint8 [n, planes], sorted by value.

    `colours` None keeps every value. Raises EncodeError where that takes more than the syntax allows.
    """
    joint: Indices = planes[0].astype(np.uint16)
    for plane in planes[1:]:
        joint = (joint << 8 | plane).astype(np.uint16)
    counts = np.bincount(joint.ravel(), minlength=1 << 8 * len(planes))
    values = np.flatnonzero(counts)
    parts = np.stack([values >> 8 * shift & 255 for shift in range(len(planes) - 1, -1, -1)], axis=1)
    groups = _split_colours(parts, counts[values], min(colours or MAX_PALETTE, MAX_PALETTE))
    if colours is None and len(groups) < len(values):
        raise EncodeError(f"procedural: a screen with {len(values)} colours has too many to be kept")
    means = [np.rint(np.average(parts[group], axis=0, weights=counts[values[group]])) for group in groups]
    order = sorted(range(len(groups)), key=lambda index: tuple(means[index]))
    table = np.zeros(1 << 8 * len(planes), dtype=np.uint16)
    for index, group in enumerate(order):
        table[values[groups[group]]] = index
    return table[joint], np.array([means[index] for index in order], dtype=np.uint8)


def _split_colours(
    parts: npt.NDArray[np.int64], counts: npt.NDArray[np.int64], most: int
) -> list[npt.NDArray[np.int64]]:
    """Groups of rows of `parts`: the group with the largest squared error is cut at its mean until there are enough."""
    if len(parts) <= most:
        return [np.array([index]) for index in range(len(parts))]
    groups = [np.arange(len(parts))]
    errors = [_spread(parts, counts)]
    while len(groups) < most and max(error for error, _ in errors) > 0:
        worst = max(range(len(groups)), key=lambda index: errors[index][0])
        group, axis = groups[worst], errors[worst][1]
        column = parts[group, axis]
        upper = column > np.average(column, weights=counts[group])
        for part, index in ((group[~upper], worst), (group[upper], len(groups))):
            groups[index : index + 1] = [part]
            errors[index : index + 1] = [_spread(parts[part], counts[part])]
    return groups


def _spread(parts: npt.NDArray[np.int64], counts: npt.NDArray[np.int64]) -> tuple[float, int]:
    """Weighted squared error around the mean, and the axis with the most of it."""
    mean = np.average(parts, axis=0, weights=counts)
    error = ((parts - mean) ** 2 * counts[:, None]).sum(axis=0)
    return float(error.sum()), int(error.argmax())


def coding_order(luma: Indices) -> list[int]:
    """Display indices in the order in which pictures are coded: natural, unless something may scroll."""
    count = len(luma)
    changes = [float((luma[t] != luma[t - 1]).mean()) for t in range(1, count)]
    if not changes or max(changes) < SCROLL_SHARE:
        return list(range(count))
    order = [0]
    for first in range(1, count, ANCHOR_DISTANCE):
        last = min(first + ANCHOR_DISTANCE, count) - 1
        order += [last, *range(first, last)]
    return order


@dataclass
class ScreenSearch:
    """Plans the pictures of one layer, in coding order. `pictures` holds the indices of those done, by step."""

    order: Sequence[int]
    pictures: list[Indices] = field(default_factory=list)
    _symbols: dict[tuple[int, int, bytes], int] = field(default_factory=dict)
    _symbol_count: int = 0
    _moves: dict[int, _Vector] = field(default_factory=dict)
    coded: int = 0

    def plan(self, picture: Indices) -> Plan:
        """How the next picture comes about. Raises EncodeError where too little of it can be described."""
        step = len(self.pictures)
        start = self._start(step)
        background = None
        operations: list[Operation] = []
        if start is None:
            background = estimate_background(picture)
            canvas = background.copy()
        else:
            canvas = self.pictures[start].copy()
            operations += self._moved(step, start, canvas, picture)
            if np.count_nonzero(canvas != picture) > canvas.size // 8:
                other = estimate_background(picture)
                if np.count_nonzero(other != picture) < np.count_nonzero(canvas != picture) // 2:
                    start, background, canvas, operations = None, other, other.copy(), []
        differing = pieces(canvas != picture)
        if len(differing) > MAX_PIECES:
            raise EncodeError(f"procedural: a picture of {len(differing)} separate pieces is no screen")
        for piece in reading_order(differing):
            operations.append(self._describe(step, piece, picture))
        self.pictures.append(picture)
        return Plan(start, background, operations)

    def _start(self, step: int) -> int | None:
        """The step of the nearest earlier frame that is coded."""
        if step == 0:
            return None
        shown = self.order[step]
        return max((s for s in range(step) if self.order[s] < shown), key=lambda s: self.order[s])

    def _following(self, step: int) -> int | None:
        """The step of the nearest later frame that is coded already."""
        shown = self.order[step]
        later = [s for s in range(step) if self.order[s] > shown]
        return min(later, key=lambda s: self.order[s]) if later else None

    def _moved(self, step: int, start: int, canvas: Indices, picture: Indices) -> list[Operation]:
        """Copies of whole regions, each of which must set many samples right; `canvas` gets them."""
        shown = self.order[step]
        by_frame = {self.order[s]: s for s in range(step)}
        references = [start, *([by_frame[shown - 2]] if shown - 2 in by_frame else [])]
        following = self._following(step)
        references += [following] if following is not None else []
        operations: list[Operation] = []
        limit = max(MIN_MOVED_SAMPLES, picture.size // 1000)
        for reference in references:
            wrong = canvas != picture
            if len(operations) >= MAX_MOVES or np.count_nonzero(wrong) < limit:
                break
            vector = self._vector(reference, shown, self.pictures[reference], picture, wrong)
            found = vector and moved_region(self.pictures[reference], picture, wrong, vector)
            if not vector or not found or found[1] < limit:
                continue
            (x, y, width, height), _ = found
            across, down = vector
            operations.append(Operation(COPY, x, y, width, height, reference, across, down))
            source = self.pictures[reference][y + down : y + down + height, x + across : x + across + width]
            canvas[y : y + height, x : x + width] = source
            self._moves[self.order[reference] - shown] = vector
        return operations

    def _vector(self, reference: int, shown: int, source: Indices, picture: Indices, wrong: _Mask) -> _Vector | None:
        """Where what is wrong lies in `source`: most probes decide. Steady scrolls are tried first."""
        distance = self.order[reference] - shown
        steady = [
            (round(vector[0] * distance / known), round(vector[1] * distance / known))
            for known, vector in self._moves.items()
        ]
        return find_shift(source, picture, wrong, list(dict.fromkeys(steady))[:8])

    def _describe(self, step: int, piece: _Rectangle, picture: Indices) -> Operation:
        x, y, width, height = piece
        samples = picture[y : y + height, x : x + width]
        key = (width, height, samples.tobytes())
        if key in self._symbols:
            return Operation(STAMP, x, y, width, height, self._symbols[key])
        if step and samples.size >= MIN_COPIED_SAMPLES:
            copy = self._copied(step, piece, samples)
            if copy:
                return copy
        self.coded += samples.size
        if self.coded > MAX_CODED_SAMPLES // 2:
            raise EncodeError("procedural: too much of the screen does not repeat")
        if self._symbol_count < 1 << SYMBOL_BITS:
            self._symbols[key] = self._symbol_count
            self._symbol_count += 1
        return Operation(PATCH, x, y, width, height, samples=samples)

    def _copied(self, step: int, piece: _Rectangle, samples: Indices) -> Operation | None:
        """The piece as it was in an earlier picture, there or where it has moved from."""
        x, y, width, height = piece
        shown = self.order[step]
        steps = [*range(step - 1, max(-1, step - 1 - PICTURES_BACK), -1)]
        following = self._following(step)
        if following is not None and following not in steps:
            steps.append(following)
        vectors = {(0, 0)}
        for source in steps:
            distance = self.order[source] - shown
            moved = {
                (round(a * distance / k), round(d * distance / k)) for k, (a, d) in self._moves.items() if abs(k) <= 2
            }
            for across, down in sorted(vectors | moved):
                rows = self.pictures[source][
                    max(0, y + down) : y + down + height, max(0, x + across) : x + across + width
                ]
                if rows.shape == samples.shape and np.array_equal(rows, samples):
                    return Operation(COPY, x, y, width, height, source, across, down)
        return None


def estimate_background(picture: Indices) -> Indices:
    """Long runs as they are; what is between them takes the value of the long run to its left."""
    height, width = picture.shape
    change = np.ones(picture.shape, dtype=bool)
    change[:, 1:] = picture[:, 1:] != picture[:, :-1]
    starts = np.flatnonzero(change.ravel())
    lengths = np.diff(np.append(starts, picture.size))
    is_long = lengths >= min(BACKGROUND_RUN, width)
    values = picture.ravel()[starts]
    first_of_row = starts % width == 0
    # A row that starts with a short run takes the value of its first long one, or keeps its own.
    rows = starts // width
    first_long = {int(row): int(value) for row, value in zip(rows[is_long][::-1], values[is_long][::-1], strict=True)}
    for index in np.flatnonzero(first_of_row & ~is_long):
        values[index] = first_long.get(int(rows[index]), int(values[index]))
    held = np.where(is_long | first_of_row, np.arange(len(starts)), 0)
    held = np.maximum.accumulate(held)
    background: Indices = np.repeat(values[held], lengths).reshape(height, width)
    return background


def pieces(wrong: _Mask) -> list[_Rectangle]:
    """Bounding boxes (x, y, width, height) of connected samples; dots join the letters below them."""
    if not wrong.any():
        return []
    joined = cv2.dilate(wrong.astype(np.uint8), np.ones((5, 1), dtype=np.uint8))
    count, labels, _, _ = cv2.connectedComponentsWithStats(joined, connectivity=8)
    labels = np.where(wrong, labels, 0)
    rows, columns = np.nonzero(labels)
    names = labels[rows, columns]
    left, top = (np.full(count, 1 << 30) for _ in range(2))
    right, bottom = (np.full(count, -1) for _ in range(2))
    np.minimum.at(left, names, columns)
    np.minimum.at(top, names, rows)
    np.maximum.at(right, names, columns)
    np.maximum.at(bottom, names, rows)
    boxes = zip(left, top, right - left + 1, bottom - top + 1, strict=True)
    return [(int(x), int(y), int(w), int(h)) for x, y, w, h in boxes if w > 0]


def reading_order(boxes: list[_Rectangle]) -> list[_Rectangle]:
    """Along each line of text, then to the nearest line below it."""
    if not boxes:
        return []
    table = np.array(boxes)
    left, top = table[:, 0], table[:, 1]
    right, bottom = left + table[:, 2], top + table[:, 3]
    free = np.ones(len(boxes), dtype=bool)
    order: list[int] = []
    start = int(np.lexsort((left, top))[0])
    while True:
        here = start
        while True:
            order.append(here)
            free[here] = False
            beside = free & (top < bottom[here]) & (bottom > top[here]) & (left >= left[here])
            beside &= left - right[here] < LINE_GAP
            candidates = np.flatnonzero(beside)
            if not len(candidates):
                break
            here = int(candidates[left[candidates].argmin()])
        rest = np.flatnonzero(free)
        if not len(rest):
            return [boxes[index] for index in order]
        below = rest[(top[rest] + 8 >= top[start]) & (abs(left[rest] - left[start]) < 400)]
        if len(below):
            start = int(below[np.lexsort((left[below], top[below] // 8))[0]])
        else:
            start = int(rest[np.lexsort((left[rest], top[rest]))[0]])


def find_shift(source: Indices, picture: Indices, wrong: _Mask, steady: list[_Vector]) -> _Vector | None:
    """The (across, down) that leads most of the wrong, textured samples to the same samples in `source`."""
    height, width = picture.shape
    if min(height, width) < 8:
        return None
    textured = wrong[:, 1:-2] & (picture[:, 1:-2] != picture[:, :-3])
    rows, columns = np.nonzero(textured)
    if len(rows) < PROBES // 50:
        return None
    chosen = np.linspace(0, len(rows) - 1, min(PROBES, len(rows))).astype(np.int64)
    rows, columns = rows[chosen], columns[chosen] + 1
    wanted = _pattern(picture, rows, columns)
    best: tuple[float, _Vector] = (0.0, (0, 0))
    for vector in steady:
        best = max(best, (_support(source, rows, columns, wanted, vector), vector))
    if best[0] < CLEAR_MAJORITY:
        reach_down, reach_across = min(SHIFT_REACH, height - 1), min(SHIFT_REACH, width - 4)
        straight = [(0, shift) for shift in range(-reach_down, reach_down + 1) if shift]
        straight += [(shift, 0) for shift in range(-reach_across, reach_across + 1) if shift]
        few = slice(None, None, max(1, len(rows) // FIRST_PROBES))
        thin = rows[few], columns[few], wanted[few]
        ranked = sorted(straight, key=lambda vector: _support(source, *thin, vector), reverse=True)
        for vector in ranked[:8]:
            best = max(best, (_support(source, rows, columns, wanted, vector), vector))
    return best[1] if best[0] > 0.05 else None


def _pattern(picture: Indices, rows: npt.NDArray[np.int64], columns: npt.NDArray[np.int64]) -> npt.NDArray[np.uint64]:
    """Four samples in a row as one number."""
    parts = [picture[rows, columns + shift].astype(np.uint64) for shift in (-1, 0, 1, 2)]
    return (parts[0] << 48 | parts[1] << 32 | parts[2] << 16 | parts[3]).astype(np.uint64)


def _support(
    source: Indices,
    rows: npt.NDArray[np.int64],
    columns: npt.NDArray[np.int64],
    wanted: npt.NDArray[np.uint64],
    vector: _Vector,
) -> float:
    height, width = source.shape
    moved_rows, moved_columns = rows + vector[1], columns + vector[0]
    inside = (moved_rows >= 0) & (moved_rows < height) & (moved_columns >= 1) & (moved_columns < width - 2)
    if not inside.any():
        return 0.0
    found = _pattern(source, moved_rows[inside], moved_columns[inside])
    return float(np.count_nonzero(found == wanted[inside])) / len(rows)


def moved_region(source: Indices, picture: Indices, wrong: _Mask, vector: _Vector) -> tuple[_Rectangle, int] | None:
    """The rectangle in which copying by `vector` sets right the most samples, less those it spoils; and that gain."""
    height, width = picture.shape
    across, down = vector
    y0, y1 = max(0, -down), min(height, height - down)
    x0, x1 = max(0, -across), min(width, width - across)
    if y0 >= y1 or x0 >= x1:
        return None
    same = picture[y0:y1, x0:x1] == source[y0 + down : y1 + down, x0 + across : x1 + across]
    before = wrong[y0:y1, x0:x1]
    gain = (before & same).astype(np.int8) - 2 * (~before & ~same).astype(np.int8)
    top, bottom, left, right = 0, y1 - y0, 0, x1 - x0
    total = 0
    for _ in range(2):
        top, bottom, _ = _best_interval(gain[:, left:right].sum(axis=1, dtype=np.int64))
        left, right, total = _best_interval(gain[top:bottom].sum(axis=0, dtype=np.int64))
        if total <= 0:
            return None
    return (x0 + left, y0 + top, right - left, bottom - top), total


def _best_interval(values: npt.NDArray[np.int64]) -> tuple[int, int, int]:
    """The interval [start, end) with the largest sum (Kadane), and that sum."""
    sums = np.concatenate([[0], np.cumsum(values)])
    lowest = np.minimum.accumulate(sums)
    end = int((sums - lowest).argmax())
    start = int(sums[: end + 1].argmin())
    return start, end, int(sums[end] - sums[start])
