"""What a payload says of the frames between key frames, and how that is written and read.

Owns the symbols and their contexts. Coding of integers and flags is `codec.entropy`'s; what the symbols do to a picture
is `between`'s.

One `FrameSyntax` lives as long as a scene's stream: its flags learn from frame to frame, and the tables of coefficients
are sent where they are first met.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from codec.entropy import AdaptiveFlag, Coder, best_scale
from codec.frames import VideoFormat
from codec.strategies.i_frame_interpolation.transform import LARGEST_LEVEL, diagonals

Integers = npt.NDArray[np.int32]

BLOCK = 16  # luma samples
CHROMA_BLOCK = 8
SWITCH_BLOCK = 64  # luma samples: where networks are switched
BOTH, PAST, FUTURE = range(3)  # what a block is predicted from
LARGEST_CORRECTION = 63  # quarter samples
# How many coefficients, from the lowest, a block of each class has; of luma and of chroma.
LIMITS = ((0, 3, 15, 55, 256), (0, 1, 6, 21, 64))
CLASSES = 5
# Diagonals up to which coefficients share a table.
GROUPS = np.array([0, 1, 2, 4, 6, 9, 14])
SIDES = (BLOCK, CHROMA_BLOCK)
LARGEST_CHANGE, CHANGE_SCALE = 31, 8
_EMPTY = np.zeros(0, np.int32)


@dataclass
class FrameSymbols:
    """What is said of one frame between two others; rows and columns are of 16x16 blocks of luma.

    generated    [rows, columns] of 64x64 blocks: 1 where the network's picture is the prediction
    sources      [rows, columns]: BOTH, PAST or FUTURE
    sent         [rows, columns]: 1 where the motion found by the decoder is corrected
    corrections  [4, rows, columns], quarter samples: down and right in the past picture, then in the future one
    classes      [3, rows, columns]: of Y, U and V, the class of each block's residual; 0 is none
    levels       of Y [rows, columns, 256], of U and V [rows, columns, 64]: quantised coefficients, low ones first
    """

    generated: Integers
    sources: Integers
    sent: Integers
    corrections: Integers
    classes: Integers
    levels: list[Integers]

    @classmethod
    def nothing(cls, rows: int, columns: int) -> FrameSymbols:
        """The frame as the decoder finds it by itself."""
        return cls(
            np.zeros(switch_grid(rows, columns), np.int32),
            np.zeros((rows, columns), np.int32),
            np.zeros((rows, columns), np.int32),
            np.zeros((4, rows, columns), np.int32),
            np.zeros((3, rows, columns), np.int32),
            [np.zeros((rows, columns, LIMITS[plane > 0][-1]), np.int32) for plane in range(3)],
        )


def grid(video: VideoFormat) -> tuple[int, int]:
    """Rows and columns of blocks."""
    return -(-video.height // BLOCK), -(-video.width // BLOCK)


def switch_grid(rows: int, columns: int) -> tuple[int, int]:
    """Rows and columns of 64x64 blocks around so many of 16x16."""
    per = SWITCH_BLOCK // BLOCK
    return -(-rows // per), -(-columns // per)


Tables = dict[tuple[bool, int, int], int]


def groups(chroma: bool, kind: int) -> list[slice]:
    """The coefficients of a class that share a table, low ones first."""
    numbers = np.searchsorted(GROUPS, diagonals(SIDES[chroma])[: LIMITS[chroma][kind]])
    ends = np.flatnonzero(np.diff(numbers, append=-1)) + 1
    return [slice(int(a), int(b)) for a, b in zip([0, *ends[:-1]], ends, strict=True)]


def usual_table(chroma: bool, kind: int, group: int) -> int:
    """The table that most scenes come near to."""
    return max(1, 10 + kind - 2 * group - chroma)


def best_tables(frames: list[FrameSymbols]) -> Tables:
    """The cheapest table for each plane, class and group of coefficients."""
    found: Tables = {}
    for chroma in (False, True):
        for kind in range(1, CLASSES):
            values = np.concatenate([_levels_of(frame, plane, kind) for frame in frames for plane in _planes(chroma)])
            for group, where in enumerate(groups(chroma, kind) if len(values) else []):
                found[chroma, kind, group] = best_scale(values[:, where], LARGEST_LEVEL)
    return found


def _planes(chroma: bool) -> tuple[int, ...]:
    return (1, 2) if chroma else (0,)


def _levels_of(frame: FrameSymbols, plane: int, kind: int) -> Integers:
    found: Integers = frame.levels[plane][frame.classes[plane] == kind]
    return found


class FrameSyntax:
    """Writes frames with a `Writer`, reads them with a `Reader`. `tables` matter to a writer only."""

    def __init__(self, coder: Coder, shape: tuple[int, int], has_generator: bool, tables: Tables | None = None) -> None:
        self._coder = coder
        self._has_generator = has_generator
        self._shape = shape
        self._planned = tables or {}
        self._tables: Tables = {}
        self._any = [AdaptiveFlag() for _ in range(6)]
        self._one_sided = [AdaptiveFlag() for _ in range(3)]
        self._future = [AdaptiveFlag() for _ in range(3)]
        self._sent = [AdaptiveFlag() for _ in range(3)]
        self._switched = [[AdaptiveFlag() for _ in range(3)] for _ in range(2)]
        self._classes = [[[AdaptiveFlag() for _ in range(CLASSES)] for _ in range(5)] for _ in range(2)]
        self._motion_table: int | None = None

    def frame(self, told: FrameSymbols | None) -> FrameSymbols:
        """Write `told`, or read where it is None."""
        given = told or FrameSymbols.nothing(*self._shape)
        read = FrameSymbols.nothing(*self._shape)
        if self._coder.flag(bool(given.sources.any()), self._any[0]):
            read.sources = self._map(given.sources, self._source)
        if self._coder.flag(bool(given.sent.any()), self._any[1]):
            read.sent = self._map(given.sent, self._is_sent)
            read.corrections = self._corrections(given, read)
        if self._has_generator and self._coder.flag(bool(given.generated.any()), self._any[4]):
            read.generated = self._switches(given.generated, 0)
        for chroma in (False, True):
            planes = _planes(chroma)
            if self._coder.flag(any(given.classes[plane].any() for plane in planes), self._any[2 + chroma]):
                for plane in planes:
                    self._residual(given, read, plane)
        return read

    def consistency(self, told: Integers | None) -> Integers:
        """Where the enhancer is switched on in one frame, by 64x64 blocks; comes after all frames."""
        given = np.zeros(switch_grid(*self._shape), np.int32) if told is None else told
        return self._switches(given, 1) if self._coder.flag(bool(given.any()), self._any[5]) else np.zeros_like(given)

    def _switches(self, given: Integers, kind: int) -> Integers:
        flags = self._switched[kind]
        return self._map(given, lambda value, left, above: int(self._coder.flag(value > 0, flags[left + above])))

    def _map(self, given: Integers, code: Callable[[int, int, int], int]) -> Integers:
        """One symbol a block, row by row: `code(value, left, above)` writes or reads it."""
        above = [0] * given.shape[1]
        lines = []
        for values in given.tolist():
            line: list[int] = []
            left = 0
            for column, value in enumerate(values):
                left = code(value, left, above[column])
                line.append(left)
            lines.append(line)
            above = line
        return np.array(lines, np.int32).reshape(given.shape)

    def _source(self, value: int, left: int, above: int) -> int:
        context = (left > 0) + (above > 0)
        if not self._coder.flag(value > 0, self._one_sided[context]):
            return BOTH
        leaning = (left == FUTURE) + (above == FUTURE)
        return PAST + int(self._coder.flag(value == FUTURE, self._future[leaning]))

    def _is_sent(self, value: int, left: int, above: int) -> int:
        return int(self._coder.flag(value > 0, self._sent[left + above]))

    def _corrections(self, given: FrameSymbols, read: FrameSymbols) -> Integers:
        """Of each block that has any, for the pictures it is predicted from: its change from its left neighbour's.

        Where that has none, from the one above's.
        """
        used = np.stack([read.sources != FUTURE, read.sources != FUTURE, read.sources != PAST, read.sources != PAST])
        used &= read.sent > 0
        count = int(used.sum())
        changes = predicted_changes(given.corrections, read.sent, used)[used] if given.sent.any() else _EMPTY
        if self._motion_table is None:
            self._motion_table = self._coder.number(best_scale(changes, 2 * LARGEST_CORRECTION), 5)
        coded = self._coder.laplace(changes, count, self._motion_table, 2 * LARGEST_CORRECTION)
        whole = np.zeros(used.shape, np.int32)
        whole[used] = coded
        return _follow(whole, read.sent, used)

    def _residual(self, given: FrameSymbols, read: FrameSymbols, plane: int) -> None:
        chroma = plane > 0
        flags = self._classes[chroma]

        def code(value: int, left: int, above: int) -> int:
            context = flags[left + above + 1 >> 1]
            kind = 0
            while kind < CLASSES - 1 and self._coder.flag(value > kind, context[kind]):
                kind += 1
            return kind

        read.classes[plane] = self._map(given.classes[plane], code)
        for kind in range(1, CLASSES):
            where = read.classes[plane] == kind
            count = int(where.sum())
            if not count:
                continue
            for group, part in enumerate(groups(chroma, kind)):
                table = self._table((chroma, kind, group))
                told = np.ascontiguousarray(given.levels[plane][where][:, part])
                coded = self._coder.laplace(told, told.size, table, LARGEST_LEVEL)
                read.levels[plane][where, part] = coded.reshape(told.shape)

    def _table(self, key: tuple[bool, int, int]) -> int:
        if key not in self._tables:
            usual = usual_table(*key)
            change = self._planned.get(key, usual) - usual
            coded = self._coder.laplace(np.array([change], np.int32), 1, CHANGE_SCALE, LARGEST_CHANGE)
            self._tables[key] = min(max(usual + int(coded[0]), 0), 31)
        return self._tables[key]


def predicted_changes(corrections: Integers, sent: Integers, used: npt.NDArray[np.bool_]) -> Integers:
    """Corrections minus what `_follow` predicts them from."""
    masked = np.where(used, corrections, 0)
    left, above = _before(masked, 2), _before(masked, 1)
    return np.where(used, masked - np.where(_before(sent[None], 2) > 0, left, above), 0).astype(np.int32)


def _before(values: Integers, axis: int) -> Integers:
    """Each block's neighbour above (axis 1) or to the left (axis 2); zeros beyond the edge."""
    return np.insert(values, 0, 0, axis=axis).take(range(values.shape[axis]), axis=axis)


def _follow(changes: Integers, sent: Integers, used: npt.NDArray[np.bool_]) -> Integers:
    """The reverse of `predicted_changes`, held to ±LARGEST_CORRECTION."""
    out = np.zeros_like(changes)
    nothing = np.zeros(len(changes), np.int32)
    for row, column in np.argwhere(sent > 0):
        beside = column and sent[row, column - 1]
        near = out[:, row, column - 1] if beside else out[:, row - 1, column] if row else nothing
        value = np.clip(near + changes[:, row, column], -LARGEST_CORRECTION, LARGEST_CORRECTION)
        out[:, row, column] = np.where(used[:, row, column], value, 0)
    return out
