"""One attempt at one candidate: the harness's findings made into the rows that the store keeps.

Running the two agents is `tasks.execute.harness`'s; writing the rows is `tasks.store`'s.
"""

from __future__ import annotations

import json
import os
import socket
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from importlib.metadata import version
from typing import Final

from codec.errors import BadInputError
from tasks.campaign import Campaign, CandidateRef, Limits
from tasks.candidate import Candidate
from tasks.execute.clips import LoadedClip, clip_set_hash
from tasks.execute.harness import Progress, evaluate
from tasks.execute.isolation import Isolation, ProcessIsolation, SandboxIsolation
from tasks.measure.anchors import ANCHOR_QUALITIES, SEED
from tasks.store.records import ExperimentRecord, PointRecord, SceneRecord

# Any of these lets a program act as its user in AWS: keys, or where to fetch some.
AWS_CREDENTIALS: Final = (
    "AWS_ACCESS_KEY_ID",
    "AWS_SECRET_ACCESS_KEY",
    "AWS_SESSION_TOKEN",
    "AWS_PROFILE",
    "AWS_WEB_IDENTITY_TOKEN_FILE",
    "AWS_CONTAINER_CREDENTIALS_RELATIVE_URI",
    "AWS_CONTAINER_CREDENTIALS_FULL_URI",
)


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
    unsafe: bool = False,
) -> Attempt:
    """Measure `candidate` on `clips`. An anchor has its own rate points and is charged its elementary streams alone.

    `unsafe` gives up the sandbox: the record says so, and has no rank. Raises BadInputError where AWS credentials are
    in reach.
    """
    started_at = datetime.now(UTC)
    clock = time.monotonic()
    evaluation = evaluate(
        candidate,
        clips,
        campaign=campaign.name,
        experiment_id=ref.experiment_id,
        qualities=ANCHOR_QUALITIES if anchor else campaign.qualities,
        limits=campaign.limits,
        isolation=isolation_for(candidate, campaign.limits, unsafe=unsafe),
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


def isolation_for(candidate: Candidate, limits: Limits, *, unsafe: bool = False) -> Isolation:
    """The strict sandbox for every candidate but the project's own codec.

    That one is installed code, as trusted as this process, and needs to start ffmpeg for VVC. Only its sources count:
    what a designer may change, the config, is data to it. Raises BadInputError: see `run_attempt`.
    """
    if candidate.files == Candidate.load(SEED).files:
        return ProcessIsolation(limits)
    if not unsafe:
        return SandboxIsolation(limits)
    found = next((name for name in AWS_CREDENTIALS if os.environ.get(name)), None)
    if found is not None:
        raise BadInputError(f"--unsafe-no-sandbox: {found} is set, and the candidate could use it: unset it")
    return ProcessIsolation(limits, "none")
