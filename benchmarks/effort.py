"""What each level of effort costs and brings: auto on the demo clip, processor seconds against D + lambda·R.

python benchmarks/effort.py 0 1 2 3 4
"""

from __future__ import annotations

import os
import platform
import sys

import cv2

from codec.config import CodecConfig
from codec.demo_clip import demo_clip
from codec.effort import MAX_EFFORT
from codec.encoding_agent import EncodingAgent
from codec.rate_distortion import lambda_of_quality

QUALITIES = (0.35, 0.6)


def main() -> None:
    cv2.setNumThreads(1)
    video, frames = demo_clip()
    print(f"demo clip, {len(frames)} frames, {platform.machine()}; cost is the sum of D + lambda·R, in millions")
    for effort in map(int, sys.argv[1:] or range(MAX_EFFORT + 1)):
        row = [f"effort {effort:>2}"]
        for quality in QUALITIES:
            before = sum(os.times()[:4])
            config = CodecConfig(strategy="auto", effort=effort, quality=quality)
            data, report = EncodingAgent(config).encode_bytes(frames, video)
            cost = sum(scene.chosen.cost(lambda_of_quality(quality)) for scene in report.scenes) / 1e6
            trials = sum(len(scene.trials) for scene in report.scenes)
            seconds = sum(os.times()[:4]) - before
            row.append(f"quality {quality}: {len(data)} bytes, cost {cost:.2f}, {trials} codings, {seconds:.1f} s")
        print("   ".join(row), flush=True)


if __name__ == "__main__":
    main()
