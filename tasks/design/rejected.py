"""Attempts that never reached a worker: their records, and what was paid for those that a worker lost."""

from __future__ import annotations

import json
import socket
from datetime import UTC, datetime
from importlib.metadata import version
from typing import Any

from tasks.campaign import Campaign, CandidateRef
from tasks.candidate import Candidate, Paid, config_problems
from tasks.design.designer import Rejected
from tasks.store.records import ExperimentRecord
from tasks.store.store import Store


def record_rejected(store: Store, campaign: Campaign, iteration: int, rejected: Rejected) -> None:
    """Once: a design that is resumed after a kill comes here again."""
    if any(record.experiment_id == rejected.experiment_id for record in store.experiments(campaign.name)):
        return
    now = datetime.now(UTC)
    store.write_experiment(
        ExperimentRecord(
            campaign=campaign.name,
            experiment_id=rejected.experiment_id,
            iteration=iteration,
            status=rejected.status,
            reason=rejected.reason,
            stage="design",
            designer=rejected.designer,
            change_class=rejected.change_class,
            hypothesis=rejected.hypothesis,
            **(_of_candidate(store, rejected.candidate) if rejected.candidate is not None else {}),
            **(rejected.paid.model_dump() if rejected.paid is not None else {}),
            harness_version=version("evocodec"),
            host=socket.gethostname(),
            started_at=now,
            finished_at=now,
        ),
        (),
        (),
    )


def paid_for(store: Store, ref: CandidateRef) -> Paid | None:
    """What designing this candidate cost, for its first attempt, which has to say so."""
    if ref.attempt != 1:
        return None
    return Candidate.from_json_bytes(store.get_blob(ref.candidate_hash)).lineage.paid


def _of_candidate(store: Store, candidate: Candidate) -> dict[str, Any]:
    if any(config_problems(candidate.config)):
        return {}  # it cannot be written down; the answer that it came in is kept
    return {
        "parents": candidate.lineage.parents,
        "predicted_bd_rate_percent": candidate.lineage.predicted_bd_rate_percent,
        "predicted_tera_ops_per_frame": candidate.lineage.predicted_tera_ops_per_frame,
        "candidate_hash": store.put_blob(candidate.to_json_bytes()),
        "code_hash": candidate.code_hash,
        "ast_hash": candidate.ast_hash,
        "decoder_source_bytes": candidate.decoder_source_bytes,
        "decoder_hash": candidate.decoder_hash,
        "config_json": json.dumps(candidate.config, sort_keys=True),
    }
