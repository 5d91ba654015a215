"""The starting population: each candidate goes through the real cascade, in the sandbox, and could lead."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from tasks.campaign import Campaign, CandidateRef, Limits
from tasks.candidate import Candidate
from tasks.design.population import SEEDS, STARTS, starting_population
from tasks.execute.attempt import run_attempt
from tasks.execute.cascade import Known
from tasks.execute.child import to_tensor
from tasks.execute.clips import LoadedClip, tiny_clip
from tasks.lint import lint

LIMITS = Limits(encode_seconds=60, decode_seconds=30)
CLIP = tiny_clip(11, frames=4)
QUICK = ("av1",)
SLOW = ("enhanced", "autoencoder", "scene_latents")


def through_the_cascade(name: str) -> None:
    candidate = {start.lineage.id: start for start in starting_population()}[name]
    terms = Campaign(name="starts", limits=LIMITS, qualities=(0.1, 0.4, 0.7, 1.0))
    ref = CandidateRef(experiment_id=name, candidate_hash=candidate.candidate_hash)
    record = run_attempt(candidate, ref, terms, [CLIP], known=Known()).record
    assert (record.status, record.isolation) == ("measured", "sandbox"), f"{record.reason}\n{record.log}"
    passed = [stage.name for stage in record.stages if stage.passed]
    assert passed[:6] == ["check", "duplicate", "tiny", "short", "dev", "canaries"]
    # A leader is encoded again: two encodes must not differ.
    assert record.noise_percent in ({}, {CLIP.name: 0.0})


@pytest.mark.parametrize("name", QUICK)
def test_a_quick_start_passes_the_cascade_and_its_canaries(name: str) -> None:
    through_the_cascade(name)


@pytest.mark.slow
@pytest.mark.parametrize("name", SLOW)
def test_a_slow_start_passes_the_cascade_and_its_canaries(name: str) -> None:
    through_the_cascade(name)


def test_every_folder_of_seeds_is_in_the_population_and_they_differ() -> None:
    folders = {path.parent.name for path in SEEDS.glob("*/encoder.py")}
    assert folders == set(STARTS) == {start.lineage.id for start in starting_population()}
    assert len({start.ast_hash for start in starting_population()}) == len(STARTS)


@pytest.mark.parametrize("start", starting_population(), ids=lambda start: start.lineage.id)
def test_a_start_is_clean_and_short_enough_to_read(start: Candidate) -> None:
    assert lint(start) == []
    assert all(len(text.splitlines()) < 150 for text in start.files.values())


@pytest.mark.parametrize("name", [*QUICK, *SLOW])
def test_odd_sizes_and_single_groups_come_back_whole(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """In this process: 3 frames of 67 × 91, which no block divides."""
    clip = odd(tiny_clip(5, frames=3, side=96))
    frames = torch.from_numpy(to_tensor(clip.planar, clip.video.width, clip.video.height))
    code = load(SEEDS / name, monkeypatch)
    config = Candidate.load(SEEDS / name).config | {"quality": 0.8}
    data = code["encoder"]["compress_video_tensor"](frames, config | {"frame_rate": "25", "color": [1, 1, 1, 0]}, "cpu")
    decoded = code["decoder"]["decompress_video_tensor"](data["compressed_data"], config, "cpu")["reconstructed_frames"]
    assert decoded.shape == frames.shape
    assert decoded.dtype == torch.uint8
    error = (decoded[:, :, 0].float() - frames[:, :, 0].float()).square().mean()
    assert 10 * np.log10(255**2 / float(error)) > 28


def odd(clip: LoadedClip) -> LoadedClip:
    from codec.frames import Frames, VideoFormat

    y, u, v = clip.frames.planes()
    cut = Frames(y[:, :67, :91].copy(), u[:, :34, :46].copy(), v[:, :34, :46].copy())
    return LoadedClip.of("odd", VideoFormat(91, 67, clip.video.frame_rate), cut)


def load(folder: Path, monkeypatch: pytest.MonkeyPatch) -> dict[str, dict[str, object]]:
    """Both modules of a candidate, as its encoder's process has them."""
    import sys
    import types

    loaded = {}
    for name in ("decoder", "encoder"):
        module = types.ModuleType(name)
        monkeypatch.setitem(sys.modules, name, module)
        exec(compile((folder / f"{name}.py").read_text(), f"{name}.py", "exec"), module.__dict__)
        loaded[name] = module.__dict__
    return loaded
