"""Verdicts at real points, scaling to 1080p30, and the floor that noise sets."""

from __future__ import annotations

import math
from typing import Any

import pytest
from sample_records import curve, point, scenes

from tasks.analyze.verdicts import (
    REFERENCE_SAMPLES_PER_SECOND,
    cheapest_good_point,
    clip_verdicts,
    judged_point,
    kbps_1080p30,
    meets_all,
    noise_floor_kbps,
    scene_verdicts,
)
from tasks.campaign import Targets
from tasks.store.records import PointRecord

TARGETS = Targets()
# The MSE of 35 dB at 8 bits: 255² / 10^3.5.
DISTORTION = 20.5626


def full_hd(kbps: float, psnr_y: float, **changes: Any) -> PointRecord:
    return point("a", "talk", kbps, psnr_y, width=1920, height=1080, frames_per_second=30.0, **changes)


def answers(points: list[PointRecord], targets: Targets = TARGETS) -> dict[str, str]:
    return {verdict.target: verdict.answer for verdict in clip_verdicts(points, targets)}


@pytest.mark.parametrize(
    ("width", "height", "rate", "factor"),
    [(1920, 1080, 30.0, 1), (960, 540, 30.0, 4), (1920, 1080, 60.0, 0.5), (320, 180, 25.0, 43.2)],
)
def test_bitrates_are_scaled_linearly_in_samples(width: int, height: int, rate: float, factor: float) -> None:
    scaled = kbps_1080p30(point("a", "talk", 100, 36, width=width, height=height, frames_per_second=rate))
    assert scaled == pytest.approx(100 * factor)


def test_the_cheapest_good_point_meets_both_quality_targets() -> None:
    points = [
        full_hd(200, 33, ssim_y=0.97),
        full_hd(300, 36, ssim_y=0.94),
        full_hd(500, 38, ssim_y=0.96),
        full_hd(400, 37, ssim_y=0.95),
    ]
    assert cheapest_good_point(points, TARGETS) is points[3]
    assert cheapest_good_point(points[:2], TARGETS) is None


def test_a_clip_without_a_good_point_is_judged_at_its_best() -> None:
    points = [full_hd(300, 36, ssim_y=0.94), full_hd(200, 33, ssim_y=0.97)]
    assert judged_point(points, TARGETS) is points[0]
    assert judged_point([], TARGETS) is None


def test_all_targets_met() -> None:
    found = clip_verdicts([full_hd(1000, 35.0, ssim_y=0.95, tera_ops_per_frame=1.33)], TARGETS)
    assert [verdict.answer for verdict in found] == ["met"] * 5
    assert meets_all(found)


@pytest.mark.parametrize(
    ("target", "changes"),
    [
        ("bitrate", {"kbps": 1000.1}),
        ("PSNR-Y", {"psnr_y": 34.99}),
        ("SSIM-Y", {"ssim_y": 0.9499}),
        ("operations", {"tera_ops_per_frame": 1.331}),
    ],
)
def test_each_target_can_be_missed(target: str, changes: dict[str, float]) -> None:
    good = {"kbps": 900.0, "psnr_y": 36.0, "ssim_y": 0.96, "tera_ops_per_frame": 1.0}
    values = good | changes
    found = answers([full_hd(values.pop("kbps"), values.pop("psnr_y"), **values)])
    assert found[target] == "missed"


def test_the_saving_is_over_the_hevc_stream() -> None:
    targets = Targets(kbps=5000, hevc_kbps=4000, hevc_saving=0.5)
    assert answers([full_hd(2000, 36, ssim_y=0.96)], targets)["saving over HEVC"] == "met"
    assert answers([full_hd(2001, 36, ssim_y=0.96)], targets)["saving over HEVC"] == "missed"


def test_a_small_clip_is_judged_at_the_scaled_bitrate() -> None:
    small = point("a", "talk", 100, 36, width=320, height=180, frames_per_second=25.0, ssim_y=0.96)
    found = clip_verdicts([small], TARGETS)[0]
    assert (found.target, found.answer) == ("bitrate", "missed")
    assert found.text == "4320 kbps at 1080p30 (100 as it is)"


def test_without_a_network_operations_do_not_apply_and_hinder_nothing() -> None:
    found = clip_verdicts([full_hd(900, 36, ssim_y=0.96)], TARGETS)
    assert found[-1].answer == "not applicable"
    assert found[-1].text == "no network; decodes 200 frames a second"
    assert meets_all(found)


def test_nothing_measured_meets_nothing() -> None:
    assert clip_verdicts([], TARGETS) == ()
    assert not meets_all(())


def test_a_scene_is_scaled_as_its_clip_is() -> None:
    whole = curve("a", "talk")[2]
    scene = scenes("a", "talk", kbps=50.0, psnr_y=34.0, ssim_y=0.96)[0]
    found = scene_verdicts(scene, whole, TARGETS)
    scaled = 50 * REFERENCE_SAMPLES_PER_SECOND / (640 * 360 * 25)
    assert found[0].text == f"{scaled:.0f} kbps at 1080p30"
    assert [verdict.answer for verdict in found] == ["met", "missed", "met"]


def test_a_scene_of_unknown_bytes_has_no_verdict_on_its_bitrate() -> None:
    scene = scenes("a", "talk", kbps=None, bytes_total=None)[0]
    assert [verdict.target for verdict in scene_verdicts(scene, curve("a", "talk")[0], TARGETS)] == ["PSNR-Y", "SSIM-Y"]


def test_the_noise_floor_of_one_scene_by_hand() -> None:
    # Noise of four times the allowed distortion: half the logarithm of four is one bit a sample.
    assert noise_floor_kbps([(50, math.sqrt(4 * DISTORTION))], TARGETS) == pytest.approx(62_208, rel=1e-4)


def test_the_noise_floor_of_two_scenes_is_water_filled() -> None:
    # The clean half leaves its distortion to the noisy one: half of the frames at ½·log2(4D / 2D) = ½ bit.
    floor = noise_floor_kbps([(25, 0.0), (25, math.sqrt(4 * DISTORTION))], TARGETS)
    assert floor == pytest.approx(62_208 / 4, rel=1e-4)


@pytest.mark.parametrize("sigmas", [(0.0,), (math.sqrt(DISTORTION) - 0.001,), (0.0, math.sqrt(2 * DISTORTION) - 0.01)])
def test_noise_within_the_allowed_distortion_costs_nothing(sigmas: tuple[float, ...]) -> None:
    assert noise_floor_kbps([(10, sigma) for sigma in sigmas], TARGETS) == 0
