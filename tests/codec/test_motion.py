"""Motion that the decoder finds for itself: it finds what moved, and always the same."""

from __future__ import annotations

import cv2
import numpy as np
import pytest

from codec.networks.motion import aligned, moved
from tests.codec.conftest import ReadClip


def texture(height: int, width: int) -> np.ndarray:
    noise = np.random.default_rng(4).normal(0, 60, (height, width)).astype(np.float32)
    smooth = np.asarray(cv2.GaussianBlur(noise, (0, 0), 2))
    return np.clip(128 + 2 * smooth, 0, 255).astype(np.uint8)


@pytest.mark.parametrize("shift", [(0, 0), (3, -2), (-11, 7), (0, 24)])
def test_a_shift_is_found(shift: tuple[int, int]) -> None:
    wide = texture(200, 264)
    current = wide[30:-30, 30:-30]
    reference = wide[30 + shift[0] : 170 + shift[0], 30 + shift[1] : 234 + shift[1]]
    moved = aligned(current, reference)
    inner = (slice(30, -30), slice(30, -30))
    assert np.abs(moved[inner].astype(int) - current[inner]).mean() < 0.2


def test_a_half_sample_shift_is_interpolated() -> None:
    wide = texture(136, 200).astype(np.int32)
    halfway = ((wide[:, 1:] + wide[:, :-1] + 1) // 2).astype(np.uint8)
    current, reference = wide[:, :-1].astype(np.uint8), halfway
    still = np.abs(reference.astype(int) - current)[8:-8, 8:-8].mean()
    assert np.abs(aligned(current, reference).astype(int) - current)[8:-8, 8:-8].mean() < 0.35 * still


def test_real_neighbours_come_closer(read_clip: ReadClip) -> None:
    frames, _ = read_clip("parkjoy.mkv", 2)
    current, reference = frames.y
    before = np.abs(reference.astype(int) - current).mean()
    assert np.abs(aligned(current, reference).astype(int) - current).mean() < 0.6 * before


@pytest.mark.parametrize("size", [(1, 1), (7, 90), (64, 64), (65, 130)])
def test_any_size_gives_a_plane_of_that_size(size: tuple[int, int]) -> None:
    current = texture(*size)
    assert np.array_equal(aligned(current, current), current)
    assert aligned(current, 255 - current).shape == size


@pytest.mark.parametrize(
    ("size", "zoom"), [((64, 96), 1), ((64, 96), 2), ((64, 96), 4), ((8, 32752), 1), ((64, 40000), 4)]
)
@pytest.mark.parametrize("reach", [3, 200, 100_000])
def test_samples_are_read_where_the_vectors_point_and_at_the_edge_beyond_it(
    size: tuple[int, int], zoom: int, reach: int
) -> None:
    height, width = size
    rng = np.random.default_rng(reach)
    source = rng.integers(0, 256, size, np.uint8)
    vectors = rng.integers(-reach, reach + 1, (2, height // zoom // 8 or 1, width // zoom // 8), np.int32)
    found = moved(source, zoom, vectors)
    assert found.shape == (height // zoom, width // zoom)
    for row, column in rng.integers(0, found.shape, (200, 2)):
        down, right = vectors[:, row // 8, column // 8]
        there = min(max(row * zoom + down, 0), height - 1), min(max(column * zoom + right, 0), width - 1)
        assert found[row, column] == source[there]


def test_it_is_the_same_with_any_number_of_threads() -> None:
    current, reference = texture(150, 250), np.roll(texture(150, 250), 5, axis=1)
    before = cv2.getNumThreads()
    try:
        found = []
        for threads in (1, 4):
            cv2.setNumThreads(threads)
            found.append(aligned(current, reference))
    finally:
        cv2.setNumThreads(before)
    assert np.array_equal(found[0], found[1])
