"""What an encoder's options are worth by the length of the scene: BD-rate against its defaults, PSNR-YUV, PCHIP.

Each scene is the middle of a clip's picture, cut out so that it is quick, and as many frames as asked: where the clip
is too short it is played backwards and forwards. An option set is one word, its options separated by commas.

    python benchmarks/encoder_options.py vvc faster gopsize=16 gopsize=16,intraqpoffset=-1 --frames 17 33 60 128
"""

from __future__ import annotations

import argparse
import platform
from pathlib import Path

import cv2
import numpy as np
from auto_against_encoders import CLIPS, Point, bd_rate, read

from codec import strategies
from codec.errors import EncodeError
from codec.frames import Frames, VideoFormat
from codec.quality import psnr
from codec.rate_distortion import KNOBS, lambda_of_quality, plane_errors
from codec.strategies.protocol import EncodeSettings

QUALITIES = (0.15, 0.3, 0.45, 0.6)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("strategy", choices=list(KNOBS))
    parser.add_argument("preset")
    parser.add_argument("options", nargs="+", help="OPTION=VALUE[,OPTION=VALUE …]")
    parser.add_argument("--clips", nargs="+", default=["talk512", "calendar", "coffee720"], help="names without suffix")
    parser.add_argument("--clip-folder", type=Path, default=CLIPS)
    parser.add_argument("--frames", nargs="+", type=int, default=[17, 33, 60], help="lengths of scenes")
    parser.add_argument("--size", nargs=2, type=int, default=[256, 256], help="at most, in luma samples")
    order = parser.parse_args()
    cv2.setNumThreads(1)
    print(f"{order.strategy} {order.preset}, {platform.machine()}; negative is fewer bytes than with its defaults")
    for name in order.clips:
        whole, video = middle(*read(name, max(order.frames), order.clip_folder), *order.size)
        for count in order.frames:
            shown = to_and_fro(len(whole), count)
            frames = Frames(*(plane[shown] for plane in whole.planes()))
            usual = curve(frames, video, order, "")
            row = []
            for words in order.options:
                try:
                    row.append(f"{words} {bd_rate(usual, curve(frames, video, order, words)):+.1f}%")
                except EncodeError as error:
                    row.append(f"{words} fails: {error}")
            print(f"{name:<10} {video.width}x{video.height}, {count:>3} frames   {'   '.join(row)}", flush=True)


def middle(frames: Frames, video: VideoFormat, width: int, height: int) -> tuple[Frames, VideoFormat]:
    """At most so many luma samples, from the middle of the picture; places and sides are multiples of four."""
    sides = [min(side, full) // 4 * 4 for side, full in ((width, video.width), (height, video.height))]
    left, top = ((full - side) // 8 * 4 for side, full in zip(sides, (video.width, video.height), strict=True))
    planes = (
        plane[:, top // share : (top + sides[1]) // share, left // share : (left + sides[0]) // share]
        for plane, share in zip(frames.planes(), (1, 2, 2), strict=True)
    )
    return Frames(*planes), VideoFormat(sides[0], sides[1], video.frame_rate, video.color)


def to_and_fro(length: int, count: int) -> np.ndarray:
    """The first `count` of 0, 1, …, length - 1, length - 2, …, 0, 1, …"""
    there = np.arange(count) % max(1, 2 * length - 2)
    return np.minimum(there, 2 * length - 2 - there) if length > 1 else there


def curve(frames: Frames, video: VideoFormat, order: argparse.Namespace, words: str) -> list[Point]:
    strategy, knob = strategies.get(order.strategy), KNOBS[order.strategy]
    options = dict(word.split("=", 1) for word in words.split(",")) if words else {}
    points = []
    for quality in QUALITIES:
        rate = float(round(knob.at(lambda_of_quality(quality))))
        payload = strategy.encode(frames, video, EncodeSettings(1, order.preset, "1", (rate, rate), options))
        errors = plane_errors(frames, strategy.decode(payload, video, len(frames)))
        points.append((len(payload) / len(frames), psnr(errors.weighted(video) / frames.y.size)))
    return points


if __name__ == "__main__":
    main()
