"""Stills: frames that are weighted sums of a few pictures, which a traditional encoder codes.

Owns what a frame says of the stills, its syntax and the exact arithmetic. Which stills and weights describe a scene is
`codec.strategies.procedural.steady`'s.

    sample = clip((first weight · first still + second weight · second still + offset + rounding) >> 12), per plane

A still scene repeats one picture; slides show one after the other; a fade changes weight and offset, a cross-fade two
weights. Steady changes cost next to nothing: each value is coded as what it differs from the line through the last two.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from codec.context_coder import ContextCoder
from codec.errors import BitstreamError
from codec.frames import Frames

ONE_BITS = 12
ONE = 1 << ONE_BITS
MAX_STILLS = 64
# Beyond these no sum of 8-bit samples stays in 32 bits with room to spare.
MAX_WEIGHT = 1 << 16
MAX_OFFSET = 1 << 22

SAME, FIRST, SECOND, WEIGHT = range(1, 5)


@dataclass(frozen=True)
class Shot:
    """One frame. `weights` holds, for Y, U and V: first weight, second weight, offset, in 1/4096."""

    first: int
    second: int
    weights: tuple[tuple[int, int, int], ...] = ((ONE, 0, 0),) * 3


def code_shots(coder: ContextCoder, stills: int, count: int, shots: Sequence[Shot] | None = None) -> list[Shot]:
    """Code `count` shots of `stills` stills: from `shots` where encoding, else from the bytes."""
    done: list[Shot] = []
    last = older = Shot(0, 0)
    for index in range(count):
        shot = _code_shot(coder, stills, last, older, shots[index] if shots else None)
        done.append(shot)
        older, last = (last if index else shot), shot
    return done


def _code_shot(coder: ContextCoder, stills: int, last: Shot, older: Shot, given: Shot | None) -> Shot:
    steady = last.first == older.first and last.second == older.second
    expected = tuple(
        tuple(2 * b - a if steady else b for a, b in zip(old, new, strict=True))
        for old, new in zip(older.weights, last.weights, strict=True)
    )
    shot = given or last
    first = coder.signed(FIRST, (), shot.first - last.first) + last.first
    second = coder.signed(SECOND, (), shot.second - last.second) + last.second
    if not (0 <= first < stills and 0 <= second < stills):
        raise BitstreamError("a procedural frame shows a still that is not there")
    weights = tuple(
        tuple(
            coder.signed(WEIGHT, (plane * 3 + term,), value - guess) + guess
            for term, (value, guess) in enumerate(zip(values, guesses, strict=True))
        )
        for plane, (values, guesses) in enumerate(zip(shot.weights, expected, strict=True))
    )
    for a, b, offset in weights:
        if max(abs(a), abs(b)) > MAX_WEIGHT or abs(offset) > MAX_OFFSET:
            raise BitstreamError("a procedural frame has a weight that is out of range")
    return Shot(first, second, weights)  # type: ignore[arg-type]


def render(stills: Frames, shots: Sequence[Shot]) -> Frames:
    """The frames that `shots` describe; 32-bit integers throughout."""
    planes = []
    for plane, pictures in enumerate(stills.planes()):
        out = np.empty((len(shots), *pictures.shape[1:]), dtype=np.uint8)
        last: tuple[int, ...] | None = None
        for index, shot in enumerate(shots):
            first, second, offset = shot.weights[plane]
            recipe = (shot.first, shot.second, first, second, offset)
            if recipe == last:
                out[index] = out[index - 1]
            elif (first, second, offset) == (ONE, 0, 0):
                out[index] = pictures[shot.first]
            else:
                total = pictures[shot.first].astype(np.int32) * first + (offset + ONE // 2)
                if second:
                    total += pictures[shot.second].astype(np.int32) * second
                np.clip(total >> ONE_BITS, 0, 255, out=total)
                out[index] = total
            last = recipe
        planes.append(out)
    return Frames(*planes)
