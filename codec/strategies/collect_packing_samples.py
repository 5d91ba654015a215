"""Collect what primes the model of `codec.strategies.packing`.

    python -m codec.strategies.collect_packing_samples NAME...

Owns the recipe: short clips of `codec.networks.training_clips`, which no benchmark shows, coded by each encoder at
presets and rates in use. The samples are part of the bitstream: replacing them breaks every file that uses them, so
this script refuses to overwrite.
"""

from __future__ import annotations

import sys
from fractions import Fraction
from typing import cast

from codec import strategies
from codec.frames import ColorDescription, VideoFormat
from codec.networks.training_clips import training_clip
from codec.strategies.elementary import ElementaryStrategy
from codec.strategies.packing import SAMPLES, write_samples

SEED = 5000
SIDES = (128, 192, 160, 208)
LENGTHS = (33, 17, 40, 9, 24)
RATES = (Fraction(25), Fraction(30), Fraction(24), Fraction(30000, 1001), Fraction(50), Fraction(60))
COLORS = (ColorDescription(), ColorDescription(2, 2, 2))
# (preset, rate, options)
RECIPES: dict[str, tuple[tuple[str, float, dict[str, str]], ...]] = {
    "x264": (("veryslow", 30, {}), ("medium", 24, {}), ("veryslow", 36, {})),
    "x265": (("veryfast", 30, {}), ("slower", 30, {}), ("medium", 24, {}), ("slower", 36, {}), ("medium", 34, {})),
    "av1": (
        ("8", 45, {}),
        ("3", 40, {}),
        ("6", 30, {}),
        ("2", 50, {}),
        ("4", 40, {"scm": "1"}),
        ("4", 55, {}),
        ("3", 60, {}),
        ("4", 35, {}),
    ),
    "vvc": (
        ("faster", 36, {"gopsize": "32"}),
        ("slower", 34, {"gopsize": "16"}),
        ("fast", 24, {"gopsize": "32"}),
        ("medium", 28, {"gopsize": "32"}),
        ("slow", 26, {"gopsize": "16"}),
        ("medium", 36, {"gopsize": "16"}),
        ("fast", 32, {"gopsize": "16"}),
        ("slow", 42, {"gopsize": "32"}),
        ("medium", 42, {"gopsize": "16"}),
        ("slow", 38, {"gopsize": "16"}),
    ),
}


def main(names: list[str]) -> None:
    for name in names:
        target = SAMPLES / f"{name}.bin"
        if target.exists():
            sys.exit(f"{target} exists and is part of the bitstream: a model primed by other samples is a new form")
        strategy = cast("ElementaryStrategy", strategies.get(name))
        streams = [_stream(strategy, place, *recipe) for place, recipe in enumerate(RECIPES[name])]
        target.parent.mkdir(exist_ok=True)
        target.write_bytes(write_samples(strategy.packing, streams))
        sys.stdout.write(f"{target}: {target.stat().st_size} bytes\n")


def _stream(strategy: ElementaryStrategy, place: int, preset: str, rate: float, options: dict[str, str]) -> bytes:
    side = SIDES[place % len(SIDES)]
    clip = training_clip(SEED + place, side, LENGTHS[place % len(LENGTHS)])
    video = VideoFormat(side, side, RATES[place % len(RATES)], COLORS[place % 4 // 3])
    return strategy.encode_stream(clip, video, rate, preset, options)


if __name__ == "__main__":
    main(sys.argv[1:] or list(RECIPES))
