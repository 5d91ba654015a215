from __future__ import annotations

from fractions import Fraction

import cv2
import numpy as np
import pytest

from codec.frames import Frames, VideoFormat
from codec.resample import SCALES, _phase_taps, enlarge, enlarge_finely, resize_plane, scaled_format, shrink
from tests.codec.conftest import MovingPicture, ReadClip

SMALLER = [scale for scale in SCALES if scale != "1"]
RATIOS = [ratio for scale in SMALLER for ratio in (SCALES[scale], 1 / SCALES[scale])]


def psnr(one: np.ndarray, other: np.ndarray) -> float:
    return float(10 * np.log10(255**2 / np.mean((one.astype(np.float64) - other) ** 2)))


@pytest.mark.parametrize("ratio", RATIOS)
def test_every_phase_sums_to_128_and_no_tap_lies_near_a_rounding_boundary(ratio: Fraction) -> None:
    """Were a tap near half an integer, another machine's sine could round it differently."""
    from codec import resample

    for phase in range(ratio.numerator):
        first, taps = _phase_taps(ratio, phase)
        assert sum(taps) == 128
        stretch = max(Fraction(1), 1 / ratio)
        centre = (phase + Fraction(1, 2)) / ratio - Fraction(1, 2)
        exact = [resample._lanczos(float((first + tap - centre) / stretch)) for tap in range(len(taps))]
        scaled = [128 * weight / sum(exact) for weight in exact]
        assert min(abs(abs(weight) % 1 - 0.5) for weight in scaled) > 1e-6
        # Both passes at full precision stay within 32-bit integers.
        assert 255 * sum(map(abs, taps)) ** 2 + (1 << 13) < 2**31


@pytest.mark.parametrize("scale", SMALLER)
@pytest.mark.parametrize("size", [(1, 1), (2, 3), (17, 33), (64, 48)])
def test_a_constant_stays_constant_at_any_size(scale: str, size: tuple[int, int]) -> None:
    video = VideoFormat(*size, Fraction(25))
    flat = Frames(
        np.full((2, video.height, video.width), 201, np.uint8),
        np.full((2, video.chroma_height, video.chroma_width), 3, np.uint8),
        np.full((2, video.chroma_height, video.chroma_width), 255, np.uint8),
    )
    small = shrink(flat, video, scale)
    assert small.y.shape == (2, scaled_format(video, scale).height, scaled_format(video, scale).width)
    back = enlarge(small, video, scale)
    for plane, original in zip((*small.planes(), *back.planes()), flat.planes() * 2, strict=True):
        assert np.unique(plane).tolist() == [original[0, 0, 0]]
    assert [plane.shape for plane in back.planes()] == [plane.shape for plane in flat.planes()]


def plain_sums(picture: np.ndarray, ratio: Fraction, height: int, width: int) -> np.ndarray:
    """The resampled picture times 2**14, sample by sample."""

    def taps(position: int) -> list[tuple[int, int]]:
        turn, phase = divmod(position, ratio.numerator)
        first, weights = _phase_taps(ratio, phase)
        return [(turn * ratio.denominator + first + tap, weight) for tap, weight in enumerate(weights)]

    last = [side - 1 for side in picture.shape]
    sums = [
        sum(
            down * across * int(picture[min(max(source_row, 0), last[0]), min(max(source_column, 0), last[1])])
            for source_row, down in taps(row)
            for source_column, across in taps(column)
        )
        for row in range(height)
        for column in range(width)
    ]
    return np.array(sums).reshape(height, width)


@pytest.mark.parametrize("ratio", RATIOS)
def test_equals_plain_integer_arithmetic(ratio: Fraction) -> None:
    picture = np.random.default_rng(3).integers(0, 256, (1, 13, 11), dtype=np.uint8)
    height, width = (-(-side * ratio.numerator // ratio.denominator) for side in picture.shape[1:])
    got = resize_plane(picture, ratio, (height, width))[0]
    assert np.array_equal(got, np.clip((plain_sums(picture[0], ratio, height, width) + 8192) >> 14, 0, 255))


@pytest.mark.parametrize("scale", SMALLER)
def test_remainders_are_what_rounding_took(scale: str) -> None:
    video = VideoFormat(22, 14, Fraction(25))
    small = scaled_format(video, scale)
    rng = np.random.default_rng(5)
    luma, chroma = (2, small.height, small.width), (2, small.chroma_height, small.chroma_width)
    frames = Frames(*(rng.integers(0, 256, shape, dtype=np.uint8) for shape in (luma, chroma, chroma)))
    enlarged, remainders = enlarge_finely(frames, video, scale)
    assert enlarged.to_bytes() == enlarge(frames, video, scale).to_bytes()
    for plane, fine, taken in zip(frames.planes(), enlarged.planes(), remainders.planes(), strict=True):
        for index in range(2):
            exact = plain_sums(plane[index], 1 / SCALES[scale], *fine.shape[1:]) / 2**14
            inside = (exact > 0) & (exact < 255)
            told = fine[index] + taken[index] / 16
            assert np.abs(told - exact)[inside].max() <= 1 / 16


@pytest.mark.parametrize("scale", SMALLER)
def test_there_and_back_beats_area_and_linear_on_real_pictures(scale: str, read_clip: ReadClip) -> None:
    frames, video = read_clip("parkjoy.mkv", 2)
    small = scaled_format(video, scale)
    ours = psnr(enlarge(shrink(frames, video, scale), video, scale).y, frames.y)
    plain = np.stack(
        [
            cv2.resize(
                cv2.resize(picture, (small.width, small.height), interpolation=cv2.INTER_AREA),
                (video.width, video.height),
                interpolation=cv2.INTER_LINEAR,
            )
            for picture in frames.y
        ]
    )
    assert ours > psnr(plain, frames.y) + 0.5


def test_full_size_is_untouched(moving_picture: MovingPicture) -> None:
    frames, video = moving_picture(20, 10, 2)
    assert shrink(frames, video, "1") is frames
