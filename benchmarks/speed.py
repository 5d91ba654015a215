"""How fast scenes are decoded by each strategy, on 1 and on 2 cores, and what each effort costs to encode.

Decoding is timed in processes of their own that may use 1 core, or 2, as phones and laptops give them; the scene is 24
frames of a real clip's upper left corner, each strategy's own default settings at quality 0.5. A strategy that refuses
the scene is told so. Encoding is processor time of `auto` on the same frames, per megapixel-frame.

    python benchmarks/speed.py --clip talk512 --efforts 0 2 4
"""

from __future__ import annotations

import argparse
import multiprocessing
import os
import platform
import time
from pathlib import Path

import cv2

from codec import strategies
from codec.config import CodecConfig
from codec.encoding_agent import EncodingAgent
from codec.errors import EncodeError
from codec.frames import Frames, VideoFormat
from codec.strategies.protocol import EncodeSettings
from codec.video import open_video

CLIPS = Path(__file__).resolve().parents[2] / "shared" / "clips"
WIDTH, HEIGHT, FRAMES = 480, 256, 24
REPEATS = 3


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--clip", default="talk512", help="name without suffix")
    parser.add_argument("--clip-folder", type=Path, default=CLIPS)
    parser.add_argument("--efforts", nargs="*", type=int, default=[0, 2, 4])
    parser.add_argument("--strategies", nargs="*", default=list(strategies.STRATEGIES))
    order = parser.parse_args()
    cv2.setNumThreads(1)
    frames, video = corner(order.clip_folder / f"{order.clip}.mkv")
    megapixels = len(frames) * video.width * video.height / 1e6
    print(f"{order.clip}, {video.width}x{video.height}, {len(frames)} frames, {platform.machine()}")
    for name in order.strategies:
        before = processor_seconds()
        try:
            payload = strategies.get(name).encode(frames, video, EncodeSettings(0.5))
        except EncodeError as error:
            print(f"{name:<22} refuses: {error}", flush=True)
            continue
        encoding = (processor_seconds() - before) / megapixels
        one, two = (decoding_fps(name, payload, video, cores) for cores in (1, 2))
        print(
            f"{name:<22} {len(payload):>7} bytes   encoded in {encoding:6.2f} s a megapixel-frame   decoded at "
            f"{one:7.1f} fps on 1 core, {two:7.1f} on 2 ({one * megapixels / len(frames):.1f} megapixels/s on 1)",
            flush=True,
        )
    for effort in order.efforts:
        before = processor_seconds()
        data, _ = EncodingAgent(CodecConfig(strategy="auto", effort=effort)).encode_bytes(frames, video)
        encoding = (processor_seconds() - before) / megapixels
        print(f"auto, effort {effort:>2}        {encoding:8.2f} s a megapixel-frame, {len(data)} bytes", flush=True)


def processor_seconds() -> float:
    """Of this process and of those it waited for: VVenC runs in one of its own."""
    return sum(os.times()[:4])


def corner(path: Path) -> tuple[Frames, VideoFormat]:
    with open_video(path) as reader:
        frames, video = reader.read(FRAMES), reader.format
    width, height = min(WIDTH, video.width), min(HEIGHT, video.height)
    part = Frames(
        frames.y[:, :height, :width],
        frames.u[:, : height // 2, : width // 2],
        frames.v[:, : height // 2, : width // 2],
    )
    return part, VideoFormat(width, height, video.frame_rate, video.color)


def decoding_fps(name: str, payload: bytes, video: VideoFormat, cores: int) -> float:
    """Frames a second of the best of a few decodes, the first left out."""
    context = multiprocessing.get_context("spawn")
    results = context.SimpleQueue()
    process = context.Process(target=_decode, args=(name, payload, video, cores, results))
    process.start()
    process.join()
    return float(results.get())


def _decode(
    name: str, payload: bytes, video: VideoFormat, cores: int, results: multiprocessing.queues.SimpleQueue[float]
) -> None:
    os.sched_setaffinity(0, sorted(os.sched_getaffinity(0))[:cores])
    os.environ["OMP_NUM_THREADS"] = str(cores)
    seconds = []
    for _ in range(REPEATS + 1):
        began = time.perf_counter()
        strategies.get(name).decode(payload, video, FRAMES)
        seconds.append(time.perf_counter() - began)
    results.put(FRAMES / min(seconds[1:]))


if __name__ == "__main__":
    main()
