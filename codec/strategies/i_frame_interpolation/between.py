"""A frame between two others: both moved along the path that the decoder finds, blended, and a residual added.

Owns what the symbols of `syntax` do to a picture, all in integers. The path is `codec.networks.motion`'s.

    past, future --path_between--> path of each 8x8 block --corrections of 16x16 blocks--> both pictures moved
    moved past, moved future --BOTH: their mean, PAST or FUTURE: the one--> prediction --+ residual--> frame
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from itertools import pairwise
from typing import TypeVar

import numpy as np
import numpy.typing as npt

from codec.frames import Frames, Plane, VideoFormat
from codec.networks.description import Description
from codec.networks.motion import Vectors, moved, path_between, split_path, with_half_samples, with_middles
from codec.strategies.i_frame_interpolation.scene import SceneSymbols
from codec.strategies.i_frame_interpolation.syntax import (
    BLOCK,
    BOTH,
    CHROMA_BLOCK,
    PAST,
    SWITCH_BLOCK,
    FrameSymbols,
)
from codec.strategies.i_frame_interpolation.transform import STEPS, inverse, step_of

Integers = npt.NDArray[np.int32]
ZOOM = 4
_Scalar = TypeVar("_Scalar", bound=np.generic)
UNIT = 64  # the search for motion pads luma to multiples of this


@dataclass(frozen=True)
class Place:
    """A frame to be interpolated: its index, those of the frames around it, and how deep in the pyramid it lies."""

    frame: int
    past: int
    future: int
    depth: int

    @property
    def share(self) -> tuple[int, int]:
        """The time since the past frame and until the future one."""
        return self.frame - self.past, self.future - self.frame


def key_frames(count: int, distance: int) -> list[int]:
    """Every so many frames, and the last."""
    return sorted({*range(0, count, distance), count - 1})


def places(count: int, distance: int) -> Iterator[Place]:
    """The frames between key frames in the order of coding: the middle first, then the middles of both halves."""
    keys = key_frames(count, distance)
    for past, future in pairwise(keys):
        yield from _halves(past, future, 0)


def _halves(past: int, future: int, depth: int) -> Iterator[Place]:
    if future - past < 2:
        return
    middle = (past + future) // 2
    yield Place(middle, past, future, depth)
    yield from _halves(past, middle, depth + 1)
    yield from _halves(middle, future, depth + 1)


class Reference:
    """A decoded frame to be moved: its planes padded to whole units, and interpolated when first needed."""

    def __init__(self, picture: Frames) -> None:
        self.luma: Plane = picture.y[0]
        self._planes = [plane[0] for plane in picture.planes()]

    @cached_property
    def fine(self) -> list[Plane]:
        """Y, U and V, four times as fine."""
        padded = [_padded(plane, UNIT // (1 + (number > 0))) for number, plane in enumerate(self._planes)]
        return [with_middles(with_half_samples(plane)) for plane in padded]

    def moved(self, vectors: Vectors) -> list[Plane]:
        """Y, U and V read at each 8x8 block's vector, in quarter samples of luma; sides are whole units."""
        luma = self.moved_luma(vectors)
        return [luma, *(moved(plane, ZOOM, vectors >> 1) for plane in self.fine[1:])]

    def moved_luma(self, vectors: Vectors) -> Plane:
        return moved(self.fine[0], ZOOM, vectors)


class References:
    """The references of a scene by frame; the least recently used one goes where more than a few are held."""

    HELD = 4

    def __init__(self) -> None:
        self._held: dict[int, Reference] = {}

    def of(self, frame: int, pictures: Frames) -> Reference:
        found = self._held.pop(frame, None) or Reference(pictures[frame : frame + 1])
        self._held[frame] = found
        if len(self._held) > self.HELD:
            del self._held[next(iter(self._held))]
        return found


def paths(past: Reference, future: Reference, share: tuple[int, int]) -> tuple[Vectors, Vectors]:
    """The decoder's own vectors into both references, in quarter samples, for each 8x8 block."""
    return split_path(path_between(past.luma, future.luma, share), share)


def corrected(vectors: Vectors, corrections: Integers) -> Vectors:
    """Vectors of 8x8 blocks plus the corrections [2, rows, columns] of 16x16 blocks."""
    wide = corrections.repeat(2, axis=1).repeat(2, axis=2)
    room = ((0, 0), (0, vectors.shape[1] - wide.shape[1]), (0, vectors.shape[2] - wide.shape[2]))
    return np.asarray(vectors + np.pad(wide, room), np.int32)


def moved_parts(
    past: Reference, future: Reference, place: Place, symbols: FrameSymbols
) -> tuple[list[Plane], list[Plane]]:
    """Both references moved to where the frame has them."""
    back, forth = paths(past, future, place.share)
    one = past.moved(corrected(back, symbols.corrections[:2]))
    return one, future.moved(corrected(forth, symbols.corrections[2:]))


def blended(past: list[Plane], future: list[Plane], sources: Integers) -> list[Plane]:
    """The prediction, Y, U and V, cropped to whole blocks."""
    out = []
    for number, (one, other) in enumerate(zip(past, future, strict=True)):
        side = CHROMA_BLOCK if number else BLOCK
        rows, columns = sources.shape[0] * side, sources.shape[1] * side
        wide = sources.repeat(side, axis=0).repeat(side, axis=1)
        one, other = one[:rows, :columns], other[:rows, :columns]
        mean = (one.astype(np.uint16) + other + 1 >> 1).astype(np.uint8)
        out.append(np.where(wide == BOTH, mean, np.where(wide == PAST, one, other)))
    return out


def with_residual(prediction: list[Plane], symbols: FrameSymbols, step_index: int, video: VideoFormat) -> Frames:
    """The frame: the prediction plus the residual, clipped and cropped."""
    planes = []
    for number, plane in enumerate(prediction):
        where = symbols.classes[number] > 0
        if where.any():
            side = CHROMA_BLOCK if number else BLOCK
            step = step_of(min(step_index + (number > 0), STEPS - 1))
            blocks = in_blocks(plane, side).astype(np.int32)
            blocks[where] += inverse(symbols.levels[number][where], side, step)
            plane = from_blocks(np.clip(blocks, 0, 255).astype(np.uint8))
        height, width = (video.chroma_height, video.chroma_width) if number else (video.height, video.width)
        planes.append(plane[None, :height, :width])
    return Frames(*planes)


def interpolated(
    past: Reference, future: Reference, place: Place, symbols: FrameSymbols, scene: SceneSymbols, video: VideoFormat
) -> Frames:
    """The frame that these symbols describe."""
    parts = moved_parts(past, future, place, symbols)
    prediction = blended(*parts, symbols.sources)
    if scene.description and symbols.generated.any():
        better = with_generated(prediction, parts, place, scene.description, scene.generator)
        prediction = switched(prediction, better, symbols.generated)
    return with_residual(prediction, symbols, scene.step_at(place.depth), video)


def put(pictures: Frames, index: int, frame: Frames) -> None:
    """Write one frame into its place among others."""
    for target, source in zip(pictures.planes(), frame.planes(), strict=True):
        target[index] = source[0]


def stacked(planes: list[Plane]) -> Plane:
    """Y, U and V of whole blocks as half-size planes [6, h, w]."""
    from codec.networks.enhancement import to_phases

    return np.concatenate([to_phases(planes[0]), planes[1][None], planes[2][None]])


def unstacked(planes: Plane) -> list[Plane]:
    """The reverse of `stacked`."""
    from codec.networks.enhancement import from_phases

    return [from_phases(planes[:4], 2 * planes.shape[1], 2 * planes.shape[2]), planes[4], planes[5]]


def generator_sees(
    prediction: Plane,
    parts: tuple[list[Plane], list[Plane]],
    shape: tuple[int, ...],
    place: Place,
    description: Description,
) -> npt.NDArray[np.int8]:
    """What `LightweightVideoGenerator` sees. prediction: half-size planes; shape: rows and columns of blocks."""
    from codec.networks.video_generator import generator_input

    one, other = (stacked(blended(part, part, np.zeros(shape, np.int32))).astype(np.int16) for part in parts)
    since, until = place.share
    conditions = np.array([*description.moves[place.frame], 64 * since // (since + until)], np.int32)
    return generator_input(prediction, other - one, conditions)


def with_generated(
    prediction: list[Plane], parts: tuple[list[Plane], list[Plane]], place: Place, description: Description, code: int
) -> list[Plane]:
    """The prediction as the shipped generator of this code would have it, in every block."""
    from codec.networks.exact import exact_arithmetic
    from codec.networks.video_generator import generated, shipped_generator

    planes = stacked(prediction)
    shape = prediction[0].shape[0] // BLOCK, prediction[0].shape[1] // BLOCK
    with exact_arithmetic():
        seen = generator_sees(planes, parts, shape, place, description)
        return unstacked(generated(shipped_generator(code), planes, seen))


def switched(plain: list[Plane], better: list[Plane], switches: Integers) -> list[Plane]:
    """`better` in the 64x64 blocks of luma that are switched on, `plain` in the others."""
    out = []
    for number, (one, other) in enumerate(zip(plain, better, strict=True)):
        side = SWITCH_BLOCK // 2 if number else SWITCH_BLOCK
        wide = switches.repeat(side, axis=0).repeat(side, axis=1)[: one.shape[0], : one.shape[1]]
        out.append(np.where(wide > 0, other, one))
    return out


def in_blocks(plane: npt.NDArray[_Scalar], side: int) -> npt.NDArray[_Scalar]:
    """[rows · side, columns · side] to [rows, columns, side, side]."""
    rows, columns = plane.shape[0] // side, plane.shape[1] // side
    return plane.reshape(rows, side, columns, side).swapaxes(1, 2).copy()


def from_blocks(blocks: Plane) -> Plane:
    rows, columns, side, _ = blocks.shape
    return blocks.swapaxes(1, 2).reshape(rows * side, columns * side)


def _padded(plane: Plane, unit: int) -> Plane:
    return np.pad(plane, ((0, -plane.shape[0] % unit), (0, -plane.shape[1] % unit)), mode="edge")
