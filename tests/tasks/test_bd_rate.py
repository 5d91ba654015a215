"""BD-rates of curves whose answer is known, and the refusal of those that have none."""

from __future__ import annotations

from itertools import pairwise

import pytest
from sample_records import ANCHOR_CURVE, curve, point

from tasks.analyze.bd_rate import MIN_OVERLAP, bd_rate, curve_distance
from tasks.store.records import PointRecord

ANCHOR = curve("anchor", "talk")
# Its qualities span this many decibels.
SPAN = ANCHOR_CURVE[-1][1] - ANCHOR_CURVE[0][1]


def moved(decibels: float) -> list[PointRecord]:
    """The anchor's curve at the same rates and another quality."""
    return curve("test", "talk", base=tuple((kbps, psnr + decibels) for kbps, psnr in ANCHOR_CURVE))


def test_distances_of_opposite_sign_do_not_cancel() -> None:
    qualities = tuple(range(30, 42, 2))
    one = exponential("anchor", 100, qualities)
    other = [
        point.model_copy(update={"kbps": point.kbps * (1.05 if place % 2 else 1 / 1.05)})
        for place, point in enumerate(exponential("test", 100, qualities))
    ]
    assert bd_rate(one, other).percent == pytest.approx(0, abs=0.5)
    assert curve_distance(one, other) == pytest.approx(5, abs=0.3)
    assert curve_distance(one, one) == pytest.approx(0, abs=1e-9)
    assert curve_distance(one, exponential("test", 110, qualities)) == pytest.approx(10, abs=0.6)
    assert curve_distance(one, exponential("test", 100, (50, 52, 54, 56))) is None


def exponential(name: str, rate: float, qualities: tuple[float, ...]) -> list[PointRecord]:
    """Six decibels a doubling: a straight line over the logarithm of the rate, which PCHIP follows exactly."""
    return [point(name, "talk", rate * 2 ** (quality / 6), quality) for quality in qualities]


def test_the_same_curve_is_at_zero() -> None:
    found = bd_rate(ANCHOR, curve("test", "talk"))
    assert found.percent == pytest.approx(0, abs=1e-9)
    assert (found.overlap, found.reason) == (1.0, "")


@pytest.mark.parametrize(("factor", "percent"), [(0.5, -50.0), (0.9, -10.0), (2.0, 100.0)])
def test_a_constant_factor_in_rate_is_the_bd_rate(factor: float, percent: float) -> None:
    assert bd_rate(ANCHOR, curve("test", "talk", factor)).percent == pytest.approx(percent, abs=1e-6)


def test_points_at_other_qualities_change_nothing_on_a_straight_curve() -> None:
    anchor = exponential("anchor", 1.0, (30, 32, 35, 37, 40))
    test = exponential("test", 0.8, (31, 33.3, 36.1, 38.9))
    found = bd_rate(anchor, test)
    assert found.percent == pytest.approx(-20, abs=1e-6)
    assert found.overlap == pytest.approx(0.79)


def test_the_order_of_the_points_does_not_matter() -> None:
    assert bd_rate(ANCHOR[::-1], moved(1)[::-1]) == bd_rate(ANCHOR, moved(1))


def test_better_quality_at_the_same_rate_is_negative() -> None:
    assert (bd_rate(ANCHOR, moved(1)).percent or 0) < -10
    assert (bd_rate(ANCHOR, moved(-1)).percent or 0) > 10


@pytest.mark.parametrize("decibels", [3.0, -3.0])
def test_the_overlap_is_the_share_of_the_anchors_range(decibels: float) -> None:
    assert bd_rate(ANCHOR, moved(decibels)).overlap == pytest.approx((SPAN - 3) / SPAN)


def test_a_test_within_the_anchors_range_overlaps_by_its_own_length() -> None:
    assert bd_rate(ANCHOR, curve("test", "talk", base=ANCHOR_CURVE[1:])).overlap == pytest.approx(
        (ANCHOR_CURVE[-1][1] - ANCHOR_CURVE[1][1]) / SPAN
    )


def test_too_little_overlap_is_refused() -> None:
    found = bd_rate(ANCHOR, moved(SPAN * (1.01 - MIN_OVERLAP)))
    assert found.percent is None
    assert found.overlap == pytest.approx(MIN_OVERLAP - 0.01)
    assert "24% of the anchor's quality range" in found.reason


def test_a_curve_bunched_at_one_quality_is_refused() -> None:
    base = tuple((100.0 + index, 35 + index / 100) for index in range(6))
    found = bd_rate(ANCHOR, curve("test", "talk", base=base))
    assert found.percent is None
    assert "too little" in found.reason


def test_curves_that_never_meet_have_no_overlap() -> None:
    assert bd_rate(ANCHOR, moved(50)).overlap == 0


@pytest.mark.parametrize("side", ["anchor", "test"])
def test_three_points_are_refused(side: str) -> None:
    short, whole = curve(side, "talk")[:3], curve("other", "talk")
    found = bd_rate(short, whole) if side == "anchor" else bd_rate(whole, short)
    assert found.percent is None
    assert found.reason == f"the {side} has 3 usable points, 4 are needed"


def test_no_points_are_refused() -> None:
    assert bd_rate([], ANCHOR).reason == "the anchor has 0 usable points, 4 are needed"


def test_the_cap_for_identical_frames_is_no_point_of_a_curve() -> None:
    capped = [*ANCHOR, point("test", "talk", 900, 100.0)]
    assert bd_rate(ANCHOR, capped).percent == pytest.approx(0, abs=1e-9)
    lossless = [*ANCHOR[:3], *(point("test", "talk", kbps, 100.0) for kbps in (800, 900))]
    assert bd_rate(ANCHOR, lossless).reason == "the test has 3 usable points, 4 are needed"


def test_a_point_without_bits_is_no_point_of_a_curve() -> None:
    """Its logarithm would end every comparison of its campaign, for good."""
    empty = [point("test", "talk", 0.0, 20.0), *ANCHOR[2:]]
    assert bd_rate(ANCHOR, empty).reason == "the test has 3 usable points, 4 are needed"
    assert bd_rate(ANCHOR, [empty[0], *ANCHOR]).percent == pytest.approx(0, abs=1e-9)


def test_a_sacrificed_point_makes_no_curve() -> None:
    """A grey picture for a few bytes and three good points: nothing of the anchor's range was measured."""
    base = ((0.01, 12.6), (600.0, 41.0), (650.0, 41.3), (700.0, 41.6))
    found = bd_rate(ANCHOR, curve("test", "talk", base=base))
    assert found.percent is None
    assert found.reason == "two points of the test lie 9.8 of the anchor's widest steps apart"


def test_a_point_far_below_the_anchors_range_is_harmless_where_another_stands_at_its_edge() -> None:
    assert bd_rate(ANCHOR, [point("test", "talk", 0.01, 12.6), *ANCHOR]).percent == pytest.approx(0, abs=1)


@pytest.mark.parametrize("quality", [39.0, 38.0])
def test_a_curve_that_does_not_rise_is_refused(quality: float) -> None:
    bent = [*ANCHOR[:4], point("test", "talk", 700, quality)]
    found = bd_rate(ANCHOR, bent)
    assert found.percent is None
    assert found.reason == "the test's quality does not rise with its rate"


def test_curves_of_other_frames_are_refused() -> None:
    assert bd_rate(ANCHOR, curve("test", "talk", clip_hash="other")).reason == "the curves are of different frames"


def test_other_metrics_are_compared_by_their_own_values() -> None:
    assert bd_rate(ANCHOR, curve("test", "talk", 0.5), "ssim_y").percent == pytest.approx(-50, abs=1e-6)
    assert bd_rate(ANCHOR, curve("test", "talk", 0.5), "vmaf").reason == "the anchor has 0 usable points, 4 are needed"


def test_a_worse_test_never_scores_better() -> None:
    found = [bd_rate(ANCHOR, moved(decibels)).percent for decibels in (2.0, 1.0, 0.0, -1.0, -2.0)]
    percents = [percent for percent in found if percent is not None]
    assert len(percents) == 5
    assert all(better < worse for better, worse in pairwise(percents))
