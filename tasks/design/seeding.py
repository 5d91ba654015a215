"""Candidates that somebody brings to a campaign, as the design of its next iteration.

Owns their names there. The loop measures a design that is kept already as it stands, whoever wrote it.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

from codec.errors import BadInputError
from tasks.campaign import CandidateRef
from tasks.candidate import Candidate
from tasks.lint import lint
from tasks.store.store import Store

MAX_SEEDS: Final = 8  # as many as travel in one batch


def seed(store: Store, campaign: str, candidates: Sequence[Candidate]) -> tuple[CandidateRef, ...]:
    """Have the first iteration of `campaign` that is not designed yet measure these, in this order.

    Raises BadInputError where one would surely fail or they are too many, StoreError where another design came first.
    """
    if not 1 <= len(candidates) <= MAX_SEEDS:
        raise BadInputError(f"{len(candidates)} candidates: an iteration takes 1 to {MAX_SEEDS}; seed again for more")
    for candidate in candidates:
        advice = lint(candidate)
        if advice:
            raise BadInputError(f"{candidate.lineage.id}: {'; '.join(advice)}")
    iteration = max(store.designs(campaign), default=0) + 1
    refs = []
    for number, candidate in enumerate(candidates, start=1):
        name = f"{campaign}-{iteration:03d}-{number}"
        said = candidate.lineage.hypothesis or f"{candidate.lineage.id}, brought by hand"
        lineage = candidate.lineage.model_copy(update={"id": name, "parents": (), "hypothesis": said})
        digest = store.put_blob(candidate.model_copy(update={"lineage": lineage}).to_json_bytes())
        refs.append(CandidateRef(experiment_id=name, candidate_hash=digest, iteration=iteration))
    store.write_design(campaign, iteration, tuple(refs))
    return tuple(refs)
