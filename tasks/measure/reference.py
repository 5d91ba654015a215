"""What x265 medium takes for a few frames at a given quality: the yardstick for giving a candidate up early.

Coded in the trusted process, with the anchor's own settings. It decides nothing but that: scores are against anchors
that went through the same door as every candidate.
"""

from __future__ import annotations

import math
from functools import lru_cache
from itertools import pairwise
from typing import Final

from codec.config import CodecConfig
from codec.quality import psnr, squared_error
from codec.strategies import get
from tasks.execute.clips import LoadedClip
from tasks.measure.anchors import ANCHORS

QUALITIES: Final = (0.1, 0.5, 0.9)
MAX_LOGARITHM: Final = 40.0


def reference_bytes(clip: LoadedClip, psnr_db: float) -> float:
    """Bytes at that PSNR-Y, in the logarithm between and beyond three coded points."""
    points = _points(clip)
    if len(points) < 2:  # nothing to see in these frames: every quality is the same
        return points[0][1]
    low, high = next(
        ((low, high) for low, high in pairwise(points) if psnr_db <= high[0]),
        points[-2:],
    )
    slope = (math.log(high[1]) - math.log(low[1])) / (high[0] - low[0])
    logarithm = math.log(low[1]) + slope * (psnr_db - low[0])
    return math.exp(min(max(logarithm, 0.0), MAX_LOGARITHM))  # on nearly flat frames the slope can be anything


@lru_cache(maxsize=8)
def _points(clip: LoadedClip) -> tuple[tuple[float, float], ...]:
    """(PSNR-Y, bytes) by rising quality."""
    strategy = get("x265")
    found: list[tuple[float, float]] = []
    for quality in QUALITIES:
        settings = CodecConfig.parse(ANCHORS["x265-medium"] | {"quality": quality}).settings
        payload = strategy.encode(clip.frames, clip.video, settings)
        decoded = strategy.decode(payload, clip.video, len(clip.frames))
        db = psnr(squared_error(clip.frames.y, decoded.y) / clip.frames.y.size)
        if not found or db > found[-1][0]:
            found.append((db, float(len(payload))))
    return tuple(found)
