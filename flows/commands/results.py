"""`evocodec results`: what the store holds, as tables or as JSON."""

from __future__ import annotations

import json

from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from codec.errors import BadInputError
from tasks.analyze.leaderboard import ANCHOR_NAMES, Standing, standings
from tasks.analyze.summary import mean_target_kbps, outcome
from tasks.campaign import Targets
from tasks.store.store import Store


def print_results(uri: str, campaign: str | None, console: Console, *, as_json: bool) -> None:
    """Raises BadInputError where the store holds no such campaign."""
    store = Store.open(uri)
    known = store.campaigns()
    if campaign is not None and campaign not in known:
        listing = ", ".join(known) if known else "none"
        raise BadInputError(f"no campaign {campaign!r} in {uri}: it holds {listing}")
    chosen = [campaign] if campaign is not None else known
    if as_json:
        print(json.dumps([row for name in chosen for row in _json_rows(store, name)], indent=2))
        return
    if not chosen:
        console.print(f"{uri} holds no campaign yet: `evocodec run` makes one", markup=False)
    for name in chosen:
        print_leaderboard(name, _board(store, name), console)
        moved_in = {record.experiment_id for record in store.imported(name)}
        if moved_in:
            console.print(
                f"{len(moved_in)} experiments of the older generation, none of them measured here", markup=False
            )


def print_leaderboard(campaign: str, board: list[Standing], console: Console) -> None:
    """The table, and below it why a row has no rank."""
    console.print(leaderboard_table(campaign, board))
    for row in board:
        if row.rank is None:
            console.print(f"{row.experiment_id}: {outcome(row)}", markup=False)


def leaderboard_table(campaign: str, board: list[Standing]) -> Table:
    """The leaderboard in 80 columns; the report and the Prefect artifact have more."""
    table = Table(
        box=SIMPLE_HEAD,
        title=f"campaign {campaign}: BD-rate (PSNR-Y) against the anchors, lower is better",
        title_justify="left",
        caption="kbps: lowest at the quality targets, scaled to 1080p30; fps: of the decoder; *: champion",
        caption_justify="left",
    )
    for heading in ("#", "experiment", "what", "vs x265", "vs AV1", "kbps", "fps", "targets"):
        left = heading in ("experiment", "what")
        table.add_column(heading, justify="left" if left else "right", no_wrap=heading != "what")
    for row in board:
        table.add_row(
            "" if row.rank is None else f"{'*' if row.champion else ''}{row.rank}",
            row.experiment_id.removeprefix(f"{campaign}-"),
            escape(row.summary),
            *(_percent(row.mean_bd_rates.get(name)) for name in ANCHOR_NAMES),
            mean_target_kbps(row).replace("not reached", "–"),
            "" if row.decode_fps is None else f"{row.decode_fps:.0f}",
            _targets(row),
        )
    return table


def _targets(row: Standing) -> str:
    """How many of the targets that apply are met on the clip where fewest are."""
    if not row.clips:
        return row.experiment.status
    verdicts = [[v.answer for v in clip.verdicts if v.answer != "not applicable"] for clip in row.clips]
    worst = min(verdicts, key=lambda answers: answers.count("met"))
    return f"{worst.count('met')} of {len(worst)}"


def _percent(value: float | None) -> str:
    return "" if value is None else f"{value:+.1f}%"


def _board(store: Store, campaign: str) -> list[Standing]:
    settings = store.read_campaign(campaign)
    targets = settings.targets if settings is not None else Targets()
    return standings(store.experiments(campaign), store.points(campaign), targets, scenes=store.scenes(campaign))


def _json_rows(store: Store, campaign: str) -> list[dict[str, object]]:
    points = store.points(campaign)
    ranks = {standing.experiment_id: standing for standing in _board(store, campaign)}
    rows: list[dict[str, object]] = []
    for record in store.experiments(campaign):
        row = record.model_dump(mode="json")
        row["id"] = row.pop("experiment_id")
        row["config"] = json.loads(row.pop("config_json"))
        standing = ranks.get(record.experiment_id)
        row["rank"] = standing.rank if standing is not None else None
        row["bd_rate_percent"] = standing.mean_bd_rate if standing is not None else None
        row["points"] = [
            point.model_dump(mode="json", exclude={"campaign", "experiment_id"})
            for point in points
            if point.experiment_id == record.experiment_id and record.status == "measured"
        ]
        rows.append(row)
    return rows
