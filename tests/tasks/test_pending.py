"""What still has to be measured, from the records alone."""

from __future__ import annotations

from dataclasses import replace
from datetime import UTC, datetime

import pytest

from tasks.campaign import CandidateRef
from tasks.dispatch.pending import MAX_ATTEMPTS, MAX_INTERRUPTIONS, next_batch, pending
from tasks.dispatch.step import RunOutcome
from tasks.store.records import INTERRUPTED, ExperimentRecord, Status

DESIGN = tuple(CandidateRef(experiment_id=name, candidate_hash="0" * 64) for name in ("a", "b"))


def record(experiment_id: str, status: Status, attempt: int = 1) -> ExperimentRecord:
    now = datetime.now(UTC)
    return ExperimentRecord(
        campaign="c",
        experiment_id=experiment_id,
        status=status,
        attempt=attempt,
        started_at=now,
        finished_at=now,
    )


def test_all_are_pending_without_records() -> None:
    assert [ref.attempt for ref in pending(DESIGN, [])] == [1, 1]


@pytest.mark.parametrize("status", ["rejected", "duplicate", "invalid", "crashed", "timeout", "cheat", "measured"])
def test_an_outcome_is_final(status: Status) -> None:
    assert [ref.experiment_id for ref in pending(DESIGN, [record("a", status)])] == ["b"]


def test_what_the_infrastructure_lost_is_tried_again_but_not_for_ever() -> None:
    lost = [record("a", "infrastructure", attempt) for attempt in range(1, MAX_ATTEMPTS)]
    assert [(ref.experiment_id, ref.attempt) for ref in pending(DESIGN, lost)] == [
        ("a", MAX_ATTEMPTS),
        ("b", 1),
    ]
    lost.append(record("a", "infrastructure", MAX_ATTEMPTS))
    assert [ref.experiment_id for ref in pending(DESIGN, lost)] == ["b"]


def interruption(experiment_id: str, attempt: int) -> ExperimentRecord:
    return record(experiment_id, "infrastructure", attempt).model_copy(update={"stage": INTERRUPTED})


def test_an_interruption_uses_up_no_attempt_and_parts_no_batch() -> None:
    hunted = [interruption(name, attempt) for name in "ab" for attempt in range(1, MAX_INTERRUPTIONS)]
    again = pending(DESIGN, hunted)
    assert [(ref.experiment_id, ref.attempt, ref.lost) for ref in again] == [
        ("a", MAX_INTERRUPTIONS, 0),
        ("b", MAX_INTERRUPTIONS, 0),
    ]
    assert next_batch(again) == again
    lost = [*hunted, record("a", "infrastructure", MAX_INTERRUPTIONS)]
    assert [ref.experiment_id for ref in next_batch(pending(DESIGN, lost))] == ["b"]


def test_interruptions_have_an_end_too() -> None:
    """What takes longer than a machine lives would be begun for ever."""
    hunted = [interruption("a", attempt) for attempt in range(1, MAX_INTERRUPTIONS + 1)]
    assert [ref.experiment_id for ref in pending(DESIGN, hunted)] == ["b"]


def test_a_success_after_a_loss_is_final() -> None:
    records = [record("a", "infrastructure"), record("a", "measured", 2)]
    assert [ref.experiment_id for ref in pending(DESIGN, records)] == ["b"]


def test_what_was_lost_once_travels_alone() -> None:
    """One candidate that no worker survives must not take those of its batch with it, attempt after attempt."""
    design = tuple(CandidateRef(experiment_id=name, candidate_hash="0" * 64) for name in "abc")
    records: list[ExperimentRecord] = []
    travelled: list[str] = []
    while batch := next_batch(pending(design, records)):
        travelled.append("".join(ref.experiment_id for ref in batch))
        for ref in batch:
            fatal = "b" in travelled[-1] and ref.experiment_id != "a"  # "b" kills its worker, and who comes after it
            records.append(record(ref.experiment_id, "infrastructure" if fatal else "measured", ref.attempt))
    assert travelled == ["abc", "b", "b", "c"]
    assert {r.experiment_id for r in records if r.status == "measured"} == {"a", "c"}


def test_only_a_candidate_that_was_late_alone_and_again_has_had_its_chance() -> None:
    late = RunOutcome(False, True, "Cancelled", "cancelled: not finished after 9 s")
    assert late.lost_status(1, lost=1) == "timeout"
    assert late.lost_status(1, lost=0) == "infrastructure"
    assert late.lost_status(2, lost=1) == "infrastructure"
    assert replace(late, started=False).lost_status(1, lost=1) == "infrastructure"
    assert RunOutcome(False, False, "Crashed", "").lost_status(1, lost=1) == "infrastructure"
