"""A candidate's agents as the trusted side calls them: train, encode, decode, count operations. One process each.

Owns what each process is given and the check of what comes back. How a process is held is
`tasks.execute.isolation`'s; what is called when, and what it means for the experiment, is the harness's, the canaries'
and the cascade's.

Invariants:
- the decoder gets the bytes and the candidate's own config with the rate knob set; nothing that the encoder added;
- weights, where there are any, are the same for both agents and for every call: they were frozen before the first one;
- what a candidate says of itself is recorded as a claim and not used.
"""

from __future__ import annotations

import json
import math
import threading
from collections.abc import Mapping, Sequence
from dataclasses import astuple, dataclass, field
from typing import Annotated, Any, Final

from pydantic import Field, TypeAdapter

from codec.complexity import per_1080p_frame
from tasks.campaign import Limits
from tasks.candidate import Candidate
from tasks.execute import child
from tasks.execute.clips import ClipShape, LoadedClip
from tasks.execute.isolation import Isolation, Job, Outcome, OutcomeStatus, Role
from tasks.store.records import Status

# What a failed process makes of the experiment. Only what is surely not the candidate's fault is infrastructure.
STATUS: Final[dict[OutcomeStatus, Status]] = {
    "invalid": "invalid",
    "oversized": "invalid",
    "crashed": "crashed",
    "memory": "crashed",
    "timeout": "timeout",
    "stopped": "infrastructure",
    "unready": "infrastructure",
}
# Two counts by module, thop's first. A candidate's process wrote them, so that they are checked like anything else.
_ModuleName = Annotated[str, Field(max_length=child.MAX_MODULE_CHARS)]
_Split = Annotated[dict[_ModuleName, Annotated[int, Field(ge=0, le=10**18)]], Field(max_length=child.MAX_MODULES)]
SPLITS: Final = TypeAdapter(tuple[_Split, _Split])
# An encoder may make more of noise than there was, but not by much.
ENCODE_SLACK_BYTES: Final = 1024 * 1024
# Counting watches every dispatched operation and then runs the network a second time.
OPERATIONS_TIME_FACTOR: Final = 3.0


class Failed(Exception):  # noqa: N818 - a result on its way up, not an error
    """A call did not come to its result: what that makes of the experiment, where, and why in one line."""

    def __init__(self, status: Status, stage: str, reason: str, log: str = "") -> None:
        super().__init__(reason)
        self.status, self.stage, self.reason, self.log = status, stage, reason, log


@dataclass(frozen=True)
class Operations:
    """Tera-operations a 1080p frame; None where a way of counting does not apply. Each also as shares by module."""

    thop: float | None = None
    flop_counter: float | None = None
    thop_shares: Mapping[str, float] = field(default_factory=dict)
    flop_counter_shares: Mapping[str, float] = field(default_factory=dict)

    @property
    def larger(self) -> float | None:
        counts = [count for count in (self.thop, self.flop_counter) if count is not None]
        return max(counts, default=None)

    @property
    def by_module(self) -> dict[str, float]:
        """The larger one, split."""
        shares = self.thop_shares if self.larger == self.thop else self.flop_counter_shares
        return {name: share * (self.larger or 0.0) for name, share in shares.items()}


@dataclass(frozen=True)
class Encoded:
    """`claimed_json` is what the encoder said of itself; `seconds` are of its code alone."""

    bitstream: bytes
    claimed_json: str
    seconds: float
    log: str


@dataclass(frozen=True)
class Decoded:
    """`planar` is of the clip's size and frame count, whatever it shows."""

    planar: bytes
    seconds: float
    log: str


@dataclass(frozen=True)
class Agents:
    """One candidate's agents in one isolation. Many threads may call at once; `stop` ends all calls.

    Every call raises Failed, naming `where` it was.
    """

    candidate: Candidate
    limits: Limits
    isolation: Isolation
    weights: bytes = b""
    stop: threading.Event = field(default_factory=threading.Event)

    def train(self, clips: Sequence[LoadedClip]) -> bytes:
        """The weights that the candidate's trainer makes of these clips."""
        outcome = self._run(
            "train",
            f"{len(clips)} clips",
            payload=b"".join(clip.planar for clip in clips),
            arguments={
                "config": self.candidate.config,
                "clips": [[len(clip.frames), clip.video.height, clip.video.width] for clip in clips],
            },
            wall_seconds=self.limits.train_seconds,
            max_output_bytes=self.limits.weights_mb * 1024 * 1024,
        )
        return outcome.output

    def encode(self, clip: LoadedClip, quality: float) -> Encoded:
        where = _where(clip, quality)
        # Rate and colour are the clip's, not the candidate's: rate control needs the one, players the other. The
        # decoder's process is not told; whatever it needs is in the bytes.
        outcome = self._run(
            "encode",
            where,
            payload=clip.planar,
            arguments={
                "config": self._config(quality)
                | {"frame_rate": str(clip.video.frame_rate), "color": list(astuple(clip.video.color))},
                "width": clip.video.width,
                "height": clip.video.height,
            },
            wall_seconds=self.limits.encode_seconds,
            max_output_bytes=len(clip.planar) + ENCODE_SLACK_BYTES,
        )
        return Encoded(outcome.output, _checked_claims(outcome, where), outcome.seconds, outcome.log)

    def decode(self, bitstream: bytes, shape: ClipShape, quality: float) -> Decoded:
        """`shape` is what the frames must have; the decoder is not told."""
        where = _where(shape, quality)
        outcome = self._run(
            "decode",
            where,
            payload=bitstream,
            arguments={"config": self._config(quality)},
            wall_seconds=self.limits.decode_seconds,
            max_output_bytes=shape.planar_bytes,
        )
        _check_frames(outcome, shape, where)
        return Decoded(outcome.output, outcome.seconds, outcome.log)

    def count_operations(self, bitstream: bytes, clip: LoadedClip, quality: float) -> Operations:
        """Of the decoder, by both ways of counting."""
        where = _where(clip, quality)
        outcome = self._run(
            "operations",
            where,
            payload=bitstream,
            arguments={"config": self._config(quality)},
            wall_seconds=self.limits.decode_seconds * OPERATIONS_TIME_FACTOR,
            max_output_bytes=child.OPERATION_COUNTS.size,
        )
        if len(outcome.output) != child.OPERATION_COUNTS.size:
            raise Failed("invalid", "measure", f"operations of {where}: not two counts", outcome.log)
        thop, flop_counter = (
            None if math.isnan(count) else count for count in child.OPERATION_COUNTS.unpack(outcome.output)
        )
        if any(count is not None and not 0 <= count < math.inf for count in (thop, flop_counter)):
            raise Failed("invalid", "measure", f"operations of {where}: a count out of range", outcome.log)
        pixels = len(clip.frames) * clip.video.width * clip.video.height
        return Operations(
            None if thop is None else thop / 1e12,
            None if flop_counter is None else per_1080p_frame(int(flop_counter), pixels),
            *_checked_shares(outcome, where),
        )

    def _config(self, quality: float) -> dict[str, Any]:
        return self.candidate.config | {"quality": quality}

    def _run(
        self,
        role: Role,
        where: str,
        *,
        payload: bytes,
        arguments: dict[str, object],
        wall_seconds: float,
        max_output_bytes: int,
    ) -> Outcome:
        files = self.candidate.files
        sources = {"decoder.py": files["decoder.py"]} if role in ("decode", "operations") else files
        job = Job(role, sources, payload, arguments, wall_seconds, max_output_bytes, self.weights)
        outcome = self.isolation.run(job, self.stop.is_set)
        if outcome.status != "ok":
            stage = "measure" if role == "operations" else role
            raise Failed(STATUS[outcome.status], stage, f"{role} of {where}: {outcome.reason}", outcome.log)
        return outcome


def _where(clip: LoadedClip | ClipShape, quality: float) -> str:
    return f"{clip.name} at quality {quality:g}"


def _checked_claims(encoded: Outcome, where: str) -> str:
    """What the encoder said of itself, as JSON. Its process wrote it, so even the syntax has to be checked."""
    try:
        return json.dumps(json.loads(encoded.extra), sort_keys=True, allow_nan=False)
    except (ValueError, RecursionError) as error:
        raise Failed("invalid", "encode", f"encode of {where}: its claims are not JSON", encoded.log) from error


def _checked_shares(counted: Outcome, where: str) -> tuple[dict[str, float], dict[str, float]]:
    """Of thop's count and of FlopCounterMode's: what part was spent in which module, adding up to 1."""
    try:
        thop, flop_counter = SPLITS.validate_json(counted.extra)
        return _shares(thop), _shares(flop_counter)
    except ValueError as error:
        raise Failed("invalid", "measure", f"operations of {where}: no counts by module", counted.log) from error


def _shares(counts: Mapping[str, int]) -> dict[str, float]:
    total = sum(counts.values())
    return {name: count / total for name, count in counts.items() if count}


def _check_frames(decoded: Outcome, shape: ClipShape, where: str) -> None:
    expected = (shape.frames, shape.height, shape.width)
    if len(decoded.extra) != child.FRAMES_SHAPE.size or child.FRAMES_SHAPE.unpack(decoded.extra) != expected:
        raise Failed(
            "invalid", "decode", f"decode of {where}: {_said_shape(decoded)}, not {_shape(*expected)}", decoded.log
        )
    if len(decoded.output) != shape.planar_bytes:
        raise Failed(
            "invalid",
            "decode",
            f"decode of {where}: {len(decoded.output)} bytes of frames, not {shape.planar_bytes}",
            decoded.log,
        )


def _said_shape(decoded: Outcome) -> str:
    if len(decoded.extra) != child.FRAMES_SHAPE.size:
        return "frames of no stated shape"
    return _shape(*child.FRAMES_SHAPE.unpack(decoded.extra))


def _shape(count: int, height: int, width: int) -> str:
    return f"{count} frames of {width}x{height}"
