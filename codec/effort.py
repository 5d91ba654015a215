"""What each level of effort tries: which encoders at which presets, at which scales, how far beside the first guess.

Owns the table and the shortlist that a scene's class makes of it. Encoding and comparing is `codec.selector`'s.
"""

from __future__ import annotations

from dataclasses import dataclass
from math import inf

from codec.scenes import SceneClass

MAX_EFFORT = 10

# What a class of scene makes of a tool. On screen content SVT-AV1 with screen tools makes about half of the bytes; on
# everything else they only cost time. Where much moves, only a camera's path is left to describe.
CLASS_OPTIONS: dict[tuple[str, SceneClass], tuple[tuple[str, str], ...]] = {
    ("av1", "screen"): (("scm", "1"),),
    ("procedural", "moderate_motion"): (("kind", "views"),),
    ("procedural", "high_motion"): (("kind", "views"),),
}
# What a scene's length makes of a tool: (longest scene in frames, options). VVenC's usual groups of 32 pictures cost 2
# to 15% more than groups of 16 in scenes of one or two groups, and save 5 to 20% in long ones where little moves.
LENGTH_OPTIONS: dict[str, tuple[tuple[float, tuple[tuple[str, str], ...]], ...]] = {
    "vvc": ((64, (("gopsize", "16"),)), (inf, (("gopsize", "32"),))),
}
# Encoder parameters of which now one and now the other setting is better, by 1 to 8% of the cost; no feature tells
# which: SVT-AV1's temporal filter and its quantiser by block, VVenC's groups of pictures and its bits for the intra
# picture.
VARIANTS = {
    "av1": ((("enable-tf", "0"),), (("aq-mode", "0"),)),
    "vvc": ((("gopsize", "16"),), (("gopsize", "32"),), (("intraqpoffset", "-1"),)),
}
# The strategy that restores what a traditional base layer lost.
ENHANCER = "hybrid_semantic"
# Strategies for one kind of content, and the classes that have a chance of being that kind.
SPECIALISTS: dict[str, frozenset[SceneClass]] = {
    "i_frame_interpolation": frozenset({"static", "talking_head"}),
}


@dataclass(frozen=True)
class Tool:
    """One encoder at one preset; `preset` None is the strategy's default."""

    strategy: str
    preset: str | None = None
    options: tuple[tuple[str, str], ...] = ()


@dataclass(frozen=True)
class Effort:
    """One level.

    tools     all are tried at the rate that lambda predicts, at full size
    scaled    of so many of the best tools the smaller scales are tried
    refined   of so many of the best (tool, scale) pairs the rate of least cost is looked for …
    probes    … with at most so many encodes each
    varied    of so many of the best pairs the encoder's variants are tried, one on top of the other where they help
    finish    the best coding of each of these tools' strategies is coded once more at the tool's slower preset: the
              scale, variants and rate that suit a quick preset suit a slow one, which is then paid for once and not at
              every trial
    enhanced  whether a network is tried on top of the best coding
    """

    tools: tuple[Tool, ...]
    scaled: int
    refined: int
    probes: int
    varied: int
    finish: tuple[Tool, ...] = ()
    enhanced: bool = False


def _tools(*names: str) -> tuple[Tool, ...]:
    parts = (name.split() for name in names)
    return tuple(Tool(part[0], part[1] if len(part) > 1 else None) for part in parts)


# `procedural` codes its stills by VVenC, medium and slow under their own names.
_FAST = _tools("vvc fast", "procedural medium")
_MEDIUM = _tools("vvc medium", "procedural medium")
_SLOW = _tools("vvc slow", "procedural slow")
_SLOWER = _tools("vvc slower", "procedural slow")


# Presets by speed on one core: SVT-AV1 8, 6 and 4 and VVenC faster code one 1080p frame in 0.1 to 0.4 s, VVenC fast in
# 0.8 s, VVenC medium in 3 s, VVenC slow in 8 s.
EFFORTS = (
    Effort(_tools("av1 8"), 0, 0, 0, 0),
    Effort(_tools("av1 8"), 1, 0, 0, 0),
    Effort(_tools("av1 6", "procedural fast"), 1, 1, 1, 0),
    Effort(_tools("av1 5", "vvc faster", "procedural fast"), 1, 0, 0, 1),
    Effort(_tools("av1 4", "vvc faster", "procedural fast"), 1, 1, 2, 1, _FAST),
    Effort(_tools("av1 4", "vvc faster", "procedural fast"), 1, 1, 2, 1, _MEDIUM),
    Effort(_tools("av1 4", "vvc fast", "procedural fast"), 1, 1, 3, 1, _MEDIUM),
    Effort(_tools("av1 3", "vvc fast", "procedural fast"), 2, 1, 3, 2, _MEDIUM, enhanced=True),
    Effort(_tools("av1 3", "vvc fast", "procedural fast"), 2, 1, 3, 2, _SLOW, enhanced=True),
    Effort(_tools("av1 2", "vvc medium", "x265 slower", "procedural fast"), 2, 2, 3, 2, _SLOW, enhanced=True),
    Effort(
        _tools(
            "av1 2",
            "vvc slow",
            "x265 slower",
            "x264 veryslow",
            *("procedural fast", "i_frame_interpolation 2", "semantic_latent"),
        ),
        3,
        3,
        4,
        3,
        _SLOWER,
        enhanced=True,
    ),
)


def shortlist(effort: Effort, scene_class: SceneClass, frame_count: int) -> tuple[Tool, ...]:
    """The tools worth trying on a scene of this class and length."""
    return tuple(
        Tool(tool.strategy, tool.preset, _options(tool.strategy, scene_class, frame_count))
        for tool in effort.tools
        if scene_class in SPECIALISTS.get(tool.strategy, {scene_class})
    )


def _options(strategy: str, scene_class: SceneClass, frame_count: int) -> tuple[tuple[str, str], ...]:
    by_length = (options for longest, options in LENGTH_OPTIONS.get(strategy, ()) if frame_count <= longest)
    return (*CLASS_OPTIONS.get((strategy, scene_class), ()), *next(by_length, ()))
