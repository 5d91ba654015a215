"""Hostile encoders against the VVC broker: refused or ended, nothing is left, and honest ones get their bytes."""

from __future__ import annotations

import io
import os
import signal
import struct
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import replace
from fractions import Fraction
from pathlib import Path

import numpy as np
import pytest
from loud import open_folder
from probes import number
from running import below

from codec import strategies
from codec.errors import BadInputError, EncodeError
from codec.frames import Frames, VideoFormat
from codec.strategies.protocol import EncodeSettings
from codec.strategies.vvc_encoder import OPTIONS, Settings, encode_with_ffmpeg, find_ffmpeg
from tasks.campaign import Limits
from tasks.execute import broker
from tasks.execute.broker_standby import BrokerStandby
from tasks.execute.broker_wire import DONE, HEADER, OPTION, REFUSED, RESPONSE, pack
from tasks.execute.isolation import Job, Outcome, SandboxIsolation
from tasks.execute.sandbox import LOADERS, layers

MISSING = [layer.name for layer in layers() if not layer.ok]
pytestmark = pytest.mark.skipif(bool(MISSING), reason=f"this machine lacks {MISSING}: see `evocodec doctor`")

LIMITS = Limits(memory_mb=1024)
VIDEO = VideoFormat(64, 64, Fraction(25))
SETTINGS = Settings(64, 64, 4, Fraction(25), 30, "faster", (1, 1, 1), full_range=False)


def ramp(count: int = 4) -> Frames:
    luma = (np.arange(64)[None, :, None] + 2 * np.arange(64) + 5 * np.arange(count)[:, None, None]).astype(np.uint8)
    return Frames(luma, luma[:, ::2, ::2], luma[:, ::2, ::2])


PIXELS = ramp().to_bytes()
REQUEST = pack(SETTINGS) + PIXELS


@pytest.fixture(scope="module")
def outside() -> bytes:
    """The stream that ffmpeg makes of `REQUEST` where nothing is locked down."""
    return encode_with_ffmpeg(SETTINGS, [PIXELS])


def is_running(pid: int) -> bool:
    """False for a zombie that nobody has reaped."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False


def await_end(pids: set[int]) -> None:
    """Once they have been killed, the kernel ends them in its own time."""
    deadline = time.monotonic() + 10
    while alive := {pid for pid in pids if is_running(pid)}:
        assert time.monotonic() < deadline, f"still running: {alive}"
        time.sleep(0.01)


@pytest.fixture(scope="module", autouse=True)
def fork_server() -> None:
    """It stays, so it must be there before what is left behind is looked for."""
    assert encode("return {'compressed_data': b''}").status == "ok"


class Encoder:
    """A hostile encoder's end of the broker's pipes, and nothing between."""

    def __init__(self, standby: BrokerStandby, stack: ExitStack) -> None:
        writing, reading = (os.dup(fd) for fd in standby.child_fds)
        self.standby = standby
        self.requests = stack.enter_context(os.fdopen(writing, "wb", buffering=0))
        self.responses = stack.enter_context(os.fdopen(reading, "rb"))
        self.before = set(below(os.getpid()))
        standby.child_started()

    def send(self, data: bytes) -> None:
        """The first byte starts the broker: a pipe does not hold all of a request."""
        if not self.started():
            self.requests.write(data[:1])
            self.standby.start_if_asked()
            data = data[1:]
        rest = memoryview(data)
        while rest:
            rest = rest[self.requests.write(rest) :]

    def receive(self) -> tuple[bytes, bytes]:
        """Status and content of one response; both empty where the broker has ended."""
        header = self.responses.read(RESPONSE.size)
        if not header:
            return b"", b""
        status, length = RESPONSE.unpack(header)
        return status, self.responses.read(length)

    def started(self) -> set[int]:
        return set(below(os.getpid())) - self.before

    def await_ffmpeg(self) -> set[int]:
        """The broker and its ffmpeg."""
        deadline = time.monotonic() + 20
        while len(found := self.started()) < 2:
            assert time.monotonic() < deadline
            time.sleep(0.01)
        return found


@contextmanager
def connected(memory_mb: int = 1024, cpu_seconds: int = 60) -> Iterator[Encoder]:
    descriptors = len(list(Path("/proc/self/fd").iterdir()))
    with Path(os.devnull).open("wb") as log:
        with ExitStack() as stack:
            standby = stack.enter_context(BrokerStandby(memory_mb << 20, cpu_seconds, log.fileno()))
            encoder = Encoder(standby, stack)
            yield encoder
            running = encoder.started()
        await_end(running)
    assert len(list(Path("/proc/self/fd").iterdir())) == descriptors
    assert standby.failure == ""


def header(**changed: int) -> bytes:
    names = ["width", "height", "frames", "rate", "per", "qp", "preset"]
    names += ["primaries", "transfer", "matrix", "full_range", "options"]
    fields = dict(zip(names, HEADER.unpack(pack(SETTINGS))[1:], strict=True))
    return HEADER.pack(b"VVC1", *(fields | changed).values())


NAN = struct.unpack("<I", struct.pack("<f", float("nan")))[0]
MALFORMED = {
    "another program's words": (b"GET /latest/meta-data/ HTTP/1.0\r\n\r\n", "does not begin as one"),
    "ffmpeg's option for a file": (b"-i /etc/passwd -f vvc pipe:1 -y /tmp/x", "does not begin as one"),
    "a protocol of ffmpeg's": (b"concat:file:///etc/passwd|file:///etc/shadow", "does not begin as one"),
    "text in every field": (b"VVC1-i /etc/passwd;$(reboot) -y /tmp/x", "pixels|frames"),
    "no pixels": (header(width=0), "cannot code 0×64"),
    "an odd side": (header(height=65), "cannot code 64×65"),
    "a side that is too small": (header(width=30), "cannot code 30×64"),
    "a huge picture": (header(width=65534, height=65534), "more than 35651584 pixels"),
    "no frames": (header(frames=0), "cannot code 0 frames"),
    "four billion frames": (header(frames=2**32 - 1), "more than 65536"),
    "a year of video": (header(width=8192, height=4352, frames=65536), "bytes of pictures"),
    "a rate over zero": (header(per=0), "25/0 frames a second"),
    "no rate": (header(rate=0), "0/1 frames a second"),
    "a rate that is not a number": (header(rate=NAN), "2143289344/1 frames a second"),
    "a negative QP": (header(qp=255), "qp 255"),
    "a preset beyond the table": (header(preset=5), "preset 5 of 5"),
    "a third range": (header(full_range=2), "neither limited nor full"),
    "more options than there are": (header(options=255), "255 options"),
    "an option beyond the table": (header(options=1) + OPTION.pack(len(OPTIONS), 1), "option that does not exist"),
}


@pytest.mark.parametrize(("request_bytes", "reason"), MALFORMED.values(), ids=MALFORMED)
def test_a_malformed_request_is_refused_and_is_the_last(request_bytes: bytes, reason: str) -> None:
    """Where the next would begin is not known; the framing is the same in the broker's process and here."""
    responses = io.BytesIO()
    broker.serve(io.BytesIO(request_bytes + REQUEST), responses, find_ffmpeg())
    status, length = RESPONSE.unpack_from(responses.getvalue())
    text = responses.getvalue()[RESPONSE.size :].decode()
    assert status == REFUSED
    assert length == len(text.encode()), "one response, and no second"
    assert text == text.strip()
    assert "\n" not in text
    assert any(part in text for part in reason.split("|")), text


def test_a_broker_that_was_sent_garbage_answers_and_ends() -> None:
    with connected() as encoder:
        encoder.send(b"\xff" * 4096)
        assert encoder.receive() == (REFUSED, b"vvc request does not begin as one")
        assert encoder.receive() == (b"", b"")
        with pytest.raises(BrokenPipeError):
            encoder.send(bytes(10 << 20))


def test_two_requests_in_one_write_and_a_lying_length(outside: bytes) -> None:
    with connected() as encoder:
        encoder.send(REQUEST + REQUEST + b"three bytes too many, which begin no request")
        assert encoder.receive() == (DONE, outside)
        assert encoder.receive() == (DONE, outside)
        assert encoder.receive() == (REFUSED, b"vvc request does not begin as one")


def test_one_byte_after_the_other_is_a_request_too(outside: bytes) -> None:
    with connected() as encoder:
        for index in range(200):
            encoder.send(REQUEST[index : index + 1])
        encoder.send(REQUEST[200:])
        assert encoder.receive() == (DONE, outside)


def test_an_ffmpeg_that_fails_leaves_the_next_request_whole(outside: bytes) -> None:
    with connected() as encoder:
        encoder.send(header(primaries=255) + PIXELS + REQUEST)  # no such colour
        status, text = encoder.receive()
        assert (status, text[:13]) == (REFUSED, b"vvc failed at")
        assert encoder.receive() == (DONE, outside)


def test_the_memory_limit_ends_ffmpeg_alone() -> None:
    with connected(memory_mb=128) as encoder:
        for _ in range(2):
            encoder.send(header(width=2048, height=1024) + bytes(2048 * 1024 * 3 // 2 * 4))
            status, text = encoder.receive()
            assert (status, text[:13]) == (REFUSED, b"vvc failed at"), text


@pytest.mark.parametrize("cut", [1, 40, HEADER.size + 20, len(REQUEST) - 1])
def test_closing_in_the_middle_ends_broker_and_ffmpeg(cut: int) -> None:
    with connected() as encoder:
        encoder.send(REQUEST[:cut])
        running = encoder.await_ffmpeg() if cut > HEADER.size else encoder.started()
        encoder.requests.close()
        assert encoder.receive() == (b"", b"")
        await_end(running)


def test_a_job_that_ends_in_mid_encode_ends_broker_and_ffmpeg() -> None:
    """`connected` sees to it that they are gone."""
    with connected() as encoder:
        encoder.send(header(frames=1000) + PIXELS)
        assert len(encoder.await_ffmpeg()) == 2


def test_an_encoder_that_never_asks_starts_nothing() -> None:
    with connected() as encoder:
        encoder.requests.close()
        encoder.standby.start_if_asked()
        assert not encoder.started()


def test_a_flood_is_cut(outside: bytes, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(broker, "MAX_REQUESTS", 2)
    responses = io.BytesIO()
    broker.serve(io.BytesIO(REQUEST * 3), responses, find_ffmpeg())
    one = RESPONSE.pack(DONE, len(outside)) + outside
    assert responses.getvalue().startswith(one + one + REFUSED)
    assert responses.getvalue().endswith(b"more than 2 requests")


DYING = """
import os, sys, time
from tasks.execute.broker_standby import BrokerStandby
standby = BrokerStandby(1 << 30, 60, 2)
os.write(standby.child_fds[0], sys.stdin.buffer.read())
standby.start_if_asked()
print("started", flush=True)
time.sleep(600)
"""


def test_broker_and_ffmpeg_die_with_the_harness() -> None:
    with subprocess.Popen([sys.executable, "-c", DYING], stdin=subprocess.PIPE, stdout=subprocess.PIPE) as harness:
        assert harness.stdin is not None
        assert harness.stdout is not None
        harness.stdin.write(header(frames=1000) + PIXELS)
        harness.stdin.close()
        assert harness.stdout.readline() == b"started\n"
        deadline = time.monotonic() + 20
        while len(running := set(below(harness.pid))) < 2:
            assert time.monotonic() < deadline
            time.sleep(0.01)
        os.kill(harness.pid, signal.SIGKILL)
    await_end(running)


def test_no_broker_is_the_evaluators_fault_and_not_the_encoders(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("IMAGEIO_FFMPEG_EXE", "/nowhere/ffmpeg")
    monkeypatch.setattr(sys, "executable", "/nowhere/python")
    with Path(os.devnull).open("wb") as log, ExitStack() as stack:
        standby = stack.enter_context(BrokerStandby(1 << 30, 60, log.fileno()))
        encoder = Encoder(standby, stack)
        encoder.send(REQUEST[:1])
        assert encoder.receive() == (b"", b"")
    assert standby.failure.startswith("the VVC broker could not start: ")


LOCKED = """
import ctypes, os, socket, subprocess, sys, tempfile
from tasks.execute import sandbox
ffmpeg, folder, attacks = sys.argv[1], sys.argv[2], sys.argv[3:]
python = os.__file__
def run(*command):
    done = subprocess.run(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    if done.returncode:
        raise PermissionError(1, done.stderr.decode()) if b"ermi" in done.stderr else RuntimeError(done.stderr)
    return done.stdout
def libc_call(*arguments):
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.syscall(*map(ctypes.c_long, arguments)) < 0:
        raise OSError(ctypes.get_errno(), "")
# As where Python is the distribution's, or a container's: among the system's libraries.
sandbox.SYSTEM_LIBRARIES += (folder + "/lib",)
sys.path.append(folder + "/lib/site-packages")
sandbox.enter_as_broker(ffmpeg, os.getppid())
for attack in attacks:
    try:
        exec(attack)
    except PermissionError:
        print("refused", flush=True)
    except Exception as error:
        print(repr(error), flush=True)
    else:
        print("worked", flush=True)
"""
(LOADER,) = filter(os.path.exists, LOADERS)
REFUSED_TO_BROKER = {
    "passwords": "open('/etc/passwd')",
    "python's library": "open(python)",
    "packages among libraries": "open(folder + '/lib/site-packages/package.py')",
    "names of packages among libraries": "os.listdir(folder + '/lib/site-packages')",
    "the folder of the program": "os.listdir(os.path.dirname(ffmpeg))",
    "socket": "socket.socket()",
    "unix socket": "socket.socketpair()",
    "new file": "open(folder + '/new', 'w')",
    "append": "open(folder + '/secret', 'a')",
    "removal": "os.unlink(folder + '/secret')",
    "another program": "run('/bin/true')",
    "a shell": "run('/bin/sh', '-c', 'true')",
    "python": "run(sys.executable, '-c', '1')",
    "another program by the loader": f"run({LOADER!r}, '/bin/true')",
    "ffmpeg reads a file": "run(ffmpeg, '-v', 'error', '-i', '/etc/passwd', '-f', 'null', '-')",
    "ffmpeg reads by a protocol": "run(ffmpeg, '-v', 'error', '-i', 'concat:/etc/passwd', '-f', 'null', '-')",
    "ffmpeg writes a file": "run(ffmpeg, '-v', 'error', '-f', 'lavfi', '-i', 'color', '-t', '1', folder + '/x.y4m')",
    "ffmpeg opens a connection": "run(ffmpeg, '-v', 'error', '-i', 'udp://127.0.0.1:9', '-f', 'null', '-')",
    "signal to the parent": "os.kill(os.getppid(), 0)",
    "signal to all": "os.kill(-1, 0)",
    "a session of its own": "os.setsid()",
    "ptrace": f"libc_call({number(101, 117)}, 16, 1, 0, 0)",
    "namespace by clone": f"libc_call({number(56, 220)}, 0x10000000 | 17, 0, 0, 0, 0)",
    "root again": "os.setuid(0)",
}
ALLOWED_TO_BROKER = {
    "ffmpeg": "assert run(ffmpeg, '-version').startswith(b'ffmpeg')",
    "a library beside packages": "open(folder + '/lib/library.so')",
}


def test_the_brokers_own_lock_holds() -> None:
    attacks = REFUSED_TO_BROKER | ALLOWED_TO_BROKER
    with open_folder() as folder:
        packages = folder / "lib" / "site-packages"
        packages.mkdir(parents=True)
        for path in (packages / "package.py", packages.parent / "library.so"):
            path.touch()
        done = subprocess.run(
            [sys.executable, "-I", "-B", "-c", LOCKED, find_ffmpeg(), str(folder), *attacks.values()],
            capture_output=True,
            text=True,
            timeout=60,
            check=False,
        )
        assert sorted(path.name for path in folder.iterdir()) == ["lib", "secret"]
        assert (folder / "secret").read_text() == "secret"
    assert done.returncode == 0, done.stderr
    answers = dict(zip(attacks, done.stdout.splitlines(), strict=True))
    assert answers == dict.fromkeys(REFUSED_TO_BROKER, "refused") | dict.fromkeys(ALLOWED_TO_BROKER, "worked")


@pytest.mark.parametrize(
    "options",
    [
        {"writeconfig": "1"},
        {"rcstatsfile": "1"},
        {"threads": "8"},
        {"alf": "/etc/passwd"},
        {"alf": "nan"},
        {"alf": "99999"},
        {"alf": "1:writeconfig=/tmp/x"},
        {"alf=1:writeconfig": "/tmp/x"},
        {"-i": "/etc/passwd"},
    ],
    ids=str,
)
def test_options_that_are_no_numbers_for_coding_tools_never_reach_ffmpeg(options: dict[str, str]) -> None:
    with pytest.raises((EncodeError, BadInputError), match="option"):
        strategies.get("vvc").encode(ramp(), VIDEO, EncodeSettings(0.5, options=options))


HONEST = """
from fractions import Fraction
from codec import strategies
from codec.frames import Frames, VideoFormat
from codec.strategies.protocol import EncodeSettings
def vvc(frames):
    luma, chroma = frames[0, :, 0].numpy(), [frames[0, :, index, ::2, ::2].numpy() for index in (1, 2)]
    settings = EncodeSettings(0.5, options={"alf": "0"})
    return strategies.get("vvc").encode(Frames(luma, *chroma), VideoFormat(64, 64, Fraction(25)), settings)
"""
PIPES = """
import os, stat
def pipes():
    found = []
    for fd in range(4, 256):  # 3 takes the answer
        try:
            found += [fd] * stat.S_ISFIFO(os.fstat(fd).st_mode)
        except OSError:
            pass
    return found
"""


def encode(body: str, seconds: float = 60, stop: Callable[[], bool] | None = None) -> Outcome:
    indented = "".join(f"    {line}\n" for line in body.strip().split("\n"))
    source = f"{HONEST}{PIPES}import fcntl, time\ndef compress_video_tensor(frames, config, device):\n{indented}"
    arguments = {"config": {"request": list(header(frames=1000) + PIXELS)}, "width": 64, "height": 64}
    job = Job("encode", {"encoder.py": source}, PIXELS, arguments, seconds, 1_000_000)
    return SandboxIsolation(LIMITS).run(job, stop)


STALL = """
writing, reading = [fd for fd in pipes()]
for attack in (
    lambda: os.write(reading, b"K"),
    lambda: os.open(f"/proc/self/fd/{reading}", os.O_WRONLY),
    lambda: fcntl.fcntl(writing, fcntl.F_SETOWN, os.getppid()),
    lambda: fcntl.fcntl(reading, fcntl.F_SETSIG, 9),
    lambda: os.read(writing, 1),
):
    try:
        attack()
        print("worked", flush=True)
    except OSError:
        print("refused", flush=True)
os.write(writing, bytes(config["request"]))
time.sleep(600)
"""


def test_a_stalled_request_ends_with_its_job_and_the_next_job_gets_its_bytes() -> None:
    seen: set[int] = set()

    def look() -> bool:
        seen.update(set(below(os.getpid())) - before)
        return False

    before = set(below(os.getpid()))
    outcome = encode(STALL, seconds=3, stop=look)
    assert (outcome.status, outcome.log) == ("timeout", "refused\n" * 5), outcome.reason
    assert len(seen) == 3, "the encoder, the broker and ffmpeg"
    await_end(seen)
    honest = encode('return {"compressed_data": vvc(frames)}')
    assert honest.status == "ok", honest.reason
    assert honest.output == strategies.get("vvc").encode(ramp(), VIDEO, EncodeSettings(0.5, options={"alf": "0"}))


def test_the_decoder_has_no_pipe_but_its_answers() -> None:
    source = (
        f"{PIPES}\ndef decompress_video_tensor(data, config, device):\n    raise ValueError(f'pipes {{pipes()}}')\n"
    )
    outcome = SandboxIsolation(LIMITS).run(Job("decode", {"decoder.py": source}, b"", {"config": {}}, 20, 1000))
    assert (outcome.status, outcome.reason) == ("crashed", "ValueError: pipes []")


@pytest.mark.slow
@pytest.mark.parametrize(
    ("body", "status", "reason"),
    [
        ("os.write(pipes()[0], bytes(config['request']))\nos._exit(0)", "crashed", "without its answer"),
        ("os.write(pipes()[0], bytes(config['request']))\nreturn {'compressed_data': b''}", "ok", ""),
        (
            "for byte in config['request']:\n    os.write(pipes()[0], bytes([byte]))\n    time.sleep(0.1)",
            *("timeout", "stopped after 3 s"),
        ),
        ("while True:\n    os.write(pipes()[0], bytes(65536))", "crashed", "Broken pipe"),
        ("writing, reading = pipes()\nos.close(writing)\nos.close(reading)\nvvc(frames)", "crashed", "Bad file"),
        ("os.write(pipes()[0], b'x' * 99)\nvvc(frames)", "crashed", "does not begin as one"),
    ],
    ids=["request then exit", "request then answer", "trickle", "garbage for ever", "closed ends", "out of step"],
)
def test_a_hostile_encoder_ends_in_time_and_rightly_classified(body: str, status: str, reason: str) -> None:
    outcome = encode(body, seconds=3 if status == "timeout" else 60)
    assert outcome.status == status, outcome.reason
    assert reason in outcome.reason


def test_settings_refuse_what_no_caller_may_ask() -> None:
    for changed in ({"preset": "faster -i /etc/passwd"}, {"qp": -1}, {"width": 31}, {"options": (("writeconfig", 1),)}):
        with pytest.raises(EncodeError, match="vvc"):
            replace(SETTINGS, **changed)
