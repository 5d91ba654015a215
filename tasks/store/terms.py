"""Under which terms a campaign may be taken up again: those whose numbers can be compared with the ones on record."""

from __future__ import annotations

from collections.abc import Iterable

from codec.errors import BadInputError
from tasks.campaign import Campaign
from tasks.store.records import ExperimentRecord
from tasks.store.store import Store

# What may change between two runs of one campaign; anything else would mix numbers that cannot be compared.
MAY_CHANGE = {
    "iterations",
    "candidates",
    "hours",
    "stop_when_met",
    "experiment_timeout_seconds",
    "queue_timeout_seconds",
    "store",
    "targets",
    "designer",
    "model",
    "model_price",
    "budget",
}


def require_same_frames(records: Iterable[ExperimentRecord], clip_set_hash: str) -> None:
    """Raises BadInputError where something in this campaign was measured on other frames under the same names."""
    for record in records:
        dev = record.kind in ("candidate", "anchor")  # others are measured on draws of their own
        if dev and record.status == "measured" and record.clip_set_hash != clip_set_hash:
            raise BadInputError(
                f"the clips have changed since {record.experiment_id} was measured on them: give the campaign "
                "another name, or bring the old files back"
            )


def require_same_terms(store: Store, campaign: Campaign) -> None:
    """Raises BadInputError where `campaign` was begun under other terms."""
    before = store.read_campaign(campaign.name)
    if before is None:
        return
    fields = [name for name in Campaign.model_fields if name not in MAY_CHANGE]
    changed = [name for name in fields if getattr(before, name) != getattr(campaign, name)]
    if changed:
        raise BadInputError(
            f"campaign {campaign.name!r} was begun with other {', '.join(changed)}: use the same, or name this one "
            "differently with --campaign"
        )
