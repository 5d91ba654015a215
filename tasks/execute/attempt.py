"""One attempt at one candidate: the harness's findings made into the rows that the store keeps.

Running the two agents is `tasks.execute.harness`'s; writing the rows is `tasks.store`'s.
"""

from __future__ import annotations

import hashlib
import json
import socket
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from importlib.metadata import version

from tasks.campaign import Campaign, CandidateRef
from tasks.candidate import Candidate
from tasks.execute.agents import Agents
from tasks.execute.cascade import Cascade, Findings, Known, control_id
from tasks.execute.clips import LoadedClip, clip_set_hash, load_clip
from tasks.execute.harness import Evaluation, Progress, evaluate
from tasks.execute.isolation import MAX_REASON_CHARS
from tasks.execute.noise import encode_again
from tasks.execute.trust import isolation_for
from tasks.measure.anchors import ANCHOR_QUALITIES
from tasks.store.records import ExperimentRecord, Kind, PointRecord, SceneRecord


@dataclass(frozen=True)
class Attempt:
    """The rows of one attempt, the bitstreams by their SHA-256, weights, and attempts at what it was compared with."""

    record: ExperimentRecord
    points: tuple[PointRecord, ...]
    scenes: tuple[SceneRecord, ...]
    bitstreams: dict[str, bytes]
    weights: bytes = b""
    controls: tuple[Attempt, ...] = ()


def run_attempt(
    candidate: Candidate,
    ref: CandidateRef,
    campaign: Campaign,
    clips: Sequence[LoadedClip],
    *,
    known: Known | None = None,
    on_progress: Callable[[Progress], None] | None = None,
    flow_run_id: str = "",
    unsafe: bool = False,
) -> Attempt:
    """Put `candidate` through the cascade. `known` is what its campaign knows; None gives nothing up early.

    `unsafe` gives up the sandbox: the record says so, and has no rank. Raises BadInputError where AWS credentials are
    in reach.
    """
    started = _Start(campaign, ref, clips, flow_run_id)
    isolation = isolation_for(candidate, campaign.limits, unsafe=unsafe)
    cascade = Cascade(candidate, campaign, ref.experiment_id, clips, isolation, on_progress)
    found = cascade.run(known or Known(), hasty=known is not None)
    controls = started.controls(ref.experiment_id, found)
    return started.attempt(candidate, found.evaluation, "candidate", ref.experiment_id, found, controls)


def measure_anchor(
    candidate: Candidate,
    ref: CandidateRef,
    campaign: Campaign,
    clips: Sequence[LoadedClip],
    *,
    on_progress: Callable[[Progress], None] | None = None,
    flow_run_id: str = "",
) -> Attempt:
    """Measure a traditional encoder: at its own rate points, charged its elementary streams alone, twice.

    The second time only tells how far two runs of it lie apart, which is the least that a difference must exceed.
    """
    started = _Start(campaign, ref, clips, flow_run_id)
    isolation = isolation_for(candidate, campaign.limits)
    found = Findings(
        evaluate(
            candidate,
            clips,
            campaign=campaign.name,
            experiment_id=ref.experiment_id,
            qualities=ANCHOR_QUALITIES,
            limits=campaign.limits,
            isolation=isolation,
            count_payload_only=True,
            on_progress=on_progress,
        )
    )
    if found.evaluation.status == "measured":
        agents = Agents(candidate, campaign.limits, isolation)
        with found.stage("repeat") as notes:
            found.noise_percent = encode_again(agents, clips, found.evaluation.points)
            notes.append(f"encoded again: noise {max(found.noise_percent.values(), default=0.0):.2f}%")
    return started.attempt(candidate, found.evaluation, "anchor", ref.experiment_id, found)


def measure_sealed(
    candidate: Candidate,
    ref: CandidateRef,
    campaign: Campaign,
    weights: bytes,
    *,
    on_progress: Callable[[Progress], None] | None = None,
    flow_run_id: str = "",
) -> Attempt:
    """Measure `candidate` and the reference on the sealed clips. `weights` are those that its training gave before."""
    clips = [load_clip(name, campaign.max_frames) for name in campaign.sealed]
    started = _Start(campaign, ref, clips, flow_run_id)
    cascade = Cascade(
        candidate, campaign, ref.experiment_id, clips, isolation_for(candidate, campaign.limits), on_progress
    )
    found = cascade.seal(weights)
    controls = started.controls(ref.experiment_id, found)
    return started.attempt(candidate, found.evaluation, "control", ref.experiment_id, found, controls)


def lost_attempt(ref: CandidateRef, campaign: Campaign, error: Exception) -> Attempt:
    """What is recorded where the evaluator itself failed at one candidate: its fault, and tried again."""
    now = datetime.now(UTC)
    record = ExperimentRecord(
        campaign=campaign.name,
        experiment_id=ref.experiment_id,
        iteration=ref.iteration,
        attempt=ref.attempt,
        status="infrastructure",
        reason=f"the evaluator failed: {type(error).__name__}: {' '.join(str(error).split())[:MAX_REASON_CHARS]}",
        stage="execute",
        candidate_hash=ref.candidate_hash,
        harness_version=version("evocodec"),
        host=socket.gethostname(),
        started_at=now,
        finished_at=now,
    )
    return Attempt(record, (), (), {})


class _Start:
    """When and for what an attempt began; makes its rows when it has ended."""

    def __init__(self, campaign: Campaign, ref: CandidateRef, clips: Sequence[LoadedClip], flow_run_id: str) -> None:
        self._campaign = campaign
        self._ref = ref
        self._clips = clips
        self._flow_run_id = flow_run_id
        self._started_at = datetime.now(UTC)
        self._clock = time.monotonic()

    def controls(self, experiment_id: str, found: Findings) -> tuple[Attempt, ...]:
        return tuple(
            self.attempt(candidate, evaluation, "control", control_id(experiment_id, name))
            for name, (candidate, evaluation) in found.controls.items()
        )

    def attempt(
        self,
        candidate: Candidate,
        evaluation: Evaluation,
        kind: Kind,
        experiment_id: str,
        found: Findings | None = None,
        controls: tuple[Attempt, ...] = (),
    ) -> Attempt:
        lineage = candidate.lineage
        weights = found.weights if found is not None else b""
        # A candidate was paid for once: not again by its second attempt, nor as somebody's rival.
        paid = lineage.paid if kind == "candidate" and self._ref.attempt == 1 else None
        record = ExperimentRecord(
            campaign=self._campaign.name,
            experiment_id=experiment_id,
            kind=kind,
            iteration=self._ref.iteration,
            attempt=self._ref.attempt,
            status=evaluation.status,
            reason=evaluation.reason,
            stage=evaluation.stage,
            stages=tuple(found.stages) if found is not None else (),
            designer=lineage.designer,
            parents=lineage.parents,
            change_class=lineage.change_class,
            hypothesis=lineage.hypothesis,
            predicted_bd_rate_percent=lineage.predicted_bd_rate_percent,
            predicted_tera_ops_per_frame=lineage.predicted_tera_ops_per_frame,
            candidate_hash=candidate.candidate_hash,
            code_hash=candidate.code_hash,
            ast_hash=candidate.ast_hash,
            decoder_source_bytes=candidate.decoder_source_bytes,
            decoder_compressed_bytes=candidate.decoder_compressed_bytes,
            decoder_hash=candidate.decoder_hash,
            track=candidate.track,
            weights_bytes=len(weights),
            weights_hash=hashlib.sha256(weights).hexdigest() if weights else "",
            noise_percent=found.noise_percent if found is not None else {},
            config_json=json.dumps(candidate.config, sort_keys=True),
            clip_set_hash=clip_set_hash(self._clips),
            harness_version=version("evocodec"),
            isolation=evaluation.isolation,
            **(paid.model_dump() if paid is not None else {}),
            gpu_seconds=time.monotonic() - self._clock,
            log=evaluation.log,
            host=socket.gethostname(),
            flow_run_id=self._flow_run_id,
            started_at=self._started_at,
            finished_at=datetime.now(UTC),
        )
        return Attempt(record, evaluation.points, evaluation.scenes, evaluation.bitstreams, weights, controls)
