"""The heavy agent: frames in, an .evc file out, one strategy chosen for each scene.

Owns the order of the work, scenes side by side, and what is reported about it. Cuts and features are `codec.scenes`'s,
choosing and coding are `codec.selector`'s, the syntax is `codec.bitstream`'s, hitting a bitrate or a quality
is `codec.rate_control`'s.

    frames -> split_scenes -> SceneClassifier -> CompressionStrategySelector -> EvcWriter
                                                 (encode, decode: closed loop)
"""

from __future__ import annotations

import io
import threading
from collections.abc import Callable, Iterable, Iterator, Mapping
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from dataclasses import asdict, dataclass, field
from typing import Any, BinaryIO

from codec import strategies
from codec.bitstream import EvcWriter
from codec.coding import Trial
from codec.config import CodecConfig
from codec.errors import BadInputError, EncodeError
from codec.frames import Frames, VideoFormat
from codec.scenes import SceneClass, SceneClassifier, split_scenes
from codec.selector import Choice, CompressionStrategySelector, SceneMemory

__all__ = ["Choice", "CompressionStrategySelector", "EncodeReport", "EncodingAgent", "SceneReport"]


@dataclass(frozen=True)
class SceneReport:
    """What became of one scene. `confidence` is the classifier's; `chosen` is one of `trials`."""

    first_frame: int
    frames: int
    scene_class: SceneClass
    confidence: float
    features: Mapping[str, float]
    strategies_tried: tuple[str, ...]
    strategy: str
    why: str
    payload_bytes: int
    chosen: Trial
    trials: tuple[Trial, ...]


@dataclass(frozen=True)
class EncodeReport:
    """What became of a clip. `bytes` is the length of the whole file."""

    scenes: tuple[SceneReport, ...]
    bytes: int
    warnings: tuple[str, ...] = ()

    @property
    def frames(self) -> int:
        return sum(scene.frames for scene in self.scenes)

    def facts(self) -> dict[str, Any]:
        """The same, ready for JSON: of each trial its coding, bytes and D, or why it failed."""
        return {
            "bytes": self.bytes,
            "frames": self.frames,
            "scenes": [
                {
                    **{name: getattr(scene, name) for name in SCENE_FACTS},
                    "features": dict(scene.features),
                    "chosen": _trial_facts(scene.chosen),
                    "trials": [_trial_facts(trial) for trial in scene.trials],
                }
                for scene in self.scenes
            ],
            "warnings": list(self.warnings),
        }


SCENE_FACTS = ("first_frame", "frames", "scene_class", "confidence", "strategy", "why", "payload_bytes")


def _trial_facts(trial: Trial) -> dict[str, Any]:
    coding = trial.coding
    return {
        **{name: getattr(coding, name) for name in ("strategy", "preset", "scale", "rate")},
        "options": dict(coding.options),
        "bytes": None if trial.failure else trial.bytes,
        "distortion": None if trial.failure else trial.distortion,
        "squared_errors": asdict(trial.errors) if trial.errors else None,
        "failure": trial.failure,
    }


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
        *,
        workers: int = 1,
        memories: list[SceneMemory] | None = None,
    ) -> EncodeReport:
        """Write an .evc file into `sink`, a seekable file that is left open; at most `workers` scenes are held.

        `frames` are runs of any length; `on_progress` is told the number of frames done, from any thread. `workers`
        scenes are coded side by side, in threads, since encoders work outside Python's lock; the bytes are the same
        whatever their number. `memories`, one a scene, carry trials from one encode of the clip to the next; missing
        ones are appended.

        Raises BadInputError where there is no frame, EncodeError, which names the frames, where a scene cannot be
        coded: what is in `sink` then says of itself that it is unfinished.
        """
        start = sink.tell()
        writer = EvcWriter(sink, video)
        reports: list[SceneReport] = []
        scenes = split_scenes(frames, video, self.config.max_scene_frames, self.config.scene_cuts)
        tasks = _tasks(scenes, [] if memories is None else memories)
        progress = _Progress(on_progress)
        for report, choice in self._coded(tasks, video, progress, workers):
            code = strategies.get(choice.strategy).code
            writer.add_scene(report.frames, code, choice.payload, choice.trial.frames_hash)
            reports.append(report)
        if not reports:
            raise BadInputError("there is no frame to encode: give a clip with at least one video frame")
        writer.close()
        return EncodeReport(tuple(reports), sink.tell() - start)

    def encode_bytes(self, frames: Frames, video: VideoFormat, *, workers: int = 1) -> tuple[bytes, EncodeReport]:
        """The same in memory."""
        sink = io.BytesIO()
        report = self.encode([frames], video, sink, workers=workers)
        return sink.getvalue(), report

    def _coded(self, tasks: Iterator[_Task], video: VideoFormat, progress: _Progress, workers: int) -> Iterator[_Coded]:
        """The scenes coded, in order. With one worker no thread is started: some places forbid it."""
        if workers == 1:
            for task in tasks:
                yield self._code_scene(task, video, progress)
            return
        pool = ThreadPoolExecutor(workers)
        running: set[Future[_Coded]] = set()
        done: dict[int, _Coded] = {}
        following = 0
        try:
            for task in tasks:
                running.add(pool.submit(self._code_scene, task, video, progress))
                if len(running) == workers:
                    running = _collect(running, done, FIRST_COMPLETED)
                while following in done:
                    coded = done.pop(following)
                    following += coded[0].frames
                    yield coded
            _collect(running, done, "ALL_COMPLETED")
            for first_frame in sorted(done):
                yield done[first_frame]
        finally:
            pool.shutdown(cancel_futures=True)

    def _code_scene(self, task: _Task, video: VideoFormat, progress: _Progress) -> _Coded:
        scene, first, memory = task
        features = self.classifier.features(scene)
        scene_class, confidence = self.classifier.classify(features)
        try:
            choice = self.selector.choose(
                scene,
                video,
                features,
                self.config,
                scene_class=scene_class,
                memory=memory,
                on_trial=lambda share: progress.update(first, int(len(scene) * share)),
            )
        except EncodeError as error:
            raise EncodeError(f"frames {first} to {first + len(scene) - 1}: {error}") from error
        progress.update(first, len(scene))
        report = SceneReport(
            first_frame=first,
            frames=len(scene),
            scene_class=scene_class,
            confidence=confidence,
            features=features,
            strategies_tried=choice.tried,
            strategy=choice.strategy,
            why=choice.why,
            payload_bytes=len(choice.payload),
            chosen=choice.trial,
            trials=choice.trials,
        )
        return report, choice


_Task = tuple[Frames, int, SceneMemory]
_Coded = tuple[SceneReport, Choice]


def _tasks(scenes: Iterator[Frames], memories: list[SceneMemory]) -> Iterator[_Task]:
    """Each scene with its first frame's number and its memory."""
    first = 0
    for index, scene in enumerate(scenes):
        if index == len(memories):
            memories.append(SceneMemory())
        yield scene, first, memories[index]
        first += len(scene)


def _collect(running: set[Future[_Coded]], done: dict[int, _Coded], until: str) -> set[Future[_Coded]]:
    """Move what is finished into `done`, by first frame; raises what a scene raised."""
    finished, still_running = wait(running, return_when=until)
    for future in finished:
        coded = future.result()
        done[coded[0].first_frame] = coded
    return still_running


class _Progress:
    """Frames done over scenes that are coded side by side."""

    def __init__(self, tell: Callable[[int], None] | None) -> None:
        self._tell = tell
        self._frames: dict[int, int] = {}
        self._lock = threading.Lock()

    def update(self, first_frame: int, frames: int) -> None:
        """So many frames of the scene that begins there are done, roughly."""
        if self._tell is None:
            return
        with self._lock:
            self._frames[first_frame] = frames
            self._tell(sum(self._frames.values()))
