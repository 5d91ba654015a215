"""Scenes: where they begin, and what kind of content each holds.

Owns cut detection and the cheap features that a strategy may be chosen by. The choice itself is
`codec.encoding_agent`'s.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Literal

import cv2
import numpy as np
import numpy.typing as npt

from codec.bitstream import most_scene_frames
from codec.frames import Frames, Plane, VideoFormat

SceneClass = Literal["static", "talking_head", "moderate_motion", "high_motion", "screen"]

# Frame differences on a thumbnail of this width find cuts as well as full pictures do, and far quicker.
THUMBNAIL_WIDTH = 160
# A scene shorter than this is not worth its key frame; flashes are shorter.
MIN_SCENE_FRAMES = 8
MAX_PAIRS = 32
HIGH_MOTION = 6.0
BLOCK = 8
# Grey levels of mean difference within a block up to which it counts as unchanged, noise aside.
STATIC_BLOCK_DIFFERENCE = 1.0
# Median of |N(0, 1)|, by which a median absolute deviation becomes a standard deviation.
MAD_OF_NORMAL = 0.6745
# Mean absolute difference of two pictures with white noise of sigma 1: 2 / sqrt(pi).
NOISE_DIFFERENCE = 1.128
# Immerkær 1996: blind to linear ramps; its output for white noise of sigma 1 has a sigma of 6.
NOISE_KERNEL = np.array([[1, -2, 1], [-2, 4, -2], [1, -2, 1]], dtype=np.float32)
NOISE_GAIN = 6.0


def split_scenes(
    frames: Iterable[Frames], video: VideoFormat, max_scene_frames: int, cuts: bool = True
) -> Iterator[Frames]:
    """Cut a stream of frames, in runs of any length, into scenes of at most `max_scene_frames` frames.

    Pictures so large that the bitstream has no place for as many get shorter scenes (`most_scene_frames`). Holds one
    scene and the detector's few frames of delay in memory. With `cuts` False every scene but the last has exactly the
    most frames.
    """
    most = min(max_scene_frames, most_scene_frames(video))
    detector = _CutDetector() if cuts else None
    delay = detector.delay if detector else 0
    pending: list[Frames] = []
    start = 0
    for run in frames:
        for index in range(len(run)):
            pending.append(run[index : index + 1])
            cut = detector.push(pending[-1], video) if detector else None
            if cut is not None and start < cut < start + len(pending):
                length = cut - start
            elif len(pending) >= most + delay:
                length = most
            else:
                continue
            yield Frames.concatenate(pending[:length])
            pending, start = pending[length:], start + length
    for first in range(0, len(pending), most):
        yield Frames.concatenate(pending[first : first + most])


class _CutDetector:
    """PySceneDetect's adaptive detector on thumbnails: a cut must stand out from the frames around it."""

    def __init__(self) -> None:
        from scenedetect.detectors import AdaptiveDetector

        self._detector = AdaptiveDetector(min_scene_len=MIN_SCENE_FRAMES)
        self.delay = int(self._detector.event_buffer_length)
        self._frames_seen = 0

    def push(self, frame: Frames, video: VideoFormat) -> int | None:
        """Take the next frame; the number of the frame that starts a new scene, once that is known."""
        from scenedetect import FrameTimecode

        # The rate only labels the positions: what is read back is the frame number.
        timecode = FrameTimecode(self._frames_seen, 25.0)
        self._frames_seen += 1
        found = self._detector.process_frame(timecode, _thumbnail(frame, video))
        return int(found[0].frame_num) if found else None


def _thumbnail(frame: Frames, video: VideoFormat) -> npt.NDArray[np.uint8]:
    width = min(THUMBNAIL_WIDTH, video.width)
    size = (width, max(1, round(width * video.height / video.width)))
    planes = [cv2.resize(plane[0], size, interpolation=cv2.INTER_AREA) for plane in frame.planes()]
    picture: npt.NDArray[np.uint8] = cv2.cvtColor(cv2.merge(planes), cv2.COLOR_YUV2BGR)
    return picture


class SceneClassifier:
    """Features of a scene's luma from at most 32 pairs of neighbouring frames, and a class by plain thresholds."""

    def features(self, frames: Frames) -> dict[str, float]:
        """Cheap features of one scene, in 8-bit grey levels unless stated.

        motion        mean absolute difference between neighbouring frames
        texture       mean absolute horizontal and vertical gradient
        noise         robust sigma of white noise (Immerkær's kernel, median absolute deviation)
        static_share  share of 8×8 blocks whose mean absolute difference is within 1 beyond what noise causes
        flat_share    share of samples equal to their left neighbour, 0 to 1
        fade          change of the mean level between the first and the last frame looked at
        """
        luma = frames.y
        pairs = _pair_starts(len(luma))
        stills = luma[_spread(len(luma), 4)]
        noise = _mean([_noise_sigma(still) for still in stills], 0.0)
        differences = [cv2.absdiff(luma[first], luma[first + 1]) for first in pairs]
        limit = STATIC_BLOCK_DIFFERENCE + NOISE_DIFFERENCE * noise
        means = [float(luma[index].mean()) for index in (0, len(luma) - 1)]
        return {
            "motion": _mean([float(d.mean()) for d in differences], 0.0),
            "texture": _mean([_gradient(still) for still in stills], 0.0),
            "noise": noise,
            "static_share": _mean([_static_share(d, limit) for d in differences], 1.0),
            "flat_share": _mean([_flat_share(still) for still in stills], 1.0),
            "fade": abs(means[1] - means[0]),
        }

    def classify(self, features: dict[str, float]) -> tuple[SceneClass, float]:
        """The class, and how sure it is: 0.5 at a threshold, towards 1 away from it."""
        motion = max(0.0, features["motion"] - NOISE_DIFFERENCE * features["noise"])
        if features["flat_share"] > 0.8 and features["noise"] < 0.5:
            return "screen", _confidence(features["flat_share"], 0.8)
        if features["static_share"] > 0.97:
            return "static", _confidence(features["static_share"], 0.97)
        if motion > HIGH_MOTION:
            return "high_motion", _confidence(motion, HIGH_MOTION)
        if features["static_share"] > 0.6 and motion < HIGH_MOTION / 2:
            return "talking_head", _confidence(features["static_share"], 0.6)
        return "moderate_motion", _confidence(HIGH_MOTION, motion)


def _confidence(value: float, threshold: float) -> float:
    return value / (value + threshold) if value + threshold else 1.0


def _spread(count: int, most: int) -> npt.NDArray[np.int64]:
    """At most `most` different indices, evenly spread over `count`."""
    return np.unique(np.linspace(0, count - 1, min(count, most)).round().astype(np.int64))


def _pair_starts(count: int) -> npt.NDArray[np.int64]:
    return _spread(count - 1, MAX_PAIRS) if count > 1 else np.empty(0, dtype=np.int64)


def _mean(values: list[float], of_none: float) -> float:
    return sum(values) / len(values) if values else of_none


def _flat_share(luma: Plane) -> float:
    return float((luma[:, 1:] == luma[:, :-1]).mean()) if luma.shape[1] > 1 else 1.0


def _gradient(luma: Plane) -> float:
    wide = luma.astype(np.int16)
    steps = [np.abs(np.diff(wide, axis=axis)) for axis in (0, 1)]
    return _mean([float(step.mean()) for step in steps if step.size], 0.0)


def _noise_sigma(luma: Plane) -> float:
    if min(luma.shape) < 3:
        return 0.0
    response = cv2.filter2D(luma.astype(np.float32), -1, NOISE_KERNEL)[1:-1, 1:-1]
    return float(np.median(np.abs(response)) / MAD_OF_NORMAL / NOISE_GAIN)


def _static_share(difference: Plane, limit: float) -> float:
    rows, columns = (max(1, side // BLOCK) for side in difference.shape)
    # INTER_AREA over whole blocks is their exact mean.
    whole = difference[: rows * BLOCK, : columns * BLOCK].astype(np.float32)
    blocks = cv2.resize(whole, (columns, rows), interpolation=cv2.INTER_AREA)
    return float((blocks <= limit).mean())
