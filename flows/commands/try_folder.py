"""`evocodec try`: one hand-written candidate through the same evaluator that the experiment flow uses."""

from __future__ import annotations

import json
from pathlib import Path

from rich.console import Console
from rich.markup import escape
from rich.progress import BarColumn, Progress, TextColumn
from rich.table import Table

from tasks.campaign import Campaign, CandidateRef
from tasks.candidate import Candidate
from tasks.execute.attempt import Attempt, run_attempt
from tasks.execute.clips import load_clip
from tasks.execute.harness import Progress as Stage


def try_folder(
    folder: Path, clip_names: list[str], max_frames: int, console: Console, *, as_json: bool, unsafe: bool = False
) -> bool:
    """Evaluate the candidate in `folder`, print what was measured. Returns whether it was `measured`.

    Raises BadInputError where the folder is no candidate, a clip cannot be read, or `unsafe` is refused.
    """
    candidate = Candidate.load(folder)
    campaign = Campaign(name="try", clips=tuple(clip_names), max_frames=max_frames)
    clips = [load_clip(name, max_frames) for name in clip_names]
    for clip in clips:
        for warning in clip.warnings:
            console.print(f"{clip.name}: {warning}", style="yellow", markup=False)
    ref = CandidateRef(experiment_id="try", candidate_hash=candidate.candidate_hash)
    columns = (TextColumn("{task.description}", markup=False), BarColumn())
    with Progress(*columns, console=console, transient=True, disable=not console.is_terminal) as bar:
        task = bar.add_task("starting", total=1.0)

        def show(stage: Stage) -> None:
            bar.update(task, completed=stage.done / stage.total, description=stage.text)

        attempt = run_attempt(candidate, ref, campaign, clips, on_progress=show, unsafe=unsafe)
    if as_json:
        print(json.dumps(_facts(attempt), indent=2))
    else:
        _print(attempt, Console(highlight=False))
    return attempt.record.status == "measured"


def _facts(attempt: Attempt) -> dict[str, object]:
    hidden = {"campaign", "experiment_id"}
    record = attempt.record
    return {
        "status": record.status,
        "reason": record.reason,
        "stage": record.stage,
        "isolation": record.isolation,
        "log": record.log,
        "decoder_source_bytes": record.decoder_source_bytes,
        "points": [point.model_dump(mode="json", exclude=hidden) for point in attempt.points],
        "scenes": [scene.model_dump(mode="json", exclude=hidden) for scene in attempt.scenes],
    }


def _print(attempt: Attempt, console: Console) -> None:
    record = attempt.record
    if record.status != "measured":
        console.print(f"{record.status} at {record.stage}: {record.reason}", markup=False)
        if record.log:
            console.print(record.log, markup=False)
        return
    table = Table("clip", "quality", "kbps", "PSNR-Y", "SSIM-Y", "VMAF", "encode s", "decode s")
    for point in attempt.points:
        vmaf = "" if point.vmaf is None else f"{point.vmaf:.1f}"
        table.add_row(
            escape(Path(point.clip).name),
            f"{point.quality:g}",
            f"{point.kbps:.1f}",
            f"{point.psnr_y:.2f}",
            f"{point.ssim_y:.4f}",
            vmaf,
            f"{point.encode_seconds:.2f}",
            f"{point.decode_seconds:.2f}",
        )
    console.print(table)
