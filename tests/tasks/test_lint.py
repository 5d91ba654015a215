"""Advice comes before any process: what will surely fail is said in one line, what works is let through."""

from __future__ import annotations

import pytest

from tasks.candidate import Candidate, Lineage
from tasks.lint import lint
from tasks.measure.anchors import SEED
from tasks.normal_form import normal_form

ENCODER = "def compress_video_tensor(frames, config, device):\n    return {}\n"
DECODER = "def decompress_video_tensor(data, config, device):\n    return {}\n"


def advice(encoder: str = ENCODER, decoder: str = DECODER) -> list[str]:
    files = {"encoder.py": encoder, "decoder.py": decoder}
    return lint(Candidate(files=files, lineage=Lineage(id="x")))


def test_sound_candidates_get_no_advice() -> None:
    assert advice() == []
    assert lint(Candidate.load(SEED)) == []
    assert advice("import torch, numpy as np\nfrom codec.frames import Frames\nfrom decoder import x\n" + ENCODER) == []


def test_odd_imports_are_no_error_of_the_evaluator() -> None:
    """Whatever a candidate writes is its own problem: an error here would end the campaign."""
    advice("import __main__\n" + ENCODER)
    many = advice("".join(f"import {'x' * 500}{number}\n" for number in range(100)) + ENCODER)
    assert len("; ".join(many)) < 10_000


@pytest.mark.parametrize(
    ("source", "said"),
    [
        ("import subprocess\n", "no process can be started"),
        ("from urllib.request import urlopen\n", "no network"),
        ("def f():\n    import tempfile\n", "no files to write"),
        ("import no_such_library\n", "not installed"),
        ("import tasks.execute\n", "not a library"),
    ],
)
def test_imports_that_cannot_work_are_named_with_their_line(source: str, said: str) -> None:
    (line,) = advice(source + ENCODER)
    assert line.startswith("encoder.py, line ")
    assert said in line


def test_a_decoder_cannot_import_the_encoder() -> None:
    (line,) = advice(decoder="from encoder import table\n" + DECODER)
    assert "encoder.py is not there when decoder.py runs" in line


@pytest.mark.parametrize("head", ["(frames)", "(frames, config, device, extra)", "(frames, config, device, *, extra)"])
def test_a_function_that_cannot_be_called_is_told_so(head: str) -> None:
    (line,) = advice(ENCODER.replace("(frames, config, device)", head))
    assert "must take 3 arguments" in line


@pytest.mark.parametrize("head", ["(*anything)", "(frames, config, device='cpu')", "(a, b, c, d=1, *, e=2)"])
def test_a_function_that_can_be_called_is_not(head: str) -> None:
    assert advice(ENCODER.replace("(frames, config, device)", head)) == []


def test_names_comments_and_layout_do_not_make_another_program() -> None:
    one = 'import torch\ndef f(x, k=1):\n    """Text."""\n    y = torch.add(x, k)  # why\n    return y\n'
    same = "import torch\n\n\ndef f(frames: int, k=1) -> int:\n    o = torch.add(\n  frames, k)\n    return o\n"
    assert normal_form(one) == normal_form(same)
    for other in (one.replace("k=1", "k=2"), one.replace("add", "sub"), one.replace("(x, k)", "(k, x)", 1)):
        assert normal_form(one) != normal_form(other)


def test_a_name_that_is_a_parameters_keyword_elsewhere_stays() -> None:
    one = "def g(scale):\n    return scale\ndef f(x):\n    return g(scale=x)\n"
    assert normal_form(one) != normal_form(one.replace("g(scale=x)", "g(size=x)"))
