"""The search designer: repeatable, never twice the same, and better than chance on an objective that is known."""

from __future__ import annotations

import json
import random
from statistics import mean
from typing import Any

import pytest
from sample_records import experiment
from sample_search import Chance, after, empty_past, measured, random_bests, record_of, search_bests

from codec.config import CodecConfig
from codec.encoding_agent import EncodingAgent
from tasks.candidate import Candidate, Lineage, problems
from tasks.design.archive import Archive
from tasks.design.designer import Past
from tasks.design.population import SEEDS
from tasks.design.search import (
    EARLY,
    OWN,
    SPACE,
    STARTS,
    SearchDesigner,
    aims,
    bd_rates,
    build_study,
    neighbours,
    plain,
    suggest,
    to_candidate,
    to_config,
    to_params,
    too_slow,
)
from tasks.execute.clips import tiny_clip
from tasks.store.records import ExperimentRecord

FITTED = "semantic_latent"
FOREIGN: list[dict[str, Any]] = [
    {},
    {"width": 64, "layers": 3},
    {"strategy": "semantic_latent"},
    {"strategy": ["av1"]},
    to_config(STARTS[1]) | {"quality_range": None},
    to_config(STARTS[1]) | {"quality_range": []},
    to_config(STARTS[1]) | {"quality_range": [50, 20]},
    to_config(STARTS[1]) | {"preset": None},
    to_config(STARTS[1]) | {"options": {"film-grain": "8"}},
]


def configs(candidates: list[Candidate]) -> list[str]:
    return [json.dumps(candidate.config, sort_keys=True) for candidate in candidates]


def with_records(past: Past, *records: ExperimentRecord) -> Past:
    return Past(past.campaign, past.iteration + 1, (*past.experiments, *records), past.points)


@pytest.fixture
def started() -> Past:
    """One iteration of three is measured."""
    past = empty_past(seed=3)
    return after(past, SearchDesigner(3).propose(past, 3))


def test_the_same_seed_and_past_give_the_same_proposals(started: Past) -> None:
    first, second = (SearchDesigner(3).propose(started, 5) for _ in range(2))
    assert [candidate.candidate_hash for candidate in first] == [candidate.candidate_hash for candidate in second]
    assert configs(first) != configs(SearchDesigner(4).propose(started, 5))


def test_the_first_iteration_differs_in_itself() -> None:
    first = SearchDesigner(0).propose(empty_past(seed=0), 8)
    assert len({*configs(first)}) == 8
    assert {candidate.config["strategy"] for candidate in first[:3]} == {"vvc", "av1", "x265"}
    assert [candidate.config for candidate in first[: len(STARTS)]] == [to_config(start) for start in STARTS]


def test_nothing_is_proposed_twice() -> None:
    past, designer = empty_past(seed=1), SearchDesigner(1)
    seen: set[str] = set()
    for _ in range(6):
        proposals = designer.propose(past, 3)
        assert len(proposals) == 3
        assert not seen & set(configs(proposals))
        seen |= set(configs(proposals))
        past = after(past, proposals)
    assert len(seen) == 18


def test_proposals_can_be_run_and_say_why(started: Past) -> None:
    proposals = SearchDesigner(3).propose(started, 3)
    for number, candidate in enumerate(proposals, start=1):
        assert problems(candidate) == []
        assert candidate.lineage.id == f"night-002-{number}"
        assert candidate.lineage.designer == "search"
        assert to_params(json.dumps(candidate.config))["strategy"] in candidate.lineage.hypothesis


def test_one_proposal_is_a_step_from_a_parent_on_the_front(started: Past) -> None:
    front = {entry.experiment_id: entry.record for entry in Archive.of(started).front}
    scores = bd_rates(started)
    parents = set()
    for seed in range(8):
        proposals = SearchDesigner(seed).propose(started, 3)
        stepped = [candidate for candidate in proposals if candidate.lineage.change_class == "improve"]
        assert len(stepped) == 1
        (parent,) = stepped[0].lineage.parents
        assert stepped[0].lineage.predicted_bd_rate_percent == scores[parent]
        before, after_it = to_params(front[parent].config_json), to_params(json.dumps(stepped[0].config))
        assert sum(after_it[name] != value for name, value in before.items()) == 1
        parents.add(parent)
    assert len(front) == 1 or len(parents) > 1


def test_every_point_of_the_space_survives_its_config() -> None:
    chance = Chance(random.Random(1))
    points = [*STARTS, *(suggest(chance) for _ in range(400))]
    assert {params["strategy"] for params in points} == set(SPACE)
    for params in points:
        config = to_candidate(params).config
        assert to_params(json.dumps(config)) == params
        if SPACE[params["strategy"]].seed == OWN:
            CodecConfig.parse(config)


@pytest.mark.parametrize(
    "strategy", ["av1", "vvc", *(pytest.param(name, marks=pytest.mark.slow) for name in ("hybrid_semantic", FITTED))]
)
def test_the_encoders_know_the_options_of_the_space(strategy: str) -> None:
    """All of them changed at once, on a few frames: an encoder that does not know one refuses."""
    start = plain(strategy, SPACE[strategy].presets[0])
    options = {f"{strategy}.{name}": values[-1] for name, values in SPACE[strategy].options.items()}
    clip = tiny_clip(3, frames=3)
    usual, changed = (
        EncodingAgent(CodecConfig.parse(to_config(params))).encode_bytes(clip.frames, clip.video)[0]
        for params in (start, start | options)
    )
    assert options
    assert usual != changed


def test_the_settings_of_a_seed_are_its_own_and_its_usual_ones_come_first() -> None:
    for strategy in ("scene_latents", "autoencoder"):
        space = SPACE[strategy]
        kept = Candidate.load(SEEDS / space.seed).config
        assert {name: kept[name] for name in space.options} == {name: value[0] for name, value in space.options.items()}
        assert to_config(plain(strategy, space.presets[0])) == kept | {space.speed: int(space.presets[0])}
        assert to_candidate(plain(strategy, space.presets[0])).files == Candidate.load(SEEDS / space.seed).files
    assert to_params(json.dumps(kept | {"learning_rate": 0.5})) == {}


def test_what_takes_minutes_waits_until_enough_is_known() -> None:
    drawn: dict[bool, set[str]] = {True: set(), False: set()}
    for seed in range(2):
        past, designer = empty_past(seed), SearchDesigner(seed)
        for _ in range(5):
            tried = len(past.experiments) - 2
            proposals = designer.propose(past, 3)
            drafts = [candidate for candidate in proposals if candidate.lineage.change_class == "draft"]
            drawn[tried < EARLY] |= {to_params(json.dumps(candidate.config))["strategy"] for candidate in drafts}
            past = after(past, proposals)
    patient = {name for name, space in SPACE.items() if space.patient}
    assert not drawn[True] & patient
    assert drawn[False] & patient


def test_a_fit_that_ran_out_of_time_is_learned_from() -> None:
    past = empty_past(seed=0)
    slow = [to_candidate(plain(name, SPACE[name].presets[1]), Lineage(id=name)) for name in (FITTED, "autoencoder")]
    records = [record_of(candidate, 1, status="timeout", reason="over 300 s") for candidate in slow]
    assert too_slow(records) == {FITTED: 1, "autoencoder": 1}
    past = with_records(past, *records)
    for _ in range(4):
        proposals = SearchDesigner(0).propose(past, 6)
        for params in (to_params(json.dumps(candidate.config)) for candidate in proposals):
            name = params["strategy"]
            assert name not in (FITTED, "autoencoder") or params[f"{name}.preset"] == SPACE[name].presets[0]
        past = after(past, proposals)


def test_neighbours_are_one_step_away() -> None:
    for params in STARTS:
        found = [neighbour for neighbour, _ in neighbours(params)]
        assert found
        for neighbour in found:
            assert sum(neighbour[name] != value for name, value in params.items()) == 1
            assert to_params(json.dumps(to_config(neighbour))) == neighbour


@pytest.mark.parametrize("config", FOREIGN)
def test_a_foreign_config_is_ignored(started: Past, config: dict[str, Any]) -> None:
    assert to_params(json.dumps(config)) == {}
    foreign = experiment("foreign", config=config, code_hash="f" * 64)
    past = Past(
        started.campaign,
        started.iteration,
        (*started.experiments, foreign),
        (*started.points, *measured(foreign, 0.1)),  # better than all others: it must not mislead
    )
    scores = bd_rates(past)
    assert scores["foreign"] == pytest.approx(-90)
    candidates = [record for record in past.experiments if record.kind == "candidate"]
    assert len(build_study(candidates, aims(Archive.of(past)), 0).trials) == 3
    assert len(SearchDesigner(3).propose(past, 3)) == 3


def test_what_the_infrastructure_lost_is_left_out_and_failures_are_told(started: Past) -> None:
    values = aims(Archive.of(started))
    lost = experiment("lost", config=to_config(STARTS[3]), status="infrastructure", code_hash="1" * 64)
    crashed = experiment("crashed", config=to_config(STARTS[4]), status="crashed", code_hash="2" * 64)
    candidates = [record for record in (*started.experiments, lost, crashed) if record.kind == "candidate"]
    trials = build_study(candidates, values, 0).trials
    assert [trial.state.name for trial in trials] == ["COMPLETE", "COMPLETE", "COMPLETE", "FAIL"]
    assert trials[-1].params == to_params(crashed.config_json)
    assert [tuple(trial.values) for trial in trials[:3]] == [values[record.experiment_id] for record in candidates[:3]]


def test_presets_that_ran_out_of_time_and_slower_ones_are_not_tried_again() -> None:
    past = empty_past(seed=0)
    slow = SearchDesigner(0).propose(past, 2)[1]
    assert slow.config == to_config(STARTS[1])  # av1 at preset 4
    past = with_records(past, record_of(slow, 1, status="timeout", reason="over 300 s"))
    for _ in range(4):
        proposals = SearchDesigner(0).propose(past, 6)
        av1 = [candidate.config["preset"] for candidate in proposals if candidate.config.get("strategy") == "av1"]
        assert not {"4", "3", "2"} & set(av1)
        past = after(past, proposals)


def test_an_exhausted_space_gives_fewer_candidates() -> None:
    past = empty_past(seed=0)
    late = [
        experiment(
            f"late-{strategy}",
            config=to_config(plain(strategy, space.presets[0])),
            status="timeout",
        )
        for strategy, space in SPACE.items()
    ]
    assert SearchDesigner(0).propose(with_records(past, *late), 3) == []


def test_search_beats_chance() -> None:
    """Five seeds of 24 experiments in batches of three, against the mean of many draws of 24 from the same space."""
    searched = [search_bests(seed, 24, 3) for seed in range(5)]
    drawn = [random_bests(seed, 24) for seed in range(100)]
    # By 2.4 points in the end and 2.1 after 9; what real encodes say is in docs/figures.md.
    assert mean(bests[-1] for bests in searched) < mean(bests[-1] for bests in drawn)
    # Not only at the end: what a campaign that is stopped early has found is better too.
    assert mean(mean(bests) for bests in searched) < mean(mean(bests) for bests in drawn)
    assert all(bests[-1] < bests[2] for bests in searched), "each seed improves on its first iteration"
