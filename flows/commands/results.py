"""`evocodec results`: what the store holds, as tables or as JSON."""

from __future__ import annotations

import json

from rich.console import Console
from rich.table import Table
from tasks.analyze.leaderboard import Standing, standings
from tasks.analyze.summary import leaderboard_rows
from tasks.store.store import Store

from codec.errors import BadInputError
from tasks.campaign import Targets


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
        console.print(f"{uri} holds no campaign yet: `evocodec run` makes one")
    for name in chosen:
        console.print(leaderboard_table(name, _board(store, name)))


def leaderboard_table(campaign: str, board: list[Standing]) -> Table:
    """The rows that the Prefect artifact shows, for a terminal."""
    rows = leaderboard_rows(board)
    table = Table(title=f"campaign {campaign}", title_justify="left")
    for column in rows[0] if rows else ("no experiments yet",):
        table.add_column(str(column), overflow="fold")
    for row in rows:
        table.add_row(*("" if value is None else str(value) for value in row.values()))
    return table


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
