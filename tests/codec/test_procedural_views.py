"""Scenes of one still over which a camera moves."""

from __future__ import annotations

import hashlib
import os
import subprocess
import sys
import time
import tracemalloc
from collections.abc import Callable
from dataclasses import replace
from fractions import Fraction
from functools import cache
from pathlib import Path

import numpy as np
import pytest

from codec import strategies
from codec.bitstream import MAX_SIDE
from codec.config import CodecConfig
from codec.context_coder import ContextDecoder, ContextEncoder
from codec.effort import EFFORTS, shortlist
from codec.encoding_agent import EncodingAgent
from codec.errors import BitstreamError, EncodeError
from codec.frames import Frames, VideoFormat
from codec.strategies.procedural import STILLS, VIEWS, views
from codec.strategies.procedural.stills import ONE
from codec.strategies.procedural.views import View
from codec.strategies.protocol import EncodeSettings
from tests.codec.conftest import ReadClip

ROOT = Path(__file__).parents[2]
PROCEDURAL = strategies.get("procedural")
Path2D = Callable[[float], tuple[float, float, float, float]]
PATHS: dict[str, Path2D] = {
    "pan": lambda t: (-20 + 40 * t, 6 - 12 * t, 1, 0),
    "zoom": lambda t: (3 * t, 0, 1 + 0.15 * t, 0),
    "turn": lambda t: (0, 0, 1, -5 + 10 * t),
}
COUNT = 12


def scenery(x: np.ndarray, y: np.ndarray) -> np.ndarray:
    """A picture known at every real place: hills of several sizes and soft edges."""
    grey = 120 + 35 * np.sin(x / 9) * np.cos(y / 7) + 15 * np.sin((x * y) / 900)
    for number in range(40):
        across, down = 150 * np.sin(7.3 * number), 100 * np.sin(3.1 * number + 1)
        grey += 12 * (-1) ** number * np.tanh(4 - np.hypot(x - across, y - down) / (1 + number % 3))
    return grey


def filmed(
    path: Path2D,
    width: int = 160,
    height: int = 96,
    sigma: float = 1.0,
    level: Callable[[float], float] = lambda t: 1.0,
) -> tuple[Frames, VideoFormat]:
    """What a camera on this path sees of the scenery: sampled exactly, without any filter. Chroma lies centred."""
    rng = np.random.default_rng(4)
    planes: list[list[np.ndarray]] = [[], [], []]
    for time_ in np.linspace(0, 1, COUNT):
        across, down, zoom, degrees = path(float(time_))
        c, s = np.cos(np.deg2rad(degrees)) / zoom, np.sin(np.deg2rad(degrees)) / zoom
        for number, plane in enumerate(planes):
            step = 2 if number else 1
            rows, columns = np.mgrid[0 : -(-height // step), 0 : -(-width // step)]
            x, y = (columns * step + (step - width) / 2), (rows * step + (step - height) / 2)
            grey = scenery(across + c * x - s * y, down + s * x + c * y)
            black, sign = (16, 1.0) if not number else (128, 0.25 if number == 1 else -0.25)
            shown = black + level(float(time_)) * ((grey - 16 if not number else grey - 120) * sign)
            noisy = shown + rng.normal(0, sigma / step, shown.shape)
            plane.append(np.clip(np.rint(noisy), 0, 255).astype(np.uint8))
    y, u, v = (np.stack(plane) for plane in planes)
    return Frames(y, u, v), VideoFormat(width, height, Fraction(25))


def still_settings(quality: float, **options: str) -> EncodeSettings:
    return EncodeSettings(quality, "fast", options={"still": "x265", **options})


@cache
def encoded(name: str, width: int = 160, height: int = 96) -> tuple[Frames, VideoFormat, bytes]:
    frames, video = filmed(PATHS[name], width, height)
    return frames, video, PROCEDURAL.encode(frames, video, still_settings(0.8))


def psnr(one: Frames, other: Frames) -> float:
    return float(10 * np.log10(255**2 / np.mean((one.y.astype(np.float64) - other.y) ** 2)))


def fingerprint(frames: Frames) -> str:
    return hashlib.blake2b(frames.to_bytes(), digest_size=16).hexdigest()


@pytest.mark.parametrize("name", PATHS)
def test_a_pan_a_zoom_and_a_turn_are_one_still_and_beat_a_video_encoder(name: str) -> None:
    frames, video, payload = encoded(name)
    assert payload[0] == VIEWS
    value = psnr(PROCEDURAL.decode(payload, video, COUNT), frames)
    assert value > 42
    other = strategies.get("x265")
    rival = min(
        len(data)
        for data in (other.encode(frames, video, EncodeSettings(quality, "medium")) for quality in (0.85, 0.95, 1))
        if psnr(other.decode(data, video, COUNT), frames) >= value - 0.5
    )
    assert len(payload) < 0.7 * rival


@pytest.mark.parametrize("size", [(97, 65), (33, 120)])
def test_odd_sizes_come_back_at_their_size(size: tuple[int, int]) -> None:
    frames, video, payload = encoded("zoom", *size)
    assert payload[0] == VIEWS
    decoded = PROCEDURAL.decode(payload, video, COUNT)
    assert [plane.shape for plane in decoded.planes()] == [plane.shape for plane in frames.planes()]
    assert psnr(decoded, frames) > 38


def test_a_steady_path_costs_less_than_two_bytes_a_frame() -> None:
    _, _, payload = encoded("pan")
    assert int.from_bytes(payload[2:5], "little") < 12 + 2 * COUNT


def test_a_fade_over_a_pan_is_told_by_gains() -> None:
    frames, video = filmed(PATHS["pan"], level=lambda t: 0.3 + 0.7 * t)
    payload = PROCEDURAL.encode(frames, video, still_settings(0.8))
    assert payload[0] == VIEWS
    decoded = PROCEDURAL.decode(payload, video, COUNT)
    assert psnr(decoded, frames) > 40
    assert min(psnr(decoded[t : t + 1], frames[t : t + 1]) for t in range(COUNT)) > 38


def test_auto_finds_it_whatever_the_class_of_the_scene() -> None:
    for effort in EFFORTS[2:]:
        for scene_class in ("static", "talking_head", "moderate_motion", "high_motion", "screen"):
            assert "procedural" in {tool.strategy for tool in shortlist(effort, scene_class, 30)}
    frames, video = filmed(PATHS["pan"])
    _, report = EncodingAgent(CodecConfig(strategy="auto", effort=2, quality=0.6)).encode_bytes(frames, video)
    assert [scene.strategy for scene in report.scenes] == ["procedural"]


@pytest.mark.parametrize("name", ["parkjoy.mkv", "coffee720.mkv", "talk512.mkv", "calendar.mkv"])
def test_ordinary_scenes_are_refused_at_once(name: str, read_clip: ReadClip) -> None:
    frames, video = read_clip(name, 10)
    start = time.process_time()
    with pytest.raises(EncodeError, match="procedural: ") as refusal:
        PROCEDURAL.encode(frames, video, EncodeSettings(0.5, options={"kind": "views"}))
    assert time.process_time() - start < 0.5
    assert "\n" not in str(refusal.value)


def test_what_one_still_cannot_tell_is_refused_by_its_reason() -> None:
    frames, video = filmed(PATHS["pan"])
    moving = frames.y.copy()
    for t in range(COUNT):
        moving[t, 30:60, 10 + 8 * t : 40 + 8 * t] = 255
    still = Frames(*(np.repeat(plane[:1], COUNT, axis=0) for plane in frames.planes()))
    tiny = Frames(frames.y[:, :16, :16], frames.u[:, :8, :8], frames.v[:, :8, :8])
    for wrong, its_video, reason in (
        (frames[:1], video, "two frames"),
        (tiny, replace(video, width=16, height=16), "32×32"),
        (replace(frames, y=moving), video, "no camera's motion|more moves"),
        (still, video, "stands still"),
    ):
        with pytest.raises(EncodeError, match=reason):
            PROCEDURAL.encode(wrong, its_video, still_settings(0.5, kind="views"))
    assert PROCEDURAL.encode(still, video, still_settings(0.5))[0] == STILLS


def decode_elsewhere(payload: bytes, video: VideoFormat, threads: int) -> str:
    """Fingerprint of what another process decodes, with so many threads in numpy's and OpenCV's pools."""
    program = (
        "import sys, cv2; from fractions import Fraction; from codec import strategies\n"
        "from codec.frames import VideoFormat; from tests.codec.test_procedural_views import fingerprint\n"
        f"cv2.setNumThreads({threads})\n"
        f"video = VideoFormat({video.width}, {video.height}, Fraction(25))\n"
        f"print(fingerprint(strategies.get('procedural').decode(sys.stdin.buffer.read(), video, {COUNT})))"
    )
    environment = os.environ | {"OMP_NUM_THREADS": str(threads), "OPENBLAS_NUM_THREADS": str(threads)}
    run = subprocess.run([sys.executable, "-c", program], cwd=ROOT, env=environment, input=payload, capture_output=True)
    assert run.returncode == 0, run.stderr.decode()
    return run.stdout.decode().strip()


def test_every_process_and_number_of_threads_decodes_the_same_frames() -> None:
    frames, video, payload = encoded("turn")
    here = fingerprint(PROCEDURAL.decode(payload, video, COUNT))
    assert {decode_elsewhere(payload, video, threads) for threads in (1, 3)} == {here}
    assert PROCEDURAL.encode(frames, video, still_settings(0.8)) == payload


def sample_by_hand(plane: np.ndarray, across: int, down: int) -> int:
    """One sample of the still at a position in 1/65536, in plain integers, as docs/bitstream.md says it."""
    height, width = plane.shape

    def at(row: int, column: int) -> int:
        return int(plane[min(max(row, 0), height - 1), min(max(column, 0), width - 1)])

    def taps(quarter: int) -> tuple[int, ...]:
        return (0, 0, 0, 64, 0, 0, 0, 0) if not quarter else views.QUARTER_TAPS[quarter - 1]

    def fine(row: int, column: int) -> int:
        total = sum(
            a * b * at(row // 4 + i - 3, column // 4 + j - 3)
            for i, a in enumerate(taps(row % 4))
            for j, b in enumerate(taps(column % 4))
        )
        return min(255, max(0, (total + 2048) >> 12))

    across, down = min(max(across, 0), (width - 1) << 16), min(max(down, 0), (height - 1) << 16)
    column, right, row, below = across >> 14, across >> 10 & 15, down >> 14, down >> 10 & 15
    return (
        (16 - below) * ((16 - right) * fine(row, column) + right * fine(row, column + 1))
        + below * ((16 - right) * fine(row + 1, column) + right * fine(row + 1, column + 1))
        + 128
    ) >> 8


@pytest.mark.parametrize("size", [(23, 17), (24, 18)])
def test_every_sample_is_what_the_arithmetic_says(size: tuple[int, int]) -> None:
    rng = np.random.default_rng(6)
    video, shape = VideoFormat(*size, Fraction(25)), VideoFormat(30, 21, Fraction(25))
    still = Frames(*(rng.choice([0, 90, 255], (1, *side)).astype(np.uint8) for side in ((21, 30), (11, 15), (11, 15))))
    view = View((-151, 333, 71, -190, 205, -44), ((ONE, 0), (3000, 5000), (-ONE, 255 * ONE)))
    decoded = views.render(still, shape, [view], video)
    steps = [((g << 10) + side // 2) // side for g, side in zip(view.motion[2:], size * 2, strict=True)]
    for number, (plane, source) in enumerate(zip(decoded.planes(), still.planes(), strict=True)):
        gain, offset = view.weights[number]
        for y, x in np.ndindex(plane.shape[1:]):
            p, q = (
                (4 if number else 2) * i + (2 if number else 1) - side for i, side in zip((x, y), size, strict=True)
            )
            across = (29 + p) * 32768 + (view.motion[0] << 10) + steps[0] * p + steps[1] * q
            down = (20 + q) * 32768 + (view.motion[1] << 10) + steps[2] * p + steps[3] * q
            if number:
                across, down = (across - 32768) >> 1, (down - 32768) >> 1
            wanted = (sample_by_hand(source[0], across, down) * gain + offset + 2048) >> 12
            assert plane[0, y, x] == min(255, max(0, wanted)), (number, x, y)


def program(size: tuple[int, int], path: list[View]) -> bytes:
    """A payload that says this, and whose still is nothing; unchecked, as an attacker would write it."""
    coder = ContextEncoder()
    coder.number(views.WIDTH, (), size[0])
    coder.number(views.HEIGHT, (), size[1])
    last = older = views.STILL
    for index, view in enumerate(path):
        views._code_view(coder, last, older, view)
        older, last = (last if index else view), view
    data = coder.finish()
    return bytes([VIEWS, strategies.get("x265").code]) + len(data).to_bytes(3, "little") + data


@pytest.mark.parametrize(
    ("size", "motion", "reason"),
    [
        ((16384, 16384), (0,) * 6, "16384×16384 is out of range"),
        ((0, 96), (0,) * 6, "out of range"),
        ((3840, 400), (0,) * 6, "out of range"),
        ((160, 96), (64 * 65, 0, 0, 0, 0, 0), "beyond its still"),
        ((160, 96), (0, -64 * 65, 0, 0, 0, 0), "beyond its still"),
        ((160, 96), (0, 0, 0, 64 * 65, 0, 0), "beyond its still"),
        ((160, 96), (0, 0, 1 << 21, 0, 0, -(1 << 21)), "beyond its still"),
        ((160, 96), (0,) * 6, "x265"),
    ],
)
def test_hostile_programs_end_soon_and_small(size: tuple[int, int], motion: tuple[int, ...], reason: str) -> None:
    video = VideoFormat(160, 96, Fraction(25))
    payload = program(size, [View(motion)] * 3)  # type: ignore[arg-type]
    tracemalloc.start()
    start = time.process_time()
    with pytest.raises(BitstreamError, match=reason):
        PROCEDURAL.decode(payload, video, 3)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert time.process_time() - start < 2
    assert peak < 8 * 2**20


def test_the_limits_hold_for_the_largest_pictures() -> None:
    """At the edge of what is legal no position leaves 32 bits."""
    video = VideoFormat(MAX_SIDE, 64, Fraction(25))
    shape = (MAX_SIDE, 64)
    for across in (2 - views.MARGIN, views.MARGIN - 2):
        coder = ContextEncoder()
        view = View((across * 64, 0, 0, 0, 0, 0))
        views.code_views(coder, video, 1, shape, [view])
        still, path = views.code_views(ContextDecoder(coder.finish()), video, 1)
        ramp = np.linspace(0, 255, MAX_SIDE).astype(np.uint8)
        planes = [np.tile(ramp[::step], (1, 64 // step, 1)) for step in (1, 2, 2)]
        shown = views.render(Frames(*planes), still, path, video).y[0, 0].astype(int)
        moved = np.clip(np.arange(MAX_SIDE) + across, 0, MAX_SIDE - 1)
        assert np.array_equal(shown, ramp[moved])


def damage(seed: int, trials: int) -> int:
    """Decode damaged payloads; how many were refused. Anything but BitstreamError fails the test."""
    frames, video, payload = encoded("zoom", 97, 65)
    rng = np.random.default_rng(seed)
    refused = 0
    for trial in range(trials):
        data = bytearray(payload[: rng.integers(1, len(payload) + 1)] if trial % 3 == 0 else payload)
        for position in rng.integers(len(data) if trial % 2 else min(len(data), 60), size=rng.integers(1, 4)):
            data[position] = rng.integers(256)
        try:
            decoded = PROCEDURAL.decode(bytes(data), video, COUNT)
            assert [plane.shape for plane in decoded.planes()] == [plane.shape for plane in frames.planes()]
        except BitstreamError:
            refused += 1
    return refused


def test_damaged_payloads_give_frames_or_a_bitstream_error() -> None:
    assert damage(21, 100) > 40


@pytest.mark.slow
def test_many_damaged_payloads_give_frames_or_a_bitstream_error() -> None:
    assert damage(22, 3000) > 1200
