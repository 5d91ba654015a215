"""Whether one candidate is better than another: paired, clip by clip on the same frames, and beyond the noise.

Owns the comparison. Which two are compared, and on what, is `tasks.execute.cascade`'s.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from tasks.analyze.bd_rate import bd_rate
from tasks.store.records import ExperimentRecord, PointRecord


@dataclass(frozen=True)
class Comparison:
    """BD-rate in percent of the one against the other by clip; None where the curves do not compare.

    noise  by how much a clip's BD-rate moves between two encodes by the same candidate, the larger of the two's
    """

    percents: Mapping[str, float | None]
    noise: Mapping[str, float]

    @property
    def mean(self) -> float | None:
        found = [percent for percent in self.percents.values() if percent is not None]
        return sum(found) / len(found) if found and len(found) == len(self.percents) else None

    @property
    def mean_noise(self) -> float:
        return sum(self.noise.get(clip, 0.0) for clip in self.percents) / max(1, len(self.percents))

    @property
    def better(self) -> bool:
        """The mean gain exceeds the mean noise, and more clips gain than lose beyond their own noise."""
        if self.mean is None or self.mean >= -self.mean_noise:
            return False
        beyond = [
            percent
            for clip, percent in self.percents.items()
            if percent is not None and abs(percent) > self.noise.get(clip, 0.0)
        ]
        return sum(1 if percent < 0 else -1 for percent in beyond) > 0

    def __str__(self) -> str:
        if self.mean is None:
            return "the curves do not compare"
        return f"{self.mean:+.2f}% on {len(self.percents)} clips, noise {self.mean_noise:.2f}%"


def compare(test: Sequence[PointRecord], rival: Sequence[PointRecord], *noises: Mapping[str, float]) -> Comparison:
    """`test` against `rival`, both measured on the same frames."""
    clips = {point.clip for point in (*test, *rival)}
    percents = {
        clip: bd_rate([p for p in rival if p.clip == clip], [p for p in test if p.clip == clip]).percent
        for clip in sorted(clips)
    }
    return Comparison(percents, {clip: max((noise.get(clip, 0.0) for noise in noises), default=0.0) for clip in clips})


def champion(experiments: Iterable[ExperimentRecord]) -> ExperimentRecord | None:
    """The candidate that was promoted last and has not been found out since."""
    latest: dict[str, ExperimentRecord] = {}
    for record in sorted(experiments, key=lambda record: record.attempt):
        latest[record.experiment_id] = record
    promoted = [
        record
        for record in latest.values()
        if record.kind == "candidate" and record.status == "measured" and is_promoted(record)
    ]
    return max(promoted, key=lambda record: record.finished_at, default=None)


def is_promoted(record: ExperimentRecord) -> bool:
    """Whether its last stage of comparison was passed: on the select clips where there are some, else on dev."""
    stages = {stage.name: stage for stage in record.stages}
    decisive = stages.get("select") or stages.get("repeat")
    return decisive is not None and decisive.passed
