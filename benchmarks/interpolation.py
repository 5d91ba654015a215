"""What `i_frame_interpolation` gains over the encoder of its key frames: BD-rate on one clip after the other.

    python benchmarks/interpolation.py FOLDER [--keys av1] [--preset 4] [--frames 33] [--scale 1/2] [CLIP...]

Both code the clip as one scene at the rates that belong to the same lambdas; the interpolation is taken whether or not
it pays, with the distance between key frames that costs least. `pays` says at which qualities the strategy would not
have refused.
"""

from __future__ import annotations

import argparse
import platform
import time
from pathlib import Path

import bjontegaard
import torch

from codec import strategies
from codec.frames import Frames, VideoFormat
from codec.quality import measure_quality
from codec.rate_distortion import KNOBS, lambda_of_quality, plane_errors
from codec.resample import scaled_format, shrink
from codec.strategies.i_frame_interpolation import best_coding
from codec.strategies.protocol import EncodeSettings
from codec.video import open_video

Point = tuple[int, float]  # bytes, PSNR-Y in dB


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path)
    parser.add_argument("clips", nargs="*")
    parser.add_argument("--keys", default="av1", help="the encoder, of key frames and of the whole clip")
    parser.add_argument("--preset")
    parser.add_argument("--scale", default="1", help="the clip is shrunk first: 1, 3/4, 2/3 or 1/2")
    parser.add_argument("--start", type=int, default=0)
    parser.add_argument("--frames", type=int, default=33)
    parser.add_argument("--distance")
    parser.add_argument("--networks", default="on", choices=("on", "off"))
    parser.add_argument("--qualities", type=float, nargs="+", default=(0.1, 0.25, 0.4, 0.55))
    asked = parser.parse_intermixed_args()
    torch.set_num_threads(1)
    print(f"{platform.machine()}; {asked.keys} preset {asked.preset or 'default'}, networks {asked.networks}")
    for path in sorted(asked.folder.glob("*.mkv")):
        if not asked.clips or path.stem in asked.clips:
            with open_video(path) as reader:
                whole, video = reader.read(asked.start + asked.frames), reader.format
            frames = shrink(whole[asked.start :], video, asked.scale)
            compare(path.stem, frames, scaled_format(video, asked.scale), asked)


def compare(name: str, frames: Frames, video: VideoFormat, asked: argparse.Namespace) -> None:
    alone: list[Point] = []
    between: list[Point] = []
    notes, pays = [], []
    for quality in asked.qualities:
        lambda_rd = lambda_of_quality(quality)
        payload, decoded = coded_alone(frames, video, asked, lambda_rd)
        cost = plane_errors(frames, decoded).weighted(video) + lambda_rd * 8 * len(payload)
        alone.append((len(payload), psnr_y(frames, decoded, video)))
        clock = time.perf_counter()
        options = {"keys": asked.keys, "networks": asked.networks}
        options |= {"distance": asked.distance} if asked.distance else {}
        found = best_coding(frames, video, EncodeSettings(quality, asked.preset, options=options))
        seconds = (time.perf_counter() - clock) / len(frames)
        between.append((len(found.payload), psnr_y(frames, found.pictures, video)))
        pays += [f"{quality:g}"] if found.cost < cost else []
        scene = found.scene
        used = ["generator"] * (scene.description is not None) + ["enhancer"] * (scene.enhancer is not None)
        told = f"distance {scene.distance}, {', '.join(used) or 'no network'}, cost {found.cost / cost - 1:+.1%}"
        notes.append(
            f"  quality {quality:g}: {alone[-1][0]} B {alone[-1][1]:.2f} dB alone, "
            f"{between[-1][0]} B {between[-1][1]:.2f} dB; {told}; {seconds:.1f} s a frame"
        )
    size = f"{video.width}×{video.height}, {len(frames)} frames"
    print(f"{name} {size}: PSNR-Y {bd_rate(alone, between):+.1f}%, pays at {', '.join(pays) or 'none'}")
    print("\n".join(notes), flush=True)


def coded_alone(
    frames: Frames, video: VideoFormat, asked: argparse.Namespace, lambda_rd: float
) -> tuple[bytes, Frames]:
    encoder, knob = strategies.get(asked.keys), KNOBS[asked.keys]
    rate = knob.rounded(knob.at(lambda_rd))
    payload = encoder.encode(frames, video, EncodeSettings(1.0, asked.preset, quality_range=(rate, rate)))
    return payload, encoder.decode(payload, video, len(frames))


def psnr_y(frames: Frames, decoded: Frames, video: VideoFormat) -> float:
    return measure_quality(frames, decoded, video, with_vmaf=False, with_ms_ssim=False).psnr_y


def bd_rate(one: list[Point], other: list[Point]) -> float:
    (rates, qualities), (new_rates, new_qualities) = (tuple(zip(*curve, strict=True)) for curve in (one, other))
    return float(
        bjontegaard.bd_rate(
            rates, qualities, new_rates, new_qualities,
            method="pchip", require_matching_points=False, min_overlap=0,
        )
    )  # fmt: skip


if __name__ == "__main__":
    main()
