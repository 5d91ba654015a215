"""What flow latents and temporal latents save in semantic_latent: each clip with none, with flow, with both.

    python benchmarks/scene_latents.py /path/to/clips [--clips NAME ...] [--steps N]

Clips are cut to their middle; the demo clip's scenes come first. Cost is squared error + price · bits, as the strategy
minimises it, against that without latents of the scene.
"""

from __future__ import annotations

import argparse
from collections.abc import Iterator
from pathlib import Path

import torch
from enhancement import middle

from codec import strategies
from codec.demo_clip import demo_clip
from codec.frames import Frames, VideoFormat
from codec.networks.scene_latents import SceneLatents
from codec.quality import psnr
from codec.rate_distortion import plane_errors
from codec.strategies import semantic_latent
from codec.strategies.protocol import EncodeSettings

CLIPS = ("talk512", "mixed360", "bunny1080", "coffee720", "calendar")
FRAMES, WIDTH, HEIGHT = 24, 448, 256


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--clips", nargs="*", default=CLIPS)
    parser.add_argument("--steps", type=int, default=60, help="of the fit")
    parser.add_argument("--quality", type=float, default=0.3)
    order = parser.parse_args()
    torch.set_num_threads(1)
    print(f"{'clip':<12}{'none: bytes, dB':>20}{'flow':>20}{'both':>20}{'cost of flow, both':>24}")
    for name, frames, video in sources(order.folder, order.clips):
        found = [
            coded(frames, video, order, flow, tones) for flow, tones in ((False, False), (True, False), (True, True))
        ]
        cells = "".join(f"{size:>13} {decibels:.2f}" for size, decibels, _ in found)
        changes = "".join(f"{cost / found[0][2] - 1:>12.1%}" for *_, cost in found[1:])
        print(f"{name:<12}{cells}{changes}", flush=True)


def sources(folder: Path, names: list[str]) -> Iterator[tuple[str, Frames, VideoFormat]]:
    video, frames = demo_clip()
    for number in range(4):
        yield f"demo {number + 1}", frames[24 * number : 24 * number + FRAMES], video
    for name in names:
        yield name, *middle(folder / f"{name}.mkv", FRAMES, WIDTH, HEIGHT)


def coded(
    frames: Frames, video: VideoFormat, order: argparse.Namespace, flow: bool, tones: bool
) -> tuple[int, float, float]:
    """Bytes, PSNR-Y, cost."""
    whole = semantic_latent.find_flows, semantic_latent.with_tones
    try:
        if not flow:
            semantic_latent.find_flows = lambda *_: SceneLatents()
        if not tones:
            semantic_latent.with_tones = lambda latents, *_: latents
        settings = EncodeSettings(order.quality, options={"steps": str(order.steps)})
        payload = strategies.get("semantic_latent").encode(frames, video, settings)
    finally:
        semantic_latent.find_flows, semantic_latent.with_tones = whole
    decoded = strategies.get("semantic_latent").decode(payload, video, len(frames))
    errors = plane_errors(frames, decoded)
    price = semantic_latent.COARSEST_PRICE * semantic_latent.PRICE_RATIO**order.quality
    return len(payload), psnr(errors.y / frames.y.size), errors.weighted(video) + price * 8 * len(payload)


if __name__ == "__main__":
    main()
