"""Which rate parameter of each encoder belongs to which lambda: the table in codec/rate_distortion.py.

Codes each scene at a ladder of rates and prints -dD/dR between neighbours, the median over the scenes and how far the
scenes lie apart (in octaves of lambda; three octaves are about nine steps of a QP).

Procedures are measured on the scenes that they describe, along their quality.

    python benchmarks/slopes.py --encoders av1 vvc
"""

from __future__ import annotations

import argparse
import platform
from collections import defaultdict
from collections.abc import Iterator
from itertools import pairwise
from math import log2
from pathlib import Path
from statistics import median, pstdev

import cv2
from procedural import Scene
from procedural import scenes as made_scenes

from codec import strategies
from codec.coding import Coding
from codec.demo_clip import demo_clip
from codec.frames import Frames, VideoFormat
from codec.rate_distortion import plane_errors
from codec.scenes import split_scenes
from codec.video import open_video

CLIPS = Path(__file__).resolve().parents[2] / "shared" / "clips"
FRAMES = {"mixed360": 120, "talk512": 20, "calendar": 16, "parkjoy": 10}
SCENE_FRAMES = 20
PRESETS = {"x264": "medium", "x265": "medium", "av1": "8", "vvc": "faster", "procedural": "medium"}
LADDERS = {
    "x264": (41, 36, 31, 26, 21, 16, 12),
    "x265": (41, 36, 31, 26, 21, 16, 12),
    "av1": (69, 62, 55, 48, 41, 34, 27, 20, 14),
    "vvc": (44, 40, 36, 32, 28, 24, 20, 15),
    "procedural": (0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9, 1.0),
}
DESCRIBED = ("demo0", "demo2", "noise2", "fade", "pan", "text-slides", "mixed360-screen")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--encoders", nargs="+", default=list(LADDERS))
    parser.add_argument("--clip-folder", type=Path, default=CLIPS)
    order = parser.parse_args()
    cv2.setNumThreads(1)
    for name in order.encoders:
        slopes: dict[float, list[float]] = defaultdict(list)
        for frames, video in scenes(name, order.clip_folder):
            for rate, slope in slopes_of(name, frames, video):
                slopes[rate].append(slope)
        print(f"{name} {PRESETS[name]} on {platform.machine()}")
        for rate in sorted(slopes):
            found = slopes[rate]
            print(
                f"  rate {rate:5.2f}  log2 lambda {median(found):6.2f}  spread {pstdev(found):.2f}, {len(found)} scenes"
            )


def scenes(encoder: str, folder: Path) -> Iterator[Scene]:
    """Short scenes of the demo clip and of those clips that are there, or those that procedures describe."""
    if encoder == "procedural":
        known = made_scenes(folder if folder.exists() else None)
        yield from (known[name]() for name in DESCRIBED if name in known)
        return
    video, frames = demo_clip()
    yield from ((scene[:SCENE_FRAMES], video) for scene in split_scenes([frames], video, 250))
    for name, count in FRAMES.items():
        if (folder / f"{name}.mkv").exists():
            with open_video(folder / f"{name}.mkv") as reader:
                frames, video = reader.read(count), reader.format
            yield from ((scene[:SCENE_FRAMES], video) for scene in split_scenes([frames], video, 250))


def slopes_of(name: str, frames: Frames, video: VideoFormat) -> Iterator[tuple[float, float]]:
    """(rate, log2 of -dD/dR) half-way between the neighbours of the ladder, where more bits made it better."""
    strategy = strategies.get(name)
    points = []
    for rate in LADDERS[name]:
        payload = strategy.encode(frames, video, Coding(name, PRESETS[name]).at(rate).settings)
        errors = plane_errors(frames, strategy.decode(payload, video, len(frames)))
        points.append((rate, 8 * len(payload), errors.weighted(video)))
    for (rate, bits, distortion), (finer, more_bits, less) in pairwise(points):
        if more_bits > bits and less < distortion:
            yield (rate + finer) / 2, log2((distortion - less) / (more_bits - bits))


if __name__ == "__main__":
    main()
