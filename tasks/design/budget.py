"""What a campaign has spent and may still spend: one ledger for language models and GPU workers.

Owns the caps. What a token costs is `tasks.design.prices`'s; stopping at a cap is `flows.loop`'s and the design step's.

    committed = on record + paid but not yet on record + in flight × mean cost of an experiment so far

The caps are hard for what is committed: nothing is designed whose mean cost would pass one. What one experiment costs
more than the mean is seen when it is recorded and counts from then on. Before the first experiment the mean of the
anchors stands for its GPU seconds, and nothing for its dollars: a designer that pays checks `remaining` at each call.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Final

from tasks.campaign import Budget, CandidateRef
from tasks.dispatch.pending import pending
from tasks.store.records import ExperimentRecord

# By the names that Budget and Spend share; the texts are for a message.
CAPS: Final = {"usd": "dollars", "tokens": "tokens", "gpu_seconds": "GPU seconds", "experiments": "experiments"}


@dataclass(frozen=True)
class Spend:
    """`experiments` are candidates tried; whatever else was measured has costs and is no experiment."""

    usd: float = 0.0
    tokens: float = 0.0
    gpu_seconds: float = 0.0
    experiments: float = 0.0

    def __add__(self, other: Spend) -> Spend:
        return Spend(**{cap: getattr(self, cap) + getattr(other, cap) for cap in CAPS})

    def __mul__(self, factor: float) -> Spend:
        return Spend(**{cap: getattr(self, cap) * factor for cap in CAPS})


@dataclass(frozen=True)
class Ledger:
    """`spent` is on record or paid; `per_experiment` the mean so far; `in_flight` designed and not on record."""

    spent: Spend
    per_experiment: Spend
    in_flight: int = 0

    @property
    def committed(self) -> Spend:
        return self.spent + self.per_experiment * self.in_flight


def ledger(
    records: Sequence[ExperimentRecord],
    designs: Mapping[int, Sequence[CandidateRef]] | None = None,
    *,
    unrecorded: Spend | None = None,
) -> Ledger:
    """A fold over the records and the designs. `unrecorded` is what a designer has paid that no record tells of yet."""
    anchors = [record for record in records if record.kind == "anchor"]
    others = [record for record in records if record.kind != "anchor"]
    tried = len({record.experiment_id for record in others if record.kind == "candidate"})
    # Until a candidate is measured an anchor, which is on the same clips, is the best guess of its time.
    guess = Spend(gpu_seconds=_sum(anchors).gpu_seconds / max(1, len(anchors)))
    mean = _sum(others) * (1 / tried) if tried else guess
    in_flight = sum(len(pending(refs, records)) for refs in (designs or {}).values())
    spent = _sum(records) + Spend(experiments=tried) + (unrecorded or Spend())
    return Ledger(spent, mean + Spend(experiments=1), in_flight)


def remaining(budget: Budget, account: Ledger) -> dict[str, float]:
    """What is left under each cap that is set, by its name in Budget; never below 0."""
    return {cap: max(0.0, limit - getattr(account.committed, cap)) for cap, limit in _limits(budget).items()}


def affordable(budget: Budget, account: Ledger, wanted: int) -> int:
    """How many more experiments, of `wanted`, fit under every cap at their mean cost."""
    count = wanted
    for cap, left in remaining(budget, account).items():
        count = min(count, _fitting(left, getattr(account.per_experiment, cap), wanted))
    return count


def stopped_by(budget: Budget, account: Ledger) -> str:
    """Which cap leaves no room for one more experiment, in one line; "" where there is room."""
    for cap, left in remaining(budget, account).items():
        mean = getattr(account.per_experiment, cap)
        if _fitting(left, mean, 1) < 1:
            limit, committed = _limits(budget)[cap], getattr(account.committed, cap)
            need = f"; an experiment takes about {mean:.4g}" if left > 0 else ""
            return f"the budget of {limit:g} {CAPS[cap]} is used up ({committed:.4g} committed{need})"
    return ""


def _fitting(left: float, mean: float, wanted: int) -> int:
    if left <= 0:
        return 0
    # The sums are of floats: what fits but for rounding fits.
    return min(wanted, math.floor(left / mean + 1e-9)) if mean > 0 else wanted


def _limits(budget: Budget) -> dict[str, float]:
    return {cap: getattr(budget, cap) for cap in CAPS if getattr(budget, cap) is not None}


def _sum(records: Sequence[ExperimentRecord]) -> Spend:
    return Spend(
        usd=sum(record.usd for record in records),
        tokens=sum(record.input_tokens + record.output_tokens for record in records),
        gpu_seconds=sum(record.gpu_seconds for record in records),
    )
