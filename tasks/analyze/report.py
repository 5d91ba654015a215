"""The report: one HTML file that says what a campaign tried, what came of it and what it cost.

Owns which numbers stand where; how they look is `report.html.j2`'s, what they mean is the other modules' here.
Invariants:
- the file opens without a network: plotly.js and the styles are in it, and its own policy forbids loading anything;
- every text that a candidate could have written is escaped;
- the file is there whole or not at all.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pydantic import BaseModel

from codec.errors import BadInputError
from codec.whole_file import whole_file
from tasks.analyze.bd_rate import BdRate
from tasks.analyze.leaderboard import ANCHOR_NAMES, BARRED_ISOLATION, REFERENCE_ANCHOR, Standing, best, standings
from tasks.analyze.outcomes import foresight, improvements, in_order
from tasks.analyze.rd_chart import ANCHOR_COLOURS, LEADER_COLOURS, Chart, points_on, rd_chart
from tasks.analyze.summary import Row, leaderboard_rows, outcome
from tasks.analyze.verdicts import Verdict, judged_point, kbps_1080p30, noise_floor_kbps, scene_verdicts
from tasks.campaign import Budget, Targets
from tasks.design.budget import CAPS, Spend, ledger
from tasks.store.records import ExperimentRecord, PointRecord, SceneRecord
from tasks.store.store import Store

TEMPLATE = "report.html.j2"
# The end of a log has the error; a whole one would bury the page.
LOG_CHARACTERS = 2000


@dataclass(frozen=True)
class Headline:
    """The answer to "is it done, and how good is it?"."""

    met: bool
    winner: Standing | None
    best: Standing | None
    missed: tuple[str, ...]


@dataclass(frozen=True)
class SceneView:
    """One scene of the best candidate. `note` is set where its noise alone is over the target."""

    scene: SceneRecord
    verdicts: tuple[Verdict, ...]
    note: str


@dataclass(frozen=True)
class ClipView:
    """What the report shows of one clip. `row` is the best candidate, `judged` its point that the verdicts are of."""

    name: str
    path: str
    sample: PointRecord
    chart_id: str
    note: str
    row: Standing | None
    verdicts: tuple[Verdict, ...]
    judged: PointRecord | None
    points: tuple[PointRecord, ...]
    scenes: tuple[SceneView, ...]
    bd_rates: tuple[tuple[Standing, tuple[BdRate | None, ...]], ...]


@dataclass(frozen=True)
class CostView:
    """What all attempts of one outcome cost together."""

    status: str
    attempts: int
    gpu_seconds: float
    usd: float
    input_tokens: int
    output_tokens: int


@dataclass(frozen=True)
class PriceView:
    """What one experiment and one improvement cost, anchors and verifications included; None where there is none."""

    experiments: int
    improvements: int
    experiment: Spend | None
    improvement: Spend | None


@dataclass(frozen=True)
class SettingView:
    """One parameter of the campaign, in the words of its form."""

    title: str
    value: str
    description: str


def write_report(path: Path, store: Store, campaign: str) -> None:
    """Write the report of `campaign` to `path`, making its folder and replacing a file of before.

    Raises BadInputError where the store holds no such campaign, naming those it holds, or `path` cannot be written.
    """
    page = render(store, campaign)
    with whole_file(path) as partial:
        path.parent.mkdir(parents=True, exist_ok=True)
        partial.write_text(page, encoding="utf-8")


def render(store: Store, campaign: str) -> str:
    """The report as HTML. Raises BadInputError where the store holds no such campaign."""
    from jinja2 import Environment, FileSystemLoader, StrictUndefined
    from plotly.offline import get_plotlyjs

    known = store.campaigns()
    if campaign not in known:
        raise BadInputError(f"no campaign {campaign!r} in the store: it holds {', '.join(known) if known else 'none'}")
    terms = store.read_campaign(campaign)
    targets = terms.targets if terms is not None else Targets()
    experiments, scenes = store.experiments(campaign), store.scenes(campaign)
    board = standings(experiments, store.points(campaign), targets, scenes=scenes)
    clips, charts = _clips(board, scenes, targets)
    environment = Environment(
        loader=FileSystemLoader(Path(__file__).parent),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters["pretty_json"] = _pretty_json
    return environment.get_template(TEMPLATE).render(
        campaign=campaign,
        terms=terms,
        targets=targets,
        headline=_headline(board),
        reference=REFERENCE_ANCHOR,
        anchor_names=ANCHOR_NAMES,
        board=list(zip(leaderboard_rows(board), board, strict=True)),
        columns=_columns(leaderboard_rows(board)),
        clips=clips,
        charts=charts,
        failures=[record for record in experiments if record.status != "measured"],
        log_characters=LOG_CHARACTERS,
        tried=_tried(board),
        costs=_costs(experiments),
        prices=_prices(experiments, board),
        caps=_caps(terms.budget if terms is not None else Budget(), experiments),
        foresight=foresight(board),
        anchors=[row for row in board if row.kind == "anchor"],
        settings=_settings(terms) if terms is not None else [],
        harness=_distinct(record.harness_version for record in experiments),
        isolation=_distinct(record.isolation for record in experiments),
        clip_sets=_distinct(record.clip_set_hash for record in experiments),
        first=min((record.started_at for record in experiments), default=None),
        last=max((record.finished_at for record in experiments), default=None),
        kbps_1080p30=kbps_1080p30,
        plotly_js=get_plotlyjs(),
    )


def _headline(board: Sequence[Standing]) -> Headline:
    candidates = [row for row in board if row.kind == "candidate" and row.verified]
    allowed = [row for row in candidates if row.experiment.isolation != BARRED_ISOLATION]
    winner = next((row for row in allowed if row.met), None)
    top = best(board)
    missed = tuple(
        f"{verdict.target} on {Path(clip.clip).name}"
        for clip in (top.clips if top is not None else ())
        for verdict in clip.verdicts
        if verdict.answer == "missed"
    )
    return Headline(winner is not None, winner, top, missed)


def _columns(rows: Sequence[Row]) -> list[str]:
    """The leaderboard's columns without those that no row fills."""
    return [name for name in (rows[0] if rows else ()) if any(row[name] is not None for row in rows)]


def _clips(
    board: Sequence[Standing], scenes: Sequence[SceneRecord], targets: Targets
) -> tuple[list[ClipView], dict[str, Chart]]:
    """The sections of the clips, and their charts by the id of the element that shows them."""
    measured = [row for row in board if row.clips]
    anchors = [row for row in measured if row.kind == "anchor"][: len(ANCHOR_COLOURS)]
    candidates = [row for row in measured if row.kind == "candidate"]
    leaders, others = candidates[: len(LEADER_COLOURS)], candidates[len(LEADER_COLOURS) :]
    views: list[ClipView] = []
    charts: dict[str, Chart] = {}
    for clip in sorted({standing.clip for row in measured for standing in row.clips}):
        chart = rd_chart(clip, anchors, leaders, others, targets)
        if chart is not None:
            chart_id = f"chart-{len(views)}"
            charts[chart_id] = chart
            views.append(_clip(clip, chart_id, measured, leaders[0] if leaders else None, scenes, targets))
    return views, charts


def _clip(
    clip: str,
    chart_id: str,
    measured: Sequence[Standing],
    top: Standing | None,
    scenes: Sequence[SceneRecord],
    targets: Targets,
) -> ClipView:
    on_clip = [(row, standing) for row in measured for standing in row.clips if standing.clip == clip]
    mine = next((standing for row, standing in on_clip if row is top), None)
    points = mine.points if mine is not None else ()
    judged = judged_point(points, targets)
    sample = judged or points_on(on_clip[0][0], clip)[0]
    return ClipView(
        name=Path(clip).name,
        path=clip,
        sample=sample,
        chart_id=chart_id,
        note=on_clip[0][1].note,
        row=top if mine is not None else None,
        verdicts=mine.verdicts if mine is not None else (),
        judged=judged,
        points=points,
        scenes=_scenes(judged, scenes, targets) if judged is not None else (),
        bd_rates=tuple((row, tuple(standing.bd_rates.get(name) for name in ANCHOR_NAMES)) for row, standing in on_clip),
    )


def _scenes(point: PointRecord, scenes: Sequence[SceneRecord], targets: Targets) -> tuple[SceneView, ...]:
    key = (point.experiment_id, point.clip, point.quality)
    views = []
    for scene in scenes:
        if (scene.experiment_id, scene.clip, scene.quality) == key:
            floor = noise_floor_kbps([(scene.frames, scene.features.get("noise", 0.0))], targets)
            note = f"its noise alone costs {floor:.0f} kbps" if floor > targets.kbps else ""
            views.append(SceneView(scene, scene_verdicts(scene, point, targets), note))
    return tuple(views)


def _tried(board: Sequence[Standing]) -> list[tuple[Standing, str]]:
    """The candidates in the order in which they were tried, with what came of each."""
    return [(row, outcome(row)) for row in in_order(board)]


def _costs(experiments: Sequence[ExperimentRecord]) -> list[CostView]:
    """By outcome, other kinds apart, and the sum of all last. Every attempt counts: a lost one was paid for too."""
    groups: dict[str, list[ExperimentRecord]] = {}
    for record in experiments:
        groups.setdefault(record.status if record.kind == "candidate" else record.kind, []).append(record)
    return [_cost(status, records) for status, records in sorted(groups.items())] + [_cost("all", experiments)]


def _cost(status: str, records: Sequence[ExperimentRecord]) -> CostView:
    return CostView(
        status,
        len(records),
        sum(record.gpu_seconds for record in records),
        sum(record.usd for record in records),
        sum(record.input_tokens for record in records),
        sum(record.output_tokens for record in records),
    )


def _prices(experiments: Sequence[ExperimentRecord], board: Sequence[Standing]) -> PriceView:
    spent = ledger(experiments).spent
    tried, better = round(spent.experiments), len(improvements(board))
    return PriceView(tried, better, spent * (1 / tried) if tried else None, spent * (1 / better) if better else None)


def _caps(budget: Budget, experiments: Sequence[ExperimentRecord]) -> list[tuple[str, float, float]]:
    """(what, spent, cap) of each cap that is set."""
    spent = ledger(experiments).spent
    limits = {cap: getattr(budget, cap) for cap in CAPS}
    return [(CAPS[cap], getattr(spent, cap), limit) for cap, limit in limits.items() if limit is not None]


def _settings(terms: BaseModel) -> list[SettingView]:
    """Every field, those of the models within included."""
    found: list[SettingView] = []
    for name, field in type(terms).model_fields.items():
        value = getattr(terms, name)
        if isinstance(value, BaseModel):
            found += _settings(value)
        else:
            shown = ", ".join(map(str, value)) if isinstance(value, tuple) else str(value)
            found.append(SettingView(field.title or name, shown, field.description or ""))
    return found


def _distinct(values: Iterable[str]) -> list[str]:
    return sorted({value for value in values if value})


def _pretty_json(text: str) -> str:
    value: Any = json.loads(text)
    return json.dumps(value, indent=2, ensure_ascii=False)
