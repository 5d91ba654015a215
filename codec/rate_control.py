"""Hits a bitrate or a quality: turns the quality knob until the real file has it.

Owns the target and the search for it. Each pass is a whole encode by `codec.encoding_agent` into the same sink,
measured from what it wrote; scenes remember their trials from pass to pass, so that later passes encode little that is
new. The source is read anew for every pass, which bounds memory to the scenes in work, however long the stream.

Bytes grow and quality rises with the knob, both about exponentially, so passes follow a secant on a logarithmic scale
inside a shrinking bracket. Where a change of encoder or scale steps over the target, the search goes on with those of
the nearest pass. Encoders have steps too: where two neighbouring rates lie on both sides of the target and neither is
near enough, the nearer one is kept and the miss is told.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace
from fractions import Fraction
from math import log2
from typing import BinaryIO, Literal

from codec.config import AUTO, CodecConfig
from codec.decoding_agent import DecodingAgent
from codec.encoding_agent import EncodeReport, EncodingAgent
from codec.errors import BadInputError
from codec.frames import Frames, VideoFormat
from codec.quality import psnr, ssim
from codec.selector import SceneMemory

Metric = Literal["kbps", "psnr_y", "ssim_y"]

# Two figures within the tolerance are one: a share of the bitrate, decibels, SSIM.
TOLERANCE: dict[Metric, float] = {"kbps": 0.03, "psnr_y": 0.1, "ssim_y": 0.001}
UNIT: dict[Metric, str] = {"kbps": "kbps", "psnr_y": "dB PSNR-Y", "ssim_y": "SSIM-Y"}
# More passes than this find nothing better: the bracket is then below the steps of every encoder.
MAX_PASSES = 12
NARROWEST = 0.002
FIRST_QUALITY = 0.5
PINNED_REACH = 0.05


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

    `source` gives the frames from the start at every call. `config.quality` plays no part. Raises what
    `EncodingAgent.encode` raises.
    """
    memories: list[SceneMemory] = []
    reports: dict[float, EncodeReport] = {}

    def encode(quality: float) -> float:
        sink.seek(0)
        sink.truncate()
        agent = EncodingAgent(config.model_copy(update={"quality": quality}))
        frames = source()
        reports[quality] = agent.encode(frames, video, sink, on_progress, workers=workers, memories=memories)
        return _figure(target, reports[quality], source, video, sink)

    reached = search(target, encode)
    if reached.miss and 0 < reached.quality < 1 and config.strategy == AUTO:
        # A change of encoder or scale is a step. Without any, the rates alone come nearer.
        for memory, scene in zip(memories, reports[reached.quality].scenes, strict=True):
            memory.pin(scene.chosen.coding, reached.quality)
        reports.clear()
        around = (max(0.0, reached.quality - PINNED_REACH), min(1.0, reached.quality + PINNED_REACH))
        pinned = search(target, encode, first=reached.quality, within=around)
        reached = replace(pinned, passes=reached.passes + pinned.passes)
    if list(reports)[-1] != reached.quality:  # a later pass was worse, and its file is what the sink holds
        del reports[reached.quality]
        encode(reached.quality)
    return reports[reached.quality], reached


def kbps(size: int, frames: int, frame_rate: Fraction) -> float:
    """Kilobits (1000) a second of `size` bytes shown for `frames` at `frame_rate`."""
    return float(size * 8 * frame_rate / frames / 1000)


def search(
    target: Target,
    encode: Callable[[float], float],
    first: float = FIRST_QUALITY,
    within: tuple[float, float] = (0.0, 1.0),
) -> Reached:
    """Call `encode(quality)`, which gives the figure reached, until it is the target's, or the bracket is closed."""
    figures: dict[float, float] = {}
    low, high = within
    quality = first
    while len(figures) < MAX_PASSES:
        figures[quality] = encode(quality)
        if target.reached_by(figures[quality]):
            return Reached(target.metric, quality, figures[quality], len(figures), None)
        if figures[quality] < target.value:
            low = max(low, quality)
        else:
            high = min(high, quality)
        if high - low < NARROWEST:
            break
        quality = _next_quality(target, figures, low, high, within)
        if quality in figures:
            break
    nearest = min(figures, key=lambda known: abs(target.scaled(figures[known]) - target.scaled(target.value)))
    return Reached(target.metric, nearest, figures[nearest], len(figures), _miss(target, nearest, figures))


def _next_quality(
    target: Target, figures: dict[float, float], low: float, high: float, within: tuple[float, float]
) -> float:
    """Where the straight through the two points around the target, or nearest to it, meets it; inside the bracket."""
    wanted = target.scaled(target.value)
    known = {quality: target.scaled(figure) for quality, figure in figures.items()}
    bracketed = known.keys() >= {low, high}
    near = (low, high) if bracketed else sorted(known, key=lambda quality: abs(known[quality] - wanted))[:2]
    # Over the whole knob the bitrate changes about 100-fold and PSNR-Y by 16 dB.
    slope = {"kbps": 6.5, "psnr_y": 16.0, "ssim_y": 5.0}[target.metric]
    if len(near) == 2 and (known[near[1]] - known[near[0]]) * (near[1] - near[0]) > 0:
        slope = (known[near[1]] - known[near[0]]) / (near[1] - near[0])
    guess = near[0] + (wanted - known[near[0]]) / slope
    if bracketed and len(figures) % 3 == 0:  # a secant crawls where the encoders step
        guess = (low + high) / 2
    # The ends are asked for themselves; near a point already known, little would be learnt.
    ends = {end for end in within if end not in figures}
    margin = (high - low) / 16
    inside = min(max(guess, low if low in ends else low + margin), high if high in ends else high - margin)
    return round(inside, 4)


def _miss(target: Target, nearest: float, figures: dict[float, float]) -> str:
    unit, figure = UNIT[target.metric], figures[nearest]
    shown = f"the target of {target.value:g} {unit} was not met: "
    if nearest == 0 and figure > target.value:
        return f"{shown}{figure:.5g} {unit} is the coarsest that these settings give"
    if nearest == 1 and figure < target.value:
        return f"{shown}{figure:.5g} {unit} is the finest that these settings give"
    below = max((value for value in figures.values() if value < target.value), default=figure)
    above = min((value for value in figures.values() if value > target.value), default=figure)
    return f"{shown}the encoders' steps go from {below:.5g} to {above:.5g} {unit}"


def _figure(
    target: Target, report: EncodeReport, source: Callable[[], Iterable[Frames]], video: VideoFormat, sink: BinaryIO
) -> float:
    """What the file in `sink` has: from its length, from the errors of the scenes as decoded, from its frames."""
    if target.metric == "kbps":
        return kbps(report.bytes, report.frames, video.frame_rate)
    if target.metric == "psnr_y":
        error = sum(scene.chosen.errors.y for scene in report.scenes if scene.chosen.errors)
        return psnr(error / (report.frames * video.width * video.height))
    originals = (run.y[index] for run in source() for index in range(len(run)))
    decoded = (picture for scene in DecodingAgent().decode(sink) if scene.frames for picture in scene.frames.y)
    return sum(ssim(one, other) for one, other in zip(originals, decoded, strict=True)) / report.frames
