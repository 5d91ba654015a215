"""What moves and brightens within a scene beyond its global motion: flow latents and temporal latents.

Owns both, how they are coded, how a frame follows from a key picture by them, and how an encoder finds them. Global
motion is `codec.networks.description`'s.

    flow latents      int [T, 2, rows, columns]: half samples down and right, at the centres of blocks of luma
    temporal latents  int [T, rows, columns]: steps brighter, at the centres of blocks of 32x32
    between centres   both are interpolated linearly, in integers

The scene's class says how large the flow's blocks are, its noise how coarse a step of brightness is.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import cv2
import numpy as np
import numpy.typing as npt

from codec.entropy import AdaptiveFlag, Coder, best_scale, laplace_bits
from codec.frames import Frames, Plane, VideoFormat
from codec.networks.description import LARGEST_SHIFT, Description, Numbers
from codec.networks.motion import BLOCK, NEAR, cheapest, moved, shifted, with_half_samples

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
    return np.clip(np.cumsum(read, axis=0), -largest, largest).astype(np.int32)


def follow(
    key: Frames,
    frame: int,
    description: Description,
    latents: SceneLatents,
    video: VideoFormat,
    fine: Plane | None = None,
) -> Frames:
    """One frame: its key picture (one frame) moved and made brighter. Integers only.

    fine: the key's luma `in_half_samples`, where it is at hand
    """
    down, right, brighter = (int(value) for value in description.moves[frame])
    flow = None if latents.flows is None else latents.flows[frame]
    if flow is not None and flow.any():
        vectors = _vectors(flow, (down, right), description, video)
        y = moved(_in_half_samples(key.y[0], BLOCK), 2, vectors)[: video.height, : video.width]
        # Chroma is half as large: the same motion is half as many half samples.
        u, v = (
            moved(_in_half_samples(plane[0], BLOCK // 2), 2, vectors >> 1)[: plane.shape[1], : plane.shape[2]]
            for plane in (key.u, key.v)
        )
    else:
        y = shifted(key.y[0], down, right)
        u, v = (shifted(plane[0], down >> 1, right >> 1) for plane in (key.u, key.v))
    level = y.astype(np.int16) + brighter
    if latents.tones is not None and latents.tones[frame].any():
        level = level + _brightness(latents.tones[frame], description, video)
    return Frames(np.clip(level, 0, 255).astype(np.uint8)[None], u[None], v[None])


def _in_half_samples(plane: Plane, unit: int) -> Plane:
    """Padded to whole units, and twice the size."""
    return with_half_samples(np.pad(plane, [(0, -side % unit) for side in plane.shape], mode="edge"))


def _vectors(flow: Numbers, move: tuple[int, int], description: Description, video: VideoFormat) -> Numbers:
    """Half samples [2, rows, columns] of each block of 8x8."""
    side = _flow_side(description) // BLOCK
    shape = -(-video.height // BLOCK), -(-video.width // BLOCK)
    return np.stack([_stretched(part, side, *shape) + step for part, step in zip(flow, move, strict=True)])


def _brightness(tone: Numbers, description: Description, video: VideoFormat) -> Numbers:
    """Grey levels [H, W]. A step is half a grey level, and half a one more for each of noise."""
    return _stretched(tone * (1 + description.noise), TONE_SIDE, video.height, video.width, halves=2)


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
    flows, fine, held = np.zeros(shape, np.int32), np.zeros((0, 0), np.uint8), -1
    for t in range(len(frames)):
        key = int(description.keys[description.key_of(t)])
        if t == key:
            continue
        if key != held:
            held, fine = key, _in_half_samples(frames.y[key], side)
        last = flows[t - 1] if t else flows[0]
        found = _best_flow(frames.y[t], fine, description.moves[t], last, side)

        def error(flow: Numbers, t: int = t, key: int = key) -> float:
            told = SceneLatents(flow[None].repeat(t + 1, axis=0))
            shown = follow(frames[key : key + 1], t, description, told, video)
            return _squared(frames.y[t], shown.y[0])

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
    keys: list[Frames],
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
        shown = follow(keys[description.key_of(t)], t, description, latents, video).y[0]
        lacking = np.pad(frames.y[t].astype(np.int32) - shown, padding, mode="edge")
        mean = lacking.reshape(rows, TONE_SIDE, columns, TONE_SIDE).mean((1, 3))
        found = np.clip(np.round(2 * mean / (1 + description.noise)), -LARGEST_TONE, LARGEST_TONE).astype(np.int32)
        last = tones[t - 1] if t else tones[0]

        def error(tone: Numbers, t: int = t, shown: Plane = shown) -> float:
            return _squared(frames.y[t], np.clip(shown + _brightness(tone, description, video), 0, 255))

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
