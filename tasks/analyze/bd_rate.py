"""BD-rate between two measured curves, with what it rests on, or the reason why there is none.

The integration is the `bjontegaard` library's (PCHIP, log rate); which points may enter, and when the answer would be a
guess, is decided here.
Source: G. Bjøntegaard, VCEG-M33 (2001); PCHIP as in JCTVC's and AOM's common test conditions.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from math import exp, log, sqrt
from statistics import mean
from typing import Literal

from tasks.store.records import PointRecord

Metric = Literal["psnr_y", "psnr_yuv", "ssim_y", "vmaf"]

MIN_POINTS = 4
# Of the anchor's quality range, which the candidate cannot choose: points a tenth of a decibel apart would share all of
# their own range and say nothing. A sensible candidate spans about half of an anchor's six points.
MIN_OVERLAP = 0.25
# Identical frames have no finite PSNR; records cap it, and a capped value is no point of a curve.
PSNR_CAP_DB = 100.0
# Between two points the curve is a guess, and a candidate chooses where its points lie: a grey picture of three bytes
# and three good ones 29 dB above it made x265 57% better than itself. At twice the anchor's widest step the worst
# guess found was 5% off, at its own step 0.3%.
MAX_STEPS = 2.0


@dataclass(frozen=True)
class BdRate:
    """`percent` more (or, negative, fewer) bits than the anchor at equal quality; None with the `reason` why not.

    `overlap` is the share of the anchor's quality range that the test covers, in [0, 1].
    """

    percent: float | None
    overlap: float
    reason: str = ""


def bd_rate(anchor: Sequence[PointRecord], test: Sequence[PointRecord], metric: Metric = "psnr_y") -> BdRate:
    """The BD-rate of `test`. A curve that is not strictly rising, or is of other frames, is refused, not repaired."""
    if len({point.clip_hash for point in (*anchor, *test)}) > 1:
        return BdRate(None, 0.0, "the curves are of different frames")
    curves = [_curve(points, metric) for points in (anchor, test)]
    for name, curve in zip(("anchor", "test"), curves, strict=True):
        if len(curve) < MIN_POINTS:
            return BdRate(None, 0.0, f"the {name} has {len(curve)} usable points, {MIN_POINTS} are needed")
        if any(later[1] <= earlier[1] for earlier, later in pairwise(curve)):
            return BdRate(None, 0.0, f"the {name}'s quality does not rise with its rate")
    (_, low_a), *_, (_, high_a) = curves[0]
    (_, low_t), *_, (_, high_t) = curves[1]
    common = min(high_a, high_t) - max(low_a, low_t)
    overlap = max(0.0, common / (high_a - low_a))
    if overlap < MIN_OVERLAP:
        return BdRate(None, overlap, f"the curves share {overlap:.0%} of the anchor's quality range: too little")
    step = max(_steps(curves[1], low_a, high_a)) / max(_steps(curves[0], low_a, high_a))
    if step > MAX_STEPS:
        return BdRate(None, overlap, f"two points of the test lie {step:.1f} of the anchor's widest steps apart")

    import bjontegaard

    rate_a, quality_a = zip(*curves[0], strict=True)
    rate_t, quality_t = zip(*curves[1], strict=True)
    percent = bjontegaard.bd_rate(
        rate_a, quality_a, rate_t, quality_t, method="pchip", require_matching_points=False, min_overlap=0
    )
    return BdRate(float(percent), overlap)


def curve_distance(one: Sequence[PointRecord], other: Sequence[PointRecord], metric: Metric = "psnr_y") -> float | None:
    """How far two curves that have a BD-rate lie apart: root mean square, in percent of bits at equal quality.

    Over the points of each that lie in the other's range. In a BD-rate distances of opposite sign cancel; a curve that
    moves by chance does so to either side. None where there is no such point.
    """
    curves = [_curve(points, metric) for points in (one, other)]
    distances = [*_distances(*curves), *_distances(*reversed(curves))]
    return sqrt(mean(distance**2 for distance in distances)) if distances else None


def _distances(curve: Sequence[tuple[float, float]], points: Sequence[tuple[float, float]]) -> list[float]:
    """By how many percent each point has more bits than the curve at its quality (PCHIP, log rate)."""
    from scipy.interpolate import PchipInterpolator

    rates, qualities = zip(*curve, strict=True)
    log_rate = PchipInterpolator(qualities, [log(rate) for rate in rates])
    inside = [(rate, quality) for rate, quality in points if qualities[0] <= quality <= qualities[-1]]
    return [100 * (rate / exp(float(log_rate(quality))) - 1) for rate, quality in inside]


def _curve(points: Sequence[PointRecord], metric: Metric) -> list[tuple[float, float]]:
    """(kbps, quality) by rising rate. No bits have no logarithm, so a point without any is none of a curve."""
    values = [(point.kbps, getattr(point, metric)) for point in points if point.kbps > 0]
    return sorted((rate, quality) for rate, quality in values if quality is not None and quality < PSNR_CAP_DB)


def _steps(curve: Sequence[tuple[float, float]], low: float, high: float) -> list[float]:
    """How far neighbours lie apart in quality, where they have a part of `low` to `high` between them."""
    return [later - earlier for (_, earlier), (_, later) in pairwise(curve) if earlier < high and later > low]
