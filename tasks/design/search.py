"""The `search` designer: Optuna over the settings of the project's own codec. Needs no key and no network.

Owns the space that is searched and how a point in it becomes a candidate. The study is rebuilt from the records at each
call and kept nowhere else, so that a resumed campaign goes on as if it had never stopped.

The first candidates are sensible settings that differ; from then on each iteration has one small step from the best so
far (which a sampler of few trials would rarely take) and leaves the others to a multivariate TPE sampler. One aim,
the mean BD-rate against x265-medium: with tens of trials a second one halves what is learnt of the first.
"""

from __future__ import annotations

import json
import warnings
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tasks.candidate import Candidate, Lineage
from tasks.design.designer import Past
from tasks.store.records import ExperimentRecord

if TYPE_CHECKING:
    import optuna

SEED_FOLDER = Path(__file__).parent / "seeds" / "evocodec"

Params = dict[str, Any]  # a point of the space, by Optuna's names


@dataclass(frozen=True)
class StrategySpace:
    """What is searched of one strategy.

    presets        the encoder's own, fastest first; slower ones than these rarely pay for their time
    quality_range  its rate parameter (CRF or QP) at quality 0 and at quality 1, before `shift`
    """

    presets: tuple[str, ...]
    quality_range: tuple[float, float]


SPACE: dict[str, StrategySpace] = {
    "x264": StrategySpace(("medium", "slow", "slower", "veryslow"), (40, 15)),
    "x265": StrategySpace(("medium", "slow", "slower"), (40, 14)),
    "av1": StrategySpace(("8", "6", "5", "4", "3", "2"), (66, 17)),
    "vvc": StrategySpace(("faster", "fast", "medium"), (43, 14)),
}
SCALES = ("1", "3/4", "2/3", "1/2")
# Moves all rate points of a candidate together, in units of its rate parameter: towards low rates when positive.
SHIFTS = (-4, 0, 4)

STARTS: tuple[Params, ...] = (
    {"strategy": "vvc", "vvc.preset": "faster", "scale": "1", "scene_cuts": True, "shift": 0},
    {"strategy": "av1", "av1.preset": "4", "scale": "1", "scene_cuts": True, "shift": 0},
    {"strategy": "x265", "x265.preset": "slow", "scale": "1", "scene_cuts": True, "shift": 0},
    {"strategy": "av1", "av1.preset": "6", "scale": "3/4", "scene_cuts": True, "shift": 0},
    {"strategy": "x264", "x264.preset": "slower", "scale": "1", "scene_cuts": True, "shift": 0},
)
# The sampler may propose what was tried; after so many repetitions the space is taken to be exhausted.
MAX_ASKS = 200


class SearchDesigner:
    """Deterministic for the same seed and the same past."""

    name = "search"

    def __init__(self, seed: int) -> None:
        self._seed = seed

    def propose(self, past: Past, count: int) -> list[Candidate]:
        """Up to `count` untried candidates; fewer only where the space is exhausted."""
        scores = bd_rates(past)
        tried = {record.code_hash for record in past.experiments}
        late = too_slow(past.experiments)
        proposals: list[Candidate] = []
        for params, parent, hypothesis in self._ideas(past, scores, late):
            if is_slower(params, late):
                continue
            config = to_config(params)
            number = len(proposals) + 1
            candidate = Candidate(
                files=dict(_files()),
                config=config,
                lineage=Lineage(
                    id=f"{past.campaign.name}-{past.iteration:03d}-{number}",
                    parents=(parent,) if parent else (),
                    designer=self.name,
                    hypothesis=hypothesis,
                    change_class="improve" if parent else "draft",
                    predicted_bd_rate_percent=scores.get(parent) if parent else None,
                ),
            )
            if candidate.code_hash not in tried:
                tried.add(candidate.code_hash)
                proposals.append(candidate)
            if len(proposals) == count:
                break
        return proposals

    def _ideas(
        self, past: Past, scores: Mapping[str, float], late: Mapping[str, int]
    ) -> Iterator[tuple[Params, str, str]]:
        """(point, parent's id or "", hypothesis), best first, without end but for an exhausted space."""
        candidates = [record for record in past.experiments if record.kind == "candidate"]
        if not candidates:
            for params in STARTS:
                yield params, "", f"{_said(params)}: a sensible start to compare with the anchors"
        best = min((record for record in candidates if record.experiment_id in scores), key=_by(scores), default=None)
        if best is not None:
            # One step only: the sampler's view of the rest is worth more than a second neighbour.
            tried = {record.code_hash for record in past.experiments}
            for params, why in neighbours(to_params(best.config_json)):
                if _code_hash(params) not in tried and not is_slower(params, late):
                    hypothesis = f"{_said(params)}, from the best so far ({best.experiment_id}): {why}"
                    yield params, best.experiment_id, hypothesis
                    break
        study = build_study(candidates, scores, self._seed + past.iteration)
        for _ in range(MAX_ASKS):
            params = suggest(study.ask())
            yield params, "", f"{_said(params)}: promising by the {len(scores)} experiments so far"


def too_slow(experiments: Iterable[ExperimentRecord]) -> dict[str, int]:
    """By strategy: the place among its presets of the fastest one that ran into a time limit."""
    late: dict[str, int] = {}
    for record in experiments:
        params = to_params(record.config_json)
        if record.status == "timeout" and params:
            strategy = params["strategy"]
            place = SPACE[strategy].presets.index(params[f"{strategy}.preset"])
            late[strategy] = min(place, late.get(strategy, place))
    return late


def is_slower(params: Params, late: Mapping[str, int]) -> bool:
    """Whether this would run into a limit that the same preset, or a faster one, has met already."""
    strategy = params["strategy"]
    return strategy in late and SPACE[strategy].presets.index(params[f"{strategy}.preset"]) >= late[strategy]


def _by(scores: Mapping[str, float]) -> Any:
    return lambda record: (scores[record.experiment_id], record.experiment_id)


def bd_rates(past: Past) -> dict[str, float]:
    """Mean BD-rate in percent against x265-medium by experiment id, where there is one."""
    from tasks.analyze.leaderboard import standings

    board = standings(past.experiments, past.points, past.campaign.targets)
    return {
        row.experiment_id: row.mean_bd_rate for row in board if row.kind == "candidate" and row.mean_bd_rate is not None
    }


def build_study(candidates: Any, scores: Mapping[str, float], seed: int) -> optuna.Study:
    """The study that these records make: failures are told as such, what the infrastructure lost is left out."""
    import optuna

    optuna.logging.set_verbosity(optuna.logging.ERROR)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", optuna.exceptions.ExperimentalWarning)  # group and multivariate are marked so
        sampler = optuna.samplers.TPESampler(
            seed=seed, multivariate=True, group=True, n_startup_trials=4, constant_liar=True
        )
    study = optuna.create_study(sampler=sampler, direction="minimize")
    for record in candidates:
        params = to_params(record.config_json)
        if record.status == "infrastructure" or not params:
            continue
        score = scores.get(record.experiment_id)
        study.add_trial(
            optuna.trial.create_trial(
                params=params,
                distributions={name: _distribution(name) for name in params},
                value=score,
                state=optuna.trial.TrialState.FAIL if score is None else optuna.trial.TrialState.COMPLETE,
            )
        )
    return study


def suggest(trial: optuna.Trial) -> Params:
    """A point of the space by Optuna's choice."""
    params: Params = {"strategy": trial.suggest_categorical("strategy", list(SPACE))}
    for name in (f"{params['strategy']}.preset", "scale", "scene_cuts", "shift"):
        params[name] = trial.suggest_categorical(name, list(_choices(name)))
    return params


def _choices(name: str) -> tuple[Any, ...]:
    if name.endswith(".preset"):
        return SPACE[name.removesuffix(".preset")].presets
    return {"strategy": tuple(SPACE), "scale": SCALES, "scene_cuts": (True, False), "shift": SHIFTS}[name]


def _distribution(name: str) -> optuna.distributions.CategoricalDistribution:
    import optuna

    return optuna.distributions.CategoricalDistribution(_choices(name))


def to_config(params: Params) -> dict[str, Any]:
    """The codec's config at a point of the space."""
    strategy = params["strategy"]
    low, high = SPACE[strategy].quality_range
    return {
        "strategy": strategy,
        "preset": params[f"{strategy}.preset"],
        "scale": params["scale"],
        "scene_cuts": params["scene_cuts"],
        "quality_range": [low + params["shift"], high + params["shift"]],
    }


def to_params(config_json: str) -> Params:
    """The reverse; empty for a config that is not of this space (written by hand, or by another designer)."""
    config = json.loads(config_json)
    strategy = config.get("strategy")
    if strategy not in tuple(SPACE):  # a user may have written anything, a list included
        return {}
    names = (f"{strategy}.preset", "scale", "scene_cuts")
    found = {"strategy": strategy} | {name: config.get(name.removeprefix(f"{strategy}.")) for name in names}
    if not all(found[name] in _choices(name) for name in names):
        return {}
    # The quality range is compared whole: a user's own may be anything, null included.
    shifted: Iterator[Params] = (found | {"shift": shift} for shift in SHIFTS)
    return next((params for params in shifted if to_config(params) == config), {})


def neighbours(params: Params) -> Iterator[tuple[Params, str]]:
    """Points one step away and what each is expected to bring, the likeliest gain first."""
    if not params:
        return
    strategy = params["strategy"]
    name = f"{strategy}.preset"
    presets = SPACE[strategy].presets
    position = presets.index(params[name])
    if position + 1 < len(presets):
        slower = presets[position + 1]
        yield (
            params | {name: slower},
            f"a slower preset than {params[name]} should need fewer bits for the same quality",
        )
    cuts = not params["scene_cuts"]
    yield (
        params | {"scene_cuts": cuts},
        "a key frame at each cut should save badly predicted frames" if cuts else "one stream should save key frames",
    )
    scale = SCALES.index(params["scale"])
    if scale + 1 < len(SCALES):
        yield params | {"scale": SCALES[scale + 1]}, "fewer samples should pay at the low rates"
    for shift in SHIFTS:
        if shift != params["shift"]:
            yield params | {"shift": shift}, "other rate points should meet the targets more closely"


def _said(params: Params) -> str:
    strategy = params["strategy"]
    text = f"{strategy} at preset {params[f'{strategy}.preset']}"
    if params["scale"] != "1":
        text += f", coded at {params['scale']} of the size"
    if not params["scene_cuts"]:
        text += ", one scene"
    if params["shift"]:
        text += f", rate parameter {params['shift']:+d}"
    return text


def _code_hash(params: Params) -> str:
    return Candidate(files=dict(_files()), config=to_config(params), lineage=Lineage(id="-")).code_hash


@cache
def _files() -> tuple[tuple[str, str], ...]:
    """The sources that every candidate of this designer shares."""
    return tuple(sorted(Candidate.load(SEED_FOLDER).files.items()))
