"""Hierarchical latents as symbols: integer grids, coarse to fine, each sample coded by the size of its neighbours.

Owns the order and the contexts. The tables are `codec.entropy`'s. Contexts are integers and come in four passes a grid,
so that a whole pass is decoded at once:

    1 3 1 3     1: nothing of this grid known yet    3, 4: the samples around that 1 and 2 left
    4 2 4 2     2: the four samples across corners   all: the coarser grid, and the channel before
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from codec.entropy import Coder, best_scale

Grid = npt.NDArray[np.int32]

LARGEST = 127
PASSES = ((0, 0), (1, 1), (0, 1), (1, 0))
# How much the neighbours known so far weigh, by pass: there are none, four, four to six.
WEIGHTS = (0, 2, 1, 1)
CONTEXTS = 8
LIMITS = np.array([0, 1, 3, 7, 15, 31, 63])  # of the energy, up to which each context goes
EMPTY = np.zeros(0, np.int32)


def grid_shapes(height: int, width: int, channels: Sequence[int]) -> list[tuple[int, int, int]]:
    """[channels, rows, columns] of each grid, fine to coarse, each half the size of the one before, rounded up."""
    return [(count, -(-height >> level), -(-width >> level)) for level, count in enumerate(channels)]


def code_grids(coder: Coder, told: list[Grid] | None, shapes: list[tuple[int, int, int]]) -> list[Grid]:
    """Write `told` or, where it is None, read; grids are fine to coarse, coded coarse to fine."""
    coded: list[Grid] = []
    coarser = np.zeros((1, 1), np.int32)
    for level in reversed(range(len(shapes))):
        count, height, width = shapes[level]
        given = told[level] if told else None
        above = coarser.repeat(2, axis=0).repeat(2, axis=1)
        above = np.pad(above, ((0, 2), (0, 2)), mode="edge")[:height, :width]
        if above.shape != (height, width):
            above = np.zeros((height, width), np.int32)
        grid = _code_grid(coder, given, (count, height, width), above)
        coded.insert(0, grid)
        coarser = np.abs(grid).sum(0)
    return coded


def _code_grid(coder: Coder, told: Grid | None, shape: tuple[int, int, int], above: Grid) -> Grid:
    scales: dict[tuple[bool, int], int] = {}
    plans = None if told is None else _best_scales(told, above)
    out = np.zeros(shape, np.int32)
    before = np.zeros(shape[1:], np.int32)
    for channel in range(shape[0]):
        for number, (row, column) in enumerate(PASSES):
            contexts = _contexts(out[channel], above, before, number)
            target = out[channel, row::2, column::2]
            for context in range(CONTEXTS):
                where = contexts == context
                count = int(where.sum())
                if not count:
                    continue
                key = (number > 0, context)
                if key not in scales:
                    scales[key] = coder.number(plans[key] if plans else 0, 5)
                values = EMPTY if told is None else told[channel, row::2, column::2][where]
                target[where] = coder.laplace(values, count, scales[key], LARGEST)
        before = np.abs(out[channel])
    return out


def _contexts(known: Grid, above: Grid, before: Grid, number: int) -> Grid:
    """A number in 0 … 7 for each sample of a pass: how many bits its surroundings' size takes."""
    row, column = PASSES[number]
    energy = 2 * above + 2 * before
    if WEIGHTS[number]:
        padded = np.pad(np.abs(known), 1)
        height, width = known.shape
        around = sum(padded[i : i + height, j : j + width] for i in range(3) for j in range(3))
        energy = energy + WEIGHTS[number] * around
    part = energy[row::2, column::2]
    # Comparisons of integers: a logarithm might round differently elsewhere.
    return np.searchsorted(LIMITS, part).astype(np.int32)


def _best_scales(told: Grid, above: Grid) -> dict[tuple[bool, int], int]:
    """The cheapest table for each context, by walking through the grid as the coding does."""
    found: dict[tuple[bool, int], list[Grid]] = {}
    known = np.zeros_like(told)
    before = np.zeros(told.shape[1:], np.int32)
    for channel in range(len(told)):
        for number, (row, column) in enumerate(PASSES):
            contexts = _contexts(known[channel], above, before, number)
            values = told[channel, row::2, column::2]
            for context in np.unique(contexts):
                found.setdefault((number > 0, int(context)), []).append(values[contexts == context])
            known[channel, row::2, column::2] = values
        before = np.abs(told[channel])
    return {key: best_scale(np.concatenate(values), LARGEST) for key, values in found.items()}
