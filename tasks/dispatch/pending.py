"""Which candidates of an iteration still have to be measured: a fold over the records.

An attempt that the infrastructure lost is tried again, a few times; one that was interrupted is tried again and not
counted; every other outcome is final. Sending a batch to the work pool
is `tasks.dispatch.step`'s.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Iterable, Sequence

from tasks.campaign import CandidateRef
from tasks.store.records import ExperimentRecord, Status, verification_id

# Three times lost is a worker that cannot run this batch (out of memory, say); a fourth time would only cost money.
MAX_ATTEMPTS = 3
# An interruption says nothing of what it hit; but what never comes to an end between two of them never will.
MAX_INTERRUPTIONS = 20
RETRIED: tuple[Status, ...] = ("infrastructure",)


def pending(
    design: Sequence[CandidateRef],
    records: Iterable[ExperimentRecord],
    *,
    retried: Collection[Status] = RETRIED,
) -> tuple[CandidateRef, ...]:
    """The candidates of `design` that have no final record, each with the number of its next attempt.

    `retried` are the outcomes that are not final. An anchor has no idea that could have failed: all but `measured` are.
    """
    attempts: Counter[str] = Counter()
    lost: Counter[str] = Counter()
    interrupted: Counter[str] = Counter()
    final: set[str] = set()
    for record in records:
        name = record.experiment_id
        if record.status not in retried:
            final.add(name)
            continue
        attempts[name] = max(attempts[name], record.attempt)
        (interrupted if record.interrupted else lost)[name] += 1
    return tuple(
        ref.model_copy(update={"attempt": attempts[ref.experiment_id] + 1, "lost": lost[ref.experiment_id]})
        for ref in design
        if ref.experiment_id not in final
        and lost[ref.experiment_id] < MAX_ATTEMPTS
        and interrupted[ref.experiment_id] < MAX_INTERRUPTIONS
    )


def next_batch(waiting: Sequence[CandidateRef]) -> tuple[CandidateRef, ...]:
    """Those of `waiting` that may travel together: what was lost once travels alone, so that it takes no other with it.

    A candidate that its worker does not survive is lost three times; whoever shared its batch only once.
    """
    fresh = tuple(ref for ref in waiting if not ref.lost)
    return fresh or tuple(waiting[:1])


def verification_of(ref: CandidateRef) -> CandidateRef:
    """The same candidate under the id of its verification's records."""
    return ref.model_copy(update={"experiment_id": verification_id(ref.experiment_id)})


def unverified(design: Sequence[CandidateRef], records: Sequence[ExperimentRecord]) -> tuple[CandidateRef, ...]:
    """The candidates of `design` that are measured and have not been decoded again, each with its next attempt."""
    latest = {record.experiment_id: record for record in sorted(records, key=lambda record: record.attempt)}
    measured = [ref for ref in design if (found := latest.get(ref.experiment_id)) and found.status == "measured"]
    waiting = {ref.experiment_id: ref for ref in pending([verification_of(ref) for ref in measured], records)}
    return tuple(
        waiting[verification_id(ref.experiment_id)].model_copy(update={"experiment_id": ref.experiment_id})
        for ref in measured
        if verification_id(ref.experiment_id) in waiting
    )
