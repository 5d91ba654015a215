"""The built-in clip is the same bytes everywhere, and its scenes are what they are said to be."""

from __future__ import annotations

import hashlib
from fractions import Fraction

import numpy as np
import pytest

from codec.demo_clip import SCENE_FRAMES, demo_clip
from codec.frames import Frames, VideoFormat

SHA256 = "a6f84273420beb28b7f3e5758e3f7368746ca9b3540139490180607ac370b528"


@pytest.fixture(scope="module")
def clip() -> tuple[VideoFormat, Frames]:
    return demo_clip()


def difference(frames: Frames, first: int, second: int) -> float:
    return float(np.abs(frames.y[first].astype(int) - frames.y[second]).mean())


def test_it_is_the_same_bytes_on_every_machine(clip: tuple[VideoFormat, Frames]) -> None:
    video, frames = clip
    assert video == VideoFormat(320, 180, Fraction(25))
    assert len(frames) == 4 * SCENE_FRAMES
    assert hashlib.sha256(frames.to_bytes()).hexdigest() == SHA256


def test_cuts_are_hard_and_nothing_else_looks_like_one(clip: tuple[VideoFormat, Frames]) -> None:
    _, frames = clip
    steps = {index: difference(frames, index - 1, index) for index in range(1, len(frames))}
    cuts = {SCENE_FRAMES, 2 * SCENE_FRAMES, 3 * SCENE_FRAMES}
    assert min(steps[index] for index in cuts) > 1.25 * max(step for index, step in steps.items() if index not in cuts)


def test_the_first_scene_has_only_noise(clip: tuple[VideoFormat, Frames]) -> None:
    still = clip[1][:SCENE_FRAMES].y.astype(float)
    noise = still - still.mean(axis=0)
    assert 1 < noise.std() < 2.5
    neighbours = np.corrcoef(noise[:, :, :-1].ravel(), noise[:, :, 1:].ravel())[0, 1]
    assert abs(neighbours) < 0.01, "sensor noise is white"


def test_the_head_moves_and_the_room_does_not(clip: tuple[VideoFormat, Frames]) -> None:
    talk = clip[1][SCENE_FRAMES : 2 * SCENE_FRAMES].y
    assert (talk[:, :, 270:] == talk[0, :, 270:]).all()
    assert np.ptp(talk[:, 40:100, 110:190].astype(int), axis=0).mean() > 10


def test_the_last_scene_moves_16_samples_a_frame(clip: tuple[VideoFormat, Frames]) -> None:
    sweep = clip[1][3 * SCENE_FRAMES :].y
    for index in range(1, SCENE_FRAMES):
        assert (sweep[index - 1, 14:, 8:] == sweep[index, :-14, :-8]).all()
