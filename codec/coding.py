"""One way to code a scene, and what became of it once coded and decoded.

Which codings are tried is `codec.selector`'s.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from math import floor, inf

from codec import strategies
from codec.bitstream import frames_hash
from codec.frames import Frames, VideoFormat
from codec.rate_distortion import KNOBS, QUALITY_KNOB, QUALITY_KNOBS, PlaneErrors, RateKnob, plane_errors
from codec.resample import SCALES
from codec.strategies.protocol import EncodeSettings

# VVenC takes whole QPs. An offset for intra pictures of one more than the usual -3 comes out about half a step coarser,
# and no worse for its bits.
HALF_STEPS = {"vvc": ("intraqpoffset", -3)}


@dataclass(frozen=True)
class Coding:
    """One way to code a scene, complete: the same coding of the same scene always gives the same bytes.

    `quality_range` with two equal ends is the encoder's own rate parameter, and `quality` then plays no part.
    """

    strategy: str
    preset: str | None = None
    scale: str = "1"
    quality: float = 1.0
    quality_range: tuple[float, float] | None = None
    options: tuple[tuple[str, str], ...] = ()

    @property
    def settings(self) -> EncodeSettings:
        options, rates = dict(self.options), self.quality_range
        if self.encoder in HALF_STEPS and self.rate % 1:
            option, usual = HALF_STEPS[self.encoder]
            options[option] = str(int(options.get(option, usual)) + 1)
            rates = (floor(self.rate), floor(self.rate))
        return EncodeSettings(self.quality, self.preset, self.scale, rates, options)

    @property
    def encoder(self) -> str:
        """Whose rate parameter `rate` is: the strategy's own, or that of the base layer that it is told to use."""
        return dict(self.options).get("base", self.strategy)

    @property
    def rate(self) -> float:
        """The encoder's CRF or QP; of a strategy without one, the quality knob."""
        return self.quality_range[1] if self.quality_range else self.quality

    @property
    def family(self) -> Coding:
        """All codings that differ from this one in rate only."""
        return replace(self, quality=1.0, quality_range=None)

    def at(self, rate: float) -> Coding:
        """This coding at another rate."""
        if self.encoder in KNOBS:
            return replace(self, quality=1.0, quality_range=(rate, rate))
        return replace(self, quality=rate)

    @property
    def knob(self) -> RateKnob:
        return KNOBS.get(self.encoder) or QUALITY_KNOBS.get(self.encoder, QUALITY_KNOB)

    def __str__(self) -> str:
        parts = [self.strategy, self.preset, *(f"{key}={value}" for key, value in self.options)]
        scale = f" at scale {self.scale}" if self.scale != "1" else ""
        return f"{' '.join(part for part in parts if part)}{scale}, rate {self.rate:g}"


@dataclass(frozen=True)
class Trial:
    """What became of one coding. `errors` are None and `failure` says why where it failed."""

    coding: Coding
    bytes: int
    errors: PlaneErrors | None
    distortion: float
    frames_hash: int
    failure: str | None = None

    def cost(self, lambda_rd: float) -> float:
        """D + lambda·R; infinite where the coding failed."""
        return inf if self.failure else self.distortion + lambda_rd * 8 * self.bytes


def run_coding(
    coding: Coding, frames: Frames, video: VideoFormat, base_payload: bytes | None = None
) -> tuple[bytes, Trial]:
    """The payload, and what became of it once decoded. Raises what the strategy raises."""
    strategy = strategies.get(coding.strategy)
    payload = strategy.encode(frames, video, replace(coding.settings, base_payload=base_payload))
    decoded = strategy.decode(payload, video, len(frames))
    errors = plane_errors(frames, decoded)
    return payload, Trial(coding, len(payload), errors, errors.weighted(video), frames_hash(decoded))


def predicted_rate(coding: Coding, lambda_rd: float) -> float:
    """The rate at which this kind of coding usually has the slope `lambda_rd`, unrounded.

    Halving both sides spreads each squared error over four samples: the coder must work to a quarter of lambda.
    """
    return coding.knob.at(lambda_rd * float(SCALES[coding.scale]) ** 2)
