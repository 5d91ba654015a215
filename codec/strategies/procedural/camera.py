"""Finds the still behind a scene in which only the camera moves: a pan, a zoom or a turn over one picture.

Owns the search; what a view means is `codec.strategies.procedural.views`'s.

    a few pairs, small  corners followed from frame to frame, one affine motion fitted (RANSAC): refuses most scenes
    all frames, small   the same from each frame to the next, then aligned with the mosaic of those before
    all frames, full    mosaic, alignment with it, mosaic again; what each frame, seen through the decoder's filter,
                        still lacks is taken back into it (iterative back-projection, Irani and Peleg 1991)

Alignment is Gauss-Newton over motion, gain and offset at the steepest sample of each cell, with Tukey's weights. A
motion here is float64 [2, 3]: from (x, y, 1), where the frame's edges lie at -1 and 1, to samples of the still from
its centre.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import cv2
import numpy as np
import numpy.typing as npt

from codec.bitstream import MAX_SIDE
from codec.errors import EncodeError
from codec.frames import Frames, Plane, VideoFormat
from codec.strategies.procedural import views
from codec.strategies.procedural.steady import LOCAL_LIMIT, NOISE_DEVIATIONS, block_means, structure_error
from codec.strategies.procedural.stills import MAX_OFFSET, MAX_WEIGHT, ONE
from codec.strategies.procedural.views import PLACE_BITS, STILL, View

_Array = npt.NDArray[Any]

SMALLEST_SIDE = 32
# Motion is first sought on frames no longer than this.
SMALL_SIDE = 480
CORNERS, CORNER_DISTANCE, FEWEST_CORNERS = 200, 7, 12
# Of the corners followed, so many must agree on one motion within so many samples.
AGREEING, REACH = 0.6, 1.0
# Of a small frame's blocks, so many may differ by more than noise from another frame moved onto it: none do where only
# the camera moves; talking heads begin at 0.3%, a street or a toy train at 4%.
MOST_OTHER_BLOCKS = 0.002
LOOKS, LOOK_AHEAD = 3, 4
# A camera that moves less than this between the first and the last frame stands: small samples.
LEAST_MOTION = 0.3
ALIGNED_SAMPLES = 20_000
ROUNDS, PRECISION = 12, 0.003
# Fewer known samples, or less of the still's contrast, and a frame tells nothing of its motion.
FEWEST_SAMPLES, LEAST_CONTRAST, LEAST_KNOWN = 100, 0.1, 0.05
# From so many frames the still is made: with more, noise is no longer what it lacks.
AVERAGED = 32
# Steps longer than what is lacking still converge, and sooner: the filters only ever weaken.
BACK_PROJECTIONS, STRIDE = 3, 1.5
# Gains and offsets (in grey levels) nearer to none than this are the noise of the fit.
PLAIN_GAIN, PLAIN_OFFSET = 0.02, 2.0
BLUR_REACH = 5
# How far beyond its edges, repeated, a frame says something of the still: as far as the decoder's filter reaches.
RING = 4
TRUST = np.array([0, *[1e-3] * 254, 1], np.float32)


@dataclass(frozen=True)
class Seen:
    """The still, its format, and how each frame sees it."""

    still: Frames
    shape: VideoFormat
    views: list[View]


@dataclass(frozen=True)
class Pose:
    """A frame against the still: its motion, and its luma as gain · still + offset (grey levels)."""

    motion: _Array
    gain: float = 1.0
    offset: float = 0.0


def describe_views(frames: Frames, video: VideoFormat, quality: float) -> Seen:
    """The still and the path over it. Raises EncodeError, mostly soon, where the scene is something else."""
    if len(frames) < 2 or min(video.width, video.height) < SMALLEST_SIDE:
        raise EncodeError(f"procedural: a camera's path takes two frames of {SMALLEST_SIDE}×{SMALLEST_SIDE} or more")
    require_camera(frames)
    poses, shape = _centred(_path(frames, video), video)
    chosen = np.unique(np.linspace(0, len(frames) - 1, AVERAGED).round().astype(int))
    total, weight = _sums(frames.y, chosen, poses, video, shape, 0)
    template = _Template(total / np.maximum(weight, 1e-6), weight >= LEAST_KNOWN)
    poses = [template.align(frames.y[index], pose) for index, pose in enumerate(poses)]
    poses, shape = _centred(_levelled(poses), video)
    poses, steps = _stepped(poses, video)
    seen = Seen(_mosaic(frames, chosen, poses, video, shape), shape, steps)
    for _ in range(BACK_PROJECTIONS):
        seen = replace(seen, still=_back_projected(frames, chosen, poses, video, seen))
    seen = replace(seen, views=_weighed(frames, poses, video, seen))
    if not structure_error(frames, views.render(seen.still, shape, seen.views, video), quality):
        raise EncodeError("procedural: more moves in the scene than the camera")
    return seen


def require_camera(frames: Frames) -> None:
    """Raise EncodeError unless the camera moves, and one affine motion explains a few frames from ones before."""
    last, ahead = len(frames) - 1, min(LOOK_AHEAD, len(frames) - 1)
    for start in np.unique(np.linspace(0, last - ahead, LOOKS).astype(int)):
        one, other = _small(frames.y[start]), _small(frames.y[start + ahead])
        found = _followed(other, one)
        if found:
            if found[1] < AGREEING:  # perhaps it went too far to be followed
                other = _small(frames.y[start + 1])
                found = _followed(other, one) or found
            _require_agreement(found[1])
            _require_fit(one, other, found[0])
    one, other = _small(frames.y[0]), _small(frames.y[last])
    found = _followed(other, one)
    # Where they do not agree, the camera may have gone too far to be followed at once.
    if found and found[1] >= AGREEING and _reach(found[0] - np.eye(2, 3), one.shape) < LEAST_MOTION:
        raise EncodeError("procedural: the camera stands still")


def _require_agreement(agreeing: float) -> None:
    if agreeing < AGREEING:
        raise EncodeError(f"procedural: no camera's motion, only {agreeing:.0%} of the corners agree on one")


def _require_fit(one: _Array, other: Plane, matrix: _Array) -> None:
    """Raise EncodeError where the picture `one`, moved and brought to its level, does not show what `other` does."""
    others = _other_blocks(one, other, matrix)
    if others > MOST_OTHER_BLOCKS:
        raise EncodeError(f"procedural: more moves than the camera, {others:.1%} of the blocks do not fit")


def _reach(matrix: _Array, shape: tuple[int, ...]) -> float:
    """How far the matrix moves a corner of the picture at most."""
    corners = np.array([[x, y, 1] for x in (0, shape[1] - 1) for y in (0, shape[0] - 1)])
    return float(np.abs(corners @ matrix.T).max())


def _small(luma: Plane) -> Plane:
    ratio = SMALL_SIDE / max(luma.shape)
    if ratio >= 1:
        return np.ascontiguousarray(luma)
    size = tuple(max(1, round(side * ratio)) for side in luma.shape[::-1])
    small: Plane = cv2.resize(luma, size, interpolation=cv2.INTER_AREA)
    return small


def _followed(source: Plane, target: Plane) -> tuple[_Array, float] | None:
    """The affine motion [2, 3] of samples from source to target, and how many of the corners found in both agree.

    None where there are too few.
    """
    corners = cv2.goodFeaturesToTrack(source, CORNERS, 0.01, CORNER_DISTANCE)
    if corners is None or len(corners) < FEWEST_CORNERS:
        return None
    # Corners are followed by their grey levels, which a fade changes.
    gain = float(source.std()) / max(1.0, float(target.std()))
    level = np.clip(gain * (target - target.mean()) + source.mean(), 0, 255).astype(np.uint8)
    moved, found, _ = cv2.calcOpticalFlowPyrLK(source, level, corners, None)
    kept = found.ravel() == 1
    if np.count_nonzero(kept) < FEWEST_CORNERS:
        return None
    matrix, inside = cv2.estimateAffine2D(corners[kept], moved[kept], ransacReprojThreshold=REACH)
    if matrix is None:
        return None
    return matrix, float(np.count_nonzero(inside) / np.count_nonzero(kept))


def _other_blocks(one: Plane, other: Plane, matrix: _Array) -> float:
    """The share of blocks of `other` that `one`, moved and brought to its level, does not show. Zeros are unknown."""
    size = other.shape[::-1]
    flags = cv2.INTER_CUBIC | cv2.WARP_INVERSE_MAP
    moved = cv2.warpAffine(one, matrix, size, flags=flags, borderMode=cv2.BORDER_REPLICATE).astype(np.float32)
    known = cv2.warpAffine((one > 0).astype(np.float32), matrix, size, flags=cv2.INTER_LINEAR | cv2.WARP_INVERSE_MAP)
    inside = known > 0.99
    if not inside.any():
        return 1.0
    gain, offset = _level(moved[inside], other[inside])
    difference = np.where(inside, other - gain * moved - offset, 0).astype(np.float32)
    noise = float(np.median(np.abs(difference[inside]))) / 0.6745
    limit = LOCAL_LIMIT + NOISE_DEVIATIONS * noise / views.TAPS
    return float((np.abs(block_means(difference)) > limit).mean())


def _level(one: _Array, other: _Array) -> tuple[float, float]:
    """Gain and offset by which `one` is nearest to `other`."""
    mean, variance = float(one.mean()), float(one.var())
    gain = float(((one - mean) * (other.astype(np.float64) - other.mean())).mean()) / variance if variance else 1.0
    return gain, float(other.mean()) - gain * mean


def _path(frames: Frames, video: VideoFormat) -> list[Pose]:
    """Every frame against the one in the middle, at full size."""
    small = [_small(luma) for luma in frames.y]
    height, width = small[0].shape
    middle = len(small) // 2
    matrices = {middle: np.eye(3)}
    for order in (range(middle - 1, -1, -1), range(middle + 1, len(small))):
        step = np.eye(3)
        for index in order:
            near = index + (1 if index < middle else -1)
            found = _followed(small[index], small[near])
            if found:
                _require_agreement(found[1])
                step = np.vstack([found[0], [0, 0, 1]])
            matrices[index] = matrices[near] @ step
    little = VideoFormat(width, height, video.frame_rate)
    poses = [Pose(_motion(matrices[index][:2], little)) for index in range(len(small))]
    zoom = np.array([[video.width / width], [video.height / height]])
    return [replace(pose, motion=pose.motion * zoom) for pose in _along_mosaic(small, poses, little, middle)]


def _along_mosaic(small: Sequence[Plane], poses: Sequence[Pose], video: VideoFormat, middle: int) -> list[Pose]:
    """The poses, each aligned with the mosaic of the frames between it and the middle, so that errors do not add up."""
    done, shape = _centred(poses, video)
    total = np.zeros((shape.height, shape.width), np.float32)
    weight = np.zeros_like(total)
    for order in (range(middle, -1, -1), range(middle + 1, len(small))):
        drift = np.zeros((2, 3))
        for index in order:
            pose = replace(done[index], motion=done[index].motion + drift)
            if index != middle:
                aligned = _Template(total / np.maximum(weight, 1e-6), weight >= LEAST_KNOWN).align(small[index], pose)
                drift += aligned.motion - pose.motion
                pose = aligned
            done[index] = pose
            matrix = _matrix(pose.motion, video, shape, 0)
            if index != middle and index % LOOK_AHEAD == 0:
                shown = np.where(weight >= LEAST_KNOWN, total / np.maximum(weight, 1e-6), 0)
                _require_fit(shown, small[index], matrix)
            _add(total, weight, small[index] - np.float32(pose.offset), pose.gain, matrix)
    return done


def _motion(matrix: _Array, video: VideoFormat) -> _Array:
    """A motion from a matrix from samples of a frame to samples of the middle one."""
    size = np.array([video.width, video.height])
    linear = matrix[:, :2] * size / 2
    place = matrix[:, :2] @ ((size - 1) / 2) + matrix[:, 2] - (size - 1) / 2
    return np.column_stack([linear, place])


def _matrix(motion: _Array, video: VideoFormat, shape: VideoFormat, plane: int) -> _Array:
    """From samples of a frame's plane to samples of the still's: what `views` computes, in floats."""
    size, still = np.array([video.width, video.height]), np.array([shape.width, shape.height])
    step, first = (4, 2) if plane else (2, 1)
    linear = motion[:, :2] * step / size
    place = motion[:, 2] + motion[:, :2] @ ((first - size) / size) + (still - 1) / 2
    return np.column_stack([linear, place]) if not plane else np.column_stack([linear, place - 0.5]) / 2


def _centred(poses: Sequence[Pose], video: VideoFormat) -> tuple[list[Pose], VideoFormat]:
    """The poses on the smallest still of even sides that holds all frames. Raises EncodeError where it is too large."""
    corners = np.array([[x, y, 1] for x in (-1, 1) for y in (-1, 1)])
    reached = np.concatenate([corners @ pose.motion.T for pose in poses])
    low, high = reached.min(axis=0), reached.max(axis=0)
    width, height = (2 * int(np.ceil(side / 2 + 0.5)) for side in high - low)
    if not width * height <= views.most_samples(video) or max(width, height) > MAX_SIDE:
        raise EncodeError(f"procedural: the camera sees more than one still may show ({width}×{height})")
    middle = np.column_stack([np.zeros((2, 2)), (low + high) / 2])
    centred = [replace(pose, motion=pose.motion - middle) for pose in poses]
    return centred, replace(video, width=width, height=height)


class _Template:
    """A picture to align with: its blurred luma, its slopes, and where it is known."""

    def __init__(self, picture: _Array, known: _Array) -> None:
        blurred = _blurred(picture)
        slopes = [cv2.Sobel(blurred, cv2.CV_32F, *which, ksize=3, scale=1 / 8) for which in ((1, 0), (0, 1))]
        kernel = np.ones((BLUR_REACH, BLUR_REACH), np.uint8)
        inner = cv2.erode(known.astype(np.uint8), kernel).astype(np.float32)
        self._stack = cv2.merge([blurred, *slopes, inner])
        self._centre = (np.array(picture.shape[::-1]) - 1) / 2

    def align(self, luma: Plane, pose: Pose) -> Pose:
        """The pose at which the frame lies best; the given one where the frame does not tell."""
        wanted, places = _steepest(luma)
        motion, gain, offset = pose.motion.copy(), pose.gain, pose.offset
        for _ in range(ROUNDS):
            at = (places @ motion.T + self._centre).astype(np.float32)
            found = cv2.remap(self._stack, at[:, None], None, cv2.INTER_LINEAR)[:, 0]
            inside = found[:, 3] > 0.99
            if np.count_nonzero(inside) < FEWEST_SAMPLES:
                return pose
            there, across, down = found[inside, 0], found[inside, 1, None], found[inside, 2, None]
            left = wanted[inside] - gain * there - offset
            scale = 4.685 * max(0.5, float(np.median(np.abs(left))) / 0.6745)
            trust = np.clip(1 - (left / scale) ** 2, 0, 1)
            basis = np.column_stack(
                [gain * across * places[inside], gain * down * places[inside], there, np.ones_like(there)]
            )
            step = np.linalg.lstsq(basis * trust[:, None], left * trust, rcond=1e-6)[0]
            motion += step[:6].reshape(2, 3)
            gain, offset = gain + float(step[6]), offset + float(step[7])
            if gain < LEAST_CONTRAST:
                return replace(pose, gain=max(gain, 0.0), offset=offset)
            if np.abs(step[:6].reshape(2, 3)).sum(axis=1).max() < PRECISION:
                break
        return Pose(motion, gain, offset)


def _blurred(picture: _Array) -> _Array:
    return np.asarray(cv2.GaussianBlur(picture.astype(np.float32), (BLUR_REACH, BLUR_REACH), 1))


def _steepest(luma: Plane) -> tuple[_Array, _Array]:
    """The blurred luma at the steepest sample of each cell, and where these lie: (x, y, 1), edges at -1 and 1."""
    blurred = _blurred(luma)
    height, width = luma.shape
    cell = max(2, round((luma.size / ALIGNED_SAMPLES) ** 0.5))
    rows, columns = height // cell, width // cell
    steep = np.abs(cv2.Sobel(blurred, cv2.CV_32F, 1, 0)) + np.abs(cv2.Sobel(blurred, cv2.CV_32F, 0, 1))
    cells = steep[: rows * cell, : columns * cell].reshape(rows, cell, columns, cell).swapaxes(1, 2)
    best = cells.reshape(rows, columns, -1).argmax(axis=2)
    y = (np.arange(rows)[:, None] * cell + best // cell).ravel()
    x = (np.arange(columns) * cell + best % cell).ravel()
    places = np.column_stack([(2 * x + 1) / width - 1, (2 * y + 1) / height - 1, np.ones(len(x))])
    return blurred[y, x], places


def _levelled(poses: Sequence[Pose]) -> list[Pose]:
    """The poses against a still as strong as the strongest frame; without gains where the fit found only noise."""
    if all(abs(pose.gain - 1) < PLAIN_GAIN and abs(pose.offset) < PLAIN_OFFSET for pose in poses):
        return [Pose(pose.motion) for pose in poses]
    top = max(poses, key=lambda pose: pose.gain)
    return [Pose(pose.motion, pose.gain / top.gain, pose.offset - pose.gain / top.gain * top.offset) for pose in poses]


def _stepped(poses: Sequence[Pose], video: VideoFormat) -> tuple[list[Pose], list[View]]:
    """Motions in the steps of the syntax: the line through the last two where that is not off by more than a step."""
    own = np.column_stack([np.diag([video.width / 2, video.height / 2]), [0, 0]])
    done: list[tuple[int, ...]] = []
    last = older = STILL.motion
    for index, pose in enumerate(poses):
        moved = (pose.motion - own) * (1 << PLACE_BITS)
        exact = [*moved[:, 2], *moved[0, :2], *moved[1, :2]]
        guesses = [2 * new - old for new, old in zip(last, older, strict=True)]
        taken = [g if abs(e - g) <= 1 else round(float(e)) for e, g in zip(exact, guesses, strict=True)]
        done.append(tuple(taken))
        older, last = (last if index else done[0]), done[-1]  # type: ignore[assignment]
    stepped = []
    for pose, (across, down, *growths) in zip(poses, done, strict=True):
        moved = np.column_stack([np.reshape(growths, (2, 2)), [across, down]]) / (1 << PLACE_BITS)
        stepped.append(replace(pose, motion=moved + own))
    return stepped, [View(motion) for motion in done]  # type: ignore[arg-type]


def _add(total: _Array, weight: _Array, picture: _Array, gain: float, matrix: _Array) -> None:
    """Add to the sums what a picture, `gain` times the still, says of it: by the square of its gain."""
    size = total.shape[::-1]
    scaled = (picture * np.float32(gain)).astype(np.float32)
    there = cv2.warpAffine(scaled, matrix, size, flags=cv2.INTER_CUBIC, borderMode=cv2.BORDER_REPLICATE)
    # One where the frame lies; next to nothing in a ring around it, for what no other frame shows.
    mask = np.pad(np.full(picture.shape, 255, np.uint8), RING, constant_values=1)
    ringed = np.column_stack([matrix[:, :2], matrix[:, 2] - matrix[:, :2].sum(axis=1) * RING])
    trust = TRUST[cv2.warpAffine(mask, ringed, size, flags=cv2.INTER_LINEAR)]
    total += trust * there
    weight += trust * np.float32(gain**2)


def _offset(pose: Pose, plane: int) -> np.float32:
    """Luma fades from any level, chroma from grey."""
    return np.float32(128 * (1 - pose.gain) if plane else pose.offset)


def _sums(
    stack: Plane, chosen: _Array, poses: Sequence[Pose], video: VideoFormat, shape: VideoFormat, plane: int
) -> tuple[_Array, _Array]:
    sides = (shape.chroma_height, shape.chroma_width) if plane else (shape.height, shape.width)
    total, weight = np.zeros(sides, np.float32), np.zeros(sides, np.float32)
    for index in chosen:
        pose = poses[index]
        matrix = _matrix(pose.motion, video, shape, plane)
        _add(total, weight, stack[index] - _offset(pose, plane), pose.gain, matrix)
    return total, weight


def _mosaic(frames: Frames, chosen: _Array, poses: Sequence[Pose], video: VideoFormat, shape: VideoFormat) -> Frames:
    """The mean of what the chosen frames say of the still."""
    planes = []
    for number, plane in enumerate(frames.planes()):
        total, weight = _sums(plane, chosen, poses, video, shape, number)
        planes.append(_rounded(_filled(total / np.maximum(weight, 1e-6), weight)))
    return Frames(*planes)


def _rounded(picture: _Array) -> Plane:
    rounded: Plane = np.clip(np.rint(picture), 0, 255).astype(np.uint8)[None]
    return rounded


def _filled(picture: _Array, weight: _Array) -> _Array:
    """The picture with what no frame shows filled smoothly from around, so that it costs next to nothing."""
    known = (weight > 0).astype(np.float32)
    picture = picture * known
    reach = 8
    while not known.all():
        size = (2 * reach + 1, 2 * reach + 1)
        sums, counts = (cv2.boxFilter(part, -1, size, normalize=False) for part in (picture, known))
        fresh = (known == 0) & (counts > 0.5)
        picture = np.where(fresh, sums / np.maximum(counts, 1), picture)
        known = np.maximum(known, fresh)
        reach *= 2
    return picture


def _back_projected(frames: Frames, chosen: _Array, poses: Sequence[Pose], video: VideoFormat, seen: Seen) -> Frames:
    """The still with what the chosen frames lack, seen through the decoder's filter, put back where they show it."""
    described = views.render(seen.still, seen.shape, [View(seen.views[index].motion) for index in chosen], video)
    planes = []
    for number, (plane, still, pictures) in enumerate(
        zip(frames.planes(), seen.still.planes(), described.planes(), strict=True)
    ):
        total, weight = np.zeros(still.shape[1:], np.float32), np.zeros(still.shape[1:], np.float32)
        for place, index in enumerate(chosen):
            pose = poses[index]
            lacking = plane[index] - np.float32(pose.gain) * pictures[place] - _offset(pose, number)
            _add(total, weight, lacking, pose.gain, _matrix(pose.motion, video, seen.shape, number))
        planes.append(_rounded(still[0] + STRIDE * total / np.maximum(weight, 1e-6)))
    return Frames(*planes)


def _weighed(frames: Frames, poses: Sequence[Pose], video: VideoFormat, seen: Seen) -> list[View]:
    """The views with the gains and offsets that are best for each plane; as they are where nothing fades."""
    if all((pose.gain, pose.offset) == (1.0, 0.0) for pose in poses):
        return seen.views
    plain = views.render(seen.still, seen.shape, seen.views, video)
    weighed = []
    for index, view in enumerate(seen.views):
        fitted = (_level(one[index], other[index]) for one, other in zip(plain.planes(), frames.planes(), strict=True))
        rounded = [(round(gain * ONE), round(offset * ONE)) for gain, offset in fitted]
        weights = tuple(
            (max(-MAX_WEIGHT, min(MAX_WEIGHT, g)), max(-MAX_OFFSET, min(MAX_OFFSET, o))) for g, o in rounded
        )
        weighed.append(replace(view, weights=weights))
    return weighed
