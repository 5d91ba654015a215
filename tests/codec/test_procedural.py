from __future__ import annotations

import hashlib
import time
from dataclasses import replace
from fractions import Fraction

import numpy as np
import pytest

from codec import strategies
from codec.context_coder import ContextDecoder, ContextEncoder
from codec.errors import BadInputError, BitstreamError, EncodeError
from codec.frames import Frames, VideoFormat
from codec.strategies.procedural import CANVAS, STILLS, VIEWS
from codec.strategies.protocol import EncodeSettings
from tests.codec.conftest import MovingPicture, ReadClip

PROCEDURAL = strategies.get("procedural")
CELL = 10
GOLDEN_PAYLOAD = (
    "008c6e0d067aed3bdaeec3193350f60aa70cd7acedf2782c148d08ff948e41254249aaedb7d79290ccca890313886fa305ceaa73"
    "6d7358ec8b51dde8ca9d9d9f991469c2a08794e9722f7bf87d2fe91095f418d28f8e7c0941dcfd5ecd52c054488bf621b34f5232"
    "abb003a26805b2e1f5b9f1b95dfe6fb82194429bfe04e4364e12930b0a46f5c2fe6ea41e7bebb491f63d9cee40d666999094ffb0"
    "7726da6718a79184604668dcad018381b25f18e6c5bf379ddd4283925031b37417c16863d6c21a6f9503e1d5445844272f04c339"
    "43ac08d9ecd261ade8c6e2e301095b56a5f3058f34d568c19003f67f43314f65b39aeb6934fc01d01e412b2e50f422832a50f04a"
    "49d2b0f519a04ad5b142015daaa31586a1ac164cb1bc6f647f03df0cfedb75ee6106ea51bca7e4f6044bb132361172527ba34614"
    "1017c0a3584cee3d7a963744ad2d32ad873aa1cbbd84086dde3a7fc10235864bf840892ba3125cf3b5c85ae6a824f01353d17b33"
    "2c03d2d0230c8c4f1c2d248be4c1a7e135eb48bdea741e6f9932c44e2f15196cda92cd8d1e811390396ff65dea240912423cae73"
    "c5a3cc743c0cb4acd3f196f05a4ff90d85c74416c0d4193dea04f80036940eccf0bb770cee91d9b203e2b12f1156d353fe8a26"
)
GOLDEN_HASH = "77ef13167f0030feda5d8e71d1c7ee57"


def psnr(one: np.ndarray, other: np.ndarray) -> float:
    return float(10 * np.log10(255**2 / max(np.mean((one.astype(np.float64) - other) ** 2), 1e-6)))


def editor(width: int, height: int, count: int, scroll: int = 0) -> tuple[Frames, VideoFormat]:
    """Lines of made-up letters, one typed a frame, a block that moves over them, and a scroll in the second half."""
    rng = np.random.default_rng(5)
    letters = (rng.random((12, 8, 7)) < 0.4) * rng.integers(90, 240, (12, 8, 7))
    page = np.full((height + scroll * count, width), 30, dtype=np.uint8)
    for top in range(4, len(page) - CELL, CELL + 2):
        for left in range(4, rng.integers(width // 3, width - CELL), CELL - 2):
            page[top : top + 8, left : left + 7] += letters[rng.integers(12)].astype(np.uint8) // 2
    luma = []
    for t in range(count):
        for row in range(2):
            page[6 + 12 * row : 14 + 12 * row, width - 12 - t : width - 5 - t] = 30 + letters[t % 12] // 2
        offset = scroll * max(0, t - count // 2)
        picture = page[offset : offset + height].copy()
        picture[5 + t : 11 + t, 3 * t : 3 * t + 5] = 255
        luma.append(picture)
    y = np.stack(luma)
    u = y[:, ::2, ::2] // 4 + 100
    return Frames(y, u, 240 - u), VideoFormat(width, height, Fraction(30))


def photograph(width: int = 160, height: int = 96) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """A seeded picture with edges and texture on several scales."""
    rng = np.random.default_rng(2)
    rows, columns = np.mgrid[0:height, 0:width]
    y = 110 + 40 * np.sin(rows / 11 + columns / 23) + 25 * np.sign(np.sin(columns / 9) + np.cos(rows / 7))
    y += 6 * np.sin(columns * rows / 40) + rng.normal(0, 1, y.shape)
    return y, 120 + y[::2, ::2] / 10, 140 - y[::2, ::2] / 12


def noisy(pictures: list[tuple[np.ndarray, ...]], sigma: float) -> tuple[Frames, VideoFormat]:
    rng = np.random.default_rng(9)
    planes = [np.stack([picture[plane] for picture in pictures]) for plane in range(3)]
    noise = [rng.normal(0, deviation, plane.shape) for plane, deviation in zip(planes, (sigma, 1, 1), strict=True)]
    rounded = [np.clip(np.rint(a + b), 0, 255).astype(np.uint8) for a, b in zip(planes, noise, strict=True)]
    height, width = planes[0].shape[1:]
    return Frames(*rounded), VideoFormat(width, height, Fraction(25))


def settings(quality: float, **options: str) -> EncodeSettings:
    return EncodeSettings(quality, options=options)


def still_settings(quality: float) -> EncodeSettings:
    return EncodeSettings(quality, "fast", options={"still": "x265"})


@pytest.mark.parametrize("size", [(1, 1), (2, 3), (35, 21), (97, 64)])
@pytest.mark.parametrize("scroll", [0, 3])
def test_screens_of_any_size_come_back_exactly_at_full_quality(size: tuple[int, int], scroll: int) -> None:
    frames, video = editor(max(size[0], 40), max(size[1], 40), 10, scroll)
    width, height = size
    frames = Frames(
        frames.y[:, :height, :width],
        frames.u[:, : (height + 1) // 2, : (width + 1) // 2],
        frames.v[:, : (height + 1) // 2, : (width + 1) // 2],
    )
    video = replace(video, width=width, height=height)
    payload = PROCEDURAL.encode(frames, video, settings(1, kind="canvas"))
    decoded = PROCEDURAL.decode(payload, video, 10)
    for one, other in zip(decoded.planes(), frames.planes(), strict=True):
        assert np.array_equal(one, other)


def test_a_screen_has_a_rising_curve_and_costs_less_than_a_video_encoder_takes() -> None:
    frames, video = editor(160, 96, 10, 3)
    points = []
    for quality in (0, 0.15, 0.3, 1):
        payload = PROCEDURAL.encode(frames, video, settings(quality, kind="canvas"))
        assert payload[0] == CANVAS
        points.append((len(payload), psnr(PROCEDURAL.decode(payload, video, 10).y, frames.y)))
    assert points == sorted(points)
    assert len({size for size, _ in points}) == 4
    other = strategies.get("x265").encode(frames, video, EncodeSettings(0.5, "medium"))
    assert len(other) > 2 * points[-1][0], "lossless must cost less than half of a lossy stream"


def test_what_scrolls_into_view_is_copied_from_a_frame_coded_before() -> None:
    still, video = editor(160, 96, 12)
    moving, _ = editor(160, 96, 12, 3)
    sizes = [len(PROCEDURAL.encode(frames, video, settings(1, kind="canvas"))) for frames in (still, moving)]
    assert sizes[1] < 1.6 * sizes[0]


def test_a_real_screen_comes_back_exactly(read_clip: ReadClip) -> None:
    frames, video = read_clip("mixed360.mkv", 63)
    frames = Frames(frames.y[60:, :120, :160], frames.u[60:, :60, :80], frames.v[60:, :60, :80])
    video = replace(video, width=160, height=120)
    payload = PROCEDURAL.encode(frames, video, settings(1))
    assert payload[0] == CANVAS
    assert all(map(np.array_equal, PROCEDURAL.decode(payload, video, 3).planes(), frames.planes()))


def test_a_still_with_noise_is_its_mean_and_beats_a_video_encoder() -> None:
    picture = photograph()
    frames, video = noisy([picture] * 24, 4)
    points = []
    for quality in (0.2, 0.5, 0.8, 1):
        payload = PROCEDURAL.encode(frames, video, still_settings(quality))
        assert payload[0] == STILLS
        points.append((len(payload), psnr(PROCEDURAL.decode(payload, video, 24).y, frames.y)))
    assert points == sorted(points)
    bound = 20 * np.log10(255 / 4)
    assert bound - 2 < points[-1][1] < bound + 0.3, "no repeated picture is closer than the noise is strong"
    for quality in (0.7, 0.9):
        payload = strategies.get("x265").encode(frames, video, EncodeSettings(quality, "medium"))
        quality_there = psnr(strategies.get("x265").decode(payload, video, 24).y, frames.y)
        assert len(payload) > 1.25 * min(size for size, value in points if value >= min(quality_there, points[-1][1]))


def test_slides_fades_and_cross_fades_are_described() -> None:
    first = photograph()
    second = tuple(np.ascontiguousarray(plane[::-1, ::-1]) for plane in photograph())
    black = (np.full_like(first[0], 16), np.full_like(first[1], 128), np.full_like(first[2], 128))

    def between(one: tuple[np.ndarray, ...], other: tuple[np.ndarray, ...]) -> list[tuple[np.ndarray, ...]]:
        return [tuple(a + (b - a) * t / 15 for a, b in zip(one, other, strict=True)) for t in range(16)]

    scenes = {
        "slides": [first] * 8 + [second] * 8,
        "fade": between(black, first),
        "cross-fade": between(first, second),
    }
    for name, pictures in scenes.items():
        frames, video = noisy(pictures, 1)
        payload = PROCEDURAL.encode(frames, video, still_settings(0.8))
        assert payload[0] == STILLS, name
        assert psnr(PROCEDURAL.decode(payload, video, 16).y, frames.y) > 38, name
        other = strategies.get("x265")
        rival = other.encode(frames, video, EncodeSettings(0.8, "medium"))
        assert len(payload) < len(rival) or name == "slides", name


@pytest.mark.parametrize("name", ["parkjoy.mkv", "coffee720.mkv", "talk512.mkv"])
def test_scenes_that_move_are_refused_in_one_line_and_at_once(name: str, read_clip: ReadClip) -> None:
    frames, video = read_clip(name, 10)
    start = time.process_time()
    with pytest.raises(EncodeError, match="procedural") as refusal:
        PROCEDURAL.encode(frames, video, settings(0.5))
    assert time.process_time() - start < 3
    assert "\n" not in str(refusal.value)


def test_a_patch_that_moves_over_a_still_is_refused(moving_picture: MovingPicture) -> None:
    """The mean over the whole picture would not show it."""
    frames, video = noisy([photograph()] * 12, 2)
    small, _ = moving_picture(24, 24, 12)
    frames.y[:, 40:64, 60:84] = small.y
    with pytest.raises(EncodeError, match="moves"):
        PROCEDURAL.encode(frames, video, still_settings(0.5))


def test_the_same_input_gives_the_same_bytes() -> None:
    frames, video = editor(96, 64, 6, 2)
    assert len({PROCEDURAL.encode(frames, video, settings(0.6)) for _ in range(2)}) == 1


def test_unknown_settings_are_refused_by_name() -> None:
    frames, video = editor(64, 64, 2)
    for wrong in (
        EncodeSettings(0.5, preset="warp"),
        EncodeSettings(0.5, scale="5/4"),
        EncodeSettings(0.5, options={"still": "theora"}),
        EncodeSettings(0.5, options={"no-such-option": "1"}),
    ):
        with pytest.raises(BadInputError, match=r"warp|5/4|theora|no-such-option"):
            PROCEDURAL.encode(frames, video, wrong)


def test_the_coder_gives_back_what_it_was_given() -> None:
    rng = np.random.default_rng(1)
    values = [int(value) for value in np.concatenate([rng.integers(0, 9, 300), 2 ** rng.integers(0, 23, 50)])]
    encoder = ContextEncoder()
    bits = [int(bit) for bit in rng.random(3000) < 0.001]
    for value in values:
        encoder.signed(3, (value % 3,), -value if value % 2 else value)
    for bit in bits:
        encoder.bit(1, (1 << 90,), bit)
    decoder = ContextDecoder(encoder.finish())
    read = [decoder.signed(3, (value % 3,)) for value in values]
    assert read == [-value if value % 2 else value for value in values]
    assert [decoder.bit(1, (1 << 90,)) for _ in bits] == bits


def test_a_payload_of_another_length_is_refused_or_gives_frames() -> None:
    frames, video = editor(64, 48, 5)
    payload = PROCEDURAL.encode(frames, video, settings(1, kind="canvas"))
    for broken in (b"", b"\x09" + payload[1:], payload[:1], payload[: len(payload) // 2]):
        with pytest.raises(BitstreamError):
            PROCEDURAL.decode(broken, video, 5)


def damage(seed: int, trials: int) -> int:
    """Decode damaged payloads of both kinds; how many were refused. Anything but BitstreamError fails the test."""
    frames, video = editor(48, 40, 5, 2)
    still, still_video = noisy([photograph(64, 64)] * 5, 1)
    sources = [
        (PROCEDURAL.encode(frames, video, settings(0.4, kind="canvas")), frames, video),
        (PROCEDURAL.encode(still, still_video, still_settings(0.3)), still, still_video),
    ]
    rng = np.random.default_rng(seed)
    refused = 0
    for trial in range(trials):
        payload, original, its_video = sources[trial % 2]
        data = bytearray(payload[: rng.integers(1, len(payload) + 1)] if trial % 3 == 0 else payload)
        for position in rng.integers(len(data), size=rng.integers(1, 4)):
            data[position] = rng.integers(256)
        try:
            decoded = PROCEDURAL.decode(bytes(data), its_video, 5)
            assert [plane.shape for plane in decoded.planes()] == [plane.shape for plane in original.planes()]
        except BitstreamError:
            refused += 1
    return refused


def test_damaged_payloads_give_frames_or_a_bitstream_error() -> None:
    assert damage(11, 200) > 60


@pytest.mark.slow
def test_many_damaged_payloads_give_frames_or_a_bitstream_error() -> None:
    assert damage(12, 5000) > 1500


def test_a_payload_of_noise_ends_soon_however_large_its_scene_claims_to_be() -> None:
    video = VideoFormat(1920, 1080, Fraction(25))
    rng = np.random.default_rng(4)
    for kind in (CANVAS, STILLS, VIEWS):
        for _ in range(4):
            start = time.process_time()
            with pytest.raises(BitstreamError):
                PROCEDURAL.decode(bytes([kind]) + rng.bytes(400), video, 1000)
            assert time.process_time() - start < 5


def test_the_golden_payload_decodes_to_the_same_frames_for_ever() -> None:
    video = VideoFormat(40, 40, Fraction(30))
    decoded = PROCEDURAL.decode(bytes.fromhex(GOLDEN_PAYLOAD), video, 4)
    assert hashlib.blake2b(decoded.to_bytes(), digest_size=16).hexdigest() == GOLDEN_HASH
