"""Hits a bitrate or a quality: turns the quality knob until the real file has it.

Owns the target and the search for it. Each pass is a whole encode by `codec.encoding_agent` into the same sink,
measured from what it wrote; scenes remember their trials from pass to pass, so that later passes encode little that is
new. The source is read anew for every pass, which bounds memory to the scenes in work, however long the stream.

Bytes grow and quality rises with the knob, both about exponentially, so passes follow a secant on a logarithmic scale
inside a shrinking bracket. Where a change of encoder or scale steps over the target, the search goes on with those of
the nearest pass. Encoders have steps too: the search ends where no coding is left between two passes on both sides of
the target. Of these the one is kept that serves who asked, at least the quality or at most the bitrate, and the miss is
told.
"""

from __future__ import annotations

import shutil
from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace
from fractions import Fraction
from math import log2
from operator import attrgetter
from tempfile import TemporaryFile
from typing import BinaryIO, Literal

from codec import strategies
from codec.coding import Coding
from codec.config import AUTO, CodecConfig
from codec.decoding_agent import DecodingAgent
from codec.encoding_agent import EncodeReport, EncodingAgent
from codec.errors import BadInputError
from codec.frames import Frames, VideoFormat
from codec.quality import psnr, squared_error, ssim
from codec.selector import SceneMemory
from codec.strategies.elementary import ElementaryStrategy

Metric = Literal["kbps", "psnr_y", "ssim_y"]

# Two figures within the tolerance are one: a share of the bitrate, decibels, SSIM.
TOLERANCE: dict[Metric, float] = {"kbps": 0.03, "psnr_y": 0.1, "ssim_y": 0.001}
UNIT: dict[Metric, str] = {"kbps": "kbps", "psnr_y": "dB PSNR-Y", "ssim_y": "SSIM-Y"}
# More passes than this find nothing better: the bracket is then below the steps of every encoder.
MAX_PASSES = 12
NARROWEST = 0.002
FIRST_QUALITY = 0.5
PINNED_REACH = 0.05
GOLDEN_RATIO = 0.618  # multiples of it are spread evenly, however many


@dataclass(frozen=True)
class Target:
    """What the whole file shall have: kbps (1000 bits, header included), pooled PSNR-Y in dB, or mean SSIM-Y."""

    metric: Metric
    value: float

    def __post_init__(self) -> None:
        high = {"kbps": float("inf"), "psnr_y": 100.0, "ssim_y": 1.0}[self.metric]
        if not 0 < self.value < high:
            bound = f"and under {high:g}" if high < float("inf") else ""
            raise BadInputError(f"the target of {self.value:g} {UNIT[self.metric]} must be above 0 {bound}".rstrip())

    def reached_by(self, figure: float) -> bool:
        slack = TOLERANCE[self.metric] * (self.value if self.metric == "kbps" else 1)
        return abs(figure - self.value) <= slack

    def scaled(self, figure: float) -> float:
        """The figure on a scale on which it is about straight over the quality knob."""
        if self.metric == "kbps":
            return log2(max(figure, 1e-6))
        return figure if self.metric == "psnr_y" else -log2(max(1 - figure, 1e-6))

    def rank(self, figure: float) -> tuple[bool, bool, float]:
        """Sorts figures, the best first: what meets the target, then the side that serves who asked, then the nearest.

        Who asks for a quality is served by more, who asks for a bitrate by less.
        """
        wrong_side = figure > self.value if self.metric == "kbps" else figure < self.value
        return not self.reached_by(figure), wrong_side, abs(self.scaled(figure) - self.scaled(self.value))


@dataclass(frozen=True)
class Pass:
    """One encode of the whole clip: at which quality, and the figure of the file."""

    quality: float
    figure: float
    report: EncodeReport

    @property
    def codings(self) -> tuple[Coding, ...]:
        """What was chosen, scene by scene."""
        return tuple(scene.chosen.coding for scene in self.report.scenes)


@dataclass(frozen=True)
class Reached:
    """Where the search ended: the knob, the figure measured on the file, and one line why it is not the target."""

    metric: Metric
    quality: float
    figure: float
    passes: int
    miss: str | None


def encode_to_target(
    config: CodecConfig,
    target: Target,
    source: Callable[[], Iterable[Frames]],
    video: VideoFormat,
    sink: BinaryIO,
    on_progress: Callable[[int], None] | None = None,
    *,
    workers: int = 1,
) -> tuple[EncodeReport, Reached]:
    """Write the .evc file nearest to `target` into `sink`, a seekable file that holds nothing else and is left open.

    `source` gives the frames from the start at every call. `config.quality` plays no part. The figure told is of the
    file as `sink` has it in the end: its length, or its frames as decoded, scene by scene, against those of `source`.
    Raises what `EncodingAgent.encode` raises.
    """
    memories: list[SceneMemory] = []
    passes: list[Pass] = []

    def closed(low: Pass, high: Pass) -> bool:
        return nothing_between(low.codings, high.codings, config)

    with TemporaryFile() as kept:

        def encode(quality: float) -> Pass:
            if passes and passes[-1] is nearest(target, passes):
                _copy(sink, kept)
            sink.seek(0)
            sink.truncate()
            agent = EncodingAgent(config.model_copy(update={"quality": quality}))
            report = agent.encode(source(), video, sink, on_progress, workers=workers, memories=memories)
            passes.append(Pass(quality, _figure(target, report, source, video, sink), report))
            return passes[-1]

        below, above = _around(target, search(target, encode, closed))
        start = nearest(target, passes)
        missed = config.strategy == AUTO and not target.reached_by(start.figure)
        if missed and below and above and not closed(below, above):
            # A change of encoder or scale is a step, and so are scenes whose rates change together. Without the one,
            # and with the other spread out, the rates come nearer.
            for place, (memory, coding) in enumerate(zip(memories, start.codings, strict=True)):
                memory.pin(coding, start.quality, (place * GOLDEN_RATIO) % 1 - 0.5)
            reach = (max(0.0, start.quality - PINNED_REACH), min(1.0, start.quality + PINNED_REACH))
            search(target, encode, closed, start, reach)
        best = nearest(target, passes)
        if best is not passes[-1]:
            _copy(kept, sink)
    if target.metric == "psnr_y":  # in a pass it is what the trials had; the others are of the file already
        best = replace(best, figure=_measured(target, best.report, source, video, sink))
    miss = None if target.reached_by(best.figure) else _miss(target, best, passes)
    return best.report, Reached(target.metric, best.quality, best.figure, len(passes), miss)


def kbps(size: int, frames: int, frame_rate: Fraction) -> float:
    """Kilobits (1000) a second of `size` bytes shown for `frames` at `frame_rate`."""
    return float(size * 8 * frame_rate / frames / 1000)


def search(
    target: Target,
    encode: Callable[[float], Pass],
    closed: Callable[[Pass, Pass], bool] = lambda low, high: False,
    start: Pass | None = None,
    within: tuple[float, float] = (0.0, 1.0),
) -> list[Pass]:
    """Call `encode(quality)` until a pass meets the target, or nothing is left to try between those around it.

    `closed(low, high)` says whether no pass between the two can be any other; `start` is a pass already made.
    """
    passes = [start or encode(FIRST_QUALITY)]
    while not target.reached_by(passes[-1].figure) and len(passes) < MAX_PASSES:
        quality = _next_quality(target, passes, closed, within)
        if quality is None:
            break
        passes.append(encode(quality))
    return passes


def nearest(target: Target, passes: list[Pass]) -> Pass:
    """The pass to keep; of those with the same figure the coarsest, which has the fewest bytes."""
    return min(passes, key=lambda known: (target.rank(known.figure), known.quality))


def nothing_between(low: tuple[Coding, ...], high: tuple[Coding, ...], config: CodecConfig) -> bool:
    """Whether no quality between can give other codings: those of one scene alone differ, by one step of their rate."""
    differing = [(one, other) for one, other in zip(low, high, strict=True) if one != other]
    return len(differing) == 1 and _neighbours(*differing[0], config)


def _neighbours(one: Coding, other: Coding, config: CodecConfig) -> bool:
    strategy = strategies.get(one.strategy)
    step = one.knob.step
    if config.strategy != AUTO and isinstance(strategy, ElementaryStrategy):  # its own steps, VVenC's twice auto's
        step = strategy.rate_step
    return one.at(other.rate) == other and abs(one.rate - other.rate) < 1.5 * step


def _around(target: Target, passes: list[Pass]) -> tuple[Pass | None, Pass | None]:
    """Of one search: the finest pass below the target and the coarsest above it."""
    below = [known for known in passes if known.figure < target.value]
    above = [known for known in passes if known.figure >= target.value]
    quality = attrgetter("quality")
    return max(below, key=quality, default=None), min(above, key=quality, default=None)


def _next_quality(
    target: Target, passes: list[Pass], closed: Callable[[Pass, Pass], bool], within: tuple[float, float]
) -> float | None:
    """Where the straight through the two passes around the target, or nearest to it, meets it; inside the bracket.

    None where nothing is left to try.
    """
    below, above = _around(target, passes)
    low, high = below.quality if below else within[0], above.quality if above else within[1]
    if low >= high or (below and above and (high - low < NARROWEST or closed(below, above))):
        return None
    wanted = target.scaled(target.value)
    by_distance = sorted(passes, key=lambda known: abs(target.scaled(known.figure) - wanted))
    near = [below, above] if below and above else by_distance[:2]
    # Over the whole knob the bitrate changes about 100-fold and PSNR-Y by 16 dB.
    slope = {"kbps": 6.5, "psnr_y": 16.0, "ssim_y": 5.0}[target.metric]
    known = [target.scaled(one.figure) for one in near]
    if len(near) == 2 and (known[1] - known[0]) * (near[1].quality - near[0].quality) > 0:
        slope = (known[1] - known[0]) / (near[1].quality - near[0].quality)
    guess = near[0].quality + (wanted - known[0]) / slope
    if below and above:  # a secant crawls where the encoders step
        figures = [one.figure for one in passes]
        stepping = figures.count(below.figure) > 1 or figures.count(above.figure) > 1
        guess = (low + high) / 2 if stepping or len(passes) % 3 == 0 else guess
    # The ends are asked for themselves, at last in any case; near a point already known, little would be learnt.
    margin = (high - low) / 16 if high - low >= NARROWEST else high - low
    inside = min(max(guess, low + margin if below else low), high - margin if above else high)
    return round(inside, 4)


def _miss(target: Target, best: Pass, passes: list[Pass]) -> str:
    unit, figure = UNIT[target.metric], best.figure
    shown = f"the target of {target.value:g} {unit} was not met: "
    if (best.quality == 0 and figure > target.value) or (best.quality == 1 and figure < target.value):
        return f"{shown}{figure:.5g} {unit} is what quality {best.quality:g} gives, where the quality knob ends"
    below = max((known.figure for known in passes if known.figure < target.value), default=None)
    above = min((known.figure for known in passes if known.figure >= target.value), default=None)
    if below is None or above is None:
        return f"{shown}{figure:.5g} {unit} is the nearest of {len(passes)} passes"
    taken = "higher" if figure >= target.value else "lower"
    return f"{shown}the encoders' steps go from {below:.5g} to {above:.5g} {unit}, and the {taken} is taken"


def _figure(
    target: Target, report: EncodeReport, source: Callable[[], Iterable[Frames]], video: VideoFormat, sink: BinaryIO
) -> float:
    """What the file in `sink` has: from its length, from the errors of the scenes as decoded, from its frames."""
    if target.metric == "kbps":
        return kbps(report.bytes, report.frames, video.frame_rate)
    if target.metric == "psnr_y":
        error = sum(scene.chosen.errors.y for scene in report.scenes if scene.chosen.errors)
        return psnr(error / (report.frames * video.width * video.height))
    return _measured(target, report, source, video, sink)


def _measured(
    target: Target, report: EncodeReport, source: Callable[[], Iterable[Frames]], video: VideoFormat, sink: BinaryIO
) -> float:
    """PSNR-Y or SSIM-Y of the file in `sink`: decoded and compared with the source, a scene at a time."""
    originals = (run.y[index] for run in source() for index in range(len(run)))
    decoded = (picture for scene in DecodingAgent().decode(sink) if scene.frames for picture in scene.frames.y)
    pairs = zip(originals, decoded, strict=True)
    if target.metric == "psnr_y":
        error = sum(squared_error(one, other) for one, other in pairs)
        return psnr(error / (report.frames * video.width * video.height))
    return sum(ssim(one, other) for one, other in pairs) / report.frames


def _copy(source: BinaryIO, sink: BinaryIO) -> None:
    """Make the second of two files the same as the first."""
    source.seek(0)
    sink.seek(0)
    sink.truncate()
    shutil.copyfileobj(source, sink)
