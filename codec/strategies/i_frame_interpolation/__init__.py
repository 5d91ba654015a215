"""Key frames by a traditional encoder, and the frames between them interpolated from both sides.

Owns the payload, and the encoder's choice of the distance between key frames. Symbols of frames are `syntax`'s, what
they do to a picture `between`'s, the encoder's choices for a frame `choices`'.

    key frames, every 2**n-th and the last --encoder--> payload of a strategy of codes 5 to 8: a short video
    frames between, the middle first --motion found by the decoder, corrections, residuals--> one entropy-coded stream

A frame in between without symbols costs a fraction of a bit a block: this is for scenes whose motion is smooth. Every
tool is used only where it pays, and the whole only where it costs less than the same encoder alone.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, cast

import numpy as np

from codec import strategies
from codec.entropy import Reader, Writer
from codec.errors import BadInputError, BitstreamError, EncodeError
from codec.frames import Frames, VideoFormat
from codec.networks.description import SemanticDescriptionGenerator
from codec.rate_distortion import KNOBS, lambda_of_quality, plane_errors
from codec.strategies.i_frame_interpolation.between import (
    References,
    interpolated,
    key_frames,
    places,
    put,
    switched,
    with_residual,
)
from codec.strategies.i_frame_interpolation.choices import Prices, cheaper_blocks, choose, step_index
from codec.strategies.i_frame_interpolation.scene import DISTANCES, SceneSymbols, code_scene
from codec.strategies.i_frame_interpolation.syntax import FrameSymbols, FrameSyntax, Integers, best_tables, grid
from codec.strategies.protocol import EncodeSettings

if TYPE_CHECKING:
    from codec.strategies.elementary import ElementaryStrategy

ENCODERS = ("av1", "x265", "x264", "vvc")
DEFAULT_ENCODER = "av1"
LENGTH_BYTES = 4
OPTIONS = ("keys", "distance", "networks")
TRIED_DISTANCES = (4, 8, 16)
# Errors of key frames are passed on to the frames between, so they are coded at a smaller lambda: these shares of the
# scene's are tried while the cost falls.
KEY_SHARES = (0.75, 0.4, 0.2)
# Steps grow by so many indices with the depth in the pyramid.
DEPTH_INCREASE = 1
# A distance that costs so much more than the best ends the search.
DISTANCE_PATIENCE = 1.05
NEWEST_ENHANCER = 0
TRIED_WEIGHTS = (2, 4)


@dataclass(frozen=True)
class Coded:
    """One way to code a scene. cost: D + lambda · R, as `codec.rate_distortion` has it."""

    payload: bytes
    cost: float
    scene: SceneSymbols
    symbols: list[FrameSymbols]
    pictures: Frames


class IFrameInterpolation:
    """The strategy; see the module.

    Options: `keys` names the strategy that codes key frames (its presets are meant), `distance` the frames from one key
    frame to the next; `networks` is "off" to leave the networks out. All others are the key frames' encoder's own.
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
        scene = code_scene(reader, None, frame_count)
        keys = key_frames(frame_count, scene.distance)
        pictures = _with_keys(_encoder(name).decode(payload[start:end], video, len(keys)), keys, frame_count)
        syntax, references = FrameSyntax(reader, grid(video), scene.description is not None), References()
        for place in places(frame_count, scene.distance):
            past, future = (references.of(index, pictures) for index in (place.past, place.future))
            put(pictures, place.frame, interpolated(past, future, place, syntax.frame(None), scene, video))
        if scene.enhancer is None:
            return pictures
        maps = [syntax.consistency(None) for _ in range(frame_count)]
        return enhanced(pictures, maps, scene.enhancer, scene.weight)


def best_coding(frames: Frames, video: VideoFormat, settings: EncodeSettings) -> Coded:
    """The distance and quality of key frames that cost least, and networks where they pay; the whole may not pay."""
    name, distances = _checked(settings)
    if len(frames) < 3:
        raise EncodeError("i_frame_interpolation does not pay: fewer than three frames have none to interpolate")
    tried = [distance for distance in distances if distance < len(frames)] or [2]
    best: tuple[Coded, _Scene] | None = None
    for distance in tried:
        source = _Scene(frames, video, name, settings, distance)
        coded = source.plain()
        if best is None or coded.cost < best[0].cost:
            best = coded, source
        elif coded.cost > DISTANCE_PATIENCE * best[0].cost:
            break
    assert best is not None
    coded, source = best
    for share in KEY_SHARES[1:]:
        finer = _Scene(frames, video, name, settings, coded.scene.distance, share)
        trial = finer.plain()
        if trial.cost >= coded.cost:
            break
        coded, source = trial, finer
    return coded if settings.options.get("networks") == "off" else source.with_networks(coded)


def _encoder(name: str) -> ElementaryStrategy:
    return cast("ElementaryStrategy", strategies.get(name))


def _checked(settings: EncodeSettings) -> tuple[str, tuple[int, ...]]:
    """The encoder of key frames and the distances to try."""
    name = settings.options.get("keys", DEFAULT_ENCODER)
    if name not in ENCODERS:
        raise BadInputError(f"i_frame_interpolation has no keys {name!r}: choose one of {', '.join(ENCODERS)}")
    if settings.scale != "1":
        raise BadInputError("i_frame_interpolation codes at full size only: leave the scale at 1")
    if settings.options.get("networks", "on") not in ("on", "off"):
        raise BadInputError("i_frame_interpolation: the option networks is on or off")
    distance = settings.options.get("distance")
    if distance is None:
        return name, TRIED_DISTANCES
    if distance not in map(str, DISTANCES):
        raise BadInputError(
            f"i_frame_interpolation has no distance {distance!r}: choose one of {', '.join(map(str, DISTANCES))}"
        )
    return name, (int(distance),)


def _at_slope(name: str, settings: EncodeSettings, lambda_rd: float) -> EncodeSettings:
    """The encoder at the rate where it usually trades errors for bits at lambda; its own options are passed on."""
    rate = KNOBS[name].rounded(KNOBS[name].at(lambda_rd))
    return EncodeSettings(1.0, settings.preset, quality_range=(rate, rate), options=_own_options(settings.options))


def _own_options(options: Mapping[str, str]) -> dict[str, str]:
    return {key: value for key, value in options.items() if key not in OPTIONS}


class _Scene:
    """A scene and its coded key frames, to be filled in this way or that."""

    def __init__(
        self,
        frames: Frames,
        video: VideoFormat,
        name: str,
        settings: EncodeSettings,
        distance: int,
        key_share: float = KEY_SHARES[0],
    ) -> None:
        self._frames, self._video = frames, video
        self._lambda = lambda_of_quality(settings.quality)
        encoder, self._indices = _encoder(name), key_frames(len(frames), distance)
        kept = Frames(*(plane[self._indices] for plane in frames.planes()))
        base = encoder.encode(kept, video, _at_slope(name, settings, self._lambda * key_share))
        self._keys = encoder.decode(base, video, len(self._indices))
        self._head = bytes([encoder.code]) + len(base).to_bytes(LENGTH_BYTES, "little") + base
        self._scene = SceneSymbols(distance, step_index(self._lambda), DEPTH_INCREASE)

    def plain(self) -> Coded:
        """Without networks."""
        return self._filled(self._scene)

    def with_networks(self, best: Coded) -> Coded:
        """`best`, with each of the networks that lowers its cost."""
        description = SemanticDescriptionGenerator().describe(self._frames)
        best = min(best, self._filled(replace(self._scene, description=description)), key=lambda coded: coded.cost)
        trials = [best]
        for weight, maps in _consistency(self._frames, best.pictures, self._lambda):
            if any(switches.any() for switches in maps):
                scene = replace(best.scene, enhancer=NEWEST_ENHANCER, weight=weight)
                better = enhanced(best.pictures, maps, NEWEST_ENHANCER, weight)
                trials.append(self._finished(scene, best.symbols, maps, better))
        return min(trials, key=lambda coded: coded.cost)

    def _filled(self, scene: SceneSymbols) -> Coded:
        """The frames between key frames, each with the symbols that cost least."""
        pictures = _with_keys(self._keys, self._indices, len(self._frames))
        prices, references = Prices(self._lambda), References()
        told: list[FrameSymbols] = []
        for place in places(len(self._frames), scene.distance):
            past, future = (references.of(index, pictures) for index in (place.past, place.future))
            original = self._frames[place.frame : place.frame + 1]
            symbols, prediction = choose(original, past, future, place, scene, prices)
            told.append(symbols)
            prices.learn(told)
            put(pictures, place.frame, with_residual(prediction, symbols, scene.step_at(place.depth), self._video))
        return self._finished(scene, told, [], pictures)

    def _finished(self, scene: SceneSymbols, told: list[FrameSymbols], maps: list[Integers], pictures: Frames) -> Coded:
        writer = Writer()
        code_scene(writer, scene, len(self._frames))
        syntax = FrameSyntax(writer, grid(self._video), scene.description is not None, best_tables(told))
        for symbols in told:
            syntax.frame(symbols)
        for switches in maps:
            syntax.consistency(switches)
        payload = self._head + writer.to_bytes()
        cost = _cost(self._frames, pictures, len(payload), self._video, self._lambda)
        return Coded(payload, cost, scene, told, pictures)


def _consistency(frames: Frames, pictures: Frames, lambda_rd: float) -> Iterator[tuple[int, list[Integers]]]:
    """For each weight of the enhancer, where each frame would have it switched on."""
    from codec.networks.exact import exact_arithmetic
    from codec.networks.temporal_consistency import consistent, shipped_enhancer

    network = shipped_enhancer(NEWEST_ENHANCER)
    found: list[list[Integers]] = [[] for _ in TRIED_WEIGHTS]
    for index in range(len(frames)):
        with exact_arithmetic():
            better = consistent(network, pictures, index, TRIED_WEIGHTS)
        wanted, plain = ([plane[index] for plane in some.planes()] for some in (frames, pictures))
        for maps, picture in zip(found, better, strict=True):
            maps.append(cheaper_blocks(wanted, plain, [plane[0] for plane in picture.planes()], lambda_rd))
    return zip(TRIED_WEIGHTS, found, strict=True)


def enhanced(pictures: Frames, maps: list[Integers], code: int, weight: int) -> Frames:
    """All frames after the enhancer, which sees them as they were before it."""
    from codec.networks.exact import exact_arithmetic
    from codec.networks.temporal_consistency import consistent, shipped_enhancer

    network = shipped_enhancer(code)
    out = Frames(*(plane.copy() for plane in pictures.planes()))
    for index, switches in enumerate(maps):
        if switches.any():
            with exact_arithmetic():
                better = consistent(network, pictures, index, (weight,))[0]
            one, other = ([plane[0] for plane in some.planes()] for some in (pictures[index : index + 1], better))
            put(out, index, Frames(*(plane[None] for plane in switched(one, other, switches))))
    return out


def _cost(frames: Frames, decoded: Frames, size: int, video: VideoFormat, lambda_rd: float) -> float:
    return plane_errors(frames, decoded).weighted(video) + lambda_rd * 8 * size


def _with_keys(keys: Frames, indices: list[int], count: int) -> Frames:
    """All frames of the scene, with the key frames in their places."""
    whole = Frames(*(np.zeros((count, *plane.shape[1:]), np.uint8) for plane in keys.planes()))
    for target, source in zip(whole.planes(), keys.planes(), strict=True):
        target[indices] = source
    return whole


STRATEGY = IFrameInterpolation()
