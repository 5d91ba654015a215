"""A candidate's process gets its job and nothing else, is bounded, and is gone when `run` returns."""

from __future__ import annotations

import json
import os
import signal
import textwrap
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
from running import below

from tasks.campaign import Limits
from tasks.execute.child import to_planar, to_tensor
from tasks.execute.forkserver import ForkServer
from tasks.execute.isolation import Isolation, Job, Outcome, ProcessIsolation

WIDTH, HEIGHT, FRAMES = 16, 16, 2
CLIP = bytes(range(256)) * 3  # two frames of 16×16 in 4:2:0
LIMITS = Limits(memory_mb=768, log_kb=4)


@pytest.fixture(autouse=True)
def nothing_left() -> Iterator[None]:
    """No descriptor stays open and no child stays alive, whatever the outcome."""
    assert ProcessIsolation(LIMITS).run(Job("decode", {}, b"", {}, 1, 1)).status == "crashed"  # the server runs now
    before = descriptors(), below(os.getpid())  # a lab for other tests may be among them
    yield
    assert (descriptors(), below(os.getpid())) == before


def descriptors() -> list[str]:
    return sorted(path.name for path in Path("/proc/self/fd").iterdir())


def is_running(pid: int) -> bool:
    """False for a zombie that nobody has reaped."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False


def encode(
    body: str,
    *,
    seconds: float = 20,
    max_output: int = 10_000,
    stop: Callable[[], bool] | None = None,
    isolation: Isolation | None = None,
    **config: str,
) -> Outcome:
    source = "def compress_video_tensor(frames, config, device):\n" + textwrap.indent(textwrap.dedent(body), "    ")
    arguments = {"config": config, "width": WIDTH, "height": HEIGHT}
    job = Job("encode", {"encoder.py": source, "decoder.py": "SECRET = 1"}, CLIP, arguments, seconds, max_output)
    return (isolation or ProcessIsolation(LIMITS)).run(job, stop)


def decode(body: str) -> Outcome:
    source = "def decompress_video_tensor(data, config, device):\n" + textwrap.indent(textwrap.dedent(body), "    ")
    return ProcessIsolation(LIMITS).run(Job("decode", {"decoder.py": source}, b"payload", {"config": {}}, 20, 10_000))


def test_the_parents_environment_and_files_stay_outside(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ANTHROPIC_API_KEY", "secret")
    outcome = encode(
        """
        import json, os, sys
        seen = {
            "environment": dict(os.environ), "folder": os.listdir("."), "home": os.listdir(os.environ["HOME"]),
            "open": sorted(int(fd) for fd in os.listdir("/proc/self/fd")), "arguments": sys.argv[1:],
        }
        return {"compressed_data": json.dumps(seen).encode(), "psnr": 99.0, "frames": frames}
        """
    )
    assert outcome.status == "ok", outcome.reason
    seen = json.loads(outcome.output)
    assert set(seen["environment"]) <= {
        *("PATH", "LANG", "HOME", "TMPDIR", "TORCHINDUCTOR_CACHE_DIR"),
        *("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS", "CUDA_VISIBLE_DEVICES", "LC_CTYPE"),
    }
    assert seen["folder"] == seen["home"] == []
    # stdin, stdout, stderr, the answer, the mapped job, and the folder being listed
    assert len(seen["open"]) <= 6
    assert json.loads(outcome.extra) == {"psnr": 99.0}
    assert outcome.peak_rss_mb > 50
    assert not Path(seen["environment"]["HOME"]).exists()


def test_the_decoder_gets_the_bytes_and_no_encoder() -> None:
    outcome = decode(
        """
        import importlib.util, torch
        assert data == b"payload" and config == {}
        assert importlib.util.find_spec("encoder") is None
        return {"reconstructed_frames": torch.full((1, 2, 3, 5, 7), 9, dtype=torch.uint8)}
        """
    )
    assert outcome.status == "ok", outcome.reason
    assert outcome.output == bytes([9]) * 2 * (35 + 2 * 12)


@pytest.mark.parametrize(
    ("returned", "reason"),
    [
        ("torch.zeros(1, 2, 3, 16, 16)", "must be uint8 [1, T, 3, H, W], not float32 [1, 2, 3, 16, 16]"),
        ("b'frames'", "must return a tensor"),
    ],
)
def test_a_decoder_that_breaks_the_contract_is_invalid(returned: str, reason: str) -> None:
    outcome = decode(f"import torch\nreturn {{'reconstructed_frames': {returned}}}")
    assert outcome.status == "invalid"
    assert reason in outcome.reason


def test_an_endless_loop_that_prints_is_killed_and_its_log_capped() -> None:
    started = time.monotonic()
    outcome = encode("while True:\n    print('again ' * 1000)", seconds=1)
    assert outcome.status == "timeout"
    assert outcome.reason == "stopped after 1 s"
    assert 1 <= outcome.seconds < 5
    assert time.monotonic() - started < 60
    assert 0 < len(outcome.log.encode()) <= LIMITS.log_kb * 1024


def test_a_child_left_behind_in_the_group_is_killed(tmp_path: Path) -> None:
    outcome = encode(
        """
        import os, signal, time
        if os.fork() == 0:
            signal.signal(signal.SIGTERM, signal.SIG_IGN)
            with open(config["pid_file"], "w") as file:
                file.write(str(os.getpid()))
            time.sleep(600)
        while not os.path.exists(config["pid_file"]) or not os.path.getsize(config["pid_file"]):
            time.sleep(0.01)
        return {"compressed_data": b"done"}
        """,
        pid_file=str(tmp_path / "pid"),
    )
    assert outcome.output == b"done"
    deadline = time.monotonic() + 10  # SIGKILL is sent; the kernel ends it in its own time
    while is_running(int((tmp_path / "pid").read_text())):
        assert time.monotonic() < deadline
        time.sleep(0.01)


def test_a_crash_names_its_last_traceback_line() -> None:
    outcome = encode("print('before')\nraise KeyError('no\\nsuch')")
    assert outcome.status == "crashed"
    assert outcome.reason == "KeyError: 'no\\nsuch'"
    assert "before" in outcome.log
    assert "raise KeyError" in outcome.log


def test_an_end_without_an_answer_is_a_crash() -> None:
    outcome = encode("import os, signal\nos.kill(os.getpid(), signal.SIGSEGV)")
    assert (outcome.status, outcome.reason) == ("crashed", "ended by SIGSEGV without its answer")


def test_an_end_in_the_middle_of_the_answer_is_a_crash() -> None:
    outcome = encode("import os\nos.write(3, b'K' + bytes([9] + [0] * 15))\nos._exit(3)")
    assert outcome.output == b""
    assert (outcome.status, outcome.reason) == (
        "crashed",
        "ended with exit code 3 in the middle of its answer",
    )


@pytest.mark.parametrize(
    "body",
    [
        "import torch\nreturn {'compressed_data': torch.zeros(1 << 33, dtype=torch.uint8)}",
        # A shared mapping does not count as data: only the watch on the resident set sees it.
        pytest.param(
            "import mmap, time\nm = mmap.mmap(-1, 1 << 30)\n"
            "for _ in range(1 << 10):\n    m.write(bytes(1 << 20))\ntime.sleep(60)",
            marks=pytest.mark.slow,
        ),
    ],
)
def test_a_memory_bomb_is_bounded(body: str) -> None:
    outcome = encode(body)
    assert outcome.status == "memory", outcome.reason
    assert outcome.seconds < 20


def test_too_long_an_answer_is_not_read() -> None:
    outcome = encode("return {'compressed_data': bytes(10_001)}")
    assert outcome.status == "oversized"
    assert outcome.output == b""


def test_stop_and_interrupt_end_the_process() -> None:
    assert encode("while True: pass", stop=lambda: True).status == "stopped"

    def interrupt() -> bool:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        encode("while True: pass", stop=interrupt)


def test_a_limit_too_small_for_torch_is_not_the_candidates_fault() -> None:
    tiny = Limits(memory_mb=256).model_copy(update={"memory_mb": 64})
    job = Job("encode", {"encoder.py": ""}, CLIP, {"config": {}, "width": WIDTH, "height": HEIGHT}, 20, 100)
    outcome = ProcessIsolation(tiny).run(job)
    assert outcome.status == "unready"
    assert "before the candidate was imported" in outcome.reason or "limits.memory_mb" in outcome.reason


@pytest.mark.parametrize(("width", "height"), [(16, 12), (7, 5), (1, 1)])
def test_chroma_comes_back_exactly(width: int, height: int) -> None:
    size = width * height + 2 * ((width + 1) // 2) * ((height + 1) // 2)
    planar = np.random.default_rng(7).integers(0, 256, 3 * size, np.uint8).tobytes()
    tensor = to_tensor(planar, width, height)
    assert tensor.shape == (1, 3, 3, height, width)
    assert b"".join(map(to_planar, tensor[0])) == planar


def test_chroma_means_round_half_up() -> None:
    frame = np.zeros((3, 2, 2), np.uint8)
    frame[1] = [[0, 1], [0, 1]]
    frame[2] = [[0, 0], [0, 1]]
    assert to_planar(frame) == bytes([0, 0, 0, 0, 1, 0])


def test_two_jobs_draw_different_random_numbers() -> None:
    body = "import numpy, random\nreturn {'compressed_data': repr((numpy.random.rand(), random.random())).encode()}"
    assert len({encode(body).output for _ in range(3)}) == 3


@pytest.mark.skipif(os.geteuid() != 0, reason="only root may give itself a real-time priority")
def test_a_real_time_priority_is_not_handed_on_to_jobs() -> None:
    server = ForkServer()
    os.sched_setscheduler(0, os.SCHED_RR, os.sched_param(1))
    try:
        server.start()
    finally:
        os.sched_setscheduler(0, os.SCHED_OTHER, os.sched_param(0))
    try:
        outcome = encode(
            "import os\nreturn {'compressed_data': bytes([os.sched_getscheduler(0)])}",
            isolation=ProcessIsolation(LIMITS, server=server),
        )
    finally:
        server.stop()
    assert (outcome.status, outcome.output) == ("ok", bytes([os.SCHED_OTHER]))


def test_a_dead_fork_server_is_replaced_and_its_job_is_nobodys_fault(tmp_path: Path) -> None:
    server = ForkServer()
    isolation = ProcessIsolation(LIMITS, server=server)
    began = tmp_path / "began"
    body = "import pathlib, time\npathlib.Path(config['began']).touch()\ntime.sleep(20)"
    before = set(below(os.getpid()))
    with ThreadPoolExecutor(1) as pool:
        slow = pool.submit(encode, body, isolation=isolation, began=str(began))
        while not began.exists():
            time.sleep(0.01)
        (process,) = (pid for pid in set(below(os.getpid())) - before if below(pid))
        os.kill(process, signal.SIGKILL)
        assert (slow.result().status, slow.result().reason) == ("unready", "the process that forks candidates ended")
    assert encode("return {'compressed_data': b'x'}", isolation=isolation).output == b"x"
    server.stop()
