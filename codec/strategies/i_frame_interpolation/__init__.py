"""Key frames by a traditional encoder, and the frames between them interpolated from both sides.

Owns the payload, and the encoder's choice of the distance between key frames. Symbols of frames are `syntax`'s, what
they do to a picture `between`'s, the encoder's choices for a frame `choices`'.

    key frames, every 2**n-th and the last --encoder--> payload of a strategy of codes 5 to 8: a short video
    frames between, the middle first --motion found by the decoder, corrections, residuals--> one entropy-coded stream

A frame in between without symbols costs a fraction of a bit a block: this is for scenes whose motion is smooth. Every
tool is used only where it pays, and the whole only where it costs less than the same encoder alone.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, cast

import numpy as np

from codec import strategies
from codec.entropy import Coder, Reader, Writer
from codec.errors import BadInputError, BitstreamError, EncodeError
from codec.frames import Frames, VideoFormat
from codec.rate_distortion import KNOBS, lambda_of_quality, plane_errors
from codec.strategies.i_frame_interpolation.between import (
    References,
    interpolated,
    key_frames,
    places,
    with_residual,
)
from codec.strategies.i_frame_interpolation.choices import Prices, choose, step_index
from codec.strategies.i_frame_interpolation.syntax import FrameSymbols, FrameSyntax, best_tables, grid
from codec.strategies.i_frame_interpolation.transform import STEPS
from codec.strategies.protocol import EncodeSettings

if TYPE_CHECKING:
    from codec.strategies.elementary import ElementaryStrategy

ENCODERS = ("av1", "x265", "x264", "vvc")
DEFAULT_ENCODER = "av1"
LENGTH_BYTES = 4
DISTANCES = (2, 4, 8, 16, 32)
TRIED_DISTANCES = (4, 8, 16)
# Errors of key frames are passed on to the frames between: their bits are worth so many times more.
KEY_SHARE = 0.5
# Steps grow by so many indices with the depth in the pyramid.
DEPTH_INCREASE = 1
DEEPEST = 3


@dataclass(frozen=True)
class SceneSymbols:
    """What is said of a whole scene. step: the quantiser's index at the top of the pyramid."""

    distance: int
    step: int
    increase: int

    def step_at(self, depth: int) -> int:
        return min(self.step + self.increase * min(depth, DEEPEST), STEPS - 1)


@dataclass(frozen=True)
class Coded:
    """One way to code a scene. cost: D + lambda · R, as `codec.rate_distortion` has it."""

    payload: bytes
    cost: float


class IFrameInterpolation:
    """The strategy; see the module.

    Options: `keys` names the strategy that codes key frames (its presets are meant), `distance` the frames from one key
    frame to the next.
    """

    name = "i_frame_interpolation"
    code = 2

    @property
    def presets(self) -> tuple[str, ...]:
        """Those of every encoder of key frames: which of them fit depends on the option `keys`."""
        return tuple(dict.fromkeys(preset for name in ENCODERS for preset in _encoder(name).presets))

    def encode(self, frames: Frames, video: VideoFormat, settings: EncodeSettings) -> bytes:
        """Raises EncodeError where the encoder of the key frames alone codes the scene at a lower cost."""
        found = best_coding(frames, video, settings)
        name = settings.options.get("keys", DEFAULT_ENCODER)
        lambda_rd = lambda_of_quality(settings.quality)
        alone = _encoder(name).encode(frames, video, _at_slope(name, settings, lambda_rd))
        cost = _cost(frames, _encoder(name).decode(alone, video, len(frames)), len(alone), video, lambda_rd)
        if cost <= found.cost:
            by = f"{found.cost / cost - 1:.1%}" if cost else "any amount"
            raise EncodeError(f"{self.name} does not pay: it costs {by} more than {name} alone")
        return found.payload

    def decode(self, payload: bytes, video: VideoFormat, frame_count: int) -> Frames:
        """The key frames first: a payload without all of them ends there."""
        name = strategies.name_of(payload[0]) if payload else "none"
        if name not in ENCODERS:
            raise BitstreamError(f"the {self.name} payload's key frames are {name}, not one of {', '.join(ENCODERS)}")
        start = 1 + LENGTH_BYTES
        end = start + int.from_bytes(payload[1:start], "little")
        if len(payload) < end:
            raise BitstreamError(f"the {self.name} payload ends within its key frames")
        reader = Reader(payload[end:])
        scene = code_scene(reader, SceneSymbols(2, 0, 0))
        keys = key_frames(frame_count, scene.distance)
        pictures = _with_keys(_encoder(name).decode(payload[start:end], video, len(keys)), keys, frame_count)
        syntax, references = FrameSyntax(reader, grid(video)), References()
        for place in places(frame_count, scene.distance):
            past, future = (references.of(index, pictures) for index in (place.past, place.future))
            symbols, step = syntax.frame(None), scene.step_at(place.depth)
            _put(pictures, place.frame, interpolated(past, future, place, symbols, step, video))
        return pictures


def best_coding(frames: Frames, video: VideoFormat, settings: EncodeSettings) -> Coded:
    """The scene at the distance between key frames that costs least, whether or not it pays."""
    name, distances = _checked(settings)
    if len(frames) < 3:
        raise EncodeError("i_frame_interpolation does not pay: fewer than three frames have none to interpolate")
    tried = [distance for distance in distances if distance < len(frames)] or [2]
    found: list[Coded] = []
    for distance in tried:
        found.append(_coded(frames, video, name, settings, distance))
        if found[-1].cost > 1.05 * min(coded.cost for coded in found):
            break
    return min(found, key=lambda coded: coded.cost)


def code_scene(coder: Coder, told: SceneSymbols) -> SceneSymbols:
    """The head of the stream, for writing and for reading."""
    index = coder.number(DISTANCES.index(told.distance), 3)
    if index >= len(DISTANCES):
        raise BitstreamError(f"the i_frame_interpolation payload has an unknown distance code {index}")
    return SceneSymbols(DISTANCES[index], coder.number(told.step, 6), coder.number(told.increase, 2))


def _encoder(name: str) -> ElementaryStrategy:
    return cast("ElementaryStrategy", strategies.get(name))


def _checked(settings: EncodeSettings) -> tuple[str, tuple[int, ...]]:
    """The encoder of key frames and the distances to try."""
    name = settings.options.get("keys", DEFAULT_ENCODER)
    if name not in ENCODERS:
        raise BadInputError(f"i_frame_interpolation has no keys {name!r}: choose one of {', '.join(ENCODERS)}")
    if settings.scale != "1":
        raise BadInputError("i_frame_interpolation codes at full size only: leave the scale at 1")
    distance = settings.options.get("distance")
    if distance is None:
        return name, TRIED_DISTANCES
    if distance not in map(str, DISTANCES):
        raise BadInputError(f"i_frame_interpolation has no distance {distance!r}: choose one of {DISTANCES}")
    return name, (int(distance),)


def _at_slope(name: str, settings: EncodeSettings, lambda_rd: float) -> EncodeSettings:
    """The encoder at the rate where it usually trades errors for bits at lambda; its own options are passed on."""
    rate = KNOBS[name].rounded(KNOBS[name].at(lambda_rd))
    return EncodeSettings(1.0, settings.preset, quality_range=(rate, rate), options=_own_options(settings.options))


def _own_options(options: Mapping[str, str]) -> dict[str, str]:
    return {key: value for key, value in options.items() if key not in ("keys", "distance")}


def _coded(frames: Frames, video: VideoFormat, name: str, settings: EncodeSettings, distance: int) -> Coded:
    lambda_rd = lambda_of_quality(settings.quality)
    encoder, indices = _encoder(name), key_frames(len(frames), distance)
    kept = Frames(*(plane[indices] for plane in frames.planes()))
    base = encoder.encode(kept, video, _at_slope(name, settings, lambda_rd * KEY_SHARE))
    pictures = _with_keys(encoder.decode(base, video, len(indices)), indices, len(frames))
    scene = SceneSymbols(distance, step_index(lambda_rd), DEPTH_INCREASE)
    prices, references = Prices(lambda_rd), References()
    told: list[FrameSymbols] = []
    for place in places(len(frames), distance):
        past, future = (references.of(index, pictures) for index in (place.past, place.future))
        original, step = frames[place.frame : place.frame + 1], scene.step_at(place.depth)
        symbols, prediction = choose(original, past, future, place, step, video, prices)
        told.append(symbols)
        prices.learn(told)
        _put(pictures, place.frame, with_residual(prediction, symbols, step, video))
    stream = _written(scene, told, video)
    payload = bytes([encoder.code]) + len(base).to_bytes(LENGTH_BYTES, "little") + base + stream
    return Coded(payload, _cost(frames, pictures, len(payload), video, lambda_rd))


def _written(scene: SceneSymbols, told: list[FrameSymbols], video: VideoFormat) -> bytes:
    writer = Writer()
    code_scene(writer, scene)
    syntax = FrameSyntax(writer, grid(video), best_tables(told))
    for symbols in told:
        syntax.frame(symbols)
    return writer.to_bytes()


def _cost(frames: Frames, decoded: Frames, size: int, video: VideoFormat, lambda_rd: float) -> float:
    return plane_errors(frames, decoded).weighted(video) + lambda_rd * 8 * size


def _with_keys(keys: Frames, indices: list[int], count: int) -> Frames:
    """All frames of the scene, with the key frames in their places."""
    whole = Frames(*(np.zeros((count, *plane.shape[1:]), np.uint8) for plane in keys.planes()))
    for target, source in zip(whole.planes(), keys.planes(), strict=True):
        target[indices] = source
    return whole


def _put(pictures: Frames, index: int, frame: Frames) -> None:
    for target, source in zip(pictures.planes(), frame.planes(), strict=True):
        target[index] = source[0]


STRATEGY = IFrameInterpolation()
