"""The trusted harness: runs a candidate's two agents on clips at rate points, and has the results measured.

Owns the order of the work and what one failure means for the rest. What each process is given is
`tasks.execute.agents`', numbers are `tasks.measure.score`'s.

    clip -> [encode process] -> bytes -> [decode process] -> frames -> score, beside the original
                                   \\---> [operations process], once per clip

Invariants:
- numbers come from the bytes and the frames; what a candidate says of itself is recorded as a claim and not used;
- an experiment is measured whole or not at all: the first point that fails ends it, and stops the others.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from dataclasses import dataclass, field, replace
from typing import Final

from codec.errors import BadInputError, BitstreamError, MeasurementError
from codec.frames import Frames
from tasks.campaign import Limits
from tasks.candidate import Candidate, problems
from tasks.execute.agents import Agents, Failed, Operations
from tasks.execute.clips import LoadedClip, require_memory
from tasks.execute.isolation import Isolation
from tasks.measure.score import CodedClip, score
from tasks.store.records import PointRecord, SceneRecord, Split, Status

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
    reason: str = ""
    log: str = ""
    points: tuple[PointRecord, ...] = ()
    scenes: tuple[SceneRecord, ...] = ()
    bitstreams: dict[str, bytes] = field(default_factory=dict)

    def with_points_of(self, other: Evaluation) -> Evaluation:
        """The two as one, with the log of this one alone."""
        return replace(
            self,
            points=self.points + other.points,
            scenes=self.scenes + other.scenes,
            bitstreams=self.bitstreams | other.bitstreams,
        )


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
    split: Split = "dev",
    weights: bytes = b"",
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
        return Evaluation("invalid", "design", isolation.name, reason="; ".join(found))
    agents = Agents(candidate, limits, isolation, weights)
    experiment = _Experiment(agents, campaign, experiment_id, count_payload_only, split)
    work = [(clip, quality, index == 0) for clip in clips for index, quality in enumerate(qualities)]
    for clip in clips:
        _ = clip.scenes  # once, and before the threads meet there
    try:
        results = _run_all(experiment, work, workers, on_progress, cancelled)
    except Failed as failure:
        return Evaluation(
            failure.status,
            failure.stage,
            isolation.name,
            reason=failure.reason,
            log=failure.log,
        )
    points = _with_operations(results)
    return Evaluation(
        "measured",
        "done",
        isolation.name,
        log="".join(result.log for result in results)[-limits.log_kb * 1024 :],
        points=points,
        scenes=tuple(scene for result in results for scene in result.scenes),
        bitstreams={result.point.bitstream_hash: result.bitstream for result in results},
    )


@dataclass(frozen=True)
class _PointResult:
    point: PointRecord
    scenes: tuple[SceneRecord, ...]
    bitstream: bytes
    log: str
    operations: Operations | None  # only at the first quality of each clip


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
                    raise Failed("infrastructure", "encode", "cancelled")
            return [future.result() for future in futures]
        finally:
            # Leaving the pool waits for its threads, so they have to be told first.
            experiment.agents.stop.set()
            pool.shutdown(wait=False, cancel_futures=True)


@dataclass(frozen=True)
class _Experiment:
    """What all points of one experiment share. `run_point` is called from several threads at once."""

    agents: Agents
    campaign: str
    experiment_id: str
    count_payload_only: bool
    split: Split

    def run_point(self, clip: LoadedClip, quality: float, count_operations: bool) -> _PointResult:
        """Encode, decode and score one point. Raises Failed."""
        encoded = self.agents.encode(clip, quality)
        decoded = self.agents.decode(encoded.bitstream, clip.shape, quality)
        coded = CodedClip(
            quality=quality,
            bitstream=encoded.bitstream,
            decoded=Frames.from_bytes(decoded.planar, clip.video),
            encode_seconds=encoded.seconds,
            decode_seconds=decoded.seconds,
            claimed_json=encoded.claimed_json,
        )
        log = encoded.log + decoded.log
        try:
            point, scenes = score(
                clip,
                coded,
                campaign=self.campaign,
                experiment_id=self.experiment_id,
                split=self.split,
                elementary_only=self.count_payload_only,
            )
        except BitstreamError as error:
            raise Failed("invalid", "measure", f"measuring {clip.name} at quality {quality:g}: {error}", log) from error
        except MeasurementError as error:
            raise Failed(
                "infrastructure", "measure", f"measuring {clip.name} at quality {quality:g}: {error}", log
            ) from error
        operations = self.agents.count_operations(encoded.bitstream, clip, quality) if count_operations else None
        return _PointResult(point, scenes, coded.bitstream, log, operations)


def _with_operations(results: Sequence[_PointResult]) -> tuple[PointRecord, ...]:
    """The points, each with the operations counted at the first quality of its clip."""
    points: list[PointRecord] = []
    operations = Operations()
    for result in results:
        operations = result.operations or operations
        points.append(
            result.point.model_copy(
                update={
                    "tera_ops_per_frame": operations.larger,
                    "tera_ops_thop": operations.thop,
                    "tera_ops_flop_counter": operations.flop_counter,
                    "tera_ops_by_module": operations.by_module,
                }
            )
        )
    return tuple(points)
