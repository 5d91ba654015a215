"""The cascade: what a candidate has to pass, cheapest first, so that GPU time goes to ideas that may win.

    stage       asks                                                        a failure is
    check       can it run at all? (syntax, imports, contract, sizes)       invalid
    duplicate   has this campaign tried the same code in other words?       duplicate
    train       does its trainer return weights? (amortised track only)     what the process did
    tiny        does it code two small frames it has never seen?            what the process did
    short       is it within reach of x265 on a few frames of one clip?     rejected
    dev         how good is it, on every clip at every rate point?          what the process did
    canaries    could it have cheated?                                      cheat
    repeat      does it lead on dev, beyond the noise of encoding again?    measured, and no champion
    select      does it win on clips and stretches nobody has seen?         measured, and no champion

Owns the order, and the verdict and cost of each stage. Each stage's own work is its module's.
"""

from __future__ import annotations

import secrets
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Final

from codec.errors import BadInputError
from tasks.analyze.promotion import compare
from tasks.campaign import Campaign
from tasks.candidate import Candidate
from tasks.execute.agents import Agents, Failed
from tasks.execute.canaries import Cheat, run_canaries
from tasks.execute.clips import LoadedClip, draw_clip, excerpt, load_clip, luma_psnr, tiny_clip
from tasks.execute.harness import Evaluation, Progress, evaluate
from tasks.execute.isolation import Isolation
from tasks.execute.noise import encode_again
from tasks.execute.trust import isolation_for
from tasks.lint import lint
from tasks.measure.anchors import ANCHOR_QUALITIES, anchor_candidates
from tasks.measure.reference import reference_bytes
from tasks.store.records import PointRecord, Split, Stage, StageName, Status

SHORT_FRAMES: Final = 12
REFERENCE: Final = "x265-medium"


@dataclass(frozen=True)
class Rival:
    """The one to beat, with its points on the dev clips and its noise."""

    experiment_id: str
    candidate: Candidate
    points: tuple[PointRecord, ...]
    noise_percent: Mapping[str, float]
    weights: bytes = b""


@dataclass(frozen=True)
class Known:
    """What a campaign knows that bears on the next candidate.

    `tried` are experiment ids by `Candidate.ast_hash`, `reference` are x265 medium's points on the dev clips.
    """

    tried: Mapping[str, str] = field(default_factory=dict)
    rival: Rival | None = None
    reference: tuple[PointRecord, ...] = ()


@dataclass
class Findings:
    """What a cascade has come to so far. `controls` are what was measured beside the candidate, by what they are."""

    evaluation: Evaluation
    stages: list[Stage] = field(default_factory=list)
    noise_percent: dict[str, float] = field(default_factory=dict)
    weights: bytes = b""
    controls: dict[str, tuple[Candidate, Evaluation]] = field(default_factory=dict)

    @contextmanager
    def stage(self, name: StageName) -> Iterator[list[str]]:
        """Times one stage and keeps its verdict; what is put into the list becomes its note.

        Failed and Cheat end the cascade as _Stopped; NotBetter ends only the stage.
        """
        started, notes = time.monotonic(), list[str]()
        passed = False
        try:
            yield notes
            passed = True
        except NotBetter:
            pass
        except Failed as failure:
            raise _Stopped(failure.status, failure.reason, failure.log) from failure
        except Cheat as cheat:
            raise _Stopped("cheat", str(cheat)) from cheat
        finally:
            note = "; ".join(notes)
            self.stages.append(Stage(name=name, passed=passed, seconds=time.monotonic() - started, note=note))


class NotBetter(Exception):  # noqa: N818 - a verdict, not an error
    """The candidate is sound and measured, and not the one to go on with."""


class _Stopped(Exception):  # noqa: N818 - a result on its way up, not an error
    def __init__(self, status: Status, reason: str, log: str = "") -> None:
        super().__init__(reason)
        self.status, self.reason, self.log = status, reason, log


@dataclass(frozen=True)
class Cascade:
    """One candidate's way through the stages. `clips` are the campaign's dev clips."""

    candidate: Candidate
    campaign: Campaign
    experiment_id: str
    clips: Sequence[LoadedClip]
    isolation: Isolation
    on_progress: Callable[[Progress], None] | None = None

    def run(self, known: Known, *, hasty: bool = True) -> Findings:
        """All stages. Without `hasty` nothing is given up early: for a user who wants to see everything."""
        found = Findings(self._nothing_yet())
        try:
            self._stages(found, known, hasty)
        except _Stopped as stopped:
            found.evaluation = Evaluation(
                stopped.status,
                found.stages[-1].name,
                self.isolation.name,
                reason=stopped.reason,
                log=stopped.log,
            )
        return found

    def seal(self, weights: bytes) -> Findings:
        """The last word: measured on `clips`, which are sealed ones, beside the reference."""
        found = Findings(self._nothing_yet(), weights=weights)
        with found.stage("sealed") as notes:
            found.evaluation = self._evaluate(self.candidate, self.clips, "sealed", weights)
            if found.evaluation.status != "measured":
                raise NotBetter
            notes.append(self._against_reference(found, self.clips, "sealed", found.evaluation.points))
        return found

    def _stages(self, found: Findings, known: Known, hasty: bool) -> None:
        with found.stage("check"):
            self._check()
        if hasty:
            with found.stage("duplicate"):
                self._refuse_duplicate(known)
        if "trainer.py" in self.candidate.files:
            with found.stage("train") as notes:
                found.weights = self._train()
                notes.append(f"{len(found.weights)} bytes of weights")
        agents = Agents(self.candidate, self.campaign.limits, self.isolation, found.weights)
        with found.stage("tiny") as notes:
            notes.append(self._round_trip(agents))
        if hasty:
            with found.stage("short") as notes:
                notes.append(self._short(agents))
        with found.stage("dev"):
            found.evaluation = self._evaluate(self.candidate, self.clips, "dev", found.weights)
            if found.evaluation.status != "measured":
                raise _Stopped(found.evaluation.status, found.evaluation.reason, found.evaluation.log)
        with found.stage("canaries") as notes:
            notes.append(run_canaries(agents, self.clips, found.evaluation.points))
        if hasty and self._may_lead(found, known):
            with found.stage("repeat") as notes:
                self._repeat(found, known, agents, notes)
            if found.stages[-1].passed and self.campaign.select:
                with found.stage("select") as notes:
                    self._select(found, known, notes)

    def _check(self) -> None:
        advice = lint(self.candidate)
        if advice:
            raise _Stopped("invalid", "; ".join(advice))
        if "trainer.py" in self.candidate.files and not self.campaign.train:
            raise _Stopped("invalid", "it has a trainer.py and the campaign has no training clips")

    def _refuse_duplicate(self, known: Known) -> None:
        same = known.tried.get(self.candidate.ast_hash)
        if same is not None and same != self.experiment_id:
            raise _Stopped("duplicate", f"the same code and config as {same}, names and layout aside")

    def _train(self) -> bytes:
        clips = [load_clip(name, self.campaign.max_frames) for name in self.campaign.train]
        evaluated = {clip.content_hash: clip.name for clip in self.clips}
        for clip in clips:
            if clip.content_hash in evaluated:
                raise BadInputError(f"training clip {clip.name} has the frames of {evaluated[clip.content_hash]}")
        return Agents(self.candidate, self.campaign.limits, self.isolation).train(clips)

    def _short(self, agents: Agents) -> str:
        smallest = min(self.clips, key=lambda clip: len(clip.planar) // len(clip.frames))
        clip = excerpt(smallest, SHORT_FRAMES)
        quality = sorted(self.campaign.qualities)[len(self.campaign.qualities) // 2]
        encoded = agents.encode(clip, quality)
        psnr = luma_psnr(agents.decode(encoded.bitstream, clip.shape, quality).planar, clip)
        ratio = len(encoded.bitstream) / reference_bytes(clip, psnr)
        note = f"{clip.name}: {len(encoded.bitstream)} bytes at {psnr:.1f} dB, {ratio:.2f} times x265 medium's"
        if ratio > self.campaign.early_stop_ratio:
            raise _Stopped("rejected", f"{note}; given up above {self.campaign.early_stop_ratio:g}")
        return note

    def _may_lead(self, found: Findings, known: Known) -> bool:
        """Whether it beats the champion at first sight. What follows costs as much again, so not everyone gets it.

        One without a score on dev may not: as champion it could never be beaten, since nothing compares with it.
        """
        points, rival = found.evaluation.points, known.rival
        if compare(points, known.reference or points).mean is None:
            return False
        return rival is None or compare(points, rival.points, rival.noise_percent).better

    def _repeat(self, found: Findings, known: Known, agents: Agents, notes: list[str]) -> None:
        """Its own noise, and whether it still leads beyond it."""
        points = found.evaluation.points
        found.noise_percent = encode_again(agents, self.clips, points)
        unknown = [clip.name for clip in self.clips if clip.name not in found.noise_percent]
        if unknown:
            notes.append(f"encoded again: its two curves of {unknown[0]} do not compare, so its noise has no bound")
            raise NotBetter
        notes.append(f"encoded again: noise {max(found.noise_percent.values(), default=0.0):.2f}%")
        if known.rival is not None:
            comparison = compare(points, known.rival.points, known.rival.noise_percent, found.noise_percent)
            notes.append(f"against {known.rival.experiment_id}: {comparison}")
            if not comparison.better:
                raise NotBetter

    def _select(self, found: Findings, known: Known, notes: list[str]) -> None:
        """A fresh draw of the select clips, for the candidate, its rival and the reference alike."""
        seed = secrets.randbits(32)
        notes.append(f"draw {seed}")
        clips = [draw_clip(name, self.campaign.max_frames, seed) for name in self.campaign.select]
        mine = self._evaluate(self.candidate, clips, "select", found.weights)
        if mine.status != "measured":
            notes.append(f"{mine.status}: {mine.reason}")
            raise NotBetter
        found.evaluation = found.evaluation.with_points_of(mine)
        notes.append(self._against_reference(found, clips, "select", mine.points))
        if known.rival is None:
            return
        theirs = self._evaluate(known.rival.candidate, clips, "select", known.rival.weights, control="rival")
        found.controls["rival"] = known.rival.candidate, theirs
        # Noise is known of the dev clips only: the worst of them stands for clips that nobody has seen.
        worst = max((*known.rival.noise_percent.values(), *found.noise_percent.values()), default=0.0)
        comparison = compare(mine.points, theirs.points, {clip.name: worst for clip in clips})
        notes.append(f"against {known.rival.experiment_id}: {comparison}")
        if theirs.status == "measured" and not comparison.better:
            raise NotBetter

    def _against_reference(
        self, found: Findings, clips: Sequence[LoadedClip], split: Split, points: Sequence[PointRecord]
    ) -> str:
        reference = anchor_candidates()[REFERENCE]
        anchor = self._evaluate(reference, clips, split, control=REFERENCE)
        found.controls[REFERENCE] = reference, anchor
        return f"against {REFERENCE}: {compare(points, anchor.points)}"

    def _nothing_yet(self) -> Evaluation:
        return Evaluation("measured", "done", self.isolation.name)

    def _evaluate(
        self,
        candidate: Candidate,
        clips: Sequence[LoadedClip],
        split: Split,
        weights: bytes = b"",
        control: str = "",
    ) -> Evaluation:
        anchor = control == REFERENCE
        return evaluate(
            candidate,
            clips,
            campaign=self.campaign.name,
            experiment_id=control_id(self.experiment_id, control) if control else self.experiment_id,
            qualities=ANCHOR_QUALITIES if anchor else self.campaign.qualities,
            limits=self.campaign.limits,
            isolation=isolation_for(candidate, self.campaign.limits) if control else self.isolation,
            count_payload_only=anchor,
            split=split,
            weights=weights,
            on_progress=self.on_progress,
        )

    def _round_trip(self, agents: Agents) -> str:
        clip = tiny_clip(secrets.randbits(32))
        quality = max(self.campaign.qualities)
        encoded = agents.encode(clip, quality)
        psnr = luma_psnr(agents.decode(encoded.bitstream, clip.shape, quality).planar, clip)
        return f"{len(encoded.bitstream)} bytes, {psnr:.1f} dB"


def control_id(experiment_id: str, control: str) -> str:
    """The id under which a control of this experiment is recorded."""
    return f"{experiment_id}.{control}"
