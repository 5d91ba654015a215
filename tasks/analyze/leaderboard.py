"""The leaderboard: every experiment of a campaign in order of merit, from its records alone.

Merit is the mean BD-rate against x265-medium over the dev clips (lower is better). Anchors are rows among the others;
what was not measured comes last, with its reason and without a score. A candidate has a rank once its bytes have been
decoded again in another run, and none if it ran without isolation. Codecs with weights outside their bitstream are
another track, with ranks of its own.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import get_args

from tasks.analyze.bd_rate import BdRate, bd_rate
from tasks.analyze.promotion import champion, is_promoted
from tasks.analyze.verdicts import (
    Verdict,
    cheapest_good_point,
    clip_verdicts,
    kbps_1080p30,
    meets_all,
    noise_floor_kbps,
)
from tasks.campaign import Targets
from tasks.store.records import ExperimentRecord, PointRecord, SceneRecord, Track, verification_id

REFERENCE_ANCHOR = "x265-medium"
ANCHOR_NAMES = (REFERENCE_ANCHOR, "svtav1-p6")
BARRED_ISOLATION = "none"


@dataclass(frozen=True)
class ClipStanding:
    """One experiment on one clip. `cheapest` is the point of lowest rate that meets the quality targets."""

    clip: str
    points: tuple[PointRecord, ...]
    bd_rates: Mapping[str, BdRate]
    verdicts: tuple[Verdict, ...]
    cheapest: PointRecord | None
    note: str = ""


@dataclass(frozen=True)
class Standing:
    """One row. `rank` is None for what has no score; `mean_bd_rates` are percent by anchor, over all clips or None."""

    experiment: ExperimentRecord
    rank: int | None
    clips: tuple[ClipStanding, ...]
    mean_bd_rates: Mapping[str, float | None]
    on_front: bool = False
    verified: bool = False
    champion: bool = False

    @property
    def experiment_id(self) -> str:
        return self.experiment.experiment_id

    @property
    def kind(self) -> str:
        return self.experiment.kind

    @property
    def track(self) -> Track:
        return self.experiment.track

    @property
    def mean_bd_rate(self) -> float | None:
        return self.mean_bd_rates.get(REFERENCE_ANCHOR)

    @property
    def met(self) -> bool:
        """Every target on every clip."""
        return bool(self.clips) and all(meets_all(clip.verdicts) for clip in self.clips)

    @property
    def decode_fps(self) -> float | None:
        """The slowest clip's mean, which is what a viewer meets."""
        return min((_mean([point.decode_fps for point in clip.points]) for clip in self.clips), default=None)

    @property
    def encode_seconds(self) -> float | None:
        return _mean([point.encode_seconds for clip in self.clips for point in clip.points]) if self.clips else None

    @property
    def tera_ops_per_frame(self) -> float | None:
        counts = [point.tera_ops_per_frame for clip in self.clips for point in clip.points]
        return max((count for count in counts if count is not None), default=None)

    @property
    def summary(self) -> str:
        """What it is, in a few words, by its config."""
        return config_summary(self.experiment.config_json)


def standings(
    experiments: Iterable[ExperimentRecord],
    points: Iterable[PointRecord],
    targets: Targets,
    *,
    scenes: Iterable[SceneRecord] = (),
) -> list[Standing]:
    """All experiments of one campaign, best first. Of several attempts at one experiment the last one counts."""
    everything = _latest(experiments)
    latest = [record for record in everything if record.kind in ("candidate", "anchor")]
    verified = {record.experiment_id for record in everything if _is_verification(record)}
    leaders = {found.experiment_id for track in get_args(Track) if (found := champion(latest, track)) is not None}
    by_experiment: dict[str, dict[str, list[PointRecord]]] = {}
    for point in points:
        if point.split == "dev":
            by_experiment.setdefault(point.experiment_id, {}).setdefault(point.clip, []).append(point)
    floors = _noise_floors(scenes, targets)
    anchors = {
        name: by_experiment.get(record.experiment_id, {})
        for record in latest
        if record.kind == "anchor" and record.status == "measured" and (name := anchor_name(record))
    }
    rows = [
        replace(
            _standing(record, by_experiment, anchors, targets, floors),
            verified=verification_id(record.experiment_id) in verified,
            champion=record.experiment_id in leaders,
        )
        for record in latest
    ]
    ranked = [row for track in get_args(Track) for row in _ranked([row for row in rows if row.track == track])]
    rest = sorted(
        (row for row in rows if not _may_rank(row)),
        key=lambda row: (row.experiment.status != "measured", row.experiment_id),
    )
    return ranked + rest


def _ranked(rows: Sequence[Standing]) -> list[Standing]:
    """Those of one track that may have a rank, best first."""
    scored = sorted((row for row in rows if _may_rank(row)), key=lambda row: (row.mean_bd_rate, row.experiment_id))
    return [replace(row, rank=rank, on_front=_on_front(row, scored)) for rank, row in enumerate(scored, start=1)]


def best(board: Sequence[Standing]) -> Standing | None:
    """The champion; where nothing has been promoted yet, the first of the candidates."""
    ranked = [row for row in board if row.kind == "candidate" and row.rank is not None]
    return next((row for row in ranked if row.champion), ranked[0] if ranked else None)


def campaign_met(board: Sequence[Standing], *, has_select_clips: bool = False) -> bool:
    """One candidate meets every target on every clip, and was promoted where other clips decide that.

    An anchor that meets them proves nothing about the search.
    """
    return any(
        row.met
        and row.kind == "candidate"
        and row.verified
        and not _barred(row.experiment)
        and (is_promoted(row.experiment) or not has_select_clips)
        for row in board
    )


def anchor_name(record: ExperimentRecord) -> str | None:
    return next((name for name in ANCHOR_NAMES if record.experiment_id.endswith(name)), None)


def config_summary(config_json: str) -> str:
    config = json.loads(config_json)
    if not isinstance(config, dict) or "strategy" not in config:
        return "own code"
    parts = [str(config["strategy"]), f"preset {config['preset']}" if config.get("preset") else ""]
    parts.append(f"scale {config['scale']}" if config.get("scale", "1") != "1" else "")
    return " ".join(part for part in parts if part)


def _latest(experiments: Iterable[ExperimentRecord]) -> list[ExperimentRecord]:
    latest: dict[str, ExperimentRecord] = {}
    for record in experiments:
        known = latest.get(record.experiment_id)
        if known is None or record.attempt > known.attempt:
            latest[record.experiment_id] = record
    return list(latest.values())


def _standing(
    record: ExperimentRecord,
    by_experiment: Mapping[str, Mapping[str, list[PointRecord]]],
    anchors: Mapping[str, Mapping[str, list[PointRecord]]],
    targets: Targets,
    floors: Mapping[str, float],
) -> Standing:
    if record.status != "measured":
        return Standing(record, None, (), {})
    clips = []
    for clip, points in sorted(by_experiment.get(record.experiment_id, {}).items()):
        ordered = tuple(sorted(points, key=lambda point: point.kbps))
        bd_rates = {name: bd_rate(curves.get(clip, []), ordered) for name, curves in anchors.items()}
        verdicts = clip_verdicts(ordered, targets)
        floor = floors.get(clip, 0.0)
        note = f"its noise alone costs {floor:.0f} kbps at {targets.psnr_db:g} dB" if floor > targets.kbps else ""
        cheapest = cheapest_good_point(ordered, targets)
        clips.append(ClipStanding(clip, ordered, bd_rates, verdicts, cheapest, note))
    means = {name: _mean_bd_rate([clip.bd_rates[name] for clip in clips]) for name in anchors}
    return Standing(record, None, tuple(clips), means)


def _mean_bd_rate(rates: Sequence[BdRate]) -> float | None:
    """None as soon as one clip has none: a mean over the clips that happened to work would be another quantity."""
    percents = [rate.percent for rate in rates if rate.percent is not None]
    return _mean(percents) if percents and len(percents) == len(rates) else None


def _noise_floors(scenes: Iterable[SceneRecord], targets: Targets) -> dict[str, float]:
    """By clip: the least that its noise costs, in kbps at 1080p30. Every record of a clip has the same features."""
    noises: dict[str, dict[int, tuple[int, float]]] = {}
    for scene in scenes:
        if "noise" in scene.features:
            noises.setdefault(scene.clip, {})[scene.scene] = (scene.frames, scene.features["noise"])
    return {clip: noise_floor_kbps(list(by_scene.values()), targets) for clip, by_scene in noises.items()}


def _may_rank(row: Standing) -> bool:
    # Anchors are the project's own code with settings that nobody designs.
    trusted = row.kind == "anchor" or row.verified
    return row.mean_bd_rate is not None and trusted and not _barred(row.experiment)


def _is_verification(record: ExperimentRecord) -> bool:
    return record.kind == "verification" and record.status == "measured"


def _barred(record: ExperimentRecord) -> bool:
    return record.isolation == BARRED_ISOLATION


def _on_front(row: Standing, rows: Sequence[Standing]) -> bool:
    """No other row is at least as good in rate, operations and decode speed and better in one."""

    def costs(standing: Standing) -> tuple[float, float, float]:
        return standing.mean_bd_rate or 0.0, standing.tera_ops_per_frame or 0.0, -(standing.decode_fps or 0.0)

    mine = costs(row)
    return not any(
        all(theirs <= own for theirs, own in zip(costs(other), mine, strict=True)) and costs(other) != mine
        for other in rows
    )


def _mean(values: Sequence[float]) -> float:
    return sum(values) / len(values)


def target_kbps(clip: ClipStanding) -> float | None:
    """The clip's cheapest bitrate at the quality targets, at 1080p30; None where no point reaches them."""
    return kbps_1080p30(clip.cheapest) if clip.cheapest is not None else None
