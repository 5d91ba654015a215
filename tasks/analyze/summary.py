"""What the Prefect UI and the terminal show of a campaign: rows for a table, Markdown for an iteration."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Sequence
from pathlib import Path

from tasks.analyze.leaderboard import ANCHOR_NAMES, REFERENCE_ANCHOR, Standing, best, target_kbps
from tasks.campaign import Campaign
from tasks.store.records import ExperimentRecord

Row = dict[str, str | int | None]


def artifact_key(kind: str, campaign: str) -> str:
    """A key that Prefect accepts: lower-case letters, digits and dashes."""
    slug = re.sub(r"[^a-z0-9]+", "-", campaign.lower()).strip("-")
    # Two names that differ only in what a key cannot hold must not share an artifact.
    suffix = "" if slug == campaign else "-" + hashlib.sha256(campaign.encode()).hexdigest()[:8]
    return f"{kind}-{slug}{suffix}"


def leaderboard_rows(board: Sequence[Standing]) -> list[Row]:
    """One row an experiment, best first, every value ready to be shown."""
    return [_row(row) for row in board]


def _row(row: Standing) -> Row:
    experiment = row.experiment
    shown: Row = {
        "rank": row.rank,
        "experiment": row.experiment_id,
        "what": ("anchor: " if row.kind == "anchor" else "champion: " if row.champion else "") + row.summary,
    }
    for name in ANCHOR_NAMES:
        percent = row.mean_bd_rates.get(name)
        shown[f"BD-rate vs {name}"] = None if percent is None else f"{percent:+.1f}%"
    points = [point for clip in row.clips for point in clip.points]
    shown["kbps at targets (1080p30)"] = mean_target_kbps(row) or None
    shown["PSNR-Y dB"] = (
        f"{min(point.psnr_y for point in points):.1f}-{max(point.psnr_y for point in points):.1f}" if points else None
    )
    shown["decode fps"] = None if row.decode_fps is None else f"{row.decode_fps:.0f}"
    shown["tera-ops"] = None if row.tera_ops_per_frame is None else f"{row.tera_ops_per_frame:.3f}"
    shown["encode s"] = None if row.encode_seconds is None else f"{row.encode_seconds:.1f}"
    shown["targets"] = targets_met(row) or None
    shown["track"] = row.track
    shown["status"] = experiment.status + (f": {experiment.reason}" if experiment.reason else "")
    return shown


def mean_target_kbps(row: Standing) -> str:
    """The lowest bitrate at the quality targets, as the mean over the clips; empty for what was not measured."""
    rates = [target_kbps(clip) for clip in row.clips]
    good = [rate for rate in rates if rate is not None]
    if len(good) < len(rates):
        return "not reached"
    return f"{sum(good) / len(good):.0f}" if good else ""


def targets_met(row: Standing) -> str:
    """Which targets are missed on any clip; empty for what was not measured."""
    if not row.clips:
        return ""
    missed = {verdict.target for clip in row.clips for verdict in clip.verdicts if verdict.answer == "missed"}
    return "all met" if not missed else "missed: " + ", ".join(sorted(missed))


def outcome(row: Standing) -> str:
    """What came of an experiment, in one line."""
    record = row.experiment
    if row.mean_bd_rate is not None:
        unverified = "" if row.verified or row.kind == "anchor" else ", not decoded again yet: no rank"
        return f"{row.mean_bd_rate:+.1f}% against {REFERENCE_ANCHOR}{unverified}"
    if record.status != "measured":
        return f"{record.status}: {record.reason}"
    reasons = sorted({rate.reason for clip in row.clips for rate in clip.bd_rates.values() if rate.reason})
    return "measured, no BD-rate: " + "; ".join(reasons)


def iteration_markdown(
    campaign: Campaign, iteration: int, experiments: Sequence[ExperimentRecord], board: Sequence[Standing]
) -> str:
    """What the iteration tried and scored, what failed and why, and the best so far."""
    standing = {row.experiment_id: row for row in board}
    lines = [f"# {_escaped(campaign.name)}: iteration {iteration} of {campaign.iterations}", ""]
    tried = {
        record.experiment_id: record
        for record in experiments
        if record.iteration == iteration and record.kind == "candidate"
    }
    for experiment_id, record in sorted(tried.items()):
        score = outcome(standing[experiment_id])
        lines.append(f"- **{experiment_id}** {_escaped(record.hypothesis)}  \n  → {_escaped(score)}")
    top = best(board)
    lines.append("")
    if top is None:
        lines.append("No candidate has a score yet.")
    else:
        lines.append(f"Best so far: **{top.experiment_id}** ({_escaped(top.summary)}), {top.mean_bd_rate:+.1f}%.")
        for clip in top.clips:
            lines.append("")
            lines.append(f"On {_escaped(Path(clip.clip).name)}{': ' + clip.note if clip.note else ''}")
            lines += [f"- {verdict.target}: {verdict.answer} ({verdict.text})" for verdict in clip.verdicts]
    return "\n".join(lines) + "\n"


def _escaped(text: str) -> str:
    """Candidates write hypotheses and errors; none of it may become markup, nor start a block of its own."""
    return re.sub(r"([\\`*_{}\[\]<>#|!])", r"\\\1", " ".join(text.split()))
