"""Procedural: a scene told as integer-exact procedures instead of coded pictures.

Owns which description a scene gets and the payload layout. What descriptions there are:

    canvas   pictures built from earlier ones by copying, stamping and patching rectangles (`canvas`, `screen`)
    stills   weighted sums of a few pictures that a traditional strategy codes (`stills`, `steady`)
    views    one such picture, larger than a frame, over which a camera moves (`views`, `camera`)

A scene that none describes is refused with an EncodeError, after a look at a few frames where that suffices.
"""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import numpy.typing as npt

from codec import strategies
from codec.context_coder import ContextCoder, ContextDecoder, ContextEncoder
from codec.errors import BadInputError, BitstreamError, EncodeError
from codec.frames import Frames, VideoFormat
from codec.resample import SCALES
from codec.strategies.procedural import camera, canvas, screen, steady, stills, views
from codec.strategies.protocol import EncodeSettings, Strategy

Palette = npt.NDArray[np.uint8]

CANVAS, STILLS, VIEWS = range(3)
KINDS = ("canvas", "stills", "views")
STILL_CODERS = ("av1", "x265", "x264", "vvc")
# Share of samples equal to their left neighbour, from which on a picture may be a screen; and the share of one and two
# among the steps between the others: 3 to 5% on rendered screens, 58 to 71% on camera pictures and animation.
SCREEN_FLATNESS = 0.6
MOST_SMALL_STEPS = 0.25
# Colours of luma and of both chroma planes together at quality 0; at quality 1 every value is kept.
FEWEST_COLOURS = (5, 4)
MOST_COLOURS = (96, 192)
# Numbers of the payload's coder that are neither canvas nor stills: its own.
ORDER, COLOURS, COLOUR, STILL_COUNT, LENGTH = range(50, 55)


class ProceduralStrategy:
    """Tells a scene by procedures, or refuses it.

    `preset` says how much effort the coder of stills spends, `scale` and `quality_range` are handed to it; a canvas has
    none of these. Options: `still` (which strategy codes stills: vvc unless said otherwise; av1 needs no process of its
    own), `kind` (canvas, stills or views: only that one is tried).
    """

    name = "procedural"
    code = 4
    presets = ("fast", "medium", "slow")

    def encode(self, frames: Frames, video: VideoFormat, settings: EncodeSettings) -> bytes:
        """Raises EncodeError where nothing here describes the scene at this quality."""
        kinds = self._kinds(settings)
        reasons = []
        if "canvas" in kinds and settings.scale == "1":
            try:
                if kinds != ("canvas",):
                    require_screen(frames)
                return encode_canvas(frames, settings.quality)
            except (EncodeError, BitstreamError) as refusal:
                reasons.append(str(refusal))
        for kind, encode in (("stills", self._encode_stills), ("views", self._encode_views)):
            if kind in kinds:
                try:
                    return encode(frames, video, settings)
                except EncodeError as refusal:
                    reasons.append(str(refusal))
        raise EncodeError("; ".join(dict.fromkeys(reasons)) or "procedural: a canvas has no scale but 1")

    def decode(self, payload: bytes, video: VideoFormat, frame_count: int) -> Frames:
        """Exactly `frame_count` frames at the size of `video`."""
        if not payload or payload[0] > VIEWS:
            raise BitstreamError("the procedural payload does not start with a known description")
        if payload[0] == CANVAS:
            return decode_canvas(payload[1:], video, frame_count)
        return (decode_stills if payload[0] == STILLS else decode_views)(payload[1:], video, frame_count)

    def _kinds(self, settings: EncodeSettings) -> tuple[str, ...]:
        if settings.preset is not None and settings.preset not in self.presets:
            raise BadInputError(
                f"procedural has no preset {settings.preset!r}: choose one of {', '.join(self.presets)}"
            )
        if settings.scale not in SCALES:
            raise BadInputError(f"unknown scale {settings.scale!r}: choose one of {', '.join(SCALES)}")
        known = {"still": STILL_CODERS, "kind": KINDS}
        for key, value in settings.options.items():
            if key not in known:
                raise BadInputError(f"procedural does not know the option {key}: it has {', '.join(known)}")
            if value not in known[key]:
                raise BadInputError(f"procedural: option {key}={value} is not one of {', '.join(known[key])}")
        return (settings.options["kind"],) if "kind" in settings.options else KINDS

    def _encode_stills(self, frames: Frames, video: VideoFormat, settings: EncodeSettings) -> bytes:
        found = steady.describe_steady(frames, settings.quality)
        coder = ContextEncoder()
        count = len(found.stills)
        coder.number(STILL_COUNT, (), count)
        stills.code_shots(coder, count, len(frames), found.shots)
        return bytes([STILLS]) + self._with_stills(coder.finish(), found.stills, video, settings)

    def _encode_views(self, frames: Frames, video: VideoFormat, settings: EncodeSettings) -> bytes:
        found = camera.describe_views(frames, video, settings.quality)
        coder = ContextEncoder()
        views.code_views(coder, video, len(frames), (found.shape.width, found.shape.height), found.views)
        return bytes([VIEWS]) + self._with_stills(coder.finish(), found.still, found.shape, settings)

    def _with_stills(self, program: bytes, pictures: Frames, video: VideoFormat, settings: EncodeSettings) -> bytes:
        """The program and the pictures it speaks of, coded: what `_split_stills` takes apart."""
        still = strategies.get(settings.options.get("still", "vvc"))
        effort = self.presets.index(settings.preset or "medium") - len(self.presets)
        presets = [preset for preset in still.presets if preset in STILL_PRESETS[still.name]]
        inner = replace(settings, preset=presets[effort], options={})
        body = still.encode(pictures, video, inner)
        return bytes([still.code]) + len(program).to_bytes(3, "little") + program + body


# For one picture instead of a clip, so slower ones than a clip could afford; quickest first.
STILL_PRESETS = {
    "av1": ("8", "4", "2"),
    "x265": ("medium", "slow", "veryslow"),
    "x264": ("medium", "slow", "veryslow"),
    "vvc": ("faster", "medium", "slow"),
}


def encode_canvas(frames: Frames, quality: float) -> bytes:
    """Luma and chroma as two layers. Raises EncodeError where the scene is no screen."""
    luma, chroma = (colours_at(quality, low, high) for low, high in zip(FEWEST_COLOURS, MOST_COLOURS, strict=True))
    layers = [screen.to_palette((frames.y,), luma), screen.to_palette((frames.u, frames.v), chroma)]
    order = screen.coding_order(layers[0][0])
    coder = ContextEncoder()
    for step, shown in enumerate(order):
        coder.signed(ORDER, (), shown - (order[step - 1] + 1 if step else 0))
    budget = _budget(layers[0][0].size + layers[1][0].size)
    done: list[canvas.Indices] = []
    for number, (pictures, palette) in enumerate(layers):
        _code_palette(coder, number, palette.shape[1], palette)
        _, height, width = pictures.shape
        layer = canvas.Layer(coder, budget, number, height, width, len(palette), done)
        search = screen.ScreenSearch(order)
        for shown in order:
            layer.picture(search.plan(pictures[shown]))
        done = layer.pictures
    return bytes([CANVAS]) + coder.finish()


def colours_at(quality: float, fewest: int, most: int) -> int | None:
    """How many colours a quality keeps: a geometric row, and all of them at 1."""
    return round(fewest * (most / fewest) ** quality) if quality < 1 else None


def require_screen(frames: Frames) -> None:
    """Raise EncodeError unless the first, middle and last picture are flat for the most part, and sharp elsewhere."""
    for index in {0, len(frames) // 2, len(frames) - 1}:
        luma = frames.y[index]
        steps = np.abs(np.diff(luma.astype(np.int16), axis=1))
        changes = int(np.count_nonzero(steps))
        flat = 1 - changes / max(1, steps.size)
        if flat < SCREEN_FLATNESS:
            raise EncodeError(f"procedural: the scene is no screen, only {flat:.0%} of its samples repeat")
        small = int(np.count_nonzero((steps > 0) & (steps < 3))) / max(1, changes)
        if small > MOST_SMALL_STEPS:
            raise EncodeError(
                f"procedural: the scene is no screen, {small:.0%} of its steps are as small as a camera's"
            )


def decode_canvas(data: bytes, video: VideoFormat, frame_count: int) -> Frames:
    """What `encode_canvas` wrote, less its first byte."""
    coder = ContextDecoder(data)
    order = _read_order(coder, frame_count)
    luma, chroma = (video.height, video.width), (video.chroma_height, video.chroma_width)
    budget = _budget(frame_count * (luma[0] * luma[1] + chroma[0] * chroma[1]))
    planes = []
    done: list[canvas.Indices] = []
    for number, (shape, count) in enumerate(((luma, 1), (chroma, 2))):
        palette = _code_palette(coder, number, count, None)
        layer = canvas.Layer(coder, budget, number, shape[0], shape[1], len(palette), done)
        out = np.empty((count, frame_count, *shape), dtype=np.uint8)
        for shown in order:
            picture = layer.picture()
            for plane in range(count):
                out[plane, shown] = palette[picture, plane]
        planes += [*out]
        done = layer.pictures
    return Frames(*planes)


def _budget(samples: int) -> canvas.Budget:
    return canvas.Budget(canvas.MAX_TOUCHES * samples + (1 << 20), min(canvas.MAX_CODED_SAMPLES, 4 * samples + 1024))


def _read_order(coder: ContextCoder, count: int) -> list[int]:
    order: list[int] = []
    free = set(range(count))
    for step in range(count):
        shown = coder.signed(ORDER) + (order[step - 1] + 1 if step else 0)
        if shown not in free:
            raise BitstreamError("the procedural payload shows a frame twice or one that is not there")
        free.remove(shown)
        order.append(shown)
    return order


def _code_palette(coder: ContextCoder, number: int, planes: int, given: Palette | None) -> Palette:
    """Rows in rising order, each value by what it differs from the row before."""
    count = coder.number(COLOURS, (number,), len(given) - 1 if given is not None else 0) + 1
    if count > canvas.MAX_PALETTE:
        raise BitstreamError(f"a procedural palette has more than {canvas.MAX_PALETTE} colours")
    palette = np.zeros((count, planes), dtype=np.uint8)
    last = [0] * planes
    for row in range(count):
        wanted = [int(value) for value in given[row]] if given is not None else [0] * planes
        for plane in range(planes):
            last[plane] += coder.signed(COLOUR, (number * 2 + plane,), wanted[plane] - last[plane])
            if not 0 <= last[plane] <= 255:
                raise BitstreamError("a procedural palette has a colour out of range")
        palette[row] = last
    return palette


def _split_stills(data: bytes) -> tuple[ContextDecoder, Strategy, bytes]:
    """The program, and what codes the pictures it speaks of and its payload."""
    names = {strategies.REGISTRY[name].code: name for name in STILL_CODERS}
    length = int.from_bytes(data[1:4], "little")
    if len(data) < 4 or data[0] not in names or len(data) < 4 + length:
        raise BitstreamError("the procedural payload is damaged where it says how its stills are coded")
    return ContextDecoder(data[4 : 4 + length]), strategies.get(names[data[0]]), data[4 + length :]


def decode_stills(data: bytes, video: VideoFormat, frame_count: int) -> Frames:
    """What the strategy wrote for stills, less its first byte."""
    coder, still, body = _split_stills(data)
    count = coder.number(STILL_COUNT)
    if not 1 <= count <= min(stills.MAX_STILLS, max(2, frame_count)):
        raise BitstreamError(f"the procedural payload has {count} stills for {frame_count} frames")
    shots = stills.code_shots(coder, count, frame_count)
    return stills.render(still.decode(body, video, count), shots)


def decode_views(data: bytes, video: VideoFormat, frame_count: int) -> Frames:
    """What the strategy wrote for views, less its first byte."""
    coder, still, body = _split_stills(data)
    shape, path = views.code_views(coder, video, frame_count)
    return views.render(still.decode(body, shape, 1), shape, path, video)


STRATEGY = ProceduralStrategy()
