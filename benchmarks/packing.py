"""What packing elementary streams saves: bytes as the encoder wrote them and as a file holds them, and what it takes.

The first frames of each clip as one scene, as every strategy around an encoder codes it.

    python benchmarks/packing.py --frames 24 --clips demo talk512 bunny1080
"""

from __future__ import annotations

import argparse
import platform
import time
from pathlib import Path
from typing import cast

import cv2
from auto_against_encoders import CLIPS, read

from codec import strategies
from codec.strategies.elementary import ElementaryStrategy
from codec.strategies.packing import primed
from codec.strategies.protocol import EncodeSettings

PRESETS = {"x264": "medium", "x265": "medium", "av1": "4", "vvc": "fast"}
QUALITIES = (0.1, 0.35, 0.6)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--frames", type=int, default=24, help="use only the first frames of each clip")
    parser.add_argument("--clips", nargs="+", help="names without suffix; demo is the demo clip")
    parser.add_argument("--clip-folder", type=Path, default=CLIPS)
    order = parser.parse_args()
    cv2.setNumThreads(1)
    print(f"at most {order.frames} frames, {platform.machine()}; bytes of the stream, packed, at quality …")
    for name in PRESETS:
        began = time.process_time()
        primed(strategy(name).packing)
        print(f"{name:<5} priming the model, once a process: {time.process_time() - began:.2f} s of one core")
    for clip in order.clips or ["demo", *sorted(path.stem for path in order.clip_folder.glob("*.mkv"))]:
        frames, video = read(clip, order.frames, order.clip_folder)
        for name, preset in PRESETS.items():
            cells, seconds = [], []
            for quality in QUALITIES:
                payload = strategy(name).encode(frames, video, EncodeSettings(quality, preset))
                stream = strategy(name).stream_of(payload, len(frames))
                began = time.process_time()
                strategy(name).stream_of(payload, len(frames))
                seconds.append(time.process_time() - began)
                share = len(payload) / (1 + len(stream)) - 1
                cells.append(f"{quality}: {len(stream)} to {len(payload) - 1} ({share:+.1%})")
            print(
                f"{clip:<11} {video.width}x{video.height}, {len(frames)} frames  {name:<5} {'   '.join(cells)}   "
                f"unpacked in {1000 * max(seconds) / len(frames):.1f} ms a frame",
                flush=True,
            )


def strategy(name: str) -> ElementaryStrategy:
    return cast(ElementaryStrategy, strategies.get(name))


if __name__ == "__main__":
    main()
