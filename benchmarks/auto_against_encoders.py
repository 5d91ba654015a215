"""What choosing per scene is worth: `auto` against every single encoder on its list, BD-rate on PSNR-Y.

Each single encoder codes the whole clip as one scene at one CRF or QP, is charged its elementary stream alone, and is
compared by the convex hull over its scales, so that it is as free as auto is. Where the clip has a screen scene,
SVT-AV1 runs with its screen tools as well, as a further single encoder. auto pays for the whole file. Points are kept
in the folder given, one file each, so that a run can be stopped and continued.

    python benchmarks/auto_against_encoders.py /tmp/points --effort 4 --clips mixed360 demo --frames 60
"""

from __future__ import annotations

import argparse
import hashlib
import json
import math
import platform
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from statistics import mean

import bjontegaard
import cv2

from codec import strategies
from codec.config import CodecConfig
from codec.demo_clip import demo_clip
from codec.effort import EFFORTS, SCREEN_OPTIONS, Tool
from codec.encoding_agent import EncodingAgent
from codec.frames import Frames, VideoFormat
from codec.quality import psnr
from codec.rate_distortion import KNOBS, lambda_of_quality, plane_errors
from codec.resample import SCALES
from codec.scenes import SceneClassifier, split_scenes
from codec.selector import HALF_STEPS, Coding
from codec.video import open_video
from codec.whole_file import whole_file

CLIPS = Path(__file__).resolve().parents[2] / "shared" / "clips"
# Whole clip to one rate: a denser grid than auto's, so that what lies between is not the interpolation's guess.
QUALITIES = (0.1, 0.25, 0.4, 0.55, 0.7, 0.85)

Point = tuple[float, float]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("cache", type=Path, help="folder of the points measured so far")
    parser.add_argument("--effort", type=int, default=4)
    parser.add_argument("--frames", type=int, default=120, help="use only the first frames of each clip")
    parser.add_argument("--clips", nargs="+", help="names without suffix; demo is the demo clip")
    parser.add_argument("--clip-folder", type=Path, default=CLIPS)
    parser.add_argument("--workers", type=int, default=1)
    order = parser.parse_args()
    order.cache.mkdir(parents=True, exist_ok=True)
    cv2.setNumThreads(1)
    names = order.clips or ["demo", *sorted(path.stem for path in order.clip_folder.glob("*.mkv"))]
    print(
        f"auto at effort {order.effort}, at most {order.frames} frames, {platform.machine()}; BD-rate (PSNR-Y, PCHIP)"
    )
    over_best = []
    for name in names:
        rates = compare(name, order)
        best = max(rates, key=rates.__getitem__)  # the encoder that auto gains least on is the best single one
        over_best.append(rates[best])
        shown = "  ".join(f"{encoder} {rate:+.1f}%" for encoder, rate in rates.items())
        print(f"{name:<12} against the best single encoder {rates[best]:+.1f}% ({best})   all: {shown}", flush=True)
    print(f"mean against the best single encoder {mean(over_best):+.1f}%")


def compare(name: str, order: argparse.Namespace) -> dict[str, float]:
    """BD-rate of auto against each encoder, in percent."""
    frames, video = read(name, order)
    points = Points(order.cache, name, frames, video)
    auto = [points.auto(order.effort, quality, order.workers) for quality in QUALITIES]
    found = {}
    for tool in single_encoders(frames, video, order.effort):
        hull = convex_hull(points.single(tool, scale, quality) for scale in SCALES for quality in QUALITIES)
        found[" ".join(filter(None, (tool.strategy, tool.preset, "scm" * bool(tool.options))))] = bd_rate(hull, auto)
    return found


def read(name: str, order: argparse.Namespace) -> tuple[Frames, VideoFormat]:
    if name == "demo":
        video, frames = demo_clip()
        return frames[: order.frames], video
    with open_video(order.clip_folder / f"{name}.mkv") as reader:
        return reader.read(order.frames), reader.format


def single_encoders(frames: Frames, video: VideoFormat, effort: int) -> Iterator[Tool]:
    """The traditional encoders on the list of `effort`, and the screen variant of those that have one."""
    classifier = SceneClassifier()
    scenes = split_scenes([frames], video, len(frames))
    has_screen = any(classifier.classify(classifier.features(scene))[0] == "screen" for scene in scenes)
    for tool in EFFORTS[effort].tools:
        if tool.strategy in KNOBS:
            yield tool
            if has_screen and tool.strategy in SCREEN_OPTIONS:
                yield Tool(tool.strategy, tool.preset, SCREEN_OPTIONS[tool.strategy])


class Points:
    """Measured (kbps, PSNR-Y) of one clip, each kept in a file of its own."""

    def __init__(self, cache: Path, name: str, frames: Frames, video: VideoFormat) -> None:
        self._cache, self._name, self._frames, self._video = cache, name, frames, video

    def auto(self, effort: int, quality: float, workers: int) -> Point:
        def encode() -> tuple[int, int]:
            config = CodecConfig(strategy="auto", effort=effort, quality=quality)
            data, report = EncodingAgent(config).encode_bytes(self._frames, self._video, workers=workers)
            return len(data), sum(scene.chosen.errors.y for scene in report.scenes if scene.chosen.errors)

        return self._point(f"auto effort {effort} quality {quality}", encode)

    def single(self, tool: Tool, scale: str, quality: float) -> Point:
        knob = KNOBS[tool.strategy]
        predicted = knob.at(lambda_of_quality(quality) * float(SCALES[scale]) ** 2)
        rate = knob.rounded(round(predicted) if tool.strategy in HALF_STEPS else predicted)
        coding = Coding(tool.strategy, tool.preset, scale, options=tool.options).at(rate)

        def encode() -> tuple[int, int]:
            strategy = strategies.get(tool.strategy)
            payload = strategy.encode(self._frames, self._video, coding.settings)
            decoded = strategy.decode(payload, self._video, len(self._frames))
            return len(payload) - 1, plane_errors(self._frames, decoded).y

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
