"""What was coded once is decoded for ever, and what nobody coded does no harm."""

from __future__ import annotations

import hashlib
import io
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from codec import strategies
from codec.bitstream import EvcReader
from codec.decoding_agent import DecodingAgent
from codec.networks.exact import compute_on
from tests.codec.golden_file import GOLDEN, SCENES

ROOT = Path(__file__).parents[2]
# A change of the golden file is a change of the syntax: whoever makes one says so here.
GOLDEN_DIGEST = "5ddffc04e3e2a7bc"


def test_the_golden_file_decodes_to_the_frames_it_was_made_from() -> None:
    data = GOLDEN.read_bytes()
    assert hashlib.blake2b(data, digest_size=8).hexdigest() == GOLDEN_DIGEST
    scenes = list(DecodingAgent().decode(io.BytesIO(data), verify=True))
    assert [strategies.name_of(scene.entry.strategy) for scene in scenes] == [name for name, *_ in SCENES]
    assert {name for name, *_ in SCENES} == set(strategies.STRATEGIES)


def test_a_scene_of_the_golden_file_is_reached_without_those_before_it() -> None:
    reader = EvcReader(io.BytesIO(GOLDEN.read_bytes()))
    for entry in reversed(list(reader.scenes())):
        assert len(DecodingAgent().decode_scene(reader, entry, verify=True)) == entry.frame_count


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU that torch can use")
def test_a_gpu_decodes_the_golden_file_to_the_same_frames() -> None:
    try:
        compute_on("cuda")
        assert len(list(DecodingAgent().decode(io.BytesIO(GOLDEN.read_bytes()), verify=True))) == len(SCENES)
    finally:
        compute_on("cpu")


def survive(first: int, count: int, timeout: float) -> None:
    command = [sys.executable, "-m", "tests.codec.hostile_streams", str(first), str(count)]
    environment = os.environ | {"OMP_NUM_THREADS": "1"}  # no thread waits for another over so few samples
    run = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, timeout=timeout)
    last = (run.stdout.splitlines() or ["none"])[-1]
    assert run.returncode == 0, f"stream {last} ended the decoder with {run.returncode}: {run.stderr[-2000:]}"
    found = re.fullmatch(r"(\d+) files whole, (\d+) with losses, (\d+) refused, (\d+) MiB", last)
    assert found, last
    whole, lossy, refused, mebibytes = map(int, found.groups())
    assert whole + lossy + refused == count
    assert whole > 0.03 * count
    assert lossy > 0.2 * count  # or nothing was damaged
    assert count // 16 <= refused < 0.1 * count  # of 16 files, one claims too much
    assert mebibytes < 1500


def test_hostile_files_cost_scenes_and_nothing_else() -> None:
    survive(0, 150, 120)


@pytest.mark.slow
def test_twenty_thousand_hostile_files_cost_scenes_and_nothing_else() -> None:
    survive(1000, 20_000, 3600)
