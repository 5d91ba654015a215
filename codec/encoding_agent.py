"""The heavy agent: frames in, an .evc file out, one strategy chosen for each scene.

Owns the order of the work and what is reported about it. Cuts and features are `codec.scenes`'s, coding a
scene is a strategy's, the syntax of the file is `codec.bitstream`'s.

    frames -> split_scenes -> SceneClassifier -> CompressionStrategySelector -> EvcWriter
                                                 (encode, decode: closed loop)
"""

from __future__ import annotations

import io
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from typing import BinaryIO

from codec import strategies
from codec.bitstream import EvcWriter, frames_hash
from codec.config import CodecConfig
from codec.errors import BadInputError
from codec.frames import Frames, VideoFormat
from codec.scenes import SceneClass, SceneClassifier, split_scenes


@dataclass(frozen=True)
class Choice:
    """One scene coded: the strategy that won, its payload, and what the decoder will make of it."""

    payload: bytes
    decoded: Frames
    strategy: str
    tried: tuple[str, ...]
    why: str


@dataclass(frozen=True)
class SceneReport:
    """What became of one scene. `confidence` is the classifier's."""

    first_frame: int
    frames: int
    scene_class: SceneClass
    confidence: float
    features: Mapping[str, float]
    strategies_tried: tuple[str, ...]
    strategy: str
    why: str
    payload_bytes: int


@dataclass(frozen=True)
class EncodeReport:
    """What became of a clip. `bytes` is the length of the whole file."""

    scenes: tuple[SceneReport, ...]
    bytes: int
    warnings: tuple[str, ...] = ()

    @property
    def frames(self) -> int:
        return sum(scene.frames for scene in self.scenes)


class CompressionStrategySelector:
    """Chooses what codes a scene. Its policy is the configured strategy, whatever the features."""

    def choose(self, frames: Frames, video: VideoFormat, features: Mapping[str, float], config: CodecConfig) -> Choice:
        """Code the scene and decode it again. Raises EncodeError where the strategy fails."""
        strategy = strategies.get(config.strategy)
        payload = strategy.encode(frames, video, config.settings)
        decoded = strategy.decode(payload, video, len(frames))
        return Choice(payload, decoded, strategy.name, (strategy.name,), "fixed by config")


@dataclass(frozen=True)
class EncodingAgent:
    """Encodes clips by one config. Holds no state between clips."""

    config: CodecConfig
    classifier: SceneClassifier = field(default_factory=SceneClassifier)
    selector: CompressionStrategySelector = field(default_factory=CompressionStrategySelector)

    def encode(
        self,
        frames: Iterable[Frames],
        video: VideoFormat,
        sink: BinaryIO,
        on_progress: Callable[[int], None] | None = None,
    ) -> EncodeReport:
        """Write an .evc file into `sink`, a seekable file that is left open; at most one scene is held in memory.

        `frames` are runs of any length; `on_progress` is told the number of frames done after every scene. Raises
        BadInputError where there is no frame, EncodeError where a scene cannot be coded: what is in `sink` then
        says of itself that it is unfinished.
        """
        start = sink.tell()
        writer = EvcWriter(sink, video)
        reports: list[SceneReport] = []
        done = 0
        scenes = split_scenes(frames, video, self.config.max_scene_frames, self.config.scene_cuts)
        for scene in scenes:
            report = self._encode_scene(scene, video, done, writer)
            reports.append(report)
            done += report.frames
            if on_progress:
                on_progress(done)
        if not reports:
            raise BadInputError("there is no frame to encode: give a clip with at least one video frame")
        writer.close()
        return EncodeReport(tuple(reports), sink.tell() - start)

    def encode_bytes(self, frames: Frames, video: VideoFormat) -> tuple[bytes, EncodeReport]:
        """The same in memory."""
        sink = io.BytesIO()
        report = self.encode([frames], video, sink)
        return sink.getvalue(), report

    def _encode_scene(self, scene: Frames, video: VideoFormat, first: int, writer: EvcWriter) -> SceneReport:
        features = self.classifier.features(scene)
        scene_class, confidence = self.classifier.classify(features)
        choice = self.selector.choose(scene, video, features, self.config)
        code = strategies.get(choice.strategy).code
        writer.add_scene(len(scene), code, choice.payload, frames_hash(choice.decoded))
        return SceneReport(
            first_frame=first,
            frames=len(scene),
            scene_class=scene_class,
            confidence=confidence,
            features=features,
            strategies_tried=choice.tried,
            strategy=choice.strategy,
            why=choice.why,
            payload_bytes=len(choice.payload),
        )
