"""Whether a measured codec meets the targets, target by target, on a clip and on a scene.

Only real points count: nothing is interpolated. Bitrates are compared after linear scaling to 1080p at 30 fps.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from tasks.campaign import Targets
from tasks.store.records import PointRecord, SceneRecord

REFERENCE_SAMPLES_PER_SECOND = 1920 * 1080 * 30

Answer = Literal["met", "missed", "not applicable"]


@dataclass(frozen=True)
class Verdict:
    """One target. `text` has the measured value with its unit."""

    target: str
    answer: Answer
    text: str


def kbps_1080p30(point: PointRecord) -> float:
    """The bitrate scaled linearly in samples to 1080p at 30 frames a second: pessimistic for small clips."""
    samples_per_second = point.width * point.height * point.frames_per_second
    return point.kbps * REFERENCE_SAMPLES_PER_SECOND / samples_per_second


def cheapest_good_point(points: Sequence[PointRecord], targets: Targets) -> PointRecord | None:
    """Of one clip's points, the one of lowest rate that meets both quality targets."""
    good = [point for point in points if point.psnr_y >= targets.psnr_db and point.ssim_y >= targets.ssim]
    return min(good, key=lambda point: point.kbps, default=None)


def judged_point(points: Sequence[PointRecord], targets: Targets) -> PointRecord | None:
    """The point at which one clip is judged: its cheapest of good quality, or its best one if none is good."""
    return cheapest_good_point(points, targets) or max(points, key=lambda point: point.psnr_y, default=None)


def clip_verdicts(points: Sequence[PointRecord], targets: Targets) -> tuple[Verdict, ...]:
    """The verdict on one clip, at its judged point; empty where it has none."""
    point = judged_point(points, targets)
    if point is None:
        return ()
    rate = kbps_1080p30(point)
    saving = 1 - rate / targets.hevc_kbps
    verdicts = [
        _at_most("bitrate", rate, targets.kbps, f"{rate:.0f} kbps at 1080p30 ({point.kbps:.0f} as it is)"),
        _at_least("PSNR-Y", point.psnr_y, targets.psnr_db, f"{point.psnr_y:.2f} dB"),
        _at_least("SSIM-Y", point.ssim_y, targets.ssim, f"{point.ssim_y:.4f}"),
        _at_least("saving over HEVC", saving, targets.hevc_saving, f"{saving:.0%} below {targets.hevc_kbps:.0f} kbps"),
    ]
    if point.tera_ops_per_frame is None:
        text = f"no network; decodes {point.decode_fps:.0f} frames a second"
        verdicts.append(Verdict("operations", "not applicable", text))
    else:
        text = f"{point.tera_ops_per_frame:.4f} tera-operations a 1080p frame"
        verdicts.append(_at_most("operations", point.tera_ops_per_frame, targets.tera_ops_per_frame, text))
    return tuple(verdicts)


def meets_all(verdicts: Sequence[Verdict]) -> bool:
    return bool(verdicts) and all(verdict.answer != "missed" for verdict in verdicts)


def scene_verdicts(scene: SceneRecord, point: PointRecord, targets: Targets) -> tuple[Verdict, ...]:
    """The same for one scene of a point; without a bitrate where its bytes cannot be told from the others'."""
    verdicts = [
        _at_least("PSNR-Y", scene.psnr_y, targets.psnr_db, f"{scene.psnr_y:.2f} dB"),
        _at_least("SSIM-Y", scene.ssim_y, targets.ssim, f"{scene.ssim_y:.4f}"),
    ]
    if scene.kbps is not None:
        rate = scene.kbps * kbps_1080p30(point) / point.kbps
        verdicts.insert(0, _at_most("bitrate", rate, targets.kbps, f"{rate:.0f} kbps at 1080p30"))
    return tuple(verdicts)


def noise_floor_kbps(scenes: Sequence[tuple[int, float]], targets: Targets) -> float:
    """The least that coding a clip's noise to its PSNR target costs, in kbps at 1080p30.

    `scenes` are (frames, standard deviation of the noise in 8-bit steps). Taken as Gaussian and independent; the
    distortion that the target allows is spread over the scenes by reverse water-filling, as an ideal codec would
    (Cover and Thomas, Elements of Information Theory, 10.3.3). Zero where the noise is within that distortion.
    """
    total = sum(frames for frames, _ in scenes)
    noises = [(frames / total, sigma**2) for frames, sigma in scenes]
    allowed = 255**2 / 10 ** (targets.psnr_db / 10)
    if sum(share * variance for share, variance in noises) <= allowed:
        return 0.0
    low, level = 0.0, max(variance for _, variance in noises)
    for _ in range(60):  # bisection to the last bit that matters
        middle = (low + level) / 2
        if sum(share * min(middle, variance) for share, variance in noises) < allowed:
            low = middle
        else:
            level = middle
    bits = sum(share * 0.5 * math.log2(variance / level) for share, variance in noises if variance > level)
    return bits * REFERENCE_SAMPLES_PER_SECOND / 1000


def _at_most(target: str, value: float, limit: float, text: str) -> Verdict:
    return Verdict(target, "met" if value <= limit else "missed", text)


def _at_least(target: str, value: float, limit: float, text: str) -> Verdict:
    return Verdict(target, "met" if value >= limit else "missed", text)
