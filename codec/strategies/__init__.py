"""The registry: every strategy's name, its code in the bitstream and its module, which is loaded on first use.

A strategy's module defines `STRATEGY`. Codes are never reused.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache
from importlib import import_module
from typing import TYPE_CHECKING, cast

from codec.errors import BadInputError, BitstreamError

if TYPE_CHECKING:
    from codec.strategies.protocol import Strategy


@dataclass(frozen=True)
class Registration:
    code: int
    module: str


REGISTRY = {
    "semantic_latent": Registration(1, "codec.strategies.semantic_latent"),
    "i_frame_interpolation": Registration(2, "codec.strategies.i_frame_interpolation"),
    "hybrid_semantic": Registration(3, "codec.strategies.hybrid_semantic"),
    "procedural": Registration(4, "codec.strategies.procedural"),
    "x264": Registration(5, "codec.strategies.x264"),
    "x265": Registration(6, "codec.strategies.x265"),
    "av1": Registration(7, "codec.strategies.av1"),
    "vvc": Registration(8, "codec.strategies.vvc"),
}
STRATEGIES = tuple(REGISTRY)


@cache
def get(name: str) -> Strategy:
    """The strategy of that name. Raises BadInputError, naming the known ones."""
    if name not in STRATEGIES:
        raise BadInputError(f"unknown strategy {name!r}: choose one of {', '.join(STRATEGIES)}")
    module = import_module(REGISTRY[name].module)
    return cast("Strategy", module.STRATEGY)


def by_code(code: int) -> Strategy:
    """The strategy with that code in the bitstream. Raises BitstreamError where this version has none."""
    name = name_of(code)
    if name not in STRATEGIES:
        raise BitstreamError(f"strategy code {code} ({name}) is not known to this version: use a newer evocodec")
    return get(name)


def name_of(code: int) -> str:
    """The name registered for a code; 'unknown' where there is none."""
    return next((name for name, known in REGISTRY.items() if known.code == code), "unknown")
