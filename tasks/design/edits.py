"""A file given as edits of the parent's file: blocks to find there, and what to put in their place.

Owns when that is sound: every search block is found exactly once in the parent's text, and no two of them overlap. What
is found elsewhere or not at all is refused with its place, since a patch that went astray would be measured as a copy
of the parent. Which file is whose is `tasks.design.answers`'.
"""

from __future__ import annotations

import difflib
import itertools
from collections.abc import Sequence
from typing import Final

from pydantic import BaseModel, ConfigDict, Field

MAX_EDITS: Final = 50
_SHOWN: Final = 120


class Edit(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)

    search: str = Field(
        min_length=1, description="Text of the parent's file, to the character; it must be found there exactly once."
    )
    replace: str = Field(description="What stands there instead; empty to delete it.")


class Astray(Exception):  # noqa: N818 - a verdict on an answer, not an error of ours
    """Which edit cannot be made, and why, in one line for whoever wrote it."""


def apply_edits(source: str, edits: Sequence[Edit]) -> str:
    """`source` with every edit made; all of them are searched for in `source` itself. Raises Astray."""
    places = [(_place(source, number, edit), number, edit) for number, edit in enumerate(edits, 1)]
    places.sort(key=lambda found: found[:2])
    for (start, first, edit), (other, second, _) in itertools.pairwise(places):
        if other < start + len(edit.search):
            raise Astray(f"edits {first} and {second} overlap at line {_line(source, other)}: make them one")
    parts, done = [], 0
    for start, _, edit in places:
        parts += [source[done:start], edit.replace]
        done = start + len(edit.search)
    return "".join([*parts, source[done:]])


def _place(source: str, number: int, edit: Edit) -> int:
    found = _found(source, edit.search)
    if len(found) == 1:
        return found[0]
    if found:
        lines = ", ".join(str(_line(source, place)) for place in found[:8])
        raise Astray(
            f"edit {number}: its search text is found {len(found)} times (lines {lines}): it must be found "
            "exactly once, so give more of the text around it"
        )
    raise Astray(f"edit {number}: its search text is not in the parent's file{_where_it_parts(source, edit.search)}")


def _found(source: str, search: str) -> list[int]:
    """Places that overlap count too: whoever is found at two of them is not found exactly once."""
    places = [source.find(search)]
    while places[-1] >= 0:
        places.append(source.find(search, places[-1] + 1))
    return places[:-1]


def _where_it_parts(source: str, search: str) -> str:
    """The nearest line to the first one of `search` that the file does not have."""
    lines = source.splitlines()
    for number, line in enumerate(search.splitlines(), 1):
        if line not in lines:
            near = difflib.get_close_matches(line, lines, 1)
            there = f"; the nearest there is line {lines.index(near[0]) + 1}, {near[0][:_SHOWN]!r}" if near else ""
            return f": its line {number} is {line[:_SHOWN]!r}{there}"
    return ": its lines do not follow each other there"


def _line(source: str, place: int) -> int:
    return source.count("\n", 0, place) + 1
