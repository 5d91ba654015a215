"""A search whose outcomes are known: each config of the search space has a BD-rate by formula, at no cost.

For the tests of the search designer and its benchmark. The formula is made up, with the traits of the real thing:
strategies far apart, slower presets that bring less and less, settings that act together, and ripples that no model of
the main effects explains.
"""

from __future__ import annotations

import hashlib
import json
import random
from itertools import accumulate
from typing import Any

from sample_records import anchor, curve, experiment

from tasks.campaign import Campaign
from tasks.candidate import Candidate
from tasks.design.designer import Past
from tasks.design.search import SPACE, SearchDesigner, bd_rates, suggest, to_config, to_params
from tasks.store.records import ExperimentRecord, PointRecord

STRATEGY_FACTOR = {"x264": 1.12, "x265": 0.94, "av1": 0.80, "vvc": 0.78, "auto": 0.77}
STRATEGY_FACTOR |= {"hybrid_semantic": 0.81, "semantic_latent": 1.5, "scene_latents": 2.5, "autoencoder": 3.5}
SCALE_FACTOR = {"1": 1.0, "3/4": 0.98, "2/3": 1.03, "1/2": 1.2}


def rate_factor(config: dict[str, Any]) -> float:
    """The candidate's bitrate over the anchor's at equal quality: a BD-rate of 100·(factor − 1) percent."""
    params = to_params(json.dumps(config))
    strategy, scale = params["strategy"], params.get("scale", "1")
    factor = STRATEGY_FACTOR[strategy] * SCALE_FACTOR[scale]
    factor *= 0.88 + 0.12 * 0.6 ** SPACE[strategy].presets.index(params[f"{strategy}.preset"])
    if params.get("scene_cuts"):
        factor *= 1.03 if strategy in ("av1", "vvc") else 0.99
    factor *= 0.99 ** len(config.get("options", {}))
    shift = params.get("shift", 0)
    factor *= 1 + 0.005 * (shift if scale == "1" else -shift)
    ripple = hashlib.sha256(json.dumps(config, sort_keys=True).encode()).digest()[0] / 255
    return float(factor * (0.985 + 0.03 * ripple))


def empty_past(seed: int, candidates: int = 3) -> Past:
    """A campaign with its anchors measured and nothing tried."""
    campaign = Campaign(name="night", seed=seed, candidates=candidates)
    anchors = (anchor("x265-medium", "x265", "medium"), anchor("svtav1-p6", "av1", "6"))
    points = [point for row, factor in zip(anchors, (1, 0.85), strict=True) for point in measured(row, factor)]
    return Past(campaign, 1, anchors, tuple(points))


def measured(record: ExperimentRecord, factor: float) -> list[PointRecord]:
    return curve(record.experiment_id, "talk", factor)


def after(past: Past, candidates: list[Candidate]) -> Past:
    """The past once these have been measured too."""
    records, points = list(past.experiments), list(past.points)
    for candidate in candidates:
        records.append(record_of(candidate, past.iteration, minutes=len(records)))
        points += measured(records[-1], rate_factor(candidate.config))
    return Past(past.campaign, past.iteration + 1, tuple(records), tuple(points))


def record_of(candidate: Candidate, iteration: int, **changes: Any) -> ExperimentRecord:
    return experiment(
        candidate.lineage.id,
        config=candidate.config,
        code_hash=candidate.code_hash,
        iteration=iteration,
        hypothesis=candidate.lineage.hypothesis,
        **changes,
    )


def search_bests(seed: int, count: int, batch: int) -> list[float]:
    """The best BD-rate in percent after each of `count` experiments of the search designer."""
    past = empty_past(seed, batch)
    designer = SearchDesigner(seed)
    while len(past.experiments) < count + 2:
        past = after(past, designer.propose(past, min(batch, count + 2 - len(past.experiments))))
    scores = bd_rates(past)
    return list(accumulate((scores[record.experiment_id] for record in past.experiments[2:]), min))


class Chance:
    """Chooses as a trial of Optuna's would, knowing nothing."""

    def __init__(self, source: random.Random) -> None:
        self._source = source

    def suggest_categorical(self, name: str, choices: Any) -> Any:
        return self._source.choice(choices)


def random_bests(seed: int, count: int) -> list[float]:
    """The same for points of the same space drawn at random, none twice."""
    source = random.Random(seed)
    tried: dict[str, float] = {}
    while len(tried) < count:
        config = to_config(suggest(Chance(source)))
        tried.setdefault(json.dumps(config, sort_keys=True), 100 * (rate_factor(config) - 1))
    return list(accumulate(tried.values(), min))
