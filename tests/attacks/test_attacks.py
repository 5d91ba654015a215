"""Hostile candidates through the real evaluator: stopped, rightly classified, and nothing is left for the next one."""

from __future__ import annotations

import errno
import json
import re
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from fractions import Fraction

import numpy as np
import pytest
from loud import LIMITS, LOUD, REFUSALS, SLOW, Loud, candidate_of, clip, open_folder, probe_with, run
from probes import PROBES, Probe

from codec.errors import BadInputError
from codec.frames import Frames, VideoFormat
from tasks.candidate import Candidate
from tasks.execute import trust
from tasks.execute.clips import LoadedClip
from tasks.execute.harness import Evaluation
from tasks.execute.isolation import Job, ProcessIsolation, SandboxIsolation
from tasks.execute.sandbox import layers
from tasks.execute.trust import isolation_for
from tasks.measure.anchors import SEED

MISSING = [layer.name for layer in layers() if not layer.ok]
pytestmark = pytest.mark.skipif(bool(MISSING), reason=f"this machine lacks {MISSING}: see `evocodec doctor`")


Probed = tuple[Evaluation, dict[tuple[str, str], str]]


@pytest.fixture(scope="module")
def probed() -> Iterator[Probed]:
    with open_folder() as folder:
        evaluation, found = probe_with(SandboxIsolation(LIMITS), folder, PROBES)
        assert [path.name for path in folder.iterdir()] == ["secret"]
        assert (folder / "secret").read_text() == "secret"
        yield evaluation, found


@pytest.mark.parametrize("probe", PROBES, ids=lambda probe: probe.name)
def test_a_quiet_attack_is_refused_to_both_agents(probe: Probe, probed: Probed) -> None:
    _, found = probed
    for role in ("encode", "decode"):
        assert found[role, probe.name] in REFUSALS | {probe.otherwise}


# What a driver does for its own process, which nobody else can reach …
ALLOWED_WITH_A_GPU = {"shared memory without a file", "a thread's name"}
# … and what it is told without anything being done.
NOT_THERE_WITH_A_GPU = {"removal", "packet socket to another"}


def test_the_gpu_profile_refuses_the_same() -> None:
    """But for a few things that CUDA does not start without. Needs no GPU."""
    with open_folder() as folder:
        evaluation, found = probe_with(SandboxIsolation(LIMITS, "gpu"), folder, PROBES)
        assert [path.name for path in folder.iterdir()] == ["secret"]
        assert (folder / "secret").read_text() == "secret"
    assert evaluation.status == "measured", evaluation.reason
    for probe in PROBES:
        for role in ("encode", "decode"):
            expected = REFUSALS | {probe.otherwise}
            if probe.name in ALLOWED_WITH_A_GPU:
                expected = {"worked"}
            elif probe.name in NOT_THERE_WITH_A_GPU:
                expected = {str(errno.ENOENT)}
            assert found[role, probe.name] in expected, probe.name


def test_a_candidate_that_tried_everything_and_then_behaves_is_measured(probed: Probed) -> None:
    evaluation, _ = probed
    assert (evaluation.status, evaluation.isolation) == ("measured", "sandbox"), evaluation.reason
    assert evaluation.points[0].psnr_y == 100


@pytest.mark.slow
def test_without_the_sandbox_the_quiet_attacks_work() -> None:
    harmless = [probe for probe in PROBES if probe.harmless]
    with open_folder() as folder:
        _, found = probe_with(ProcessIsolation(LIMITS), folder, harmless)
    refused = {name for (role, name), answer in found.items() if role == "encode" and answer != "worked"}
    # Ordinary users cannot do these anyway; as root every one works.
    assert refused <= {"root's home", "parent's memory", "netlink socket", "inet6 socket"}


@pytest.fixture(scope="module")
def evaluations(request: pytest.FixtureRequest) -> Iterator[dict[str, Future[Evaluation]]]:
    """The chosen attacks, two at a time."""
    chosen = " ".join(item.name for item in request.session.items)
    with ThreadPoolExecutor(2) as pool:
        yield {
            loud.name: pool.submit(run, loud.candidate(), SandboxIsolation(loud.limits), loud.limits)
            for loud in LOUD
            if f"[{loud.name}]" in chosen
        }


@pytest.mark.parametrize(
    "loud", [pytest.param(loud, id=loud.name, marks=[pytest.mark.slow] * (loud.name in SLOW)) for loud in LOUD]
)
def test_a_loud_attack_is_stopped_and_classified(loud: Loud, evaluations: dict[str, Future[Evaluation]]) -> None:
    evaluation = evaluations[loud.name].result()
    assert evaluation.status == loud.status, evaluation.reason
    assert re.search(loud.reason, evaluation.reason), evaluation.reason
    assert bool(evaluation.points) == (loud.status == "measured")
    assert evaluation.reason.isprintable()
    assert len(evaluation.log) <= loud.limits.log_kb * 1024


LIAR = """
import time, torch
def compress_video_tensor(frames, config, device):
    print('{"psnr_y": 99.0, "bytes": 1}')
    torch.mean = torch.zeros
    time.monotonic = time.perf_counter = lambda: 0.0
    time.sleep(0.3)
    return {"compressed_data": bytes(500), "psnr_y": 99.0, "bytes": 1}
"""


def test_claims_prints_and_patches_change_no_number() -> None:
    gray = "import torch\ndef decompress_video_tensor(data, config, device):\n"
    gray += "    return {'reconstructed_frames': torch.full((1, 2, 3, 16, 16), 128, dtype=torch.uint8)}\n"
    evaluation = run(candidate_of(LIAR, gray), SandboxIsolation(LIMITS))
    (point,) = evaluation.points
    assert (point.bytes_total, point.claimed_json) == (500, '{"bytes": 1, "psnr_y": 99.0}')
    assert point.psnr_y < 15
    assert point.encode_seconds >= 0.3


def test_a_clip_in_the_config_is_refused() -> None:
    evaluation = run(candidate_of(clip="00" * 40_000), SandboxIsolation(LIMITS))
    assert (evaluation.status, evaluation.stage) == ("invalid", "design")


def test_after_all_attacks_an_honest_candidate_is_measured() -> None:
    evaluation = run(candidate_of(), SandboxIsolation(LIMITS))
    assert (evaluation.status, evaluation.isolation) == ("measured", "sandbox"), evaluation.reason
    assert evaluation.points[0].psnr_yuv == 100
    assert evaluation.points[0].bytes_total == 2 * 3 * 256


@pytest.mark.parametrize(
    ("strategy", "preset"),
    [
        pytest.param("x264", "ultrafast", marks=pytest.mark.slow),
        pytest.param("x265", "ultrafast", marks=pytest.mark.slow),
        ("av1", "10"),
    ],
)
def test_traditional_codecs_work_inside(strategy: str, preset: str) -> None:
    video = VideoFormat(64, 64, Fraction(25))
    ramp = (np.arange(64)[None, :, None] + 2 * np.arange(64)[None, None] + np.arange(4)[:, None, None]).astype(np.uint8)
    frames = Frames(ramp, ramp[:, ::2, ::2], ramp[:, ::2, ::2])
    candidate = Candidate.load(SEED).model_copy(update={"config": {"strategy": strategy, "preset": preset}})
    ramps = LoadedClip.of("ramp", video, frames)
    inside, outside = (run(candidate, kind(LIMITS), the_clip=ramps) for kind in (SandboxIsolation, ProcessIsolation))
    assert inside.status == outside.status == "measured", inside.reason + inside.log
    assert inside.points[0].bitstream_hash == outside.points[0].bitstream_hash
    assert inside.points[0].psnr_yuv == outside.points[0].psnr_yuv


def test_only_the_projects_own_sources_run_where_there_is_no_sandbox(monkeypatch: pytest.MonkeyPatch) -> None:
    own = Candidate.load(SEED)
    changed = own.model_copy(update={"files": own.files | {"decoder.py": own.files["decoder.py"] + "\n"}})
    assert isolation_for(own, LIMITS).name == "sandbox"
    monkeypatch.setattr(trust, "_sandbox_holds", lambda: False)
    assert isolation_for(own, LIMITS).name == "process"
    assert isolation_for(own.model_copy(update={"config": {}}), LIMITS).name == "process"
    assert isolation_for(changed, LIMITS).name == "sandbox"
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "")
    assert isolation_for(changed, LIMITS, unsafe=True).name == "none"
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "AKIA")
    with pytest.raises(BadInputError, match="AWS_ACCESS_KEY_ID is set"):
        isolation_for(changed, LIMITS, unsafe=True)


TELLING_WHEN = """
import json, time
def compress_video_tensor(frames, config, device):
    began = time.monotonic()
    time.sleep(0.5)
    return {"compressed_data": json.dumps([began, time.monotonic()]).encode()}
"""


def test_with_a_gpu_one_candidates_process_runs_at_a_time() -> None:
    """What one binds, another could see. Needs no GPU."""
    arguments = {"config": {}, "width": 16, "height": 16}
    job = Job("encode", {"encoder.py": TELLING_WHEN}, clip().planar, arguments, 40, 10**6)
    with ThreadPoolExecutor(2) as pool:
        outcomes = list(pool.map(lambda _: SandboxIsolation(LIMITS, "gpu").run(job), range(2)))
    earlier, later = sorted(json.loads(outcome.output) for outcome in outcomes)
    assert earlier[1] <= later[0]
