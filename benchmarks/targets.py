"""How far the campaign's targets are, by kind of content: the lowest bitrate at PSNR-Y 35 dB and SSIM-Y 0.95.

Each encoder is driven to 35 dB by its quality knob, and on to SSIM 0.95 where that is not there yet; the whole .evc
file counts. Mbps are scaled linearly in pixels and frames to 1080p30, which is hard on small pictures: detail grows
more slowly than samples. "<" means that the coarsest setting is above both targets already.

    python benchmarks/targets.py --frames 30 --effort 4 --clips talk512 mixed360
"""

from __future__ import annotations

import argparse
import io
import platform
import time
from pathlib import Path
from typing import Literal

import cv2

from codec.config import CodecConfig
from codec.decoding_agent import decode_bytes
from codec.demo_clip import demo_clip
from codec.frames import Frames, VideoFormat
from codec.quality import psnr, squared_error, ssim
from codec.rate_control import TOLERANCE, Reached, Target, encode_to_target, kbps
from codec.video import open_video

CLIPS = Path(__file__).resolve().parents[2] / "shared" / "clips"
PSNR_Y, SSIM_Y = 35.0, 0.95
TARGET_MBPS = 1.0
FULL = 1920 * 1080 * 30


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--effort", type=int, default=4)
    parser.add_argument("--frames", type=int, default=60, help="use only the first frames of each clip")
    parser.add_argument("--clips", nargs="+", help="names without suffix; demo is the demo clip")
    parser.add_argument("--clip-folder", type=Path, default=CLIPS)
    order = parser.parse_args()
    cv2.setNumThreads(1)
    configs = {
        "x265 slow": CodecConfig(strategy="x265", preset="slow"),
        "SVT-AV1 4": CodecConfig(strategy="av1", preset="4"),
        f"auto {order.effort}": CodecConfig(strategy="auto", effort=order.effort),
    }
    print(f"PSNR-Y {PSNR_Y:g} dB and SSIM-Y {SSIM_Y:g}, at most {order.frames} frames, {platform.machine()}")
    for name in order.clips or ["demo", *sorted(path.stem for path in order.clip_folder.glob("*.mkv"))]:
        frames, video = read(name, order)
        row, reference = [], 0.0
        for shown, config in configs.items():
            began = time.perf_counter()
            rate, floor, psnr_y, ssim_y = lowest(config, frames, video)
            mbps = rate / 1000 * FULL / float(video.width * video.height * video.frame_rate)
            reference = reference or rate
            row.append(
                f"{shown} {'<' if floor else ''}{mbps:.3g} Mbps ({rate:.0f} kbps, {psnr_y:.2f} dB, {ssim_y:.4f}, "
                f"{100 * (rate / reference - 1):+.0f}%, {time.perf_counter() - began:.0f} s)"
            )
            met = mbps <= TARGET_MBPS
        print(
            f"{name:<11} {video.width}x{video.height}, {len(frames)} frames   "
            + "   ".join(row)
            + f"   {'within' if met else 'above'} {TARGET_MBPS:g} Mbps",
            flush=True,
        )


def read(name: str, order: argparse.Namespace) -> tuple[Frames, VideoFormat]:
    if name == "demo":
        video, frames = demo_clip()
        return frames[: order.frames], video
    with open_video(order.clip_folder / f"{name}.mkv") as reader:
        return reader.read(order.frames), reader.format


def lowest(config: CodecConfig, frames: Frames, video: VideoFormat) -> tuple[float, bool, float, float]:
    """kbps of the smallest file found that has both, whether nothing coarser was to be had, and what it has."""
    reached, data = encode(config, above("psnr_y", PSNR_Y), frames, video)
    if quality_of(data, frames)[1] < SSIM_Y:
        reached, data = encode(config, above("ssim_y", SSIM_Y), frames, video)
    coarsest = reached.quality == 0 and reached.miss is not None
    return kbps(len(data), len(frames), video.frame_rate), coarsest, *quality_of(data, frames)


def above(metric: Literal["psnr_y", "ssim_y"], least: float) -> Target:
    """A target of which even the lower end of what counts as met is enough."""
    return Target(metric, least + TOLERANCE[metric])


def encode(config: CodecConfig, target: Target, frames: Frames, video: VideoFormat) -> tuple[Reached, bytes]:
    sink = io.BytesIO()
    _, reached = encode_to_target(config, target, lambda: [frames], video, sink)
    return reached, sink.getvalue()


def quality_of(data: bytes, frames: Frames) -> tuple[float, float]:
    _, decoded = decode_bytes(data)
    error = sum(squared_error(one, other) for one, other in zip(frames.y, decoded.y, strict=True))
    similar = sum(ssim(one, other) for one, other in zip(frames.y, decoded.y, strict=True))
    return psnr(error / frames.y.size), similar / len(frames)


if __name__ == "__main__":
    main()
