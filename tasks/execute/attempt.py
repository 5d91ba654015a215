"""One attempt at one candidate: the harness's findings made into the rows that the store keeps.

Running the two agents is `tasks.execute.harness`'s; writing the rows is `tasks.store`'s.
"""

from __future__ import annotations

import json
import socket
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from importlib.metadata import version

from tasks.campaign import Campaign, CandidateRef
from tasks.candidate import Candidate
from tasks.execute.clips import LoadedClip, clip_set_hash
from tasks.execute.harness import Progress, evaluate
from tasks.execute.isolation import ProcessIsolation
from tasks.measure.anchors import ANCHOR_QUALITIES
from tasks.store.records import ExperimentRecord, PointRecord, SceneRecord


@dataclass(frozen=True)
class Attempt:
    """The rows of one attempt, and the bitstreams by their SHA-256."""

    record: ExperimentRecord
    points: tuple[PointRecord, ...]
    scenes: tuple[SceneRecord, ...]
    bitstreams: dict[str, bytes]


def run_attempt(
    candidate: Candidate,
    ref: CandidateRef,
    campaign: Campaign,
    clips: Sequence[LoadedClip],
    *,
    on_progress: Callable[[Progress], None] | None = None,
    anchor: bool = False,
    flow_run_id: str = "",
) -> Attempt:
    """Measure `candidate` on `clips`. An anchor has its own rate points and is charged its elementary streams alone."""
    started_at = datetime.now(UTC)
    clock = time.monotonic()
    evaluation = evaluate(
        candidate,
        clips,
        campaign=campaign.name,
        experiment_id=ref.experiment_id,
        qualities=ANCHOR_QUALITIES if anchor else campaign.qualities,
        limits=campaign.limits,
        isolation=ProcessIsolation(campaign.limits),
        count_payload_only=anchor,
        on_progress=on_progress,
    )
    lineage = candidate.lineage
    record = ExperimentRecord(
        campaign=campaign.name,
        experiment_id=ref.experiment_id,
        kind="anchor" if anchor else "candidate",
        iteration=ref.iteration,
        attempt=ref.attempt,
        status=evaluation.status,
        reason=evaluation.reason,
        stage=evaluation.stage,
        designer=lineage.designer,
        parents=lineage.parents,
        change_class=lineage.change_class,
        hypothesis=lineage.hypothesis,
        predicted_bd_rate_percent=lineage.predicted_bd_rate_percent,
        predicted_tera_ops_per_frame=lineage.predicted_tera_ops_per_frame,
        candidate_hash=candidate.candidate_hash,
        code_hash=candidate.code_hash,
        decoder_source_bytes=candidate.decoder_source_bytes,
        config_json=json.dumps(candidate.config, sort_keys=True),
        clip_set_hash=clip_set_hash(clips),
        harness_version=version("evocodec"),
        isolation=evaluation.isolation,
        gpu_seconds=time.monotonic() - clock,
        log=evaluation.log,
        host=socket.gethostname(),
        flow_run_id=flow_run_id,
        started_at=started_at,
        finished_at=datetime.now(UTC),
    )
    return Attempt(record, evaluation.points, evaluation.scenes, evaluation.bitstreams)
