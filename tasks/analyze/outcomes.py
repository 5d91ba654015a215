"""What the experiments of a campaign brought: which were improvements, and how well their designer foresaw them.

Owns both folds over the leaderboard. What it cost is `tasks.design.budget`'s.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

from tasks.analyze.leaderboard import Standing

Measure = Callable[[Standing], float | None]


@dataclass(frozen=True)
class Foresight:
    """One quantity predicted and then measured, over `count` experiments. Errors are measured − predicted.

    mean_absolute_error, bias  in `unit`; a positive bias: it came out larger than predicted
    directions                 predictions of a change against the parent's value (a draft's: against the anchor's)
    hits                       how many of those came out on the side that was predicted
    """

    quantity: str
    unit: str
    count: int
    mean_absolute_error: float
    bias: float
    directions: int
    hits: int

    def __str__(self) -> str:
        text = (
            f"{self.quantity}: {self.count} predictions, off by {self.mean_absolute_error:.4g} {self.unit} on average, "
            f"bias {self.bias:+.4g} {self.unit}"
        )
        return f"{text}, direction right in {self.hits} of {self.directions}" if self.directions else text


def improvements(board: Iterable[Standing]) -> tuple[str, ...]:
    """Ids of the candidates whose mean BD-rate was below all before by more than the noise of encoding again."""
    found: list[str] = []
    best = math.inf
    for row in in_order(board):
        if row.mean_bd_rate is None:
            continue
        if row.mean_bd_rate < best - max(row.experiment.noise_percent.values(), default=0.0):
            found.append(row.experiment_id)
        best = min(best, row.mean_bd_rate)
    return tuple(found)


def in_order(board: Iterable[Standing]) -> list[Standing]:
    """The candidates in the order in which they were tried."""
    candidates = [row for row in board if row.kind == "candidate"]
    return sorted(candidates, key=lambda row: (row.experiment.iteration, row.experiment.started_at, row.experiment_id))


def foresight(board: Sequence[Standing]) -> list[Foresight]:
    """BD-rate and operations, each where at least one prediction can be scored. Failures score nothing."""
    rows = in_order(board)
    found = [
        _scored(
            "BD-rate", "%", rows, lambda row: row.experiment.predicted_bd_rate_percent, lambda row: row.mean_bd_rate
        ),
        _scored(
            "operations",
            "tera-ops a frame",
            rows,
            lambda row: row.experiment.predicted_tera_ops_per_frame,
            lambda row: (row.tera_ops_per_frame or 0.0) if row.clips else None,
        ),
    ]
    return [score for score in found if score is not None]


def foresight_text(board: Sequence[Standing]) -> str:
    """The same in lines for a designer; "" before anything was predicted and measured."""
    return "\n".join(f"- {score}" for score in foresight(board))


def _scored(
    quantity: str, unit: str, rows: Sequence[Standing], predicted_of: Measure, measured_of: Measure
) -> Foresight | None:
    values = {row.experiment_id: measured_of(row) for row in rows}
    errors: list[float] = []
    sides: list[bool] = []
    for row in rows:
        predicted, measured = predicted_of(row), values[row.experiment_id]
        if predicted is None or measured is None:
            continue
        errors.append(measured - predicted)
        parents = [value for parent in row.experiment.parents if (value := values.get(parent)) is not None]
        start = min(parents, default=0.0)
        if predicted != start:
            sides.append((predicted < start) == (measured < start))
    if not errors:
        return None
    size = sum(map(abs, errors)) / len(errors)
    return Foresight(quantity, unit, len(errors), size, sum(errors) / len(errors), len(sides), sum(sides))
