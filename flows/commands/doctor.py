"""`evocodec doctor`: what this machine has and lacks, one line each with the remedy."""

from __future__ import annotations

import importlib.util
import os
import platform
import shutil
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version
from typing import Literal

from codec.errors import EvocodecError

Severity = Literal["FAIL", "note"]


@dataclass(frozen=True)
class Finding:
    """`severity` says what it means if not `ok`: FAIL stops the laboratory, a note does not."""

    part: str
    ok: bool
    text: str
    severity: Severity = "FAIL"


def diagnose(store: str) -> list[Finding]:
    """All findings, in the order a newcomer would meet them."""
    return [
        _python(),
        *_packages(),
        *_in_process_codecs(),
        *_ffmpeg(),
        _torch(),
        *_sandbox(),
        _prefect(),
        _store(store),
        _disk(),
        *_keys(),
    ]


def _python() -> Finding:
    ok = sys.version_info >= (3, 11)
    return Finding(
        "python",
        ok,
        f"{platform.python_version()} at {sys.executable}" + ("" if ok else "; needs 3.11 or newer"),
    )


def _packages() -> list[Finding]:
    findings = []
    for name in (
        "av",
        "imageio-ffmpeg",
        "scenedetect-headless",
        "opencv-python-headless",
        "scikit-image",
        "optuna",
    ):
        try:
            findings.append(Finding(name, True, version(name)))
        except PackageNotFoundError:
            findings.append(Finding(name, False, "not installed: run `make install`"))
    return findings


def _in_process_codecs() -> list[Finding]:
    try:
        from av.codec import Codec
        from av.codec.codec import UnknownCodecError
    except ImportError as error:
        return [
            Finding("codecs", False, f"PyAV cannot be loaded: {error}; install what it names, or run `make install`")
        ]

    def has(name: str, mode: str) -> bool:
        try:
            Codec(name, mode)
        except UnknownCodecError:
            return False
        return True

    wanted = [
        ("libx264", "w"),
        ("libx265", "w"),
        ("libsvtav1", "w"),
        ("h264", "r"),
        ("hevc", "r"),
        ("libdav1d", "r"),
        ("vvc", "r"),
    ]
    missing = [name for name, mode in wanted if not has(name, mode)]
    text = "x264, x265, SVT-AV1 encode; H.264, HEVC, AV1, VVC decode"
    return [
        Finding(
            "codecs",
            not missing,
            text if not missing else f"PyAV lacks {', '.join(missing)}: run `make install`",
        )
    ]


def _ffmpeg() -> list[Finding]:
    try:
        import imageio_ffmpeg

        executable = imageio_ffmpeg.get_ffmpeg_exe()
        encoders = _output(executable, "-hide_banner", "-encoders")
        filters = _output(executable, "-hide_banner", "-filters")
    except (ImportError, RuntimeError, OSError, subprocess.SubprocessError) as error:
        return [Finding("ffmpeg", False, f"cannot be run ({error}): run `make install`")]
    return [
        Finding("ffmpeg", True, executable),
        Finding(
            "vvc encoder",
            "libvvenc" in encoders,
            "libvvenc" if "libvvenc" in encoders else "this ffmpeg lacks libvvenc: unset IMAGEIO_FFMPEG_EXE",
        ),
        Finding(
            "vmaf",
            "libvmaf" in filters,
            "libvmaf" if "libvmaf" in filters else "this ffmpeg lacks libvmaf: unset IMAGEIO_FFMPEG_EXE",
        ),
    ]


def _output(*command: str) -> str:
    return subprocess.run(command, capture_output=True, text=True, timeout=20, check=True).stdout


def _torch() -> Finding:
    if importlib.util.find_spec("torch") is None:
        return Finding("torch", False, "not installed: run `make install`")
    import torch

    if torch.cuda.is_available():
        return Finding("torch", True, f"{torch.__version__}, GPU {torch.cuda.get_device_name(0)}")
    return Finding("torch", True, f"{torch.__version__}, no GPU: candidates run on the CPU")


def _sandbox() -> list[Finding]:
    from tasks.execute import sandbox

    found = [Finding(layer.name, layer.ok, layer.text) for layer in sandbox.layers()]
    # What a layer claims is one thing, a process that has entered them all another.
    profile = sandbox.profile_here()
    command = f"import os; from tasks.execute import sandbox; sandbox.enter({profile!r}, os.getppid())"
    try:
        trial = subprocess.run([sys.executable, "-I", "-c", command], capture_output=True, text=True, timeout=60)
    except subprocess.TimeoutExpired:
        return [*found, Finding("sandbox", False, "a process did not enter it within 60 s: free some of the machine")]
    last_line = (trial.stderr.strip().splitlines() or [f"exit code {trial.returncode}"])[-1]
    text = f"entered (profile {profile}); a file and a socket were refused" if trial.returncode == 0 else last_line
    return [*found, Finding("sandbox", trial.returncode == 0, text)]


def _prefect() -> Finding:
    try:
        installed = version("prefect")
    except PackageNotFoundError:
        return Finding("prefect", False, "not installed: run `make install`")
    url = os.environ.get("PREFECT_API_URL")
    if url is None:
        return Finding("prefect", True, f"{installed}; `evocodec run` and `up` start a server of their own")
    import httpx

    try:
        ok = httpx.get(f"{url}/health", timeout=3).status_code == httpx.codes.OK
    except (httpx.HTTPError, httpx.InvalidURL):
        ok = False
    return Finding(
        "prefect",
        ok,
        f"{installed}; server {url} " + ("answers" if ok else "does not answer: start it, or unset PREFECT_API_URL"),
    )


def _store(uri: str) -> Finding:
    from tasks.store.store import Store

    try:
        Store.open(uri, create=True)
    except EvocodecError as error:
        return Finding("store", False, str(error))
    return Finding("store", True, f"{uri} is writable")


def _disk() -> Finding:
    free = shutil.disk_usage(".").free / 1e9
    return Finding(
        "disk",
        free >= 2,
        f"{free:.0f} GB free here" + ("" if free >= 2 else "; an evening's campaign needs about 2"),
        "note",
    )


def _keys() -> list[Finding]:
    present: Callable[[str], bool] = lambda name: bool(os.environ.get(name))  # noqa: E731
    return [
        Finding(
            name,
            present(name),
            "set; only the design task reads it"
            if present(name)
            else f"not set: --designer {name.removesuffix('_API_KEY').lower()} needs it",
            "note",
        )
        for name in ("ANTHROPIC_API_KEY", "OPENAI_API_KEY")
    ]
