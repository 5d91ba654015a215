"""VVC by VVenC in imageio-ffmpeg's ffmpeg, where it comes without a system package; decoded in process.

VVenC takes 10-bit pictures only: samples are widened by two bits here and rounded back after decoding, so
that no scaler dithers them.
"""

from __future__ import annotations

import contextlib
import subprocess
import tempfile
import threading
from collections.abc import Mapping
from typing import IO, cast

from codec.errors import EncodeError
from codec.frames import Frames, VideoFormat
from codec.strategies.elementary import ElementaryStrategy, color_options, join_options

# threads=0 codes without a worker thread. With one, FFmpeg's wrapper can meet an encoder that has nothing ready at the
# flush and ends the stream there, with exit code 0: 2 to 3 of 10 clips of 46 or 47 frames came out empty.
# qpa is VVenC's perceptual mode, which costs PSNR. Access unit delimiters cost 3 bytes a frame and nothing needs them.
DEFAULTS = {"threads": "0", "qpa": "0", "accessunitdelimiter": "0"}
INTRA_PERIOD_SECONDS = 100_000


def encode_stream(frames: Frames, video: VideoFormat, rate: float, preset: str, options: Mapping[str, str]) -> bytes:
    """VVC Annex B at QP `rate`. `options` are VVenC's own, given as `-vvenc-params`."""
    raw = ["-f", "rawvideo", "-pix_fmt", "yuv420p10le", "-s", f"{video.width}x{video.height}"]
    params = join_options("vvc", {**DEFAULTS, **options})
    command = [
        *(_ffmpeg(), "-nostdin", "-hide_banner", "-loglevel", "error"),
        *(*raw, "-r", str(video.frame_rate), "-i", "pipe:0"),
        *("-vf", _color_filter(video), "-c:v", "libvvenc", "-preset", preset, "-qp", f"{rate:g}"),
        *("-period", str(INTRA_PERIOD_SECONDS), "-vvenc-params", params, "-f", "vvc", "pipe:1"),
    ]
    # Files take what ffmpeg writes, so that it can never block while its input is being written. Where it ends early
    # its exit code and what it said tell why, not the broken pipe.
    with tempfile.TemporaryFile() as out, tempfile.TemporaryFile() as err:
        try:
            process = _start(command, out, err)
        except OSError as error:
            raise EncodeError(f"vvc cannot start ffmpeg, which it needs to encode: {error}") from error
        with process, contextlib.suppress(BrokenPipeError), cast(IO[bytes], process.stdin) as pipe:
            for index in range(len(frames)):
                for plane in frames.planes():
                    pipe.write((plane[index].astype("<u2") << 2).tobytes())
        code = process.returncode
        _running.discard(process)
        err.seek(0)
        said = err.read().decode(errors="replace").strip().splitlines()
        if code != 0:
            reason = said[0] if said else f"exit code {code}"
            shown = f"{video.width}×{video.height} with preset={preset} qp={rate:g} {params}"
            raise EncodeError(f"vvc failed at {shown}: {reason}")
        out.seek(0)
        return out.read()


_running: set[subprocess.Popen[bytes]] = set()
_starting = threading.Lock()
_stopped = False


def _start(command: list[str], out: IO[bytes], err: IO[bytes]) -> subprocess.Popen[bytes]:
    with _starting:
        if _stopped:
            raise EncodeError("vvc was stopped")
        process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=out, stderr=err)
        _running.add(process)
        return process


def stop_encoders() -> None:
    """Kill every ffmpeg that codes for this process, and start no more: for a process that is about to end."""
    global _stopped
    with _starting:
        _stopped = True
        for process in _running:
            process.kill()


def _ffmpeg() -> str:
    import imageio_ffmpeg

    try:
        return str(imageio_ffmpeg.get_ffmpeg_exe())
    except RuntimeError as error:
        raise EncodeError(f"vvc needs imageio-ffmpeg's ffmpeg to encode: {error}") from error


def _color_filter(video: VideoFormat) -> str:
    tags = color_options(video)
    return (
        f"setparams=color_primaries={tags['color_primaries']}:color_trc={tags['color_trc']}"
        f":colorspace={tags['colorspace']}:range={tags['color_range']}"
    )


STRATEGY = ElementaryStrategy(
    name="vvc",
    code=8,
    decoder="vvc",
    bit_depth=10,
    presets=("faster", "fast", "medium", "slow", "slower"),
    default_preset="faster",
    default_quality_range=(43, 14),
    rate_step=1,
    minimum_side=32,
    encode_stream=encode_stream,
)
