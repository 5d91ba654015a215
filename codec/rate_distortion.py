"""What a coded scene costs: D + lambda·R, the distortion in it, and the lambda that a quality stands for.

Owns the distortion measure, the map between the quality knob and lambda, and which rate parameter of each encoder
belongs to a lambda. Who is compared by it is `codec.selector`'s.

    D       squared error in luma samples' worth: luma samples · (6·MSE-Y + MSE-U + MSE-V) / 8, the planes weighted as
            in PSNR-YUV
    R       bits of the payload
    lambda  one for all scenes of a clip. Minimising D + lambda·R scene by scene then minimises the clip's D for the
            clip's R: no bit could do more good in another scene (Everett 1963; Shoham and Gersho 1988)

The numbers below come from `benchmarks/slopes.py`, which measures -dD/dR of each encoder along its rate parameter:
lambda at quality q is the slope of SVT-AV1 at its default rate for q, so that a clip coded at q is about as good as
SVT-AV1 makes it there.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from math import log2

import numpy as np

from codec.frames import Frames, VideoFormat
from codec.quality import squared_error
from codec.resample import SCALES


@dataclass(frozen=True)
class PlaneErrors:
    """Sums of squared differences of 8-bit samples, one a plane."""

    y: int
    u: int
    v: int

    def weighted(self, video: VideoFormat) -> float:
        """D of the module's formula."""
        return float(np.dot((self.y, self.u, self.v), plane_weights(video)))


def plane_weights(video: VideoFormat) -> tuple[float, float, float]:
    """What a squared error in Y, U and V counts in D."""
    chroma = video.width * video.height / (video.chroma_width * video.chroma_height) / 8
    return 6 / 8, chroma, chroma


def plane_errors(original: Frames, decoded: Frames) -> PlaneErrors:
    """How far two runs of frames of one size lie apart."""
    y, u, v = (
        sum(squared_error(one[index], other[index]) for index in range(len(one)))
        for one, other in zip(original.planes(), decoded.planes(), strict=True)
    )
    return PlaneErrors(y, u, v)


# (quality, log2 lambda): the slope of SVT-AV1 preset 8 at CRF 70 - 57·quality, the median over the scenes; the ends are
# extrapolated.
LAMBDA_OF_QUALITY = (
    (0.0, 13.45),
    (0.079, 11.95),
    (0.202, 9.55),
    (0.325, 8.1),
    (0.447, 6.95),
    (0.570, 5.85),
    (0.693, 4.8),
    (0.816, 3.75),
    (1.0, 2.2),
)


def lambda_of_quality(quality: float) -> float:
    """Lambda, in squared error per bit, at the quality knob: falls from about 10000 at 0 to 5 at 1."""
    qualities, logs = zip(*LAMBDA_OF_QUALITY, strict=True)
    return float(2 ** np.interp(quality, qualities, logs))


def _along(xs: Sequence[float], ys: Sequence[float], x: float) -> float:
    """The straights through these points, of which `xs` rise, at x."""
    after = min(max(sum(known < x for known in xs), 1), len(xs) - 1)
    (x0, x1), (y0, y1) = xs[after - 1 : after + 1], ys[after - 1 : after + 1]
    return y0 + (x - x0) * (y1 - y0) / (x1 - x0)


@dataclass(frozen=True)
class RateKnob:
    """An encoder's rate parameter, coarser as it grows, or finer where `rates` fall with lambda.

    low, high  what the encoder takes
    step       rates are multiples of it
    stride     a change that makes the rate about an eighth coarser, where it is known: how far a search steps aside
    slopes     log2 lambda, rising …
    rates      … and the parameter at which the encoder's curve has that slope
    """

    low: float
    high: float
    step: float
    stride: float
    slopes: tuple[float, ...]
    rates: tuple[float, ...]

    def at(self, lambda_rd: float) -> float:
        """The parameter that belongs to lambda, unrounded; beyond the ends of the table on its last straight."""
        return _along(self.slopes, self.rates, log2(lambda_rd))

    def lambda_at(self, rate: float) -> float:
        """The reverse of `at`."""
        rising = 1 if self.rates[0] < self.rates[-1] else -1
        return float(2 ** _along(self.rates[::rising], self.slopes[::rising], rate))

    def rounded(self, rate: float) -> float:
        """The nearest parameter that the encoder takes."""
        return min(self.high, max(self.low, round(rate / self.step) * self.step))


_X26X_RATES = (14, 18.5, 23.5, 28.5, 33.5, 38.5)
_AV1_RATES = (17, 23.5, 30.5, 37.5, 44.5, 51.5, 58.5, 65.5)
_VVC_RATES = (17.5, 22, 26, 30, 34, 38, 42)
KNOBS = {
    "x264": RateKnob(1, 51, 0.25, 1, (1.75, 3.5, 5.45, 7.25, 9.1, 10.9), _X26X_RATES),
    "x265": RateKnob(1, 51, 0.25, 1, (2.35, 4.0, 5.85, 7.8, 9.55, 11.35), _X26X_RATES),
    "av1": RateKnob(1, 70, 0.25, 2, (2.75, 3.75, 4.8, 5.85, 6.95, 8.1, 9.55, 11.95), _AV1_RATES),
    "vvc": RateKnob(0, 63, 0.5, 1, (3.15, 4.75, 6.25, 7.75, 9.05, 10.35, 11.6), _VVC_RATES),
}
# A strategy that is not in the tables is turned by its quality knob, which is taken to mean the same as ours.
QUALITY_KNOB = RateKnob(
    0,
    1,
    0.001,
    -0.04,
    tuple(slope for _, slope in reversed(LAMBDA_OF_QUALITY)),
    tuple(quality for quality, _ in reversed(LAMBDA_OF_QUALITY)),
)
# A still serves many frames, and one colour many places: what `procedural` draws pays at finer qualities than a frame.
# Not from slopes.py: between where D + lambda·R was least for stills, camera paths and screens, up to 0.2 apart.
PROCEDURAL_RATES = (1.0, 0.9, 0.8, 0.68, 0.52, 0.36, 0.25)
QUALITY_KNOBS = {
    "procedural": RateKnob(0, 1, 0.001, -0.1, (2.2, 3.9, 5.2, 6.5, 7.9, 9.6, 11.5), PROCEDURAL_RATES),
}


# Half octaves above or below `usual_slope` that a strategy with a base layer can be told a bit is worth.
MOST_DEARER = 6


def usual_slope(encoder: str, rate: float, scale: str) -> float:
    """Lambda, of pictures of full size, that this rate of an encoder at a scale of `codec.resample` usually has."""
    return KNOBS[encoder].lambda_at(rate) / float(SCALES[scale]) ** 2
