"""What choosing per scene is worth: `auto` against every single encoder on its list, BD-rate on PSNR-Y.

Each single encoder codes the whole clip as one scene at one CRF or QP, is charged its elementary stream alone, and is
compared by the convex hull over its scales, so that it is as free as auto is. Where the clip has a screen scene,
SVT-AV1 runs with its screen tools as well, as a further single encoder. auto pays for the whole file. With --against it
is compared with further encoders, by their hulls too: the encoder that auto finishes with must be named there, at the
presets to compare with. "Off" is the same search without the procedures and networks that it tried: the cheapest
traditional coding of each scene. Points are kept in the folder given, one file each, so that a run can be stopped and
continued.

    python benchmarks/auto_against_encoders.py /tmp/points --effort 4 --clips mixed360 demo --frames 60 \
        --against "x265 medium"
"""

from __future__ import annotations

import argparse
import hashlib
import json
import math
import platform
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import replace
from operator import methodcaller
from pathlib import Path
from statistics import mean
from typing import cast

import bjontegaard
import cv2
from procedural import scenes

from codec import strategies
from codec.coding import HALF_STEPS, Coding, Trial, run_coding
from codec.config import CodecConfig
from codec.demo_clip import demo_clip
from codec.effort import CLASS_OPTIONS, EFFORTS, Tool
from codec.encoding_agent import EncodingAgent, SceneReport
from codec.frames import Frames, VideoFormat
from codec.quality import psnr
from codec.rate_distortion import KNOBS, lambda_of_quality
from codec.resample import SCALES
from codec.scenes import SceneClassifier, split_scenes
from codec.strategies.elementary import ElementaryStrategy
from codec.video import open_video
from codec.whole_file import whole_file

CLIPS = Path(__file__).resolve().parents[2] / "shared" / "clips"
# Whole clip to one rate: a denser grid than auto's, so that what lies between is not the interpolation's guess.
QUALITIES = (0.1, 0.25, 0.4, 0.55, 0.7, 0.85)

# What a search keeps that has no procedures and no networks.
OFF = "off"

Point = tuple[float, float]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("cache", type=Path, help="folder of the points measured so far")
    parser.add_argument("--effort", type=int, default=4)
    parser.add_argument("--frames", type=int, default=120, help="use only the first frames of each clip")
    parser.add_argument(
        "--clips",
        nargs="+",
        help="names without suffix, demo for the demo clip, a scene of procedural.py; NAME:FRAMES for its beginning",
    )
    parser.add_argument("--clip-folder", type=Path, default=CLIPS)
    parser.add_argument("--workers", type=int, default=1)
    parser.add_argument("--qualities", nargs="+", type=float, default=QUALITIES, help="four or more rate points")
    parser.add_argument(
        "--anchor-qualities", nargs="+", type=float, help="those of the single encoders, where their range is another"
    )
    parser.add_argument("--against", nargs="*", default=[], help='further encoders: "STRATEGY PRESET [OPTION=VALUE …]"')
    order = parser.parse_args()
    order.cache.mkdir(parents=True, exist_ok=True)
    cv2.setNumThreads(1)
    names = order.clips or ["demo", *sorted(path.stem for path in order.clip_folder.glob("*.mkv"))]
    print(
        f"auto at effort {order.effort}, at most {order.frames} frames, {platform.machine()}; BD-rate (PSNR-Y, PCHIP)"
    )
    means: dict[str, list[float]] = {}
    for name in names:
        rates, off, span = compare(name, order)
        best = max(rates, key=rates.__getitem__)  # the encoder that auto gains least on is the best single one
        for what, rate in {**rates, "the best": rates[best], OFF: off}.items():
            means.setdefault(what, []).append(rate)
        shown = "  ".join(f"{encoder} {rate:+.1f}%" for encoder, rate in rates.items())
        print(
            f"{name:<12} {span}   against the best single encoder {rates[best]:+.1f}% ({best})   "
            f"against {OFF} {off:+.1f}%   all: {shown}",
            flush=True,
        )
    for what, rates_of_clips in means.items():
        print(f"mean of {len(rates_of_clips)} clips against {what} {mean(rates_of_clips):+.1f}%")


def compare(name: str, order: argparse.Namespace) -> tuple[dict[str, float], float, str]:
    """BD-rate of auto against each encoder and against itself off, in percent; its range."""
    name, _, count = name.partition(":")
    frames, video = read(name, int(count or order.frames), order.clip_folder)
    points = Points(order.cache, name, frames, video)
    both = [points.auto(order.effort, quality, order.workers) for quality in order.qualities]
    auto, off = [one for one, _ in both], [other for _, other in both]
    further = [named_tool(words) for words in order.against]
    asked = order.anchor_qualities or order.qualities
    found = {}
    shares = []
    for tool in dict.fromkeys((*single_encoders(frames, video, order.effort), *further)):
        hull = convex_hull(points.single(tool, scale, quality) for scale in SCALES for quality in asked)
        options = (f"{key}={value}" for key, value in tool.options)
        found[" ".join(filter(None, (tool.strategy, tool.preset, *options)))] = bd_rate(hull, auto)
        shares.append(overlap(hull, auto))
    span = f"{len(frames)} frames, {auto[0][1]:.1f} to {auto[-1][1]:.1f} dB, overlap at least {min(shares):.0%}"
    return found, 0.0 if auto == off else bd_rate(off, auto), span


def named_tool(words: str) -> Tool:
    strategy, preset, *options = words.split()
    pairs = (option.partition("=") for option in options)
    return Tool(strategy, preset, tuple((key, value) for key, _, value in pairs))


def overlap(anchor: Sequence[Point], test: Sequence[Point]) -> float:
    """The share of the anchor's range of PSNR-Y that the BD-rate is computed over."""
    low, high = max(anchor[0][1], test[0][1]), min(anchor[-1][1], test[-1][1])
    return max(0.0, high - low) / (anchor[-1][1] - anchor[0][1])


def read(name: str, count: int, folder: Path) -> tuple[Frames, VideoFormat]:
    if name == "demo":
        video, frames = demo_clip()
        return frames[:count], video
    path = folder / f"{name}.mkv"
    if not path.exists():
        known = scenes(folder if folder.exists() else None)
        if name not in known:
            raise SystemExit(f"no clip {path} and no scene {name}: the scenes are {', '.join(known)}")
        frames, video = known[name]()
        return frames[:count], video
    with open_video(path) as reader:
        return reader.read(count), reader.format


def single_encoders(frames: Frames, video: VideoFormat, effort: int) -> Iterator[Tool]:
    """The traditional encoders on the list of `effort`, and the screen variant of those that have one.

    Without the one that auto finishes with: at the quick preset that only searches it is nobody's rival.
    """
    classifier = SceneClassifier()
    parts = split_scenes([frames], video, len(frames))
    has_screen = any(classifier.classify(classifier.features(part))[0] == "screen" for part in parts)
    finished = {tool.strategy for tool in EFFORTS[effort].finish}
    for tool in EFFORTS[effort].tools:
        if tool.strategy in KNOBS and tool.strategy not in finished:
            yield tool
            if has_screen and (tool.strategy, "screen") in CLASS_OPTIONS:
                yield Tool(tool.strategy, tool.preset, CLASS_OPTIONS[tool.strategy, "screen"])


class Points:
    """Measured (kbps, PSNR-Y) of one clip, each kept in a file of its own."""

    def __init__(self, cache: Path, name: str, frames: Frames, video: VideoFormat) -> None:
        self._cache, self._name, self._frames, self._video = cache, name, frames, video

    def auto(self, effort: int, quality: float, workers: int) -> tuple[Point, Point]:
        """With everything that is on the list, and with traditional encoders alone."""
        what = f"auto effort {effort} quality {quality}"

        def encode() -> tuple[int, int]:
            config = CodecConfig(strategy="auto", effort=effort, quality=quality)
            data, report = EncodingAgent(config).encode_bytes(self._frames, self._video, workers=workers)
            kept = [self._without_extras(scene, effort, quality) for scene in report.scenes]
            added = sum(trial.bytes - scene.payload_bytes for trial, scene in zip(kept, report.scenes, strict=True))
            self._point(f"{what}, {OFF}", lambda: (len(data) + added, luma_error(kept)))
            return len(data), luma_error(scene.chosen for scene in report.scenes)

        on = self._point(what, encode)
        return on, self._point(f"{what}, {OFF}", encode)

    def _without_extras(self, scene: SceneReport, effort: int, quality: float) -> Trial:
        """The cheapest traditional coding of the scene, finished as auto would have done had it been the choice."""
        cost = methodcaller("cost", lambda_of_quality(quality))
        best = min((trial for trial in scene.trials if trial.coding.strategy in KNOBS), key=cost)
        presets = {tool.strategy: tool.preset for tool in EFFORTS[effort].finish}
        finished = replace(best.coding, preset=presets.get(best.coding.strategy, best.coding.preset))
        if finished == best.coding:
            return best
        frames = self._frames[scene.first_frame : scene.first_frame + scene.frames]
        return min(best, run_coding(finished, frames, self._video)[1], key=cost)

    def single(self, tool: Tool, scale: str, quality: float) -> Point:
        knob = KNOBS[tool.strategy]
        predicted = knob.at(lambda_of_quality(quality) * float(SCALES[scale]) ** 2)
        rate = knob.rounded(round(predicted) if tool.strategy in HALF_STEPS else predicted)
        coding = Coding(tool.strategy, tool.preset, scale, options=tool.options).at(rate)

        def encode() -> tuple[int, int]:
            payload, trial = run_coding(coding, self._frames, self._video)
            strategy = cast(ElementaryStrategy, strategies.get(tool.strategy))
            return len(strategy.stream_of(payload, len(self._frames))), luma_error([trial])

        return self._point(str(coding), encode)

    def _point(self, what: str, encode: Callable[[], tuple[int, int]]) -> Point:
        frames, video = self._frames, self._video
        identity = f"{self._name} {len(frames)} {what}"
        path = self._cache / f"{hashlib.sha256(identity.encode()).hexdigest()[:16]}.json"
        if not path.exists():
            began = time.perf_counter()
            size, error = encode()
            fact = {"what": identity, "bytes": size, "sse_y": error, "seconds": time.perf_counter() - began}
            with whole_file(path) as partial:
                partial.write_text(json.dumps(fact))
        fact = json.loads(path.read_text())
        kbps = float(fact["bytes"] * 8 * video.frame_rate / len(frames) / 1000)
        return kbps, psnr(fact["sse_y"] / frames.y.size)


def luma_error(trials: Iterable[Trial]) -> int:
    return sum(trial.errors.y for trial in trials if trial.errors)


def convex_hull(points: Iterator[Point]) -> list[Point]:
    """The points of which no mixture of two others is better, in rate and squared error, by rising rate."""
    hull: list[Point] = []
    for point in sorted(set(points)):
        if hull and point[1] <= hull[-1][1]:
            continue
        while len(hull) > 1 and _slope(hull[-2], hull[-1]) <= _slope(hull[-1], point):
            hull.pop()
        hull.append(point)
    return hull


def _slope(one: Point, other: Point) -> float:
    """What a kilobit more saves in squared error."""
    saved = 10 ** (-one[1] / 10) - 10 ** (-other[1] / 10)
    return saved / (other[0] - one[0]) if other[0] > one[0] else math.inf


def bd_rate(anchor: Sequence[Point], test: Sequence[Point]) -> float:
    rates_a, quality_a = zip(*anchor, strict=True)
    rates_t, quality_t = zip(*test, strict=True)
    return float(
        bjontegaard.bd_rate(
            rates_a, quality_a, rates_t, quality_t, method="pchip", require_matching_points=False, min_overlap=0
        )
    )


if __name__ == "__main__":
    main()
