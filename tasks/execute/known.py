"""What a campaign's records say that bears on the next candidate: what was tried, and who is to be beaten."""

from __future__ import annotations

from tasks.analyze.leaderboard import REFERENCE_ANCHOR, anchor_name
from tasks.analyze.promotion import champion
from tasks.candidate import Candidate
from tasks.execute.cascade import Known, Rival
from tasks.store.records import Track
from tasks.store.store import Store


def known_of(store: Store, campaign: str, track: Track = "overfitted") -> Known:
    """A fold over the campaign's records, and the sources of the track's champion.

    Raises StoreError where those are gone.
    """
    records = store.experiments(campaign)
    # What the infrastructure lost has not been tried; what was refused as a duplicate is its first attempt's.
    tried = {
        record.ast_hash: record.experiment_id
        for record in records
        if record.kind == "candidate" and record.ast_hash and record.status not in ("infrastructure", "duplicate")
    }
    dev = [point for point in store.points(campaign) if point.split == "dev"]
    anchors = {r.experiment_id for r in records if r.kind == "anchor" and anchor_name(r) == REFERENCE_ANCHOR}
    reference = tuple(point for point in dev if point.experiment_id in anchors)
    best = champion(records, track)
    if best is None:
        return Known(tried, None, reference)
    return Known(
        tried,
        Rival(
            best.experiment_id,
            Candidate.from_json_bytes(store.get_blob(best.candidate_hash)),
            tuple(point for point in dev if point.experiment_id == best.experiment_id),
            best.noise_percent,
            store.get_blob(best.weights_hash) if best.weights_hash else b"",
        ),
        reference,
    )
