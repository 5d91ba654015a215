"""Clips as the harness holds them: frames in memory, identified by their content.

Owns loading, hashing and whatever depends on the clip alone and not on a candidate, computed once. Reading files is
`codec.video`'s, finding scenes `codec.scenes`'s.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from fractions import Fraction
from functools import cached_property
from typing import Final

import cv2
import numpy as np

from codec.errors import BadInputError
from codec.frames import Frames, VideoFormat
from codec.quality import psnr, squared_error
from tasks.campaign import Limits
from tasks.execute.fetch import fetched

DEMO: Final = "demo"
# A drawn clip loses up to this many samples a side at random: enough that no block or edge lies where it lay before.
CROP_SAMPLES: Final = 16
# And it starts anywhere in so much of its length.
SKIPPED_SHARE: Final = 0.25
# Python with torch, numpy and PyAV imported holds a data segment of 180 to 210 MB; the rest is for the agent's work.
BASE_MB: Final = 512


@dataclass(frozen=True)
class Scene:
    """One scene of the original, as the trusted side sees it."""

    first_frame: int
    frames: int
    features: Mapping[str, float]

    @property
    def span(self) -> slice:
        return slice(self.first_frame, self.first_frame + self.frames)


@dataclass(frozen=True)
class ClipShape:
    """What a decoder's answer must look like; all that is known of a clip where its frames are not."""

    name: str
    frames: int
    width: int
    height: int

    @property
    def planar_bytes(self) -> int:
        return self.frames * VideoFormat(self.width, self.height, Fraction(1)).frame_bytes


@dataclass(frozen=True)
class LoadedClip:
    """A clip in memory.

    name          as the user gave it
    planar        the frames one after the other, as `Frames.to_bytes` writes them
    content_hash  SHA-256 of format and frames
    warnings      what was changed on the way from the file to 8-bit 4:2:0
    """

    name: str
    video: VideoFormat
    planar: bytes
    content_hash: str
    warnings: tuple[str, ...] = ()

    @classmethod
    def of(cls, name: str, video: VideoFormat, frames: Frames, warnings: Iterable[str] = ()) -> LoadedClip:
        """Raises BadInputError where there is no frame."""
        if not len(frames):
            raise BadInputError(f"{name}: there is no frame to measure")
        planar = frames.to_bytes()
        digest = hashlib.sha256(f"{video.width}x{video.height} {video.frame_rate} {video.color}\n".encode())
        digest.update(planar)
        return cls(name, video, planar, digest.hexdigest(), tuple(warnings))

    @cached_property
    def frames(self) -> Frames:
        """Views of `planar`, not copies."""
        return Frames.from_bytes(self.planar, self.video)

    @property
    def shape(self) -> ClipShape:
        return ClipShape(self.name, len(self.frames), self.video.width, self.video.height)

    @cached_property
    def scenes(self) -> tuple[Scene, ...]:
        """Split as the codec splits by default, so that its own scenes are found again."""
        from codec.config import CodecConfig
        from codec.scenes import SceneClassifier, split_scenes

        classifier = SceneClassifier()
        scenes: list[Scene] = []
        first_frame = 0
        for part in split_scenes([self.frames], self.video, CodecConfig.parse({}).max_scene_frames):
            scenes.append(Scene(first_frame, len(part), classifier.features(part)))
            first_frame += len(part)
        return tuple(scenes)


def load_clip(name: str, max_frames: int) -> LoadedClip:
    """The first `max_frames` frames of the file or S3 object `name`, or of the built-in clip where it is "demo".

    Raises BadInputError where the file is no video or has no frame.
    """
    if name == DEMO:
        from codec.demo_clip import demo_clip

        video, frames = demo_clip()
        return LoadedClip.of(name, video, frames[:max_frames])
    from codec.video import open_video

    with fetched(name) as path, open_video(path) as reader:
        frames = reader.read(max_frames)
        return LoadedClip.of(name, reader.format, frames, reader.warnings)


def draw_clip(name: str, max_frames: int, seed: int) -> LoadedClip:
    """A stretch and crop of the clip, chosen by `seed` and the name: at most `max_frames` frames, a little smaller.

    A codec that has seen the clip has not seen these frames. Raises as `load_clip`.
    """
    # What can be skipped has to be read: the stretch, and as many frames before it as its share says.
    whole = load_clip(name, max_frames + int(max_frames * SKIPPED_SHARE))
    generator = np.random.default_rng([seed, *name.encode()])
    count = len(whole.frames)
    length = min(max_frames, count - int(count * SKIPPED_SHARE))
    first = int(generator.integers(0, count - length + 1))
    video = whole.video
    margins = [CROP_SAMPLES if side >= 4 * CROP_SAMPLES else 0 for side in (video.width, video.height)]
    left, top = (int(generator.integers(0, margin // 2 + 1)) * 2 for margin in margins)  # even: chroma stays in place
    size = (video.width - margins[0], video.height - margins[1])
    frames = _cropped(whole.frames[first : first + length], left, top, *size)
    return LoadedClip.of(name, replace(video, width=size[0], height=size[1]), frames, whole.warnings)


def _cropped(frames: Frames, left: int, top: int, width: int, height: int) -> Frames:
    planes = []
    for index, plane in enumerate(frames.planes()):
        step = 2 if index else 1
        columns, rows = -(-width // step), -(-height // step)
        planes.append(plane[:, top // step : top // step + rows, left // step : left // step + columns])
    return Frames(*(np.ascontiguousarray(plane) for plane in planes))


def tiny_clip(seed: int, frames: int = 2, side: int = 64) -> LoadedClip:
    """A small clip that nobody has seen before: a random smooth texture that drifts, `side` samples a side."""
    generator = np.random.default_rng(seed)
    planes = []
    for size in (side, side // 2, side // 2):
        drift = generator.integers(-2, 3, 2)
        coarse = generator.integers(0, 256, (size // 8 + 1, size // 8 + 1), np.uint8)
        texture = cv2.resize(coarse, (2 * size, 2 * size), interpolation=cv2.INTER_CUBIC)
        pictures = [np.roll(texture, tuple(drift * index), (0, 1))[:size, :size] for index in range(frames)]
        planes.append(np.ascontiguousarray(np.stack(pictures)))
    return LoadedClip.of(f"texture {seed}", VideoFormat(side, side, Fraction(25)), Frames(*planes))


def mirrored(clip: LoadedClip) -> LoadedClip:
    """The same clip as in a mirror: as hard to code, and other bytes throughout."""
    planes = (np.ascontiguousarray(plane[:, :, ::-1]) for plane in clip.frames.planes())
    return LoadedClip.of(f"{clip.name}, mirrored", clip.video, Frames(*planes))


def excerpt(clip: LoadedClip, frames: int) -> LoadedClip:
    """Its first frames."""
    return LoadedClip.of(clip.name, clip.video, clip.frames[:frames])


def luma_psnr(planar: bytes, clip: LoadedClip) -> float:
    """PSNR-Y in dB of decoded planar frames of the clip's shape."""
    luma = clip.frames.y
    return psnr(squared_error(luma, Frames.from_bytes(planar, clip.video).y) / luma.size)


def clip_set_hash(clips: Iterable[LoadedClip]) -> str:
    """SHA-256 of the contents in the order given; equal for the same frames under other names."""
    return hashlib.sha256("\n".join(clip.content_hash for clip in clips).encode()).hexdigest()


def require_memory(clip: LoadedClip, limits: Limits) -> None:
    """Raises BadInputError where the clip's tensor alone would break the memory limit of a candidate's process."""
    count, video = len(clip.frames), clip.video
    needed_mb = BASE_MB + -(-3 * count * video.width * video.height // 2**20)
    if needed_mb > limits.memory_mb:
        raise BadInputError(
            f"{clip.name}: {count} frames of {video.width}x{video.height} need {needed_mb} MB in a candidate's process "
            f"and limits.memory_mb is {limits.memory_mb}: raise it, or lower max_frames"
        )
