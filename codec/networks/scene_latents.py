"""What moves and brightens within a scene beyond its global motion: flow latents and temporal latents.

Owns both, how they are coded, how a frame follows from a key picture by them, and how an encoder finds them. Global
motion is `codec.networks.description`'s.

    flow latents      int [T, 2, rows, columns]: half samples down and right, at the centres of blocks of luma
    temporal latents  int [T, rows, columns]: steps brighter, at the centres of blocks of 32x32
    between centres   both are interpolated linearly, in integers

The scene's class says how large the flow's blocks are, its noise how coarse a step of brightness is.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import cv2
import numpy as np
import numpy.typing as npt

from codec.entropy import AdaptiveFlag, Coder, best_scale, laplace_bits
from codec.frames import Frames, Plane, VideoFormat
from codec.networks.description import LARGEST_SHIFT, Description, Numbers
from codec.networks.motion import BLOCK, NEAR, cheapest, moved, with_half_samples

FLOW_SIDE, FINE_FLOW_SIDE, TONE_SIDE = 64, 32, 32
LARGEST_FLOW, LARGEST_TONE = 63, 127
FLOW_STEPS = (4, 2, 1)  # half samples, one search after the other
FLOW_PRICE = 64  # of a step away from the frame before, in grey levels summed over a block


@dataclass(frozen=True)
class SceneLatents:
    """See the module; None where a scene has none."""

    flows: Numbers | None = None
    tones: Numbers | None = None


def flow_grid(description: Description, video: VideoFormat) -> tuple[int, int]:
    side = _flow_side(description)
    return -(-video.height // side), -(-video.width // side)


def tone_grid(video: VideoFormat) -> tuple[int, int]:
    return -(-video.height // TONE_SIDE), -(-video.width // TONE_SIDE)


def _flow_side(description: Description) -> int:
    return FINE_FLOW_SIDE if description.scene_class == "talking_head" else FLOW_SIDE


def code_latents(
    coder: Coder, told: SceneLatents | None, description: Description, video: VideoFormat, count: int
) -> SceneLatents:
    """Write `told`, or read where it is None; a description without a class has none. Changes over time are coded."""
    given = told or SceneLatents()
    if description.scene_class is None:
        return SceneLatents()
    flows = _code(coder, given.flows, (count, 2, *flow_grid(description, video)), LARGEST_FLOW)
    return SceneLatents(flows, _code(coder, given.tones, (count, *tone_grid(video)), LARGEST_TONE))


def _code(coder: Coder, told: Numbers | None, shape: tuple[int, ...], largest: int) -> Numbers | None:
    if not coder.flag(told is not None, AdaptiveFlag()):
        return None
    changes = None if told is None else np.diff(told, axis=0, prepend=0).astype(np.int32)
    model, each = AdaptiveFlag(), int(np.prod(shape[1:]))
    moving = [coder.flag(changes is not None and bool(changes[t].any()), model) for t in range(shape[0])]
    values = np.zeros(0, np.int32) if changes is None else changes[moving].ravel()
    scale = coder.number(best_scale(values, 2 * largest) if changes is not None else 0, 5)
    read = np.zeros(shape, np.int32)
    read[moving] = coder.laplace(values, sum(moving) * each, scale, 2 * largest).reshape(-1, *shape[1:])
    return np.clip(np.cumsum(read, axis=0, dtype=np.int32), -largest, largest)


class KeyPictures:
    """What frames follow from, each a clip of one frame; the two used last are held in half samples."""

    def __init__(self, pictures: Sequence[Frames]) -> None:
        self._pictures = pictures
        self._held: dict[int, list[Plane]] = {}

    def planes(self, index: int) -> list[Plane]:
        return [plane[0] for plane in self._pictures[index].planes()]

    def fine(self, index: int) -> list[Plane]:
        """Y, U and V padded to whole blocks, and twice the size."""
        fine = self._held.pop(index, None)
        if fine is None:
            if len(self._held) > 1:
                del self._held[next(iter(self._held))]
            units = (BLOCK, BLOCK // 2, BLOCK // 2)
            fine = [_fine(plane, unit) for plane, unit in zip(self.planes(index), units, strict=True)]
        self._held[index] = fine  # the one used last comes last
        return fine


def follow(
    keys: KeyPictures, frame: int, description: Description, latents: SceneLatents, video: VideoFormat
) -> Frames:
    """One frame: its key picture moved and made brighter. Integers only. A key frame itself does not flow."""
    flow = flow_at(frame, description, latents)
    tone = None if latents.tones is None else latents.tones[frame]
    y, u, v = (_moved(keys, frame, plane, description, flow, video)[None] for plane in range(3))
    return Frames(_brightened(y[0], frame, tone, description, video)[None], u, v)


def flow_at(frame: int, description: Description, latents: SceneLatents) -> Numbers | None:
    """The frame's flow, where it has any."""
    if latents.flows is None or frame in description.keys or not latents.flows[frame].any():
        return None
    found: Numbers = latents.flows[frame]
    return found


def _moved(
    keys: KeyPictures, frame: int, plane: int, description: Description, flow: Numbers | None, video: VideoFormat
) -> Plane:
    """One plane of the key picture as the frame has it. Chroma moves by half as many half samples as luma."""
    index, move, halved = description.key_of(frame), description.moves[frame, :2], plane > 0
    height, width = keys.planes(index)[plane].shape
    if flow is not None:
        vectors = _vectors(flow, description, video) + move[:, None, None]
        return moved(keys.fine(index)[plane], 2, vectors >> halved)[:height, :width]
    down, right = (int(step) >> halved for step in move)
    if not (down or right):
        return keys.planes(index)[plane]
    rows = np.clip(np.arange(0, 2 * height, 2) + down, 0, 2 * height - 2)
    columns = np.clip(np.arange(0, 2 * width, 2) + right, 0, 2 * width - 2)
    return keys.fine(index)[plane][np.ix_(rows, columns)]


def _brightened(y: Plane, frame: int, tone: Numbers | None, description: Description, video: VideoFormat) -> Plane:
    level = y.astype(np.int16) + int(description.moves[frame, 2])
    if tone is not None and tone.any():
        # A step is half a grey level, and half a one more for each of noise.
        level = level + _stretched(tone * (1 + description.noise), TONE_SIDE, video.height, video.width, halves=2)
    return np.clip(level, 0, 255).astype(np.uint8)


def _fine(plane: Plane, unit: int) -> Plane:
    return with_half_samples(np.pad(plane, [(0, -side % unit) for side in plane.shape], mode="edge"))


def _vectors(flow: Numbers, description: Description, video: VideoFormat) -> Numbers:
    """Half samples [2, rows, columns] of each block of 8x8."""
    side = _flow_side(description) // BLOCK
    shape = -(-video.height // BLOCK), -(-video.width // BLOCK)
    return np.stack([_stretched(part, side, *shape) for part in flow])


def _stretched(grid: Numbers, side: int, height: int, width: int, halves: int = 1) -> Numbers:
    """Values at the centres of blocks, interpolated linearly to [height, width] and divided by `halves`, rounded."""
    total = _along(_along(grid, side, height).T, side, width).T
    unit = 4 * side * side * halves
    return ((total + unit // 2) // unit).astype(np.int32)


def _along(grid: Numbers, side: int, length: int) -> Numbers:
    """[rows, …] to [length, …], times 2 · side."""
    place = 2 * np.arange(length) + 1 - side
    before, share = place // (2 * side), place % (2 * side)
    first, second = (np.clip(before + step, 0, len(grid) - 1) for step in (0, 1))
    found: Numbers = grid[first] * (2 * side - share)[:, None] + grid[second] * share[:, None]
    return found


def find_flows(frames: Frames, description: Description, video: VideoFormat, price: float) -> SceneLatents:
    """Flow latents that save more squared error than `price` for each of their bits; of frames against key frames."""
    if description.scene_class in (None, "static"):
        return SceneLatents()
    side, shape = _flow_side(description), (len(frames), 2, *flow_grid(description, video))
    keys = KeyPictures([frames[key : key + 1] for key in description.keys])
    flows, fine, held = np.zeros(shape, np.int32), np.zeros((0, 0), np.uint8), -1
    for t in range(len(frames)):
        last = flows[t - 1] if t else flows[0]
        if t in description.keys:
            flows[t] = last
            continue
        if description.key_of(t) != held:
            held = description.key_of(t)
            fine = _fine(keys.planes(held)[0], side)
        found = _best_flow(frames.y[t], fine, description.moves[t], last, side)

        def error(flow: Numbers, t: int = t) -> float:
            shown = _brightened(_moved(keys, t, 0, description, flow, video), t, None, description, video)
            return _squared(frames.y[t], shown)

        flows[t] = _cheapest([last, np.zeros_like(last), found], last, error, LARGEST_FLOW, price)
    return SceneLatents(flows if flows.any() else None)


def _best_flow(target: Plane, fine: Plane, move: Numbers, start: Numbers, side: int) -> Numbers:
    """For each block what moves the key nearest to the target, found from the flow before by small steps."""
    padded = np.pad(target, [(0, -length % side) for length in target.shape], mode="edge").astype(np.int16)
    wanted = np.clip(padded - int(move[2]), 0, 255).astype(np.uint8)
    shift = np.asarray(move[:2], np.int32)[:, None, None]

    def cost(flow: Numbers) -> Numbers:
        difference = cv2.absdiff(wanted, moved(fine, 2, np.clip(flow + shift, -2 * LARGEST_SHIFT, 2 * LARGEST_SHIFT)))
        rows, columns = start.shape[1:]
        sums: Numbers = difference.reshape(rows, side, columns, side).sum((1, 3), dtype=np.int32)
        return sums

    flow = start
    for scale in FLOW_STEPS:
        steps = [(scale * down, scale * right) for down, right in NEAR]
        flow = cheapest(cost, flow, steps, FLOW_PRICE, neighbours=True)
    return np.clip(flow, -LARGEST_FLOW, LARGEST_FLOW)


def with_tones(
    latents: SceneLatents,
    frames: Frames,
    keys: KeyPictures,
    description: Description,
    video: VideoFormat,
    price: float,
) -> SceneLatents:
    """The same with temporal latents, of frames against decoded key pictures."""
    if description.scene_class is None:
        return latents
    rows, columns = tone_grid(video)
    padding = [(0, -length % TONE_SIDE) for length in (video.height, video.width)]
    tones = np.zeros((len(frames), rows, columns), np.int32)
    for t in range(len(frames)):
        shown = follow(keys, t, description, latents, video).y[0].astype(np.int32)
        lacking = np.pad(frames.y[t] - shown, padding, mode="edge")
        mean = lacking.reshape(rows, TONE_SIDE, columns, TONE_SIDE).mean((1, 3))
        found = np.clip(np.round(2 * mean / (1 + description.noise)), -LARGEST_TONE, LARGEST_TONE).astype(np.int32)
        last = tones[t - 1] if t else tones[0]

        def error(tone: Numbers, t: int = t, shown: Numbers = shown) -> float:
            steps = tone * (1 + description.noise)
            brighter = _stretched(steps, TONE_SIDE, video.height, video.width, halves=2)
            return _squared(frames.y[t], np.clip(shown + brighter, 0, 255))

        tones[t] = _cheapest([last, np.zeros_like(last), found], last, error, LARGEST_TONE, price)
    return SceneLatents(latents.flows, tones if tones.any() else None)


def _cheapest(
    trials: list[Numbers], last: Numbers, error: Callable[[Numbers], float], largest: int, price: float
) -> Numbers:
    """The trial of the least error + price · bits, where its change from `last` is what costs bits."""
    costs = []
    for trial in trials:
        change = (trial - last).astype(np.int32)
        bits = laplace_bits(change, best_scale(change, 2 * largest), 2 * largest) if change.any() else 0.1
        costs.append(error(trial) + price * bits)
    return trials[int(np.argmin(costs))]


def _squared(wanted: Plane, shown: npt.NDArray[np.integer]) -> float:
    return float(np.square(wanted.astype(np.float32) - shown).sum())
