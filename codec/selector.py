"""Chooses what codes a scene: a shortlist is really encoded and decoded, and the lowest D + lambda·R wins.

Owns the search over encoders, scales and rates, and the record of it. What is on the list at which effort is
`codec.effort`'s, what a distortion is and which lambda belongs to a quality `codec.rate_distortion`'s.

    tools at full size, at the rate that lambda predicts
      -> those again whose own D and R say that this rate was far too coarse
      -> smaller scales of the best tools, unless scaling alone already costs more than the best coding
      -> the rate of least cost for the best pairs
      -> variants of the encoder's settings for the best pairs
      -> what was found, once more at a slower preset
      -> a network on top of the best

Every figure is of a real payload, decoded. A trial that fails is recorded and out. The same scene and settings always
try the same codings in the same order, so the choice does not depend on speed, threads or other scenes.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from math import inf, log2
from typing import cast

from codec import strategies
from codec.coding import Coding, Trial, predicted_rate, run_coding
from codec.config import AUTO, CodecConfig
from codec.effort import EFFORTS, ENHANCER, VARIANTS, Effort, Tool, shortlist
from codec.errors import EncodeError, EvocodecError
from codec.frames import Frames, VideoFormat
from codec.rate_distortion import (
    KNOBS,
    MOST_DEARER,
    QUALITY_KNOBS,
    lambda_of_quality,
    plane_errors,
    usual_slope,
)
from codec.resample import SCALES, enlarge, shrink
from codec.scenes import SceneClass
from codec.strategies.elementary import ElementaryStrategy

# A smaller scale is given up where the next larger one costs this much more than the best.
SCALE_PATIENCE = 1.03
# Within this factor of a lambda that was searched in full, only families whose cost, from what is known, is within the
# second factor of the best are coded again.
NEAR_LAMBDA = 2.0
WORTH_ANOTHER_LOOK = 1.08
MOST_LOOKS = 3
# Where D + lambda·R is least, D and lambda·R are about equal: D falls about as R rises, by the same factor. An encode
# where they are not tells how far off its rate is: about so many octaves of lambda for each octave between the two.
# From seven scenes (benchmarks/rate_balance.py). Told by screens, of which much costs nothing at any rate, it is wrong
# on the coarser side, where the others lose no more than 3%: only the finer side is believed.
OCTAVES_OFF = 0.55
# A tool that says so of more than this (a QP, some 2% of the cost) and is within the factor of the best is tried again.
FAR_OCTAVES = 0.3
FAR_PATIENCE = 1.25
# What two encodes tell of a third is worth no more than so many strides.
MOST_STRIDES = 6
# A slower preset saves up to a tenth of the cost: a coding further than that from the best is not worth it.
FINISH_PATIENCE = 1.1
# What is drawn has no slope that lambda predicts well: how often a still is seen, and how noisily, moves it. Where it
# comes so near to the best, so many rates beside the predicted one are tried at once.
DRAWN_PATIENCE = 1.25
DRAWN_PROBES = 2
STILL_STEP = 1 / 29  # of the quality knob, at which VVenC, which codes the stills, gets another QP
SCALE_SAMPLES = 3


@dataclass
class SceneMemory:
    """What is known of a scene from searches at other lambdas: they repeat no encode and look only where it pays.

    `searched` are the lambdas of full searches; `asides` says by how much the best rate of a family of codings lay off
    the one that lambda predicts; where `pinned` is set, nothing but the rate of that family follows lambda.
    """

    trials: dict[Coding, Trial] = field(default_factory=dict)
    searched: list[float] = field(default_factory=list)
    asides: dict[Coding, float] = field(default_factory=dict)
    pinned: Coding | None = None

    def pin(self, coding: Coding, quality: float, stagger: float) -> None:
        """Stay with this coding, which was the choice at `quality`, but for its rate.

        `stagger`, in ±0.5 of an encoder's steps, tells the scenes of a clip apart: with one stagger all take their
        steps at the same quality, and the clip's steps are then as coarse as theirs.
        """
        self.pinned = coding.family
        aside = coding.rate - predicted_rate(coding, lambda_of_quality(quality))
        step = coding.knob.step if coding.encoder in KNOBS else STILL_STEP
        self.asides[coding.family] = aside + stagger * step


@dataclass(frozen=True)
class Choice:
    """One scene coded: the trial that won, its payload, all that were looked at, and why this one."""

    payload: bytes
    trial: Trial
    trials: tuple[Trial, ...]
    why: str

    @property
    def strategy(self) -> str:
        return self.trial.coding.strategy

    @property
    def tried(self) -> tuple[str, ...]:
        """The strategies looked at, each once."""
        return tuple(dict.fromkeys(trial.coding.strategy for trial in self.trials))


class CompressionStrategySelector:
    """Chooses what codes a scene: the configured strategy, or with `auto` whatever costs least."""

    def choose(
        self,
        frames: Frames,
        video: VideoFormat,
        features: Mapping[str, float],
        config: CodecConfig,
        *,
        scene_class: SceneClass = "moderate_motion",
        memory: SceneMemory | None = None,
        on_trial: Callable[[float], None] | None = None,
    ) -> Choice:
        """Code the scene and decode it again. Raises EncodeError where nothing on the list can code it.

        `memory` spans several calls for one scene; `on_trial` is told after every trial what share of the work,
        roughly, is done.
        """
        memory = memory or SceneMemory()
        if config.strategy != AUTO:
            return _fixed(frames, video, config, memory)
        effort = EFFORTS[config.effort]
        lambda_rd = lambda_of_quality(config.quality)
        search = _Search(frames, video, lambda_rd, effort, memory, on_trial)
        if memory.pinned:
            search.look_at(memory.pinned)
        elif any(1 / NEAR_LAMBDA <= known / lambda_rd <= NEAR_LAMBDA for known in memory.searched):
            search.look_again()
        else:
            search.look(shortlist(effort, scene_class, len(frames)))
        return search.choice()


def _fixed(frames: Frames, video: VideoFormat, config: CodecConfig, memory: SceneMemory) -> Choice:
    strategy = strategies.get(config.strategy)
    coding = Coding(
        config.strategy,
        config.preset,
        config.scale,
        config.quality,
        config.quality_range,
        tuple(config.options.items()),
    )
    if isinstance(strategy, ElementaryStrategy):  # qualities that round to one rate are one coding
        coding = coding.at(strategy.rate(config.settings))
    payload, trial = run_coding(coding, frames, video)
    memory.trials[coding] = trial
    return Choice(payload, trial, (trial,), "fixed by config")


def _step_to_balance(best: Trial, near: Trial, lambda_rd: float) -> float:
    """How far in rate from `best` to where D + lambda·R is least, if D and R go on as between these two encodes.

    0 where the finer encode is not both the better and the larger one: then they tell nothing.
    """
    distance = near.coding.rate - best.coding.rate
    best_distortion, near_distortion = max(best.distortion, 1), max(near.distortion, 1)
    growth, decay = log2(near_distortion / best_distortion) / distance, log2(best.bytes / near.bytes) / distance
    if growth * decay <= 0:
        return 0.0
    return log2(lambda_rd * 8 * best.bytes * decay / (best_distortion * growth)) / (growth + decay)


class _Search:
    """The search for one scene at one lambda. Only the best payload is kept."""

    def __init__(
        self,
        frames: Frames,
        video: VideoFormat,
        lambda_rd: float,
        effort: Effort,
        memory: SceneMemory,
        on_trial: Callable[[float], None] | None,
    ) -> None:
        self._frames = frames
        self._video = video
        self._lambda = lambda_rd
        self._effort = effort
        self._memory = memory
        self._on_trial = on_trial or (lambda share: None)
        self._expected = 1
        self._looked_at: dict[Coding, Trial] = {}
        self._best: tuple[Trial, bytes | None] | None = None

    def look(self, tools: tuple[Tool, ...]) -> None:
        """The whole search, from nothing."""
        effort = self._effort
        self._expected = (
            len(tools)
            + effort.scaled * (len(SCALES) - 1)
            + effort.refined * effort.probes
            + effort.varied
            + len(effort.finish)
            + effort.enhanced
        )
        for tool in tools:
            self._try_predicted(Coding(tool.strategy, tool.preset, options=tool.options))
        if effort.probes:
            self._refine_drawn()
        if effort.scaled or effort.probes:
            self._correct_rates()
        floors = self._scaling_floors() if effort.scaled else {}
        scalable = [family for family in self._ranked() if family.strategy in KNOBS]
        for family in scalable[: effort.scaled]:
            self._try_scales(family, floors)
        for family in self._ranked()[: effort.refined]:
            self._refine(family, effort.probes)
        for family in self._ranked()[: effort.varied]:
            self._vary(family)
        self._finish(effort.finish)
        if effort.enhanced:
            self._enhance()
        self._memory.searched.append(self._lambda)

    def look_again(self) -> None:
        """The search where the scene is known from other lambdas: only what came near the best there."""
        known = [trial for trial in self._memory.trials.values() if not trial.failure]
        bounds: dict[Coding, float] = {}
        for trial in known:
            cost = trial.cost(self._lambda)
            bounds[trial.coding.family] = min(cost, bounds.get(trial.coding.family, inf))
        limit = WORTH_ANOTHER_LOOK * min(bounds.values(), default=inf)
        near = (family for family, bound in bounds.items() if bound <= limit)
        families = sorted(near, key=bounds.__getitem__)[:MOST_LOOKS]
        self._expected = len(families)
        for family in families:
            self._try_predicted(family)

    def look_at(self, family: Coding) -> None:
        """No search: one family at the rate that lambda predicts."""
        self._try_predicted(family)

    def choice(self) -> Choice:
        """The coding that costs least. Raises EncodeError where none succeeded."""
        trials = tuple(self._looked_at.values())
        if self._best is None:
            reasons = "; ".join(f"{trial.coding}: {trial.failure}" for trial in trials)
            raise EncodeError(f"nothing on auto's list codes this scene: {reasons}")
        best, payload = self._best
        if payload is None:
            payload, _ = run_coding(best.coding, self._frames, self._video)
        return Choice(payload, best, trials, self._why(best, trials))

    def _why(self, best: Trial, trials: tuple[Trial, ...]) -> str:
        text = f"lowest D + {self._lambda:.4g}·R of {len(trials)} codings"
        others = [trial for trial in trials if trial.coding.strategy != best.coding.strategy and not trial.failure]
        if others:
            second = min(others, key=lambda trial: trial.cost(self._lambda))
            text += f", {1 - best.cost(self._lambda) / second.cost(self._lambda):.1%} under {second.coding}"
        failed = dict.fromkeys(trial.coding.strategy for trial in trials if trial.failure)
        return f"{text}; failed: {', '.join(failed)}" if failed else text

    def _try_predicted(self, family: Coding) -> float:
        """The cost of a family at the rate that lambda predicts for it."""
        rate = predicted_rate(family, self._lambda) + self._memory.asides.get(family, 0.0)
        return self._try(family.at(family.knob.rounded(rate)))

    def _try(self, coding: Coding, base_payload: bytes | None = None) -> float:
        payload = None
        trial = self._memory.trials.get(coding)
        if trial is None:
            try:
                payload, trial = run_coding(coding, self._frames, self._video, base_payload)
            except (EvocodecError, OSError) as error:
                trial = Trial(coding, 0, None, inf, 0, str(error))
            self._memory.trials[coding] = trial
        self._looked_at[coding] = trial
        cost = trial.cost(self._lambda)
        if cost < (self._best[0].cost(self._lambda) if self._best else inf):
            self._best = trial, payload
        self._on_trial(min(1.0, len(self._looked_at) / self._expected))
        return cost

    def _ranked(self) -> list[Coding]:
        """The families looked at that work, cheapest first."""
        costs: dict[Coding, float] = {}
        for trial in self._looked_at.values():
            family = trial.coding.family
            costs[family] = min(trial.cost(self._lambda), costs.get(family, inf))
        return sorted((family for family, cost in costs.items() if cost < inf), key=costs.__getitem__)

    def _best_of(self, family: Coding) -> tuple[float, Coding]:
        return min(
            (
                (trial.cost(self._lambda), coding)
                for coding, trial in self._looked_at.items()
                if coding.family == family
            ),
            key=lambda pair: pair[0],
        )

    def _scaling_floors(self) -> dict[str, float]:
        """What shrinking and enlarging alone costs in D, from a few frames: no coding at that scale costs less."""
        step = max(1, len(self._frames) // SCALE_SAMPLES)
        sample = self._frames[::step]
        share = len(self._frames) / len(sample)
        floors = {}
        for scale in list(SCALES)[1:]:
            back = enlarge(shrink(sample, self._video, scale), self._video, scale)
            floors[scale] = share * plane_errors(sample, back).weighted(self._video)
        return floors

    def _try_scales(self, family: Coding, floors: Mapping[str, float]) -> None:
        best, coding = self._best_of(family)
        own_lambda = coding.knob.lambda_at(coding.rate)  # that of the scene, where it is unlike those of the table
        for scale, least in floors.items():
            if self._best and least > self._best[0].cost(self._lambda):
                return
            scaled = replace(family, scale=scale)
            cost = self._try(scaled.at(scaled.knob.rounded(predicted_rate(scaled, own_lambda))))
            if cost > SCALE_PATIENCE * best:
                return
            best = min(best, cost)

    def _refine_drawn(self) -> None:
        ranked = self._ranked()
        for family in ranked:
            if family.encoder in QUALITY_KNOBS:
                limit = DRAWN_PATIENCE * self._best_of(ranked[0])[0]
                if self._best_of(family)[0] <= limit:
                    self._refine(family, DRAWN_PROBES)

    def _correct_rates(self) -> None:
        """Encode once more what is near the best and says of itself that its rate is far too coarse."""
        limit = FAR_PATIENCE * self._best[0].cost(self._lambda) if self._best else 0.0
        for family in self._ranked():
            cost, coding = self._best_of(family)
            if cost <= limit and self._too_coarse(coding):
                self._try(self._promising(family))

    def _too_coarse(self, coding: Coding) -> float:
        """By how many octaves of lambda this rate is too coarse, as far as its own D and R tell; 0 where it is not."""
        if coding.encoder not in KNOBS:
            return 0.0
        trial = self._looked_at[coding]
        octaves = OCTAVES_OFF * log2(max(trial.distortion, 1) / (self._lambda * 8 * trial.bytes))
        return octaves if octaves >= FAR_OCTAVES else 0.0

    def _refine(self, family: Coding, probes: int) -> None:
        """Look for the rate of least cost: a step aside, where two encodes say that it is, and what lies around."""
        for _ in range(probes):
            asides = (self._promising(family), *self._unexplored(family))
            aside = next((coding for coding in asides if coding not in self._looked_at), None)
            if aside is None:
                break
            self._try(aside)
        self._remember(self._best_of(family)[1])

    def _unexplored(self, family: Coding) -> Iterator[Coding]:
        """A stride from the best rate known, finer first, to the sides where no other is known."""
        knob = family.knob
        best = self._best_of(family)[1]
        rates = [coding.rate for coding in self._looked_at if coding.family == family]
        for direction in (-knob.stride, knob.stride):
            if not any((rate - best.rate) * direction > 0 for rate in rates):
                yield best.at(knob.rounded(best.rate + direction))

    def _promising(self, family: Coding) -> Coding:
        """The rate of least cost, as far as the best encode known and the one nearest to it in rate tell.

        D and R are taken to change by the same factors from each rate to the next.
        """
        coding = self._best_of(family)[1]
        best, knob = self._looked_at[coding], coding.knob
        others = [trial for trial in self._looked_at.values() if trial.coding.family == family and not trial.failure]
        others.remove(best)
        if others:
            # Of two encodes less than a stride apart, chance tells more than the rate.
            distances = ((abs(trial.coding.rate - coding.rate), trial) for trial in others)
            near = min(distances, key=lambda pair: (pair[0] < abs(knob.stride), pair[0]))[1]
            step = _step_to_balance(best, near, self._lambda)
        elif octaves := self._too_coarse(coding):
            step = knob.at(knob.lambda_at(coding.rate) / 2**octaves) - coding.rate
        else:
            step = -knob.stride
        most = MOST_STRIDES * abs(knob.stride)
        return coding.at(knob.rounded(coding.rate + max(-most, min(most, step))))

    def _vary(self, family: Coding) -> None:
        """Change the encoder's settings one after the other at the best rate known; what helps stays."""
        least, coding = self._best_of(family)
        for variant in VARIANTS.get(family.strategy, ()):
            options = tuple({**dict(coding.options), **dict(variant)}.items())
            if options == coding.options:
                continue
            varied = replace(coding, options=options)
            cost = self._try(varied)
            if cost < least:
                least, coding = cost, varied
                self._remember(coding)

    def _finish(self, tools: tuple[Tool, ...]) -> None:
        """Code the best of each of these strategies' codings again, at the tool's preset."""
        if self._best is None:
            return
        limit = FINISH_PATIENCE * self._best[0].cost(self._lambda)
        ranked = self._ranked()
        for tool in tools:
            family = next((family for family in ranked if family.strategy == tool.strategy), None)
            cost, coding = self._best_of(family) if family else (inf, None)
            if coding and cost <= limit:
                finished = replace(coding, preset=tool.preset)
                self._try(finished)
                self._remember(finished)

    def _enhance(self) -> None:
        """Put a network on top of the best coding, where that has a base layer of its kind."""
        if self._best and self._best[0].coding.strategy in KNOBS:
            coding, payload = self._best[0].coding, self._best[1]
            encoder = cast("ElementaryStrategy", strategies.get(coding.strategy))
            usual = usual_slope(coding.strategy, encoder.rate(coding.settings), coding.scale)
            dearer = max(-MOST_DEARER, min(MOST_DEARER, round(2 * log2(self._lambda / usual))))
            told = (("base", coding.strategy), *((("price", str(dearer)),) if dearer else ()))
            enhanced = replace(coding, strategy=ENHANCER, options=(*coding.options, *told))
            self._try(enhanced, payload)
            self._remember(enhanced)

    def _remember(self, coding: Coding) -> None:
        self._memory.asides[coding.family] = coding.rate - predicted_rate(coding, self._lambda)
