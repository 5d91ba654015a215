"""The encoder's choices for one frame between two others, by weighted squared error + lambda · bits.

Owns the search. What the symbols mean is `syntax`'s and `between`'s; bits are estimated here only to choose by.
"""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt

from codec.entropy import laplace_weights
from codec.frames import Frames, Plane
from codec.strategies.i_frame_interpolation.between import (
    Place,
    Reference,
    blended,
    corrected,
    in_blocks,
    paths,
    switched,
    with_generated,
)
from codec.strategies.i_frame_interpolation.scene import SceneSymbols
from codec.strategies.i_frame_interpolation.syntax import (
    BLOCK,
    BOTH,
    CHROMA_BLOCK,
    CLASSES,
    FUTURE,
    LARGEST_CORRECTION,
    LIMITS,
    PAST,
    SWITCH_BLOCK,
    FrameSymbols,
    Tables,
    best_tables,
    groups,
    usual_table,
)
from codec.strategies.i_frame_interpolation.transform import LARGEST_LEVEL, STEP_BITS, STEPS, forward, step_of

Integers = npt.NDArray[np.int32]
Reals = npt.NDArray[np.float64]

# What a squared difference of Y, U and V weighs in the cost that strategies are compared by (4:2:0, 6:1:1).
WEIGHTS = (0.75, 0.5, 0.5)
SOURCE_BITS = (0.3, 3.0, 3.0)
UNSENT_BITS, SENT_BITS = 0.2, 3.0
CLASS_BITS = np.array([0.3, 2.0, 3.0, 4.0, 5.0])
SWITCH_BITS = 1.5
STRIDES = (16, 8, 4, 2, 1)
# Bits are priced by what quantisation to a step costs: of hybrid coders at low rates.
STEP_SQUARED_PER_LAMBDA = 6.0


@dataclass
class Prices:
    """What bits are worth, and what coefficients cost by the tables in use.

    lambda_rd  weighted squared error per bit
    """

    lambda_rd: float
    tables: Tables = field(default_factory=dict)

    def level_bits(self, chroma: bool, kind: int) -> list[tuple[slice, Reals]]:
        """For each group of coefficients, the bits of levels 0 … LARGEST_LEVEL, sign included."""
        found = []
        for group, where in enumerate(groups(chroma, kind)):
            table = self.tables.get((chroma, kind, group), usual_table(chroma, kind, group))
            weights = np.array(laplace_weights(table, LARGEST_LEVEL), np.float64)
            found.append((where, -np.log2(weights / weights.sum())[LARGEST_LEVEL:]))
        return found

    def learn(self, frames: list[FrameSymbols]) -> None:
        self.tables = best_tables(frames)


def step_index(lambda_rd: float) -> int:
    """The step whose quantisation trades squared error for bits at lambda."""
    wanted = np.sqrt(STEP_SQUARED_PER_LAMBDA * lambda_rd / WEIGHTS[0]) * 2**STEP_BITS
    return min(range(STEPS), key=lambda index: abs(np.log2(step_of(index) / wanted)))


def choose(
    original: Frames, past: Reference, future: Reference, place: Place, scene: SceneSymbols, prices: Prices
) -> tuple[FrameSymbols, list[Plane]]:
    """The symbols of one frame, and the prediction they give. original: that frame alone."""
    wanted = [
        _whole_blocks(plane[0], CHROMA_BLOCK if number else BLOCK) for number, plane in enumerate(original.planes())
    ]
    symbols = FrameSymbols.nothing(wanted[0].shape[0] // BLOCK, wanted[0].shape[1] // BLOCK)
    search = _MotionSearch(wanted, past, future, place, prices.lambda_rd)
    symbols.sources, symbols.sent, symbols.corrections = search.best()
    parts = search.parts(symbols.corrections)
    prediction = blended(*parts, symbols.sources)
    if scene.description:
        better = with_generated(prediction, parts, place, scene.description, scene.generator)
        symbols.generated = cheaper_blocks(wanted, prediction, better, prices.lambda_rd)
        prediction = switched(prediction, better, symbols.generated)
    step = scene.step_at(place.depth)
    for number, plane in enumerate(prediction):
        _choose_residual(symbols, number, wanted[number], plane, step, prices)
    return symbols, prediction


class _MotionSearch:
    """Blocks choose between the decoder's own motion and a better one that costs bits, from either side or both."""

    def __init__(
        self,
        wanted: list[Plane],
        past: Reference,
        future: Reference,
        place: Place,
        lambda_rd: float,
    ) -> None:
        self._wanted = wanted
        self._references = (past, future)
        self._vectors = paths(past, future, place.share)
        self._lambda = lambda_rd
        self._shape = wanted[0].shape[0] // BLOCK, wanted[0].shape[1] // BLOCK

    def best(self) -> tuple[Integers, Integers, Integers]:
        """Sources, sent and corrections of `FrameSymbols`."""
        none = np.zeros((2, *self._shape), np.int32)
        own = [self._moved(side, none) for side in (0, 1)]
        found = [self._search(side, none, STRIDES, None) for side in (0, 1)]
        # Each side once more, knowing what the other will add.
        pair = list(found)
        for side in (1, 0):
            pair[side] = self._search(side, pair[side], STRIDES[2:], self._moved(1 - side, pair[1 - side]))
        trials = []
        for sent, corrections in ((0, (none, none)), (1, tuple(found)), (1, tuple(pair))):
            parts = [self._moved(side, corrections[side]) for side in (0, 1)] if sent else own
            for source in (BOTH, PAST, FUTURE):
                bits = SOURCE_BITS[source] + (SENT_BITS if sent else UNSENT_BITS)
                cost = self._errors(parts, source) + self._lambda * bits
                for side, other in ((0, FUTURE), (1, PAST)):
                    if sent and source != other:
                        cost = cost + self._lambda * _vector_bits(corrections[side])
                trials.append((cost, source, sent, corrections))
        chosen = np.argmin([cost for cost, *_ in trials], axis=0)
        sources = np.array([source for _, source, *_ in trials], np.int32)[chosen]
        sent_map = np.array([sent for _, _, sent, _ in trials], np.int32)[chosen]
        every = np.stack([np.concatenate(corrections) for *_, corrections in trials])
        picked = np.take_along_axis(every, chosen[None, None], axis=0)[0]
        picked[:2, sources == FUTURE] = 0
        picked[2:, sources == PAST] = 0
        return sources, sent_map, picked * sent_map

    def parts(self, corrections: Integers) -> tuple[list[Plane], list[Plane]]:
        """Both references moved by corrections [4, rows, columns]."""
        return self._moved(0, corrections[:2]), self._moved(1, corrections[2:])

    def _moved(self, side: int, corrections: Integers) -> list[Plane]:
        return self._references[side].moved(corrected(self._vectors[side], corrections))

    def _luma(self, side: int, corrections: Integers) -> Plane:
        return self._references[side].moved_luma(corrected(self._vectors[side], corrections))

    def _errors(self, parts: list[list[Plane]], source: int) -> Reals:
        sources = np.full(self._shape, source, np.int32)
        total = np.zeros(self._shape)
        planes = blended(parts[0], parts[1], sources)
        for weight, plane, wanted in zip(WEIGHTS, planes, self._wanted, strict=True):
            total += weight * _block_errors(plane, wanted, self._shape)
        return total

    def _search(self, side: int, start: Integers, strides: tuple[int, ...], other: list[Plane] | None) -> Integers:
        """Corrections of one side by luma alone, in smaller and smaller strides; blocks also try their neighbours'."""
        target = self._wanted[0]
        height, width = target.shape

        def cost(corrections: Integers) -> Reals:
            luma = self._luma(side, corrections)[:height, :width]
            if other is not None:
                luma = (luma.astype(np.uint16) + other[0][:height, :width] + 1 >> 1).astype(np.uint8)
            error = WEIGHTS[0] * _block_errors(luma, target, self._shape)
            return error + self._lambda * _vector_bits(corrections)

        best = start
        lowest = cost(best)
        for stride in strides:
            centre = best
            around = np.pad(centre, ((0, 0), (1, 1), (1, 1)), mode="edge")
            tried = [around[:, :-2, 1:-1], around[:, 1:-1, :-2], around[:, 2:, 1:-1], around[:, 1:-1, 2:]]
            for down in (-stride, 0, stride):
                for right in (-stride, 0, stride):
                    if down or right:
                        tried.append(centre + np.array([down, right], np.int32)[:, None, None])
            for trial in tried:
                trial = np.clip(trial, -LARGEST_CORRECTION, LARGEST_CORRECTION)
                now = cost(trial)
                better = now < lowest
                best, lowest = np.where(better, trial, best), np.minimum(now, lowest)
        return np.asarray(best, np.int32)


def cheaper_blocks(wanted: list[Plane], plain: list[Plane], better: list[Plane], lambda_rd: float) -> Integers:
    """1 for the 64x64 blocks in which `better` saves more weighted squared error than a switch costs."""
    saved: Reals = np.zeros((1, 1))
    for number, weight in enumerate(WEIGHTS):
        side = SWITCH_BLOCK // 2 if number else SWITCH_BLOCK
        whole = [_whole_blocks(planes[number], side) for planes in (wanted, plain, better)]
        shape = whole[0].shape[0] // side, whole[0].shape[1] // side
        saved = saved + weight * (_block_errors(whole[1], whole[0], shape) - _block_errors(whole[2], whole[0], shape))
    return np.asarray(saved > SWITCH_BITS * lambda_rd, np.int32)


def _vector_bits(corrections: Integers) -> Reals:
    """Roughly: neighbours often share a correction."""
    return np.asarray((1.5 * np.log2(1 + np.abs(corrections)) + 0.5).sum(0))


def _block_errors(plane: Plane, wanted: Plane, shape: tuple[int, int]) -> Reals:
    """Squared errors [rows, columns] of blocks."""
    difference = plane.astype(np.int32) - wanted
    rows, columns = shape
    squares = (difference * difference).reshape(rows, plane.shape[0] // rows, columns, -1)
    return np.asarray(squares.sum((1, 3)), np.float64)


def _choose_residual(
    symbols: FrameSymbols, number: int, wanted: Plane, prediction: Plane, index: int, prices: Prices
) -> None:
    """For each block the class that costs least, and its levels, into `symbols`."""
    chroma = number > 0
    side = CHROMA_BLOCK if chroma else BLOCK
    weight = WEIGHTS[number]
    step = step_of(min(index + chroma, STEPS - 1)) / 2**STEP_BITS
    missing = in_blocks(wanted.astype(np.float64) - prediction, side)
    rows, columns = missing.shape[:2]
    coefficients = forward(missing.reshape(-1, side, side))
    energy = coefficients**2
    total = energy.sum(1)
    costs = [weight * total + prices.lambda_rd * CLASS_BITS[0]]
    levels: list[Integers] = [np.zeros((len(coefficients), 0), np.int32)]
    nearest = np.minimum(np.floor(np.abs(coefficients) / step + 0.5), LARGEST_LEVEL).astype(np.int32)
    for kind in range(1, CLASSES):
        limit = LIMITS[chroma][kind]
        chosen = np.zeros((len(coefficients), limit), np.int32)
        cost = weight * (total - energy[:, :limit].sum(1)) + prices.lambda_rd * CLASS_BITS[kind]
        for where, bits in prices.level_bits(chroma, kind):
            size = np.abs(coefficients[:, where])
            best = np.zeros(size.shape, np.int32)
            least = weight * size**2 + prices.lambda_rd * bits[0]
            for lower in (0, 1):
                trial = np.maximum(nearest[:, where] - lower, 0)
                now = weight * (size - trial * step) ** 2 + prices.lambda_rd * bits[trial]
                best, least = np.where(now < least, trial, best), np.minimum(now, least)
            chosen[:, where] = best
            cost = cost + least.sum(1)
        costs.append(cost)
        levels.append(np.where(coefficients[:, :limit] < 0, -chosen, chosen))
    kinds = np.argmin(costs, axis=0).astype(np.int32)
    symbols.classes[number] = kinds.reshape(rows, columns)
    flat = symbols.levels[number].reshape(len(coefficients), -1)
    for kind in range(1, CLASSES):
        flat[kinds == kind, : LIMITS[chroma][kind]] = levels[kind][kinds == kind]


def _whole_blocks(plane: Plane, side: int) -> Plane:
    return np.pad(plane, ((0, -plane.shape[0] % side), (0, -plane.shape[1] % side)), mode="edge")
