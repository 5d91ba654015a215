"""The trusted harness: runs a candidate's two agents on clips at rate points, and has the results measured.

Owns what each process is given, what its failure means, and the order of the work. How a process is held is
`tasks.execute.isolation`'s, numbers are `tasks.measure.score`'s.

    clip -> [encode process] -> bytes -> [decode process] -> frames -> score, beside the original
                                   \\---> [operations process], once per clip

Invariants:
- the decoder gets the bytes and the candidate's own config with the rate knob set; nothing that the encoder added;
- numbers come from the bytes and the frames; what a candidate says of itself is recorded as a claim and not used;
- an experiment is measured whole or not at all: the first point that fails ends it, and stops the others.
"""

from __future__ import annotations

import json
import math
import threading
from collections.abc import Callable, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from dataclasses import astuple, dataclass, field
from typing import Final

from codec.complexity import per_1080p_frame
from codec.errors import BadInputError, BitstreamError, MeasurementError
from codec.frames import Frames
from tasks.campaign import Limits
from tasks.candidate import Candidate, problems
from tasks.execute import child
from tasks.execute.clips import LoadedClip, require_memory
from tasks.execute.isolation import Isolation, Job, Outcome, OutcomeStatus, Role
from tasks.measure.score import CodedClip, score
from tasks.store.records import PointRecord, SceneRecord, Status

# What a failed process makes of the experiment. Only what is surely not the candidate's fault is infrastructure.
STATUS: Final[dict[OutcomeStatus, Status]] = {
    "invalid": "invalid",
    "oversized": "invalid",
    "crashed": "crashed",
    "memory": "crashed",
    "timeout": "timeout",
    "stopped": "infrastructure",
    "unready": "infrastructure",
}
# An encoder may make more of noise than there was, but not by much.
ENCODE_SLACK_BYTES: Final = 1024 * 1024
# Counting watches every dispatched operation and then runs the network a second time.
OPERATIONS_TIME_FACTOR: Final = 3.0
POLL_SECONDS: Final = 0.2


@dataclass(frozen=True)
class Progress:
    """`done` of `total` rate points are measured; `text` names the last one."""

    done: int
    total: int
    text: str


@dataclass(frozen=True)
class Evaluation:
    """What came of one experiment. `points`, `scenes` and `bitstreams` are empty unless status is "measured".

    stage       the last stage reached: design, encode, decode, measure, done
    reason      one line, naming clip and quality; empty when measured
    log         the end of what its processes printed
    isolation   name of the isolation it ran in
    bitstreams  by SHA-256
    """

    status: Status
    stage: str
    isolation: str
    decoder_source_bytes: int
    reason: str = ""
    log: str = ""
    points: tuple[PointRecord, ...] = ()
    scenes: tuple[SceneRecord, ...] = ()
    bitstreams: dict[str, bytes] = field(default_factory=dict)


def evaluate(
    candidate: Candidate,
    clips: Sequence[LoadedClip],
    *,
    campaign: str,
    experiment_id: str,
    qualities: Sequence[float],
    limits: Limits,
    isolation: Isolation,
    workers: int = 2,
    count_payload_only: bool = False,
    on_progress: Callable[[Progress], None] | None = None,
    cancelled: Callable[[], bool] | None = None,
) -> Evaluation:
    """Run and measure `candidate` on every clip at every quality, `workers` points at a time.

    Points and scenes come in the order of clips, then qualities. A candidate's failure is a status, never an error.
    `count_payload_only` is for anchors: they are charged their elementary streams alone. `on_progress` and
    `cancelled` are called from the calling thread; a cancelled experiment is `infrastructure`.

    Raises BadInputError where a clip does not fit into the limits. Whatever is raised, also KeyboardInterrupt, no
    process is left.
    """
    for clip in clips:
        require_memory(clip, limits)
    if not clips or not qualities:
        raise BadInputError("an experiment needs at least one clip and one rate point")
    found = problems(candidate)
    if found:
        return Evaluation("invalid", "design", isolation.name, candidate.decoder_source_bytes, reason="; ".join(found))
    experiment = _Experiment(candidate, limits, isolation, campaign, experiment_id, count_payload_only)
    work = [(clip, quality, index == 0) for clip in clips for index, quality in enumerate(qualities)]
    for clip in clips:
        _ = clip.scenes  # once, and before the threads meet there
    try:
        results = _run_all(experiment, work, workers, on_progress, cancelled)
    except _PointFailed as failure:
        return Evaluation(
            failure.status,
            failure.stage,
            isolation.name,
            candidate.decoder_source_bytes,
            reason=failure.reason,
            log=failure.log,
        )
    points = _with_operations(results)
    return Evaluation(
        "measured",
        "done",
        isolation.name,
        candidate.decoder_source_bytes,
        log="".join(result.log for result in results)[-limits.log_kb * 1024 :],
        points=points,
        scenes=tuple(scene for result in results for scene in result.scenes),
        bitstreams={result.point.bitstream_hash: result.bitstream for result in results},
    )


@dataclass(frozen=True)
class _Operations:
    """Tera-operations a 1080p frame; None where a way of counting does not apply."""

    thop: float | None
    flop_counter: float | None

    @property
    def larger(self) -> float | None:
        counts = [count for count in (self.thop, self.flop_counter) if count is not None]
        return max(counts, default=None)


@dataclass(frozen=True)
class _PointResult:
    point: PointRecord
    scenes: tuple[SceneRecord, ...]
    bitstream: bytes
    log: str
    operations: _Operations | None  # only at the first quality of each clip


class _PointFailed(Exception):  # noqa: N818 - a result on its way up, not an error
    def __init__(self, status: Status, stage: str, reason: str, log: str = "") -> None:
        super().__init__(reason)
        self.status, self.stage, self.reason, self.log = status, stage, reason, log


_Work = tuple[LoadedClip, float, bool]


def _run_all(
    experiment: _Experiment,
    work: Sequence[_Work],
    workers: int,
    on_progress: Callable[[Progress], None] | None,
    cancelled: Callable[[], bool] | None,
) -> list[_PointResult]:
    """The results in the order of `work`. Raises the first failure, when all other points have been stopped."""
    with ThreadPoolExecutor(workers, thread_name_prefix="rate-point") as pool:
        try:
            futures: dict[Future[_PointResult], _Work] = {
                pool.submit(experiment.run_point, *item): item for item in work
            }
            pending, done = set(futures), 0
            while pending:
                finished, pending = wait(pending, POLL_SECONDS, return_when=FIRST_COMPLETED)
                for future in finished:
                    future.result()
                    done += 1
                    if on_progress:
                        clip, quality, _ = futures[future]
                        on_progress(Progress(done, len(work), f"{clip.name} at quality {quality:g}"))
                if cancelled and cancelled():
                    raise _PointFailed("infrastructure", "encode", "cancelled")
            return [future.result() for future in futures]
        finally:
            # Leaving the pool waits for its threads, so they have to be told first.
            experiment.stop.set()
            pool.shutdown(wait=False, cancel_futures=True)


@dataclass(frozen=True)
class _Experiment:
    """What all points of one experiment share. `run_point` is called from several threads at once."""

    candidate: Candidate
    limits: Limits
    isolation: Isolation
    campaign: str
    experiment_id: str
    count_payload_only: bool
    stop: threading.Event = field(default_factory=threading.Event)

    def run_point(self, clip: LoadedClip, quality: float, count_operations: bool) -> _PointResult:
        """Encode, decode and score one point. Raises _PointFailed."""
        where = f"{clip.name} at quality {quality:g}"
        # Rate and colour are the clip's, not the candidate's: rate control needs the one, players the other. The
        # decoder's process is not told; whatever it needs is in the bytes.
        config = self.candidate.config | {"quality": quality}
        encoded = self._run(
            "encode",
            where,
            payload=clip.planar,
            arguments={
                "config": config | {"frame_rate": str(clip.video.frame_rate), "color": list(astuple(clip.video.color))},
                "width": clip.video.width,
                "height": clip.video.height,
            },
            wall_seconds=self.limits.encode_seconds,
            max_output_bytes=len(clip.planar) + ENCODE_SLACK_BYTES,
        )
        claimed_json = _checked_claims(encoded, where)
        decoded = self._run(
            "decode",
            where,
            payload=encoded.output,
            arguments={"config": config},
            wall_seconds=self.limits.decode_seconds,
            max_output_bytes=len(clip.planar),
        )
        coded = CodedClip(
            quality=quality,
            bitstream=encoded.output,
            decoded=_checked_frames(decoded, clip, where),
            encode_seconds=encoded.seconds,
            decode_seconds=decoded.seconds,
            claimed_json=claimed_json,
        )
        log = encoded.log + decoded.log
        try:
            point, scenes = score(
                clip,
                coded,
                campaign=self.campaign,
                experiment_id=self.experiment_id,
                elementary_only=self.count_payload_only,
            )
        except BitstreamError as error:
            raise _PointFailed("invalid", "measure", f"measuring {where}: {error}", log) from error
        except MeasurementError as error:
            raise _PointFailed("infrastructure", "measure", f"measuring {where}: {error}", log) from error
        operations = self._count(clip, config, encoded.output, where) if count_operations else None
        return _PointResult(point, scenes, coded.bitstream, log, operations)

    def _count(self, clip: LoadedClip, config: dict[str, object], bitstream: bytes, where: str) -> _Operations:
        outcome = self._run(
            "operations",
            where,
            payload=bitstream,
            arguments={"config": config},
            wall_seconds=self.limits.decode_seconds * OPERATIONS_TIME_FACTOR,
            max_output_bytes=child.OPERATION_COUNTS.size,
        )
        if len(outcome.output) != child.OPERATION_COUNTS.size:
            raise _PointFailed("invalid", "measure", f"operations of {where}: not two counts", outcome.log)
        thop, flop_counter = (
            None if math.isnan(count) else count for count in child.OPERATION_COUNTS.unpack(outcome.output)
        )
        if any(count is not None and not 0 <= count < math.inf for count in (thop, flop_counter)):
            raise _PointFailed("invalid", "measure", f"operations of {where}: a count out of range", outcome.log)
        pixels = len(clip.frames) * clip.video.width * clip.video.height
        return _Operations(
            None if thop is None else thop / 1e12,
            None if flop_counter is None else per_1080p_frame(int(flop_counter), pixels),
        )

    def _run(
        self,
        role: Role,
        where: str,
        *,
        payload: bytes,
        arguments: dict[str, object],
        wall_seconds: float,
        max_output_bytes: int,
    ) -> Outcome:
        files = self.candidate.files
        sources = files if role == "encode" else {"decoder.py": files["decoder.py"]}
        job = Job(role, sources, payload, arguments, wall_seconds, max_output_bytes)
        outcome = self.isolation.run(job, self.stop.is_set)
        if outcome.status != "ok":
            stage = "measure" if role == "operations" else role
            raise _PointFailed(STATUS[outcome.status], stage, f"{role} of {where}: {outcome.reason}", outcome.log)
        return outcome


def _checked_claims(encoded: Outcome, where: str) -> str:
    """What the encoder said of itself, as JSON. Its process wrote it, so even the syntax has to be checked."""
    try:
        return json.dumps(json.loads(encoded.extra), sort_keys=True, allow_nan=False)
    except (ValueError, RecursionError) as error:
        raise _PointFailed("invalid", "encode", f"encode of {where}: its claims are not JSON", encoded.log) from error


def _checked_frames(decoded: Outcome, clip: LoadedClip, where: str) -> Frames:
    video = clip.video
    expected = (len(clip.frames), video.height, video.width)
    if len(decoded.extra) != child.FRAMES_SHAPE.size or child.FRAMES_SHAPE.unpack(decoded.extra) != expected:
        raise _PointFailed(
            "invalid", "decode", f"decode of {where}: {_said_shape(decoded)}, not {_shape(*expected)}", decoded.log
        )
    if len(decoded.output) != len(clip.planar):
        raise _PointFailed(
            "invalid",
            "decode",
            f"decode of {where}: {len(decoded.output)} bytes of frames, not {len(clip.planar)}",
            decoded.log,
        )
    return Frames.from_bytes(decoded.output, video)


def _said_shape(decoded: Outcome) -> str:
    if len(decoded.extra) != child.FRAMES_SHAPE.size:
        return "frames of no stated shape"
    return _shape(*child.FRAMES_SHAPE.unpack(decoded.extra))


def _shape(count: int, height: int, width: int) -> str:
    return f"{count} frames of {width}x{height}"


def _with_operations(results: Sequence[_PointResult]) -> tuple[PointRecord, ...]:
    """The points, each with the operations counted at the first quality of its clip."""
    points: list[PointRecord] = []
    operations = _Operations(None, None)
    for result in results:
        operations = result.operations or operations
        points.append(
            result.point.model_copy(
                update={
                    "tera_ops_per_frame": operations.larger,
                    "tera_ops_thop": operations.thop,
                    "tera_ops_flop_counter": operations.flop_counter,
                }
            )
        )
    return tuple(points)
