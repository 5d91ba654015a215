"""The `search` designer: Optuna over the settings of the project's own codec and of the seeds that fit networks.

Needs no key and no connection. Owns the space that is searched and how a point in it becomes a candidate. The study is
rebuilt from the records at each call and kept nowhere else, so that a resumed campaign goes on as if it had never
stopped.

The first candidates are sensible settings that differ. From then on each iteration has one small step from a parent of
the archive's choice, and leaves the others to Optuna's multi-objective TPE sampler. Three aims, the archive's: BD-rate
against x265 medium, operations and decode time. Left out of the space: procedural and i_frame_interpolation, which
refuse most content and so would fail as candidates (auto has the one from effort 2, the other at 10); the code of
decoders, which only a language model changes; and x265's options, which tune=psnr has set already.
"""

from __future__ import annotations

import json
import random
import warnings
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from functools import cache
from itertools import islice
from statistics import mean
from typing import TYPE_CHECKING, Any, Protocol

from tasks.candidate import Candidate, Lineage
from tasks.design.archive import Archive, Costs, choose_parent
from tasks.design.designer import Past
from tasks.design.population import SEEDS
from tasks.store.records import ExperimentRecord

if TYPE_CHECKING:
    import optuna

OWN = "evocodec"  # the seed that is the project's own codec

Params = dict[str, Any]  # a point of the space, by Optuna's names
Idea = tuple[Params, str, str]  # a point, the id of its parent or "", the hypothesis


@dataclass(frozen=True)
class StrategySpace:
    """What is searched of one strategy.

    presets        fastest first; slower ones than these rarely pay for their time
    quality_range  its rate parameter (CRF or QP) at quality 0 and at quality 1, before `shift`; None where it has none
    options        what was found to matter, by its values, the usual one first
    speed          what the presets are called: those of an encoder, `auto`'s effort, or the steps of a fit
    always         options that are the same everywhere
    seed           whose code it is; one other than the project's own has nothing but presets and options
    patient        whether the sampler's points of it wait for EARLY experiments: it takes minutes, the others seconds
    """

    presets: tuple[str, ...]
    quality_range: tuple[float, float] | None = None
    options: Mapping[str, tuple[Any, ...]] = field(default_factory=dict)
    speed: str = "preset"
    always: Mapping[str, str] = field(default_factory=dict)
    seed: str = OWN
    patient: bool = False

    @property
    def names(self) -> tuple[str, ...]:
        """Of what is chosen besides the preset; scale and shift need a rate parameter."""
        scenes = ("scene_cuts", "scene_frames") if self.seed == OWN else ()
        return (*(("scale", "shift") if self.quality_range else ()), *self.options, *scenes)


SPACE: dict[str, StrategySpace] = {
    "x264": StrategySpace(("medium", "slow", "slower", "veryslow"), (40, 15)),
    "x265": StrategySpace(("medium", "slow", "slower"), (40, 14)),
    # Temporal filter, adaptive quantiser and screen tools: now one and now the other is better (codec/effort.py).
    "av1": StrategySpace(
        ("8", "6", "5", "4", "3", "2"),
        (66, 17),
        {"enable-tf": ("1", "0"), "aq-mode": ("2", "0"), "scm": ("2", "1")},
    ),
    # Groups of 16 pictures save up to 15% in short scenes and cost as much in long ones.
    "vvc": StrategySpace(
        ("faster", "fast", "medium"), (43, 14), {"intraqpoffset": ("-3", "-1"), "gopsize": ("32", "16")}
    ),
    "auto": StrategySpace(("1", "2", "3", "4"), speed="effort"),
    # A network over SVT-AV1's pictures, or a few bytes that say that none paid.
    "hybrid_semantic": StrategySpace(
        ("8", "6", "4"), (66, 17), {"enable-tf": ("1", "0")}, always={"must_pay": "0"}, patient=True
    ),
    # What is fitted to the clip: the training schedule (steps, learning rate), the network's shape (latent grids and
    # features in use), and what quality makes of lambda (the price of a bit, the quantiser's ends).
    "semantic_latent": StrategySpace(
        ("50", "100", "200", "400"),
        options={
            "learning_rate": ("1", "4"),
            "grids": ("6", "4"),
            "features": ("16", "8"),
            "lambda_factor": ("1", "0.25"),
        },
        speed="steps",
        patient=True,
    ),
    "scene_latents": StrategySpace(
        ("25", "75", "150"),
        options={
            "learning_rate": (1, 4),
            "grids": (6, 4),
            "features": (16, 8),
            "lambda_factor": (1, 4),
            "coarsest_step": (110, 55),
        },
        speed="fit_steps",
        seed="scene_latents",
        patient=True,
    ),
    "autoencoder": StrategySpace(
        ("30", "60", "120"),
        options={"learning_rate": (0.002, 0.006), "lambda_factor": (1, 2), "coarsest_step": (120, 60)},
        speed="training_steps",
        seed="autoencoder",
        patient=True,
    ),
}
SCALES = ("1", "3/4", "2/3", "1/2")
# Moves all rate points of a candidate together, in units of its rate parameter: towards low rates when positive.
SHIFTS = (-4, 0, 4)
# Shorter scenes cost a key frame each and stop what drifts.
SCENE_FRAMES = (250, 48)
_PLAIN: Params = {"scale": "1", "scene_cuts": True, "scene_frames": 250, "shift": 0}


def plain(strategy: str, preset: str, **changes: Any) -> Params:
    """The point where everything else is as the encoder has it."""
    space = SPACE[strategy]
    common = {name: value for name, value in _PLAIN.items() if name in space.names}
    options = {f"{strategy}.{name}": values[0] for name, values in space.options.items()}
    return {"strategy": strategy, f"{strategy}.preset": preset, **common, **options, **changes}


STARTS: tuple[Params, ...] = (
    plain("vvc", "faster"),
    plain("av1", "4"),
    plain("x265", "slow"),
    plain("auto", "3"),
    plain("av1", "6", scale="3/4"),
    plain("x264", "slower"),
    plain("hybrid_semantic", "6"),
    plain("semantic_latent", "100"),
)
EARLY = 9
# The sampler may propose what was tried; after so many repetitions the space is taken to be exhausted.
MAX_ASKS = 200


class SearchDesigner:
    """Deterministic for the same seed and the same past."""

    name = "search"

    def __init__(self, seed: int) -> None:
        self._seed = seed

    def propose(self, past: Past, count: int) -> list[Candidate]:
        """Up to `count` untried candidates; fewer only where the space is exhausted."""
        archive = Archive.of(past)
        scores = bd_rates(past)
        tried = {record.code_hash for record in past.experiments}
        late = too_slow(past.experiments)
        proposals: list[Candidate] = []
        for params, parent, hypothesis in self._ideas(past, archive, late):
            if is_slower(params, late):
                continue
            lineage = Lineage(
                id=f"{past.campaign.name}-{past.iteration:03d}-{len(proposals) + 1}",
                parents=(parent,) if parent else (),
                designer=self.name,
                hypothesis=hypothesis,
                change_class="improve" if parent else "draft",
                predicted_bd_rate_percent=scores.get(parent) if parent else None,
            )
            candidate = to_candidate(params, lineage)
            if candidate.code_hash not in tried:
                tried.add(candidate.code_hash)
                proposals.append(candidate)
            if len(proposals) == count:
                break
        return proposals

    def _ideas(self, past: Past, archive: Archive, late: Mapping[str, int]) -> Iterator[Idea]:
        """Best first, without end but for an exhausted space."""
        yield from self._starts(past)
        # One step only: the sampler's view of the rest is worth more than a second neighbour.
        yield from islice(self._step(past, archive, late), 1)
        yield from self._sampled(past, archive)

    def _starts(self, past: Past) -> Iterator[Idea]:
        if all(record.kind != "candidate" for record in past.experiments):
            for params in STARTS:
                yield params, "", f"{_said(params)}: a sensible start to compare with the anchors"

    def _sampled(self, past: Past, archive: Archive) -> Iterator[Idea]:
        candidates = [record for record in past.experiments if record.kind == "candidate"]
        study = build_study(candidates, aims(archive), self._seed + past.iteration)
        for _ in range(MAX_ASKS):
            params = suggest(study.ask())
            if SPACE[params["strategy"]].patient and len(candidates) < EARLY:
                continue
            yield params, "", f"{_said(params)}: promising by the {len(archive.entries)} experiments so far"

    def _step(self, past: Past, archive: Archive, late: Mapping[str, int]) -> Iterator[Idea]:
        """Untried neighbours of a parent; of another one where the first has none left, or is not of this space."""
        draw = random.Random(f"{self._seed}/{past.iteration}")
        tried = {record.code_hash for record in past.experiments}
        barred: list[str] = []
        while (parent := choose_parent(archive, draw, without=barred)) is not None:
            barred.append(parent.experiment_id)
            for params, why in neighbours(to_params(parent.record.config_json)):
                if to_candidate(params).code_hash not in tried and not is_slower(params, late):
                    yield params, parent.experiment_id, f"{_said(params)}, from {parent.experiment_id}: {why}"


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


def bd_rates(past: Past) -> dict[str, float]:
    """Mean BD-rate in percent against x265-medium by experiment id, where there is one."""
    from tasks.analyze.leaderboard import standings

    board = standings(past.experiments, past.points, past.campaign.targets)
    return {
        row.experiment_id: row.mean_bd_rate for row in board if row.kind == "candidate" and row.mean_bd_rate is not None
    }


def aims(archive: Archive) -> dict[str, tuple[float, ...]]:
    """What is minimised, by experiment id: the archive's costs, each the mean over the clips."""
    return {
        experiment_id: tuple(mean(costs) for costs in zip(*entry.costs.values(), strict=True))
        for experiment_id, entry in archive.entries.items()
    }


def build_study(
    candidates: Iterable[ExperimentRecord], values: Mapping[str, tuple[float, ...]], seed: int
) -> optuna.Study:
    """The study that these records make: failures are told as such, what the infrastructure lost is left out."""
    import optuna

    optuna.logging.set_verbosity(optuna.logging.ERROR)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", optuna.exceptions.ExperimentalWarning)  # group and multivariate are marked so
        sampler = optuna.samplers.TPESampler(
            seed=seed, multivariate=True, group=True, n_startup_trials=4, constant_liar=True
        )
    study = optuna.create_study(sampler=sampler, directions=["minimize"] * len(Costs._fields))
    for record in candidates:
        params = to_params(record.config_json)
        if record.status == "infrastructure" or not params:
            continue
        value = values.get(record.experiment_id)
        study.add_trial(
            optuna.trial.create_trial(
                params=params,
                distributions={name: _distribution(name) for name in params},
                values=value,
                state=optuna.trial.TrialState.FAIL if value is None else optuna.trial.TrialState.COMPLETE,
            )
        )
    return study


class Chooser(Protocol):
    """Whatever chooses a value: a trial of Optuna's, or chance."""

    def suggest_categorical(self, name: str, choices: Any) -> Any: ...


def suggest(trial: Chooser) -> Params:
    """A point of the space by the trial's choice."""
    strategy = trial.suggest_categorical("strategy", list(SPACE))
    return {"strategy": strategy} | {
        name: trial.suggest_categorical(name, list(_choices(name))) for name in _names(strategy)
    }


def _names(strategy: str) -> tuple[str, ...]:
    """What is chosen of a strategy; names that are its own begin with it."""
    space = SPACE[strategy]
    return tuple(name if name in _PLAIN else f"{strategy}.{name}" for name in ("preset", *space.names))


def _choices(name: str) -> tuple[Any, ...]:
    strategy, _, own = name.rpartition(".")
    if own == "preset":
        return SPACE[strategy].presets
    if strategy:
        return SPACE[strategy].options[own]
    common = {"scale": SCALES, "scene_cuts": (True, False), "scene_frames": SCENE_FRAMES, "shift": SHIFTS}
    return {"strategy": tuple(SPACE), **common}[name]


def _distribution(name: str) -> optuna.distributions.CategoricalDistribution:
    import optuna

    return optuna.distributions.CategoricalDistribution(_choices(name))


def to_candidate(params: Params, lineage: Lineage | None = None) -> Candidate:
    """The seed's code with the config of a point of the space."""
    files = dict(_files(SPACE[params["strategy"]].seed))
    return Candidate(files=files, config=to_config(params), lineage=lineage or Lineage(id="-"))


def to_config(params: Params) -> dict[str, Any]:
    """The config at a point of the space; what is the codec's default is left out."""
    strategy = params["strategy"]
    space, preset = SPACE[strategy], params[f"{strategy}.preset"]
    chosen = {name: params[f"{strategy}.{name}"] for name in space.options}
    if space.seed != OWN:
        return dict(_seed_config(space.seed)) | chosen | {space.speed: int(preset)}
    config: dict[str, Any] = {"strategy": strategy, "scene_cuts": params["scene_cuts"]}
    options = {name: value for name, value in chosen.items() if value != space.options[name][0]} | dict(space.always)
    if params["scene_frames"] != SCENE_FRAMES[0]:
        config["max_scene_frames"] = params["scene_frames"]
    if space.quality_range is not None:
        low, high = space.quality_range
        config |= {"preset": preset, "scale": params["scale"]}
        config["quality_range"] = [low + params["shift"], high + params["shift"]]
    elif strategy == "auto":
        config["effort"] = int(preset)
    else:
        options[space.speed] = preset
    return config | ({"options": options} if options else {})


def to_params(config_json: str) -> Params:
    """The reverse; empty for a config that is not of this space (written by hand, or by another designer)."""
    config = json.loads(config_json)
    # The config of another seed does not name a strategy: its settings do, which no two share.
    others = (
        name
        for name, space in SPACE.items()
        if space.seed != OWN and dict(_seed_config(space.seed)).keys() == config.keys()
    )
    strategy = config["strategy"] if "strategy" in config else next(others, None)
    if strategy not in tuple(SPACE):  # a user may have written anything, a list included
        return {}
    space, options = SPACE[strategy], config.get("options", {})
    if not isinstance(options, dict):
        return {}
    preset = str(config.get(space.speed, options.get(space.speed)))
    params: Params = {"strategy": strategy, f"{strategy}.preset": preset}
    for name in _names(strategy)[1:]:
        own = name.rpartition(".")[2]
        default = SCENE_FRAMES[0] if name == "scene_frames" else _choices(name)[0]
        params[name] = config.get("max_scene_frames" if name == "scene_frames" else own, options.get(own, default))
    if not all(params[name] in _choices(name) for name in params if name != "shift"):
        return {}
    # The config is compared whole: a user's own may hold anything, null included.
    shifted = (params | ({"shift": shift} if "shift" in params else {}) for shift in SHIFTS)
    return next((found for found in shifted if to_config(found) == config), {})


def neighbours(params: Params) -> Iterator[tuple[Params, str]]:
    """Points one step away and what each is expected to bring, the likeliest gain first."""
    if not params:
        return
    strategy = params["strategy"]
    name = f"{strategy}.preset"
    presets = SPACE[strategy].presets
    position = presets.index(params[name])
    if position + 1 < len(presets):
        yield params | {name: presets[position + 1]}, "more search should save bits"
    for option, values in SPACE[strategy].options.items():
        other = next(value for value in values if value != params[f"{strategy}.{option}"])
        yield params | {f"{strategy}.{option}": other}, f"{option}={other} is the better one on some content"
    if "scene_cuts" in params:
        cuts = not params["scene_cuts"]
        why = "cuts should start at a key frame" if cuts else "fewer key frames should save bits"
        yield params | {"scene_cuts": cuts}, why
    if "scale" in params:
        scale = SCALES.index(params["scale"])
        if scale > 0:
            yield params | {"scale": SCALES[scale - 1]}, "more samples should keep detail"
        if scale + 1 < len(SCALES):
            yield params | {"scale": SCALES[scale + 1]}, "fewer samples should pay at the low rates"
        for shift in SHIFTS:
            if shift != params["shift"]:
                yield params | {"shift": shift}, "other rate points should meet the targets more closely"
    if position:
        yield params | {name: presets[position - 1]}, "what a faster preset loses may be little"
    if "scene_frames" in params:
        length = next(length for length in SCENE_FRAMES if length != params["scene_frames"])
        yield params | {"scene_frames": length}, f"scenes of at most {length} frames"


def _said(params: Params) -> str:
    strategy = params["strategy"]
    preset = params[f"{strategy}.preset"]
    text = f"{strategy} at {SPACE[strategy].speed.replace('_', ' ')} {preset}"
    for name, values in SPACE[strategy].options.items():
        if params[f"{strategy}.{name}"] != values[0]:
            text += f", {name}={params[f'{strategy}.{name}']}"
    if params.get("scale", "1") != "1":
        text += f", coded at {params['scale']} of the size"
    if not params.get("scene_cuts", True):
        text += ", one scene"
    if params.get("scene_frames", SCENE_FRAMES[0]) != SCENE_FRAMES[0]:
        text += f", scenes of at most {params['scene_frames']} frames"
    if params.get("shift"):
        text += f", rate parameter {params['shift']:+d}"
    return text


@cache
def _files(seed: str) -> tuple[tuple[str, str], ...]:
    """The sources that every candidate of a seed shares."""
    return tuple(sorted(Candidate.load(SEEDS / seed).files.items()))


@cache
def _seed_config(seed: str) -> tuple[tuple[str, Any], ...]:
    return tuple(sorted(Candidate.load(SEEDS / seed).config.items()))
