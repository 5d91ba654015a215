"""Whether one candidate is better than another: paired, clip by clip on the same frames, and beyond the noise.

Owns the comparison. Which two are compared, and on what, is `tasks.execute.cascade`'s.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Final

from tasks.analyze.bd_rate import Metric, bd_rate
from tasks.store.records import ExperimentRecord, PointRecord, Track

METRICS: Final[tuple[Metric, Metric]] = ("psnr_y", "psnr_yuv")


@dataclass(frozen=True)
class Comparison:
    """BD-rate in percent of the one against the other by clip; None where the curves do not compare.

    percents     on PSNR-Y, which everything is ranked by
    with_colour  on PSNR-YUV: luma that is paid for with grey chroma is no gain
    noise        by how much a clip's BD-rate moves between two encodes by the same candidate, the larger of the two's
    """

    percents: Mapping[str, float | None]
    with_colour: Mapping[str, float | None]
    noise: Mapping[str, float]

    @property
    def mean(self) -> float | None:
        return _mean(self.percents)

    @property
    def mean_noise(self) -> float:
        return sum(self.noise.get(clip, 0.0) for clip in self.percents) / max(1, len(self.percents))

    @property
    def better(self) -> bool:
        """The mean gain exceeds the mean noise, with colour too, and more clips gain than lose beyond their noise."""
        if any(mean is None or mean >= -self.mean_noise for mean in (self.mean, _mean(self.with_colour))):
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
        colour = _mean(self.with_colour)
        with_colour = "" if colour is None else f" ({colour:+.2f}% with colour)"
        return f"{self.mean:+.2f}%{with_colour} on {len(self.percents)} clips, noise {self.mean_noise:.2f}%"


def compare(test: Sequence[PointRecord], rival: Sequence[PointRecord], *noises: Mapping[str, float]) -> Comparison:
    """`test` against `rival`, both measured on the same frames."""
    clips = {point.clip for point in (*test, *rival)}
    luma, colour = (
        {
            clip: bd_rate([p for p in rival if p.clip == clip], [p for p in test if p.clip == clip], metric).percent
            for clip in sorted(clips)
        }
        for metric in METRICS
    )
    return Comparison(
        luma, colour, {clip: max((noise.get(clip, 0.0) for noise in noises), default=0.0) for clip in clips}
    )


def _mean(percents: Mapping[str, float | None]) -> float | None:
    """None as soon as one clip has none."""
    found = [percent for percent in percents.values() if percent is not None]
    return sum(found) / len(found) if found and len(found) == len(percents) else None


def champion(experiments: Iterable[ExperimentRecord], track: Track = "overfitted") -> ExperimentRecord | None:
    """The candidate of that track that was promoted last and has not been found out since."""
    latest: dict[str, ExperimentRecord] = {}
    for record in sorted(experiments, key=lambda record: record.attempt):
        latest[record.experiment_id] = record
    promoted = [
        record
        for record in latest.values()
        if record.kind == "candidate" and record.track == track and record.status == "measured" and is_promoted(record)
    ]
    return max(promoted, key=lambda record: record.finished_at, default=None)


def is_promoted(record: ExperimentRecord) -> bool:
    """Whether its last stage of comparison was passed: on the select clips where there are some, else on dev."""
    stages = {stage.name: stage for stage in record.stages}
    decisive = stages.get("select") or stages.get("repeat")
    return decisive is not None and decisive.passed
