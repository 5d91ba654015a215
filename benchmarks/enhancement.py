"""What `hybrid_semantic` gains over its own base layer, and what it costs: BD-rate on one clip after the other.

    python benchmarks/enhancement.py FOLDER [--base av1] [--frames 17] [--width 640 --height 360] [CLIP...]

Every clip is cut to its first frames and its middle. A point where the network does not pay is the base layer's own.
"""

from __future__ import annotations

import argparse
import platform
import time
from pathlib import Path

import bjontegaard
import numpy as np

from codec import strategies
from codec.errors import EncodeError
from codec.frames import Frames, VideoFormat
from codec.quality import measure_quality
from codec.strategies.protocol import EncodeSettings
from codec.video import open_video

QUALITIES = (0.15, 0.35, 0.55, 0.75)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path)
    parser.add_argument("clips", nargs="*")
    parser.add_argument("--base", default="av1")
    parser.add_argument("--preset")
    parser.add_argument("--scale", default="1")
    parser.add_argument("--frames", type=int, default=17)
    parser.add_argument("--width", type=int, default=640)
    parser.add_argument("--height", type=int, default=360)
    asked = parser.parse_intermixed_args()
    print(f"{platform.machine()}; {asked.base} preset {asked.preset or 'default'}, scale {asked.scale}")
    print("BD-rate over the base layer alone (PCHIP); dB and seconds a frame for each quality")
    found = []
    for path in sorted(asked.folder.glob("*.mkv")):
        if asked.clips and path.stem not in asked.clips:
            continue
        frames, video = middle(path, asked.frames, asked.width, asked.height)
        found.append(compare(path.stem, frames, video, asked))
    if found:
        luma, whole = np.mean(found, axis=0)
        print(f"{'mean':<12} PSNR-Y {luma:+6.2f}%  PSNR-YUV {whole:+6.2f}%")


def middle(path: Path, count: int, width: int, height: int) -> tuple[Frames, VideoFormat]:
    """The first frames, cut to at most this size around the middle."""
    with open_video(path) as reader:
        frames, video = reader.read(count), reader.format
    width, height = min(width, video.width) // 2 * 2, min(height, video.height) // 2 * 2
    top, left = ((video.height - height) // 4 * 2, (video.width - width) // 4 * 2)
    luma = (slice(None), slice(top, top + height), slice(left, left + width))
    chroma = (slice(None), slice(top // 2, (top + height) // 2), slice(left // 2, (left + width) // 2))
    return Frames(frames.y[luma], frames.u[chroma], frames.v[chroma]), VideoFormat(width, height, video.frame_rate)


def compare(name: str, frames: Frames, video: VideoFormat, asked: argparse.Namespace) -> tuple[float, float]:
    base, hybrid = strategies.get(asked.base), strategies.get("hybrid_semantic")
    curves: dict[str, list[tuple[int, float, float]]] = {"base": [], "hybrid": []}
    shown = []
    for quality in QUALITIES:
        settings = EncodeSettings(quality, asked.preset, asked.scale)
        plain = base.encode(frames, video, settings)
        measured = measure(frames, base.decode(plain, video, len(frames)), video)
        curves["base"].append((len(plain), *measured))
        try:
            clock = time.perf_counter()
            options = {"base": asked.base}
            payload = hybrid.encode(frames, video, EncodeSettings(quality, asked.preset, asked.scale, options=options))
            encoding = (time.perf_counter() - clock) / len(frames)
            clock = time.perf_counter()
            decoded = hybrid.decode(payload, video, len(frames))
            decoding = (time.perf_counter() - clock) / len(frames)
            point = (len(payload), *measure(frames, decoded, video))
            note = f"{point[1] - measured[0]:+.3f} for {len(payload) - len(plain)} of {len(plain)} B"
            note += f", {encoding:.2f}/{decoding:.2f} s"
        except EncodeError:
            point, note = curves["base"][-1], "does not pay"
        curves["hybrid"].append(point)
        shown.append(f"{measured[0]:.1f} dB {note}")
    gains = [bd_rate(curves, metric) for metric in (1, 2)]
    print(f"{name:<12} PSNR-Y {gains[0]:+6.2f}%  PSNR-YUV {gains[1]:+6.2f}%  | {'; '.join(shown)}", flush=True)
    return gains[0], gains[1]


def measure(frames: Frames, decoded: Frames, video: VideoFormat) -> tuple[float, float]:
    quality = measure_quality(frames, decoded, video, with_vmaf=False, with_ms_ssim=False)
    return quality.psnr_y, quality.psnr_yuv


def bd_rate(curves: dict[str, list[tuple[int, float, float]]], metric: int) -> float:
    rates = {name: [point[0] for point in points] for name, points in curves.items()}
    qualities = {name: [point[metric] for point in points] for name, points in curves.items()}
    return float(
        bjontegaard.bd_rate(
            rates["base"], qualities["base"], rates["hybrid"], qualities["hybrid"],
            method="pchip", require_matching_points=False, min_overlap=0,
        )
    )  # fmt: skip


if __name__ == "__main__":
    main()
