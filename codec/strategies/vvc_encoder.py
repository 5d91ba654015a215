"""Running VVenC: ffmpeg's command line from checked settings, its pipes, and the seam for whoever may not start ffmpeg.

Owns what may reach ffmpeg's command line: numbers in range and names from the tables here, no text of a caller's. Which
settings a scene gets is `codec.strategies.vvc`'s. Imports the standard library only, so that a small process that has
no numpy can run ffmpeg for one that has no right to.

    vvc.encode_stream -> encode -> encode_with_ffmpeg, or what `use` was told -> raw elementary stream
"""

from __future__ import annotations

import contextlib
import os
import selectors
import shutil
import subprocess
import threading
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from fractions import Fraction
from typing import IO, Final, cast

from codec.errors import EncodeError

PRESETS: Final = ("faster", "fast", "medium", "slow", "slower")
MINIMUM_SIDE: Final = 32
MAXIMUM_SIDE: Final = 65534
MAXIMUM_QP: Final = 63
# Random access is by scene, so the next key frame is farther away than any scene is long.
INTRA_PERIOD_SECONDS: Final = 100_000

# threads=0 codes without a worker thread. With one, FFmpeg's wrapper can meet an encoder that has nothing ready at the
# flush and ends the stream there, with exit code 0: 2 to 3 of 10 clips of 46 or 47 frames came out empty.
# qpa is VVenC's perceptual mode, which costs PSNR. Access unit delimiters cost 3 bytes a frame and nothing needs them.
DEFAULTS: Final = {"threads": 0, "qpa": 0, "accessunitdelimiter": 0}
# VVenC's coding tools and the effort of its searches, all of them whole numbers. Its other parameters are not for
# callers: WriteConfig, SummaryOutFilename and some more name files that it writes.
OPTIONS: Final = (
    *("addgop32refpics", "affine", "affinetype", "alf", "alfspeed", "alftemppred", "allowdisfracmmvd", "amvr", "asr"),
    *("bcw", "bdof", "bdpcm", "bim", "bipredsearchrange", "cbcrqpoffset", "cbqpoffset", "ccalf", "chromats", "ciip"),
    *("contentbasedfastqtbt", "crqpoffset", "ctusize", "depquant", "dmvr", "dualitree", "ecu", "edo", "encdbopt"),
    *("fastmrg", "fastsearch", "fastsubpel", "fdm", "fen", "forcescc", "geo", "gopsize", "hadamardme"),
    *("horcollocatedchroma", "ibc", "integeret", "intraestdecbit", "intraqpoffset", "isp", "jointcbcr"),
    *("lambdafromqpenable", "lctufast", "lfnst", "lmchroma", "lookahead", "loopfilterbetaoffset_div2"),
    *("loopfilterdisable", "loopfiltertcoffset_div2", "lumaleveltodeltaqpmode", "maxmttdepth", "maxmttdepthi"),
    *("maxnumalfalternativeschroma", "maxnumgeocand", "maxnummergecand", "mctf", "mctffuturereference", "mctfspeed"),
    *("mctfunitsize", "minqtislice", "minqtnonislice", "minsearchwindow", "mip", "mmvd", "mmvddisnum", "mrl", "mts"),
    *("mtsimplicit", "mtsintramaxcand", "numintramodesfullrd", "numrefpics", "pbintrafast", "perceptqpatempfiltipic"),
    *("picreordering", "poc0idr", "qpa", "qtbttextrafast", "rdoq", "rdoqts", "reducefilterme"),
    *("reduceintrachromamodesfullrd", "sao", "sbt", "sbtmvp", "searchrange", "selectiverdoq", "signhideflag", "smvd"),
    *("tmvpmode", "transformskip", "transformskiplog2maxsize", "usenonlinearalfchroma", "usenonlinearalfluma"),
)
OPTION_VALUES: Final = range(-32768, 32768)

READ_BYTES: Final = 64 * 1024  # what a pipe holds
# VVenC takes 10-bit pictures only: each sample, times four, as two bytes of which the low one comes first.
LOW_BYTE: Final = bytes(sample << 2 & 0xFF for sample in range(256))
HIGH_BYTE: Final = bytes(sample >> 6 for sample in range(256))


@dataclass(frozen=True)
class Settings:
    """One run of VVenC, checked when it is made: raises EncodeError, naming what is wrong.

    width, height  luma samples of the coded pictures, both even
    frames         how many pictures the input holds
    color          code points of ITU-T H.273: primaries, transfer, matrix
    options        VVenC's own parameters, by names from OPTIONS
    """

    width: int
    height: int
    frames: int
    frame_rate: Fraction
    qp: int
    preset: str
    color: tuple[int, int, int]
    full_range: bool
    options: tuple[tuple[str, int], ...] = ()

    def __post_init__(self) -> None:
        sides = range(MINIMUM_SIDE, MAXIMUM_SIDE + 1, 2)
        require(self.width in sides and self.height in sides, f"cannot code {self.width}×{self.height} pictures")
        require(self.frames > 0, f"cannot code {self.frames} frames")
        require(self.frame_rate > 0, f"cannot code {self.frame_rate} frames a second")
        require(self.qp in range(MAXIMUM_QP + 1), f"qp {self.qp} is not in 0 to {MAXIMUM_QP}")
        require(self.preset in PRESETS, f"has no preset {self.preset!r}: choose one of {', '.join(PRESETS)}")
        require(all(code in range(256) for code in self.color), f"has no colour code points {self.color}")
        for name, value in self.options:
            require(name in OPTIONS, f"option {name}={value} is not among those that may be set: {', '.join(OPTIONS)}")
            require(value in OPTION_VALUES, f"option {name}={value} is out of range")

    @property
    def input_bytes(self) -> int:
        """Length of the input: 8-bit planes, Y, U and V of one picture after the other."""
        return self.width * self.height * 3 // 2 * self.frames


# (settings, the input in pieces of any size) -> raw elementary stream
Encoder = Callable[[Settings, Iterable[bytes]], bytes]


def encode(settings: Settings, pieces: Iterable[bytes]) -> bytes:
    """VVC Annex B of the pictures whose planes `pieces` hold. Raises EncodeError."""
    return _encoder(settings, pieces)


def use(encoder: Encoder) -> None:
    """Let `encode` call `encoder` from now on, in a process that cannot start ffmpeg itself."""
    global _encoder
    _encoder = encoder


def parse_options(options: Mapping[str, str]) -> tuple[tuple[str, int], ...]:
    """VVenC's parameters from the text of a configuration. Raises EncodeError where a value is no whole number."""
    parsed = []
    for name, text in options.items():
        require(text.isascii() and text.removeprefix("-").isdecimal(), f"option {name}={text} is not a whole number")
        require(len(text) <= 6, f"option {name}={text} is out of range")
        parsed.append((name, int(text)))
    return tuple(parsed)


def encode_with_ffmpeg(
    settings: Settings,
    pieces: Iterable[bytes],
    ffmpeg: str | None = None,
    before_exec: Callable[[], None] | None = None,
) -> bytes:
    """`encode` by a process of ffmpeg's. `before_exec` is called in it first. Raises EncodeError."""
    line = command(ffmpeg or find_ffmpeg(), settings)
    with _started(line, before_exec) as process:
        stream, said = _exchange(process, pieces)
    if process.returncode != 0:
        lines = said.decode(errors="replace").strip().splitlines()
        reason = lines[0] if lines else f"exit code {process.returncode}"
        shown = f"{settings.width}×{settings.height} with preset={settings.preset} qp={settings.qp} {_params(settings)}"
        raise EncodeError(f"vvc failed at {shown}: {reason}")
    return stream


def stop_encoders() -> None:
    """Kill every ffmpeg of this process, and start no more: for a process that is about to end without waiting."""
    with _starting:
        _stopped.set()
        for process in _running:
            process.kill()


@contextlib.contextmanager
def _started(line: list[str], before_exec: Callable[[], None] | None) -> Iterator[subprocess.Popen[bytes]]:
    with _starting:
        require(not _stopped.is_set(), "was stopped")
        try:
            process = subprocess.Popen(
                line,
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=subprocess.PIPE,
                preexec_fn=before_exec,  # safe where there are no threads, as in the broker, which alone gives one
            )
        except (OSError, subprocess.SubprocessError) as error:
            raise EncodeError(f"vvc cannot start ffmpeg, which it needs to encode: {error}") from error
        _running.add(process)
    try:
        with process:
            yield process
    finally:
        _running.discard(process)


def find_ffmpeg() -> str:
    """imageio-ffmpeg's binary. Raises EncodeError where it has none for this machine."""
    import imageio_ffmpeg

    try:
        found = str(imageio_ffmpeg.get_ffmpeg_exe())
    except RuntimeError as error:
        raise EncodeError(f"vvc needs imageio-ffmpeg's ffmpeg to encode: {error}") from error
    return shutil.which(found) or found


def command(ffmpeg: str, settings: Settings) -> list[str]:
    """ffmpeg's command line: pictures in, the stream out, and no file."""
    primaries, transfer, matrix = settings.color
    color_range = 2 if settings.full_range else 1
    tags = f"color_primaries={primaries}:color_trc={transfer}:colorspace={matrix}:range={color_range}"
    return [
        *(ffmpeg, "-nostdin", "-hide_banner", "-loglevel", "error"),
        *("-f", "rawvideo", "-pix_fmt", "yuv420p10le", "-s", f"{settings.width}x{settings.height}"),
        *("-r", str(settings.frame_rate), "-i", "pipe:0"),
        *("-vf", f"setparams={tags}", "-c:v", "libvvenc", "-preset", settings.preset, "-qp", str(settings.qp)),
        *("-period", str(INTRA_PERIOD_SECONDS), "-vvenc-params", _params(settings), "-f", "vvc", "pipe:1"),
    ]


def require(condition: bool, complaint: str) -> None:
    if not condition:
        raise EncodeError(f"vvc {complaint}")


def widen(samples: bytes) -> bytes:
    """8-bit samples as 10-bit ones, little-endian."""
    wide = bytearray(2 * len(samples))
    wide[0::2] = samples.translate(LOW_BYTE)
    wide[1::2] = samples.translate(HIGH_BYTE)
    return bytes(wide)


def _params(settings: Settings) -> str:
    return ":".join(f"{name}={value}" for name, value in {**DEFAULTS, **dict(settings.options)}.items())


def _exchange(process: subprocess.Popen[bytes], pieces: Iterable[bytes]) -> tuple[bytes, bytes]:
    """What ffmpeg writes to stdout and to stderr, while it is fed: neither side ever waits for the other for good.

    Where it ends early its exit code and what it said tell why, not the broken pipe.
    """
    stdin, stdout, stderr = (cast(IO[bytes], pipe) for pipe in (process.stdin, process.stdout, process.stderr))
    written = {stdout: bytearray(), stderr: bytearray()}
    source, rest = iter(pieces), memoryview(b"")
    os.set_blocking(stdin.fileno(), False)
    with selectors.DefaultSelector() as selector, _kill_on_error(process):
        selector.register(stdin, selectors.EVENT_WRITE)
        selector.register(stdout, selectors.EVENT_READ)
        selector.register(stderr, selectors.EVENT_READ)
        while selector.get_map():
            for key, _ in selector.select():
                pipe = cast(IO[bytes], key.fileobj)
                if pipe is stdin:
                    rest = rest or memoryview(widen(next(source, b"")))
                    sent = _write_some(stdin, rest)
                    rest = rest[sent or 0 :]
                    ended = not sent
                else:
                    chunk = os.read(key.fd, READ_BYTES)
                    written[pipe] += chunk
                    ended = not chunk
                if ended:
                    selector.unregister(pipe)
                    pipe.close()
    return bytes(written[stdout]), bytes(written[stderr])


def _write_some(pipe: IO[bytes], data: memoryview) -> int:
    """How much of `data` the pipe took; 0 at the end of the data and where nobody reads."""
    try:
        return os.write(pipe.fileno(), data) if data else 0
    except BrokenPipeError:
        return 0


@contextlib.contextmanager
def _kill_on_error(process: subprocess.Popen[bytes]) -> Iterator[None]:
    """Without this an error in the source of the pictures, or Ctrl-C, would wait for the encode to end."""
    try:
        yield
    except BaseException:
        process.kill()
        raise


_encoder: Encoder = encode_with_ffmpeg
_running: set[subprocess.Popen[bytes]] = set()
_starting = threading.Lock()
_stopped = threading.Event()
