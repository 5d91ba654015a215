"""What a language model is sent: three texts out of prompts/, the most lasting first, so that the API's cache pays.

    system    who it is, the contract, what codec/ offers, the rules, this campaign's terms     the same all campaign
    ledger    what the experiments so far taught, up to the last full ten of them; insights     new each ten experiments
    request   the order: parents, figures, rivals, failures, what remains                        new each time
              or that the insights be rewritten

A cache breakpoint stands after the first two. Owns which facts stand where; the words are in prompts/*.md.j2, which a
researcher edits. What a designer may know at all is decided by `tasks.design.designer.Past`; what a vendor's request
looks like by its wire, `tasks.design.messages` or `tasks.design.responses`.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import tasks
from tasks.analyze.leaderboard import ANCHOR_NAMES, REFERENCE_ANCHOR, Standing, standings
from tasks.analyze.outcomes import foresight_text
from tasks.analyze.promotion import Comparison, compare
from tasks.candidate import (
    FUNCTIONS,
    MAX_CONFIG_BYTES,
    MAX_DECODER_COMPRESSED_BYTES,
    MAX_DECODER_LITERAL_BYTES,
    MAX_DECODER_SOURCE_BYTES,
    Candidate,
)
from tasks.design.answers import SUBMIT, TOOL, Answer, Tool
from tasks.design.brief import Brief, Load
from tasks.design.codec_api import codec_api
from tasks.design.designer import Past, Rejected
from tasks.design.failures import changed_part, trimmed_log
from tasks.design.insights import LEDGER_STEP, MAX_LINES, REWRITE, Insights, settled
from tasks.design.population import starting_population
from tasks.lint import REFUSED
from tasks.store.records import ExperimentRecord

if TYPE_CHECKING:
    from jinja2 import Environment

FOLDER: Final = Path(tasks.__file__).resolve().parent.parent / "prompts"
# Room for two long source files; an answer that needs more could not be a decoder anyway.
MAX_TOKENS: Final = 32_000
LEDGER_LINES: Final = 12
SOURCE_CHARACTERS: Final = 60_000


@dataclass(frozen=True)
class Prompt:
    """One request. `parents` are those of the order; `repair` is a last text, empty in the first turn.

    `forced` names the one of `tools` that the answer has to use.
    """

    model: str
    system: str
    ledger: str
    request: str
    parents: tuple[str, ...] = ()
    repair: str = ""
    # All in every request: what stands before the texts must not change either, or the cache forgets them.
    tools: tuple[Tool, ...] = (SUBMIT, REWRITE)
    forced: str = TOOL
    max_tokens: int = MAX_TOKENS


@dataclass(frozen=True)
class Shown:
    """One experiment in the request. `against` are its comparisons by the experiment it is compared with.

    changed_from, changed   of a failure: an experiment, and what this one has otherwise, where that is short
    """

    record: ExperimentRecord
    candidate: Candidate | None
    row: Standing
    against: Mapping[str, Comparison]
    log: str
    changed_from: str = ""
    changed: str = ""


def build_prompt(
    past: Past,
    brief: Brief,
    load: Load,
    model: str,
    number: int,
    made: Sequence[Candidate | Rejected] = (),
    left: Mapping[str, float] | None = None,
    insights: Insights | None = None,
) -> Prompt:
    """The request for candidate `number`, after those `made` in the same iteration. `left` is of the budget, by cap."""
    board, tried = _board(past)

    def shown(experiment_ids: Sequence[str]) -> list[Shown]:
        rows = [board[experiment_id] for experiment_id in experiment_ids if experiment_id in board]
        return [_shown(row, past, load) for row in rows]

    return Prompt(
        model,
        _system(past),
        _ledger(past, load, insights),
        _render(
            "request.md.j2",
            past=past,
            brief=brief,
            number=number,
            parents=shown(brief.parents),
            recent=tried[settled(past) :],
            rivals=shown(brief.rivals),
            failures=[_with_change(failure, brief.parents, board, load) for failure in shown(brief.failures)],
            made=made,
            reference=REFERENCE_ANCHOR,
            remaining=max(0, past.campaign.iterations - past.iteration),
            left=left or {},
            foresight=foresight_text(list(board.values())),
        ),
        brief.parents,
    )


def build_rewriting(past: Past, load: Load, model: str, insights: Insights | None) -> Prompt:
    """The request for new insights, now that ten more experiments are done; `insights` are those of before."""
    board, tried = _board(past)
    count = settled(past)
    latest = [_shown(row, past, load) for row in tried[count - LEDGER_STEP : count]]
    request = _render(
        "insights.md.j2",
        count=count,
        most=MAX_LINES,
        latest=[_with_change(shown, (), board, load) for shown in latest],
        foresight=foresight_text(list(board.values())),
        tool=REWRITE.name,
    )
    return Prompt(model, _system(past), _ledger(past, load, insights), request, forced=REWRITE.name)


def with_repair(prompt: Prompt, answer: Answer, problem: str) -> Prompt:
    """The same request with the answer to it and what is wrong with that."""
    given = "\n".join(block.text for block in answer.blocks if block.type in ("text", "tool_use"))
    text = _render("repair.md.j2", given=given[:SOURCE_CHARACTERS], problem=problem, tool=TOOL)
    return replace(prompt, repair=text)


def _board(past: Past) -> tuple[dict[str, Standing], list[Standing]]:
    """Everything by id, and the candidates in the order in which they were tried."""
    board = {row.experiment_id: row for row in standings(past.experiments, past.points, past.campaign.targets)}
    tried = [row for row in board.values() if row.kind == "candidate"]
    return board, sorted(tried, key=lambda row: (row.experiment.iteration, row.experiment_id))


def _system(past: Past) -> str:
    return _render(
        "system.md.j2",
        campaign=past.campaign,
        api=codec_api(),
        starts=starting_population(),
        functions=FUNCTIONS,
        refused=REFUSED,
        tool=TOOL,
        decoder_bytes=MAX_DECODER_SOURCE_BYTES,
        literal_bytes=MAX_DECODER_LITERAL_BYTES,
        compressed_bytes=MAX_DECODER_COMPRESSED_BYTES,
        config_bytes=MAX_CONFIG_BYTES,
        anchors=ANCHOR_NAMES,
    )


def _ledger(past: Past, load: Load, insights: Insights | None) -> str:
    board, tried = _board(past)
    done = tried[: settled(past)]
    return _render(
        "ledger.md.j2",
        anchors=[_shown(row, past, load) for row in board.values() if row.kind == "anchor"],
        count=len(done),
        scored=_by_score(done)[: 2 * LEDGER_LINES],
        failures=[row for row in done if row.experiment.status != "measured"][-LEDGER_LINES:],
        reference=REFERENCE_ANCHOR,
        insights=insights,
    )


def _shown(row: Standing, past: Past, load: Load) -> Shown:
    record = row.experiment
    candidate = load(record.candidate_hash) if record.candidate_hash else None
    mine = [point for point in past.points if point.experiment_id == record.experiment_id]
    against = {}
    for other in past.experiments:
        is_anchor = other.kind == "anchor" and other.experiment_id.endswith(REFERENCE_ANCHOR)
        if mine and other.status == "measured" and (is_anchor or other.experiment_id in record.parents):
            theirs = [point for point in past.points if point.experiment_id == other.experiment_id]
            against[other.experiment_id] = compare(mine, theirs, record.noise_percent, other.noise_percent)
    return Shown(record, candidate, row, against, trimmed_log(record.log))


def _with_change(shown: Shown, wanted: Sequence[str], board: Mapping[str, Standing], load: Load) -> Shown:
    """With what it had changed of its own parent; of the first that is `wanted` as one where it was a draft."""
    for base_id in (*shown.record.parents[:1], *wanted[:1]):
        base = load(board[base_id].experiment.candidate_hash) if base_id in board else None
        if base is not None and shown.candidate is not None:
            return replace(shown, changed_from=base_id, changed=changed_part(shown.candidate, base))
    return shown


def _by_score(rows: Sequence[Standing]) -> list[Standing]:
    return sorted(
        (row for row in rows if row.mean_bd_rate is not None), key=lambda row: (row.mean_bd_rate, row.experiment_id)
    )


def _render(name: str, **facts: Any) -> str:
    text = _environment().get_template(name).render(**facts)
    # A candidate's log may hold half a character, which no request can.
    return text.encode("utf-8", "replace").decode().strip() + "\n"


@cache
def _environment() -> Environment:
    from jinja2 import Environment, FileSystemLoader, StrictUndefined

    # No autoescape: this is Markdown for a model. What candidates wrote is fenced by `fenced`.
    environment = Environment(
        loader=FileSystemLoader(FOLDER),
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        autoescape=False,
    )
    environment.filters.update(
        file_name=_file_name, figure=_figure, delta=_delta, fenced=_fenced, line=_line, pretty_json=_pretty_json
    )
    return environment


def _file_name(clip: str) -> str:
    """Where a user keeps clips is nobody else's business."""
    return Path(clip).name


def _figure(value: float | None) -> str:
    """Four significant digits: two decimals hide the gains that a search is made of."""
    if value is None:
        return "-"
    return f"{value:.0f}" if abs(value) >= 1000 else f"{value:.4g}"


def _delta(percent: float | None, noise: float = 0.0) -> str:
    """A BD-rate with its direction, and in units of the noise where that was measured."""
    if percent is None:
        return "no overlap"
    arrow = "↓ better" if percent < 0 else "↑ worse" if percent > 0 else "="
    units = f", {abs(percent) / noise:.4g} × noise" if noise > 0 else ""
    return f"{percent:+.4g}% {arrow}{units}"


def _fenced(text: str, language: str = "") -> str:
    """A code block that the text cannot close."""
    fence = "```"
    while fence in text:
        fence += "`"
    return f"{fence}{language}\n{text.rstrip()}\n{fence}"


def _line(text: str, most: int = 400) -> str:
    flat = " ".join(text.split())
    return flat if len(flat) <= most else flat[: most - 1] + "…"


def _pretty_json(text: str) -> str:
    return json.dumps(json.loads(text), indent=2, sort_keys=True)
