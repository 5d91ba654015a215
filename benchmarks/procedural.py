"""What procedures cost against traditional encoders on the scenes they are made for: bytes, PSNR-Y and BD-rate.

Payload bytes of one scene, PSNR-Y from the pooled MSE, BD-rate by PCHIP over the log of the bytes; a lossless point has
no finite PSNR and stays out of it. With a folder of clips it also takes their screens.

    python benchmarks/procedural.py [SCENE ...] [--clips FOLDER]
"""

from __future__ import annotations

import argparse
import platform
import time
from collections.abc import Callable, Sequence
from fractions import Fraction
from functools import partial
from pathlib import Path

import bjontegaard
import cv2
import numpy as np
from skimage import data, transform

from codec import strategies
from codec.demo_clip import SCENE_FRAMES, demo_clip
from codec.errors import EncodeError
from codec.frames import Frames, VideoFormat
from codec.pixels import rgb_to_planes
from codec.quality import PSNR_CAP_DB, measure_quality
from codec.strategies.protocol import EncodeSettings
from codec.video import open_video

QUALITIES = (0.0, 0.2, 0.4, 0.6, 0.8, 1.0)
SIZE = (480, 270)
OVERSAMPLED = 4
MIN_OVERLAP_DB = 1.0
Scene = tuple[Frames, VideoFormat]
Curve = list[tuple[int, float]]


def noisy_still(sigma: float) -> Scene:
    """A photograph for 30 frames with white noise on every plane."""
    return _with_noise([_photograph(data.coffee())] * 30, sigma)


def photo_slides() -> Scene:
    """Three photographs, 15 frames each, without noise."""
    pictures = [_photograph(photo) for photo in (data.coffee(), data.astronaut(), data.chelsea())]
    return _with_noise([picture for picture in pictures for _ in range(15)], 0)


def fade() -> Scene:
    """From black to a photograph in 30 frames, with noise of deviation 1."""
    y, u, v = (plane.astype(np.float64) for plane in _photograph(data.coffee()))
    steps = [t / 29 for t in range(30)]
    return _with_noise([(16 + (y - 16) * s, 128 + (u - 128) * s, 128 + (v - 128) * s) for s in steps], 1)


def text_slides() -> Scene:
    """Four slides of text, 12 frames each; a line appears halfway through each."""
    pictures = []
    for slide in range(4):
        for lines in (4, 5):
            picture = np.full((SIZE[1], SIZE[0], 3), 245, dtype=np.uint8)
            cv2.rectangle(picture, (0, 0), (SIZE[0], 40), (40 + 30 * slide, 70, 140), -1)
            cv2.putText(picture, f"Slide {slide + 1}: rates", (16, 28), 0, 0.8, (255, 255, 255), 2, cv2.LINE_AA)
            for line in range(lines):
                text = f"{line + 1}. {'the quick brown fox jumps over a lazy dog'[5 * slide + line :]}"
                cv2.putText(picture, text, (24, 80 + 36 * line), 0, 0.55, (30, 30, 30), 1, cv2.LINE_AA)
            pictures += [rgb_to_planes(picture)] * 6
    return _with_noise(pictures, 0)


def _photograph(photo: np.ndarray) -> tuple[np.ndarray, ...]:
    return rgb_to_planes(cv2.resize(photo, SIZE, interpolation=cv2.INTER_AREA))


def _with_noise(pictures: Sequence[tuple[np.ndarray, ...]], sigma: float) -> Scene:
    rng = np.random.default_rng(3)
    planes = []
    for plane, deviation in enumerate((sigma, sigma / 2, sigma / 2)):
        stack = np.stack([picture[plane] for picture in pictures]).astype(np.float64)
        planes.append(np.clip(np.rint(stack + rng.normal(0, deviation, stack.shape)), 0, 255).astype(np.uint8))
    return Frames(*planes), VideoFormat(*SIZE, Fraction(25))


def camera(clips: Path, moves: Callable[[float], tuple[float, float, float, float]], sigma: float = 1) -> Scene:
    """30 frames of a camera over the first frame of coffee720, each sample the mean of 16 by Lanczos in floats.

    `moves` gives, from time 0 to 1: samples across and down, magnification, degrees. The picture has about twice the
    samples of a frame along each side.
    """
    with open_video(clips / "coffee720.mkv") as source:
        planes = source.read(1).planes()
    pictures = []
    for time_ in np.linspace(0, 1, 30):
        across, down, zoom, degrees = moves(float(time_))
        turned, ratio = np.deg2rad(degrees), 2 / zoom / OVERSAMPLED
        seen = []
        for number, plane in enumerate(planes):
            share = 2 if number else 1
            height, width = (OVERSAMPLED * side // share for side in SIZE[::-1])
            middle = np.array([plane.shape[2] / 2, plane.shape[1] / 2]) + 2 * np.array([across, down]) / share
            linear = ratio * np.array([[np.cos(turned), -np.sin(turned)], [np.sin(turned), np.cos(turned)]])
            place = middle - linear @ np.array([width / 2, height / 2])
            # Samples lie in the middle of their square.
            place += linear @ (0.5, 0.5) - 0.5
            matrix, flags = np.column_stack([linear, place]), cv2.INTER_LANCZOS4 | cv2.WARP_INVERSE_MAP
            fine = cv2.warpAffine(plane[0].astype(np.float32), matrix, (width, height), flags=flags)
            seen.append(transform.downscale_local_mean(fine, (OVERSAMPLED, OVERSAMPLED)))
        pictures.append(tuple(seen))
    return _with_noise(pictures, sigma)


CAMERAS = {
    "pan": lambda t: (-70 + 140 * t, 20 - 40 * t, 1, 0),
    "zoom": lambda t: (5 * t, 0, 1 + 0.15 * t, 0),
    "turn": lambda t: (0, 0, 1.1, -4 + 8 * t),
}


def demo(scene: int) -> Scene:
    video, frames = demo_clip()
    return frames[SCENE_FRAMES * scene : SCENE_FRAMES * (scene + 1)], video


def clip(path: Path, first: int, last: int) -> Scene:
    with open_video(path) as source:
        return source.read(last)[first:], source.format


def scenes(clips: Path | None) -> dict[str, Callable[[], Scene]]:
    known: dict[str, Callable[[], Scene]] = {f"noise{sigma}": partial(noisy_still, sigma) for sigma in (2, 4, 6)}
    known |= {"photo-slides": photo_slides, "text-slides": text_slides, "fade": fade}
    known |= {f"demo{scene}": partial(demo, scene) for scene in range(4)}
    if clips:
        known["mixed360-screen"] = partial(clip, clips / "mixed360.mkv", 60, 90)
        known |= {name: partial(camera, clips, moves) for name, moves in CAMERAS.items()}
        known["calendar"] = partial(clip, clips / "calendar.mkv", 0, 41)
        known["talk512"] = partial(clip, clips / "talk512.mkv", 0, 30)
        known["screen1080"] = partial(clip, clips / "screen1080.mkv", 0, 60)
    return known


def measure(label: str, scene: Scene, name: str, preset: str | None, options: dict[str, str]) -> Curve:
    """One line a rate point; an empty curve where the scene is refused."""
    frames, video = scene
    strategy = strategies.get(name)
    curve = []
    for quality in QUALITIES:
        began = time.process_time()
        try:
            payload = strategy.encode(frames, video, EncodeSettings(quality, preset, options=options))
        except EncodeError as refusal:
            print(f"  {label:<22} {quality:.1f}  {refusal} ({time.process_time() - began:.1f} s)", flush=True)
            continue
        decoded = strategy.decode(payload, video, len(frames))
        value = measure_quality(frames, decoded, video, with_vmaf=False, with_ms_ssim=False).psnr_y
        seconds = time.process_time() - began
        print(f"  {label:<22} {quality:.1f}  {len(payload):>8} bytes  {value:6.2f} dB  {seconds:6.1f} s", flush=True)
        curve.append((len(payload), value))
    return curve


def bd_rate(anchor: Curve, test: Curve) -> str:
    """Percent, or why there is none."""
    one, other = (sorted(point for point in curve if point[1] < PSNR_CAP_DB) for curve in (anchor, test))
    if min(len(one), len(other)) < 4:
        return "fewer than 4 points"
    if min(one[-1][1], other[-1][1]) - max(one[0][1], other[0][1]) < MIN_OVERLAP_DB:
        return "no common quality"
    columns = [list(column) for curve in (one, other) for column in zip(*curve, strict=True)]
    percent = bjontegaard.bd_rate(*columns, method="pchip", require_matching_points=False, min_overlap=0)
    return f"{percent:+.1f}%"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("scenes", nargs="*")
    parser.add_argument("--clips", type=Path)
    arguments = parser.parse_args()
    known = scenes(arguments.clips)
    for name in arguments.scenes or known:
        scene = known[name]()
        print(f"{name}: {len(scene[0])} frames of {scene[1].width}x{scene[1].height}")
        screen = {"scm": "1"} if "screen" in name or "text" in name else {}
        tests = {"procedural": measure("procedural", scene, "procedural", None, {})}
        if tests["procedural"] and not screen:
            tests["procedural still=av1"] = measure("procedural still=av1", scene, "procedural", None, {"still": "av1"})
        for label, coder, preset, options in (
            ("av1 preset 4", "av1", "4", screen),
            ("vvc faster", "vvc", "faster", {}),
            ("x265 medium", "x265", "medium", {}),
        ):
            if not tests["procedural"]:
                continue
            anchor = measure(label, scene, coder, preset, options)
            for test, curve in tests.items():
                print(f"  BD-rate of {test} against {label}: {bd_rate(anchor, curve)}", flush=True)
    print(f"on {platform.machine()}, Python {platform.python_version()}")


if __name__ == "__main__":
    main()
