"""The canvas: pictures built from earlier ones by copying, stamping and patching rectangles.

Owns the syntax, which encoder and decoder run through the same code, and its limits. Which rectangles describe a scene
is `codec.strategies.procedural.screen`'s.

    layer    = palette, then one picture for each step
    picture  = how it starts: as an earlier picture, or from a background of runs; then rectangles until the end mark
    COPY     a rectangle of any earlier picture, moved
    STAMP    the samples of an earlier patch at another place
    PATCH    samples coded one by one, predicted from their neighbours and from what lies below; becomes a symbol

A layer is luma, or both chroma planes as one plane of pairs; samples are indices into its palette. Chroma is predicted
from the luma that lies over it too. Pictures are coded in any order, so that what a scroll uncovers can be copied from
a later frame that is coded first.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt

from codec.context_coder import ContextCoder
from codec.errors import BitstreamError

END, COPY, STAMP, PATCH = range(4)
MAX_PALETTE = 4096
SYMBOL_BITS = 14
# A scene's samples that are coded one by one: 10 to 20 µs each. Nothing worth describing so has more.
MAX_CODED_SAMPLES = 1 << 20
# Operations may touch every sample of the scene this often.
MAX_TOUCHES = 4

# The names of numbers and mixers; a name is a cell space of its own.
KIND, START, SOURCE, LEFT, TOP, WIDTH, HEIGHT, ACROSS, DOWN, SAME, ROW, RUN, PALETTE, STEP = range(1, 15)
COPY_LEFT, COPY_TOP, COPY_WIDTH, COPY_HEIGHT = range(16, 20)
SYMBOL, EQUAL, VALUE = range(32, 35)

Indices = npt.NDArray[np.uint16]


@dataclass(frozen=True)
class Operation:
    """COPY: `source` is the step of an earlier picture and (across, down) where its rectangle lies from here.

    STAMP: `source` is the symbol. PATCH: `samples` are the rectangle's. Width and height of a stamp are its symbol's.
    """

    kind: int
    x: int = 0
    y: int = 0
    width: int = 0
    height: int = 0
    source: int = 0
    across: int = 0
    down: int = 0
    samples: Indices | None = None


@dataclass(frozen=True)
class Plan:
    """One picture: `start` is the step it starts from, or None where `background` gives its first samples."""

    start: int | None
    background: Indices | None = None
    operations: Sequence[Operation] = ()


NOTHING = Operation(END)


@dataclass
class Budget:
    """What a scene may still cost to decode; shared by its layers."""

    touched: int
    coded: int = MAX_CODED_SAMPLES

    def touch(self, samples: int) -> None:
        self.touched -= samples
        if self.touched < 0:
            raise BitstreamError("the procedural payload moves more samples than its scene may")

    def code(self, samples: int) -> None:
        self.coded -= samples
        if self.coded < 0:
            raise BitstreamError(f"the procedural payload codes more than {MAX_CODED_SAMPLES} samples one by one")


@dataclass
class Layer:
    """Codes the pictures of one layer. `pictures` are those done, by step."""

    coder: ContextCoder
    budget: Budget
    number: int
    height: int
    width: int
    colours: int
    guide: Sequence[Indices] = ()
    pictures: list[Indices] = field(default_factory=list)
    symbols: list[Indices] = field(default_factory=list)
    _last_symbol: int = 0
    _older_symbol: int = 0
    _last_copies: dict[int, Operation] = field(default_factory=dict)
    _copies: int = 0
    _seen: dict[tuple[int, ...], list[int]] = field(default_factory=dict)

    @property
    def _bits(self) -> int:
        return max(1, (self.colours - 1).bit_length())

    def picture(self, plan: Plan | None = None) -> Indices:
        """Code the next picture: from `plan` where encoding, from the bytes where `plan` is None."""
        step = len(self.pictures)
        start = self._start(step, plan)
        self.budget.touch(self.height * self.width)
        given_background = plan.background if plan else None
        canvas = self._background(given_background) if start is None else self.pictures[start].copy()
        operations = iter(plan.operations) if plan else None
        last = Operation(END, 0, 0, 0, 0)
        self._copies = 0
        while True:
            given = next(operations, NOTHING) if operations else NOTHING
            kind = self._kind(last.kind, given.kind)
            if kind == END:
                break
            if kind == COPY:
                last = self._copy(step, last, given, canvas)
            elif kind == STAMP:
                last = self._stamp(last, given, canvas)
            else:
                last = self._patch(last, given, canvas)
        self.pictures.append(canvas)
        return canvas

    def _name(self, name: int) -> int:
        return name + 64 * self.number

    def _start(self, step: int, plan: Plan | None) -> int | None:
        """0: from a background; else the distance to the picture it starts from."""
        distance = step - plan.start if plan and plan.start is not None else 0
        distance = self.coder.number(self._name(START), (), distance)
        if distance > step:
            raise BitstreamError("a procedural picture starts from one that is not there yet")
        return step - distance if distance else None

    def _kind(self, last: int, kind: int) -> int:
        name = self._name(KIND)
        base = (name << 100) + (last << 4)
        after = base + (self._last_symbol + 1 << 8)
        high = self.coder.bit(name, (base + 1, after + 1), kind >> 1)
        node = 2 + high
        return high << 1 | self.coder.bit(name, (base + node, after + node), kind & 1)

    def _copy(self, step: int, last: Operation, given: Operation, canvas: Indices) -> Operation:
        """A copy is predicted by the copy of the same rank in the picture before it."""
        coder, rank = self.coder, min(self._copies, 7)
        before = self._last_copies.get(rank, Operation(COPY, 0, 0, 0, 0, step - 1))
        source = coder.signed(self._name(SOURCE), (rank,), given.source - before.source - 1) + before.source + 1
        if not 0 <= source < step:
            raise BitstreamError("a procedural copy is from a picture that is not there yet")
        across = coder.signed(self._name(ACROSS), (rank,), given.across - before.across) + before.across
        down = coder.signed(self._name(DOWN), (rank,), given.down - before.down) + before.down
        x = coder.signed(self._name(COPY_LEFT), (rank,), given.x - before.x) + before.x
        y = coder.signed(self._name(COPY_TOP), (rank,), given.y - before.y) + before.y
        width = coder.signed(self._name(COPY_WIDTH), (rank,), given.width - before.width) + before.width
        height = coder.signed(self._name(COPY_HEIGHT), (rank,), given.height - before.height) + before.height
        done = Operation(COPY, x, y, width, height, source, across, down)
        self._last_copies[rank] = done
        self._copies += 1
        self._require_inside(x, y, width, height)
        self._require_inside(x + across, y + down, width, height)
        rows, columns = slice(y + down, y + down + height), slice(x + across, x + across + width)
        canvas[y : y + height, x : x + width] = self.pictures[source][rows, columns]
        return done

    def _stamp(self, last: Operation, given: Operation, canvas: Indices) -> Operation:
        symbol = self._symbol(given.source)
        if symbol >= len(self.symbols):
            raise BitstreamError("a procedural stamp is of a symbol that is not there yet")
        samples = self.symbols[symbol]
        height, width = samples.shape
        pair = (self._last_symbol + 1, symbol + 1)
        x, y = self._place(last, given.x, given.y, height, (*pair, (pair[0] << SYMBOL_BITS) + pair[1]))
        self._require_inside(x, y, width, height)
        canvas[y : y + height, x : x + width] = samples
        self._last_symbol, self._older_symbol = symbol + 1, self._last_symbol
        return Operation(STAMP, x, y, width, height, symbol)

    def _patch(self, last: Operation, given: Operation, canvas: Indices) -> Operation:
        width = self.coder.number(self._name(WIDTH), (last.kind, last.width), given.width)
        height = self.coder.number(self._name(HEIGHT), (last.kind, width), given.height)
        x, y = self._place(last, given.x, given.y, height, (self._last_symbol + 1, 0, 0))
        self._require_inside(x, y, width, height)
        self.budget.code(width * height)
        self._samples(canvas, x, y, width, height, given.samples)
        self._last_symbol, self._older_symbol = 0, self._last_symbol
        if len(self.symbols) < 1 << SYMBOL_BITS:
            self.symbols.append(canvas[y : y + height, x : x + width].copy())
            self._last_symbol = len(self.symbols)
        return Operation(PATCH, x, y, width, height)

    def _place(self, last: Operation, x: int, y: int, height: int, contexts: tuple[int, ...]) -> tuple[int, int]:
        """Text runs to the right on one base line: the gap from the last rectangle, and the step of the lower edge."""
        down = self.coder.signed(self._name(TOP), contexts, y + height - last.y - last.height)
        same = int(down in range(-8, 9))
        contexts = tuple(context << 1 | same for context in contexts)
        across = self.coder.signed(self._name(LEFT), contexts, x - last.x - last.width)
        return last.x + last.width + across, last.y + last.height + down - height

    def _symbol(self, symbol: int) -> int:
        name = self._name(SYMBOL)
        first = (name << 100) + (self._last_symbol + 1 << 16)
        second = (name << 100) + (self._older_symbol + 1 << 56) + (self._last_symbol + 1 << 16)
        node = 1
        for shift in range(SYMBOL_BITS - 1, -1, -1):
            keys = ((name << 100) + node, first + node, second + node)
            node = node << 1 | self.coder.bit(name, keys, symbol >> shift & 1)
        return node - (1 << SYMBOL_BITS)

    def _background(self, given: Indices | None) -> Indices:
        """Runs along a row; a row like the one above costs one bit."""
        canvas = np.zeros((self.height, self.width), dtype=np.uint16)
        for row in range(self.height):
            name = self._name(ROW)
            alike = int(row > 0 and given is not None and np.array_equal(given[row], given[row - 1]))
            if row and self.coder.bit(name, ((name << 100) + 1,), alike):
                canvas[row] = canvas[row - 1]
                continue
            self._row(canvas, row, given[row] if given is not None else None)
        return canvas

    def _row(self, canvas: Indices, row: int, given: Indices | None) -> None:
        """Where a run of the row above ends, this row's often does too."""
        x, run = 0, 0
        above = canvas[row - 1] if row else canvas[row]
        while x < self.width:
            self.budget.code(1)
            if given is not None:
                run = _run(given, x) - 1
            expected = min(_run(above, x), self.width - x) - 1
            run_done = self.coder.signed(self._name(RUN), (), run - expected) + expected + 1
            if not 0 < run_done <= self.width - x:
                raise BitstreamError("a run of a procedural background ends outside its row")
            left = int(canvas[row, x - 1]) if x else 0
            value = self._value(((int(above[x]) << 12) + left,), int(given[x]) if given is not None else 0)
            canvas[row, x : x + run_done] = value
            x += run_done

    def _samples(self, canvas: Indices, x: int, y: int, width: int, height: int, given: Indices | None) -> None:
        """The rectangle in row order. Samples outside the picture count as index 0."""
        padded = np.zeros((height + 2, width + 4), dtype=np.int64)
        top, left, right = max(0, y - 2), max(0, x - 2), min(self.width, x + width + 2)
        padded[top - y + 2 :, left - x + 2 : right - x + 2] = canvas[top : y + height, left:right]
        rows: list[list[int]] = padded.tolist()
        wanted: list[list[int]] | None = given.tolist() if given is not None else None
        guides: list[list[int]] | None = None
        if self.guide:
            guides = _guide(self.guide[len(self.pictures)], x, y, width, height)
        for row in range(height):
            above_above, above, here = rows[row], rows[row + 1], rows[row + 2]
            target = wanted[row] if wanted else None
            guide_row = guides[row] if guides else None
            for column in range(width):
                here[column + 2] = self._sample(
                    (
                        here[column + 1],
                        above[column + 2],
                        above[column + 1],
                        above[column + 3],
                        here[column],
                        above_above[column + 2],
                        above[column],
                        above[column + 4],
                        above_above[column + 1],
                        above_above[column + 3],
                    ),
                    here[column + 2],
                    guide_row[column] if guide_row else 0,
                    target[column] if target else 0,
                )
        canvas[y : y + height, x : x + width] = np.array([row[2 : width + 2] for row in rows[2:]], dtype=np.uint16)

    def _sample(self, around: tuple[int, ...], below: int, guide: int, value: int) -> int:
        """Is it what followed these neighbours last time, the left, the upper, the lower? If none, its index."""
        w, n, nw, ne, ww, nn, *_ = around
        shape = (w == n) | (w == nw) << 1 | (n == ne) << 2 | (n == nw) << 3 | (w == below) << 4 | (n == below) << 5
        shape |= (w == ww) << 6 | (n == nn) << 7
        pair = (w << 12) + n
        four = (((pair << 12) + nw) << 12) + ne
        seen = self._seen.setdefault((guide, *around), [-1, 0])
        match, hits = seen
        far = (((four << 12) + ww) << 12) + nn
        guided = (guide << 24) + pair
        base = self._name(EQUAL)
        tried: list[int] = []
        for rank, guess in enumerate((match, w, n, below)):
            if guess < 0 or guess in tried:
                continue
            name = base + (rank << 8)
            at = (rank << 4) + len(tried) + 1 << 84
            at += self.number << 92
            first = (hits if rank == 0 else min(hits, 1) + 8) << 8
            keys = (
                at + first + shape,
                at + (1 << 80) + (pair << 8) + shape,
                at + (2 << 80) + four,
                at + (3 << 80) + (guess << 30) + (w << 12) + below,
                at + (4 << 80) + far,
                at + (5 << 80) + guided,
            )
            if self.coder.bit(name, keys, int(guess == value)):
                if rank == 0:
                    seen[1] = min(hits + 1, 7)
                else:
                    seen[0], seen[1] = guess, 0
                return guess
            tried.append(guess)
        value = self._value(
            (pair, (n << 24) + (ne << 12) + nw + (1 << 40), w + (1 << 41), far + (1 << 76), guided + (1 << 75)), value
        )
        seen[0], seen[1] = value, 0
        return value

    def _value(self, contexts: tuple[int, ...], value: int) -> int:
        """An index into the palette, high bits first, which the palette's order makes meaningful."""
        name = self._name(VALUE)
        bases = [(name << 100) + (context + 1 << 16) for context in contexts] + [name << 100]
        node = 1
        for shift in range(self._bits - 1, -1, -1):
            node = node << 1 | self.coder.bit(name, [base + node for base in bases], value >> shift & 1)
        index = node - (1 << self._bits)
        if index >= self.colours:
            raise BitstreamError("a procedural sample has a colour that is not in the palette")
        return index

    def _require_inside(self, x: int, y: int, width: int, height: int) -> None:
        if not (0 <= x <= x + width <= self.width and 0 <= y <= y + height <= self.height and width * height > 0):
            raise BitstreamError("a procedural rectangle lies outside its picture")
        self.budget.touch(width * height + 64)


def _guide(luma: Indices, x: int, y: int, width: int, height: int) -> list[list[int]]:
    """Two of the luma samples that lie over each chroma sample, as one number."""
    bottom, right = luma.shape[0] - 1, luma.shape[1] - 1
    rows, columns = 2 * np.arange(y, y + height), 2 * np.arange(x, x + width)
    first = luma[np.ix_(rows, columns)].astype(np.int64)
    second = luma[np.ix_(np.minimum(rows + 1, bottom), np.minimum(columns + 1, right))]
    numbers: list[list[int]] = ((first << 12) + second + 1).tolist()
    return numbers


def _run(row: Indices, x: int) -> int:
    """How far the sample at `x` repeats."""
    changes = np.flatnonzero(row[x:] != row[x])
    return int(changes[0]) if len(changes) else len(row) - x
