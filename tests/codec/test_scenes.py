from __future__ import annotations

import numpy as np
import pytest

from codec.frames import Frames, VideoFormat
from codec.scenes import SceneClassifier, split_scenes
from tests.codec.conftest import MovingPicture, ReadClip


def test_hard_cuts_of_a_real_clip_are_found_exactly(read_clip: ReadClip) -> None:
    frames, video = read_clip("mixed360.mkv", 120)
    runs = [frames[:7], frames[7:50], frames[50:]]
    scenes = list(split_scenes(runs, video, 250))
    assert [len(scene) for scene in scenes] == [30, 30, 30, 30]
    assert np.array_equal(Frames.concatenate(scenes).y, frames.y)


@pytest.mark.parametrize("clip", ["parkjoy.mkv", "calendar.mkv"])
def test_motion_is_no_cut(clip: str, read_clip: ReadClip) -> None:
    frames, video = read_clip(clip, 41)
    assert len(list(split_scenes([frames], video, 250))) == 1


@pytest.mark.parametrize("cuts", [True, False])
@pytest.mark.parametrize(("count", "most"), [(1, 1), (9, 4), (12, 4), (5, 250)])
def test_long_scenes_are_split_and_no_frame_is_lost(
    cuts: bool, count: int, most: int, moving_picture: MovingPicture
) -> None:
    frames, video = moving_picture(17, 9, count)
    scenes = list(split_scenes((frames[i : i + 1] for i in range(count)), video, most, cuts))
    assert [len(scene) for scene in scenes] == [most] * (count // most) + [count % most] * (count % most > 0)
    for plane, original in zip(Frames.concatenate(scenes).planes(), frames.planes(), strict=True):
        assert np.array_equal(plane, original)


@pytest.mark.parametrize("cuts", [True, False])
def test_scenes_of_large_pictures_are_shorter(
    cuts: bool, moving_picture: MovingPicture, monkeypatch: pytest.MonkeyPatch
) -> None:
    frames, video = moving_picture(17, 9, 10)
    monkeypatch.setattr("codec.bitstream.MAX_SCENE_SAMPLES", 17 * 9 * 5 - 1)
    assert [len(scene) for scene in split_scenes([frames], video, 250, cuts)] == [4, 4, 2]
    assert [len(scene) for scene in split_scenes([frames], video, 3, cuts)] == [3, 3, 3, 1]


def test_at_most_one_scene_is_held(moving_picture: MovingPicture) -> None:
    frames, video = moving_picture(16, 16, 40)
    taken = 0

    def source() -> object:
        nonlocal taken
        for index in range(len(frames)):
            taken += 1
            yield frames[index : index + 1]

    next(split_scenes(source(), video, 10))  # type: ignore[arg-type]
    assert taken <= 14


def test_no_frames_give_no_scene(moving_picture: MovingPicture) -> None:
    frames, video = moving_picture(16, 16, 1)
    assert list(split_scenes([frames[:0]], video, 10)) == []


@pytest.mark.parametrize(
    ("clip", "expected"),
    [
        ("talk512.mkv", "talking_head"),
        ("coffee720.mkv", "moderate_motion"),
        ("parkjoy.mkv", "high_motion"),
        ("screen1080.mkv", "screen"),
    ],
)
def test_real_content_gets_its_class(clip: str, expected: str, read_clip: ReadClip) -> None:
    frames, _ = read_clip(clip, 20)
    classifier = SceneClassifier()
    name, confidence = classifier.classify(classifier.features(frames))
    assert name == expected
    assert 0.5 <= confidence <= 1


def test_noise_is_measured_and_is_not_taken_for_motion() -> None:
    noise = np.random.default_rng(1).normal(0, 4, (12, 96, 96))
    ramp = np.linspace(60, 180, 96)
    y = np.clip(ramp + noise, 0, 255).round().astype(np.uint8)
    chroma = np.full((12, 48, 48), 128, np.uint8)
    features = SceneClassifier().features(Frames(y, chroma, chroma))
    assert features["noise"] == pytest.approx(4, rel=0.1)
    assert features["motion"] == pytest.approx(4 * 1.128, rel=0.1)
    assert SceneClassifier().classify(features)[0] == "static"


@pytest.mark.parametrize("size", [(1, 1), (2, 1), (3, 7)])
@pytest.mark.parametrize("count", [1, 2])
def test_tiny_scenes_have_finite_features(size: tuple[int, int], count: int, moving_picture: MovingPicture) -> None:
    frames, video = moving_picture(*size, count)
    assert isinstance(video, VideoFormat)
    features = SceneClassifier().features(frames)
    assert all(np.isfinite(value) for value in features.values())
    assert SceneClassifier().classify(features)[0]
