"""Edits of a parent's file: made where every search text is found exactly once, refused with the place otherwise."""

from __future__ import annotations

import random

import pytest

from tasks.design.edits import Astray, Edit, apply_edits

SOURCE = "def low(x):\n    return x + 1\n\n\ndef high(x):\n    return x * 2\n"


def edits(*pairs: tuple[str, str]) -> list[Edit]:
    return [Edit(search=search, replace=replace) for search, replace in pairs]


def test_edits_are_made_in_the_parents_text_whatever_their_order() -> None:
    both = edits(("x * 2", "x + 1"), ("x + 1", "x * 2"))  # the second is not searched for in what the first wrote
    assert apply_edits(SOURCE, both) == apply_edits(SOURCE, both[::-1])
    assert apply_edits(SOURCE, both) == "def low(x):\n    return x * 2\n\n\ndef high(x):\n    return x + 1\n"
    assert apply_edits(SOURCE, []) == SOURCE
    assert apply_edits(SOURCE, edits(("\n\n\ndef high(x):\n    return x * 2\n", ""))) == "def low(x):\n    return x + 1"


@pytest.mark.parametrize(
    ("pairs", "problem"),
    [
        ([("x + 1", ""), ("return", "")], "edit 2: its search text is found 2 times (lines 2, 6)"),
        ([("x + 9", "")], "edit 1: its search text is not in the parent's file: its line 1 is 'x + 9'"),
        (
            [("def low(x):\n    return x+1\n", "")],
            "its line 2 is '    return x+1'; the nearest there is line 2, '    return x + 1'",
        ),
        ([("return x + 1\n\ndef", "")], "its line 1 is 'return x + 1'; the nearest there is line 2"),
        ([("    return x + 1\ndef high(x):", "")], "its lines do not follow each other there"),
        ([("low(x):\n    return", ""), ("return x + 1", "")], "edits 1 and 2 overlap at line 2: make them one"),
    ],
)
def test_an_edit_that_goes_astray_says_which_and_where(pairs: list[tuple[str, str]], problem: str) -> None:
    with pytest.raises(Astray) as caught:
        apply_edits(SOURCE, edits(*pairs))
    assert problem in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_text_that_is_found_overlapping_itself_is_found_twice() -> None:
    with pytest.raises(Astray, match="found 2 times"):
        apply_edits("aaa", edits(("aa", "b")))


def test_any_cut_of_a_text_into_edits_gives_what_was_wanted() -> None:
    """Lines that are all different, any of them replaced: the same as replacing them one by one."""
    for seed in range(20):
        draw = random.Random(seed)
        lines = [f"line {number} of {seed}\n" for number in range(draw.randint(1, 30))]
        chosen = draw.sample(range(len(lines)), draw.randint(0, len(lines)))
        wanted = ["new\n" * draw.randint(0, 2) if number in chosen else line for number, line in enumerate(lines)]
        made = edits(*((lines[number], wanted[number]) for number in chosen))
        assert apply_edits("".join(lines), made) == "".join(wanted), seed
