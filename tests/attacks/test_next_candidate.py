"""What one candidate does to the process that forks them, and to the candidates that it forks afterwards: nothing."""

from __future__ import annotations

import json
import os
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
from loud import LIMITS, clip
from probes import number
from running import below

from tasks.execute import forkserver
from tasks.execute.isolation import Job, Outcome, SandboxIsolation
from tasks.execute.sandbox import layers

MISSING = [layer.name for layer in layers() if not layer.ok]
pytestmark = pytest.mark.skipif(bool(MISSING), reason=f"this machine lacks {MISSING}: see `evocodec doctor`")


def encode(body: str, seconds: float = 40) -> Outcome:
    lines = "".join(f"    {line}\n" for line in body.strip().split("\n"))
    source = f"import os\ndef compress_video_tensor(frames, config, device):\n{lines}"
    arguments = {"config": {}, "width": 16, "height": 16}
    return SandboxIsolation(LIMITS).run(Job("encode", {"encoder.py": source}, clip().planar, arguments, seconds, 10**6))


def said(body: str) -> Any:
    """What `body` puts into `found`."""
    outcome = encode(f"import json\n{body.strip()}\nreturn {{'compressed_data': json.dumps(found).encode()}}")
    assert outcome.status == "ok", outcome.reason + outcome.log
    return json.loads(outcome.output)


@pytest.fixture(scope="module", autouse=True)
def fork_server() -> int:
    """Its process, started."""
    assert encode("return {'compressed_data': b''}").status == "ok"
    (pid,) = fork_servers()
    return pid


def fork_servers() -> list[int]:
    """Those of this process; a lab for other tests may have some of its own."""
    listed = [pid for thread in Path("/proc/self/task").glob("*/children") for pid in thread.read_text().split()]
    command = forkserver.__name__.encode()
    return [int(pid) for pid in listed if command in Path(f"/proc/{pid}/cmdline").read_bytes().split(b"\0")]


@pytest.fixture(autouse=True)
def stays(fork_server: int) -> Any:
    """Whatever was tried, the same fork server is there, with nothing below it."""
    yield
    assert fork_servers() == [fork_server]
    assert below(fork_server) == []


def test_no_descriptor_leads_to_the_fork_server() -> None:
    found = said("""
import stat
found = {}
for fd in range(4096):
    try:
        found[fd] = stat.S_IFMT(os.fstat(fd).st_mode)
    except OSError:
        pass
""")
    job, pipe = 0o100000, 0o010000
    # 6 is the job again, mapped into memory.
    assert found == {"0": job, "1": pipe, "2": pipe, "3": pipe, "4": pipe, "5": pipe, "6": job}


def test_no_object_of_the_fork_server_reaches_it() -> None:
    found = said("""
import gc, socket, __main__ as module
gc.unfreeze()
found = [type(thing).__name__ for thing in gc.get_objects() if isinstance(thing, (socket.socket, module.Forked))]
for act in (module.SERVER.start, lambda: module.SERVER.fork("/tmp", {}, [0]), lambda: module.serve(socket.socket())):
    try:
        act()
        found.append("worked")
    except OSError as error:
        found.append(error.errno)
""")
    assert len(found) == 3
    assert "worked" not in found


VANDAL = """
import builtins, gc, locale, random, signal, sys, threading, time, numpy, torch
os.environ["LEFT"] = "1"
sys.path.append("/left")
sys.modules["left"] = os
builtins.left = 1
torch.set_num_threads(3)
torch.set_default_dtype(torch.float64)
torch.manual_seed(7)
torch.use_deterministic_algorithms(True)
torch.backends.mkldnn.enabled = False
numpy.random.seed(7)
numpy.seterr(all="raise")
random.seed(7)
sys.setrecursionlimit(77777)
signal.signal(signal.SIGTERM, signal.SIG_IGN)
torch.mean = time.monotonic = len
import tasks.execute.child as child
child.to_planar = child.to_tensor = lambda *_: b""
child.ROLES = {}
"""
LOOK = """
import builtins, random, signal, sys, time, numpy, torch, tasks.execute.child as child
found = [
    sorted(os.environ), len(sys.path), sorted(sys.modules), hasattr(builtins, "left"), torch.get_num_threads(),
    str(torch.get_default_dtype()), torch.initial_seed(), torch.are_deterministic_algorithms_enabled(),
    torch.backends.mkldnn.enabled, numpy.geterr(), sys.getrecursionlimit(), str(signal.getsignal(signal.SIGTERM)),
    torch.mean.__name__, time.monotonic.__name__, child.to_planar.__name__, len(child.ROLES), len(os.getcwd()),
]
"""


def test_what_a_candidate_changes_the_next_does_not_see() -> None:
    before = said(LOOK)
    vandalised = said(VANDAL + LOOK)
    assert all(old != new for old, new in zip(before[:-1], vandalised[:-1], strict=True))
    assert said(LOOK) == before


def test_no_two_candidates_draw_the_same_numbers() -> None:
    draw = "import numpy, random\nfound = [numpy.random.random(), random.random()]"
    first, second = said(draw), said(draw)
    assert first[0] != second[0]
    assert first[1] != second[1]


@pytest.mark.parametrize(
    "attack",
    [
        pytest.param("os.kill(os.getppid(), 9)", id="kill"),
        pytest.param("os.kill(os.getppid(), 19)", id="stop"),
        pytest.param("os.kill(-os.getppid(), 9)", id="kill its session"),
        pytest.param("os.kill(0, 9)", id="kill its own group"),
        pytest.param("resource.prlimit(os.getppid(), resource.RLIMIT_NPROC, (0, 0))", id="limit"),
        pytest.param("os.setpriority(0, os.getppid(), 19)", id="slow down"),
        pytest.param("open(f'/proc/{os.getppid()}/mem', 'r+b')", id="write its memory"),
        pytest.param("open(f'/proc/{os.getppid()}/oom_score_adj', 'w')", id="give it to the memory killer"),
        pytest.param("os.listdir(f'/proc/{os.getppid()}/fd')", id="borrow its descriptors"),
        pytest.param("os.open(f'/proc/{os.getppid()}/cwd', 0)", id="enter its folder"),
        pytest.param("os.pidfd_open(os.getppid())", id="hold it"),
        pytest.param("os.fork()", id="fork a sibling"),
    ],
)
def test_the_fork_server_cannot_be_touched(attack: str) -> None:
    outcome = encode(f"import resource\n{attack}\nreturn {{'compressed_data': b'worked'}}")
    assert outcome.status == "crashed", outcome.output
    assert outcome.reason.startswith("PermissionError"), outcome.reason


def test_a_candidates_memory_cannot_be_read_by_its_neighbour() -> None:
    """The neighbour runs at the same time, and knows where to look: in every process forked lately."""
    with ThreadPoolExecutor(1) as pool:
        victim = pool.submit(
            encode, "import time\nsecret = b'secret' * 999\ntime.sleep(2)\nreturn {'compressed_data': secret}"
        )
        deadline = time.monotonic() + 20
        while len(below(os.getpid())) < 2:
            assert time.monotonic() < deadline
            time.sleep(0.01)
        pid = below(os.getpid())[1]
        found = said(f"""
import ctypes
libc, found = ctypes.CDLL(None, use_errno=True), []
page = (ctypes.c_ulong * 2)(id(found), 8)
reading, ptrace, kill = {number(310, 270)}, {number(101, 117)}, {number(62, 129)}
for call in ((reading, {pid}, page, 1, page, 1, 0), (ptrace, 16, {pid}, 0, 0), (434, {pid}, 0), (kill, {pid}, 0)):
    found.append([libc.syscall(*call), ctypes.get_errno()])
for name in ("mem", "environ", "maps", "fd/3", "cwd", "status"):
    try:
        os.open(f"/proc/{pid}/{{name}}", os.O_RDONLY)
        found.append([0, 0])
    except OSError as error:
        found.append([-1, error.errno])
""")
        assert victim.result().status == "ok"
    assert [result for result, _ in found] == [-1] * 10
    assert {error for _, error in found} <= {1, 13}


def test_none_stays_after_its_answer() -> None:
    own_answer = "os.write(3, b'K' + (3).to_bytes(8, 'little') + (2).to_bytes(8, 'little') + b'abc{}')"
    threads = (
        "import threading\nfor _ in range(3): threading.Thread(target=lambda: [None for _ in iter(int, 1)]).start()"
    )
    clock = time.monotonic()
    outcome = encode(f"{threads}\n{own_answer}\nwhile True: pass")
    assert (outcome.status, outcome.output) == ("ok", b"abc")
    assert time.monotonic() - clock < 20, "the answer was complete: there is nothing to wait for"
