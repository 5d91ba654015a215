"""Records as a campaign leaves them, for the tests of the store, the analysis and the search."""

from __future__ import annotations

import json
import random
from collections.abc import Iterable
from datetime import UTC, datetime, timedelta
from typing import Any

from tasks.store.records import ExperimentRecord, PointRecord, SceneRecord, verification_id

START = datetime(2026, 1, 2, 3, 4, 5, 678901, tzinfo=UTC)
CLIPS = ("talk", "screen")
# kbps of x265 medium at 640×360, 25 fps, and the PSNR-Y it reaches there.
ANCHOR_CURVE = ((60.0, 30.5), (110.0, 33.4), (200.0, 36.2), (380.0, 39.0), (700.0, 41.6))


def experiment(experiment_id: str, campaign: str = "night", *, minutes: int = 0, **changes: Any) -> ExperimentRecord:
    config = changes.pop("config", {"strategy": "av1", "preset": "6", "scale": "1", "quality_range": [63, 18]})
    started = START + timedelta(minutes=minutes)
    values: dict[str, Any] = {
        "campaign": campaign,
        "experiment_id": experiment_id,
        "status": "measured",
        "stage": "done",
        "designer": "search",
        "hypothesis": "av1 at preset 6: a starting point",
        "config_json": json.dumps(config, sort_keys=True),
        "isolation": "process",
        "gpu_seconds": 12.5,
        "started_at": started,
        "finished_at": started + timedelta(seconds=12),
    }
    return ExperimentRecord(**(values | changes))


def verified(records: Iterable[ExperimentRecord]) -> list[ExperimentRecord]:
    """The records, and that each measured candidate among them was decoded again to the same frames."""
    found = list(records)
    for record in found[:]:
        if record.kind == "candidate" and record.status == "measured":
            update = {"experiment_id": verification_id(record.experiment_id), "kind": "verification"}
            found.append(record.model_copy(update=update | {"gpu_seconds": 1.0, "usd": 0.0, "input_tokens": 0}))
    return found


def anchor(name: str, strategy: str, preset: str, campaign: str = "night") -> ExperimentRecord:
    config = {"strategy": strategy, "preset": preset, "scene_cuts": False}
    return experiment(f"{campaign}-{name}", campaign, kind="anchor", designer="anchor", config=config, hypothesis="")


def point(
    experiment_id: str, clip: str, kbps: float, psnr_y: float, campaign: str = "night", **changes: Any
) -> PointRecord:
    values: dict[str, Any] = {
        "campaign": campaign,
        "experiment_id": experiment_id,
        "clip": clip,
        "clip_hash": f"hash of {clip}",
        "quality": 0.5,
        "width": 640,
        "height": 360,
        "frames": 50,
        "frames_per_second": 25.0,
        "bytes_total": round(kbps * 1000 / 8 * 2),
        "bytes_by_strategy": {"av1": round(kbps * 250) - 40},
        "kbps": kbps,
        "psnr_y": psnr_y,
        "psnr_u": psnr_y + 3,
        "psnr_v": psnr_y + 3.5,
        "psnr_yuv": psnr_y + 0.8,
        "psnr_y_frame_mean": psnr_y + 0.2,
        "psnr_y_worst": psnr_y - 1.1,
        "ssim_y": min(1.0, 0.90 + (psnr_y - 30) / 100),
        "encode_seconds": 2.0,
        "decode_seconds": 0.25,
        "decode_fps": 200.0,
    }
    return PointRecord(**(values | changes))


def curve(
    experiment_id: str,
    clip: str,
    rate_factor: float = 1.0,
    campaign: str = "night",
    base: tuple[tuple[float, float], ...] = ANCHOR_CURVE,
    **changes: Any,
) -> list[PointRecord]:
    """Points at `rate_factor` times the anchor's bitrate and the same quality: a BD-rate of 100·(rate_factor − 1)."""
    return [
        point(experiment_id, clip, kbps * rate_factor, psnr, campaign, quality=(index + 1) / 6, **changes)
        for index, (kbps, psnr) in enumerate(base)
    ]


def scenes(
    experiment_id: str, clip: str, campaign: str = "night", noise: float = 0.5, **changes: Any
) -> list[SceneRecord]:
    """Two scenes at each rate point of `curve`."""
    return [
        SceneRecord(
            **(
                {
                    "campaign": campaign,
                    "experiment_id": experiment_id,
                    "clip": clip,
                    "quality": (index + 1) / 6,
                    "scene": scene,
                    "first_frame": 25 * scene,
                    "frames": 25,
                    "features": {"noise": noise, "motion": 1.5},
                    "strategies_tried": ("av1",),
                    "strategy": "av1",
                    "why": "fixed by config",
                    "bytes_total": round(kbps * 125),
                    "kbps": kbps * (0.8 + 0.4 * scene),
                    "psnr_y": psnr + 1 - 2 * scene,
                    "ssim_y": min(1.0, 0.90 + (psnr - 30) / 100),
                }
                | changes
            )
        )
        for index, (kbps, psnr) in enumerate(ANCHOR_CURVE)
        for scene in range(2)
    ]


def random_record(random_source: random.Random, number: int, campaign: str = "night") -> ExperimentRecord:
    """A record with awkward text and numbers in every free field."""
    text = "".join(random_source.choice("aäß\n\t\"',;<>/\\\u0000漢🎬 ") for _ in range(random_source.randrange(60)))
    return experiment(
        f"{campaign}-{number:03d}",
        campaign,
        minutes=number,
        status=random_source.choice(("measured", "crashed", "timeout", "infrastructure")),
        reason=text,
        hypothesis=text[::-1],
        parents=tuple(f"p{index}" for index in range(random_source.randrange(4))),
        predicted_bd_rate_percent=random_source.choice((None, 0.0, -12.345678901234567, 1e-300)),
        decoder_source_bytes=random_source.choice((None, 0, 65536)),
        usd=random_source.random(),
        input_tokens=2**53 + 1,
    )
