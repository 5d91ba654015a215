"""Decoding a candidate's kept bytes once more, in a run that never saw the clip: what a leaderboard entry rests on.

Owns the comparison with what was measured. A decoder that had anything but its bytes the first time, from a neighbour's
memory, a file's times or the machine itself, does not have it here.
"""

from __future__ import annotations

import hashlib
import socket
import time
from collections.abc import Callable
from datetime import UTC, datetime
from importlib.metadata import version

from codec.errors import BadInputError
from tasks.campaign import Campaign, CandidateRef
from tasks.candidate import Candidate
from tasks.execute.agents import Agents, Failed
from tasks.execute.clips import ClipShape
from tasks.execute.harness import Progress
from tasks.execute.trust import isolation_for
from tasks.store.records import ExperimentRecord, PointRecord, Status, verification_id
from tasks.store.store import Store


def run_verification(
    ref: CandidateRef,
    campaign: Campaign,
    store: Store,
    *,
    on_progress: Callable[[Progress], None] | None = None,
    flow_run_id: str = "",
) -> ExperimentRecord:
    """Decode every point of `ref`'s experiment again. Its record is "measured" where every frame is the same.

    Otherwise it is "cheat", or "infrastructure" where nothing could be found out: a decoder that is too slow now may
    have met a busier machine. Raises BadInputError where there is nothing to verify, StoreError where bytes are
    missing.
    """
    started, clock = datetime.now(UTC), time.monotonic()
    measured = next(
        (record for record in store.experiments(campaign.name) if _is_measured(record, ref.experiment_id)), None
    )
    if measured is None:
        raise BadInputError(f"{ref.experiment_id} of {campaign.name} is not measured: there is nothing to verify")
    candidate = Candidate.from_json_bytes(store.get_blob(measured.candidate_hash))
    weights = store.get_blob(measured.weights_hash) if measured.weights_hash else b""
    agents = Agents(candidate, campaign.limits, isolation_for(candidate, campaign.limits), weights)
    points = [point for point in store.points(campaign.name) if point.experiment_id == ref.experiment_id]
    status: Status = "measured"
    reason, log = "", ""
    if candidate.decoder_hash != measured.decoder_hash:
        status, reason = "cheat", "the decoder is not the one that was frozen before encoding"
    for number, point in enumerate(points, start=1):
        if status != "measured":
            break
        try:
            reason = _difference(agents, store, point)
            status = "cheat" if reason else "measured"
        except Failed as failure:
            lost = failure.status in ("infrastructure", "timeout")
            status, log = ("infrastructure" if lost else "cheat"), failure.log
            reason = f"decoded once more from its bytes alone: {failure.reason}"
        if status != "measured" and point.split != "dev":
            # This verdict becomes the candidate's, which its designer sees, and a decoder says what it likes.
            reason, log = f"the bytes of a {point.split} clip do not decode again to the same frames", ""
        if on_progress:
            on_progress(Progress(number, len(points), f"verifying {point.clip} at quality {point.quality:g}"))
    return measured.model_copy(
        update={
            "experiment_id": verification_id(ref.experiment_id),
            "kind": "verification",
            "iteration": ref.iteration,
            "attempt": ref.attempt,
            "status": status,
            "reason": reason,
            "stage": "verify",
            "stages": (),
            "usd": 0.0,  # paid for once, with the experiment
            "input_tokens": 0,
            "output_tokens": 0,
            "harness_version": version("evocodec"),
            "gpu_seconds": time.monotonic() - clock,
            "log": log,
            "host": socket.gethostname(),
            "flow_run_id": flow_run_id,
            "started_at": started,
            "finished_at": datetime.now(UTC),
        }
    )


def _is_measured(record: ExperimentRecord, experiment_id: str) -> bool:
    return record.experiment_id == experiment_id and record.status == "measured"


def _difference(agents: Agents, store: Store, point: PointRecord) -> str:
    """Empty where the bytes decode to the frames that were measured."""
    shape = ClipShape(point.clip, point.frames, point.width, point.height)
    decoded = agents.decode(store.get_blob(point.bitstream_hash), shape, point.quality)
    if hashlib.sha256(decoded.planar).hexdigest() == point.decoded_hash:
        return ""
    return f"{point.clip} at quality {point.quality:g} decodes to other frames than were measured"
