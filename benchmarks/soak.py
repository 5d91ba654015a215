"""Many candidates in a row, hostile and honest, through the real evaluator: what is left behind, and who is affected.

    python benchmarks/soak.py --count 500

After each candidate this process, the machine's shared memory, keys and the temporary folder are as before the first;
every honest candidate scores as it did alone. Exit code 1 where that does not hold. Attacks are those of
tests/attacks, in an order that the printed seed repeats. Candidates run one at a time.
"""

from __future__ import annotations

import argparse
import ctypes
import os
import platform
import random
import re
import signal
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from fractions import Fraction
from itertools import pairwise
from pathlib import Path
from typing import Final

import numpy as np

ROOT: Final = Path(__file__).resolve().parent.parent
sys.path[:0] = [str(ROOT), str(ROOT / "tests"), str(ROOT / "tests" / "attacks")]

from loud import LIMITS, LOUD, candidate_of, clip, open_folder, run  # noqa: E402 - found by the line above
from probes import DECODER, ENCODER, PROBES  # noqa: E402
from running import below  # noqa: E402

from codec.frames import Frames, VideoFormat  # noqa: E402
from tasks.campaign import Limits  # noqa: E402
from tasks.candidate import Candidate  # noqa: E402
from tasks.execute.clips import LoadedClip  # noqa: E402
from tasks.execute.isolation import SandboxIsolation  # noqa: E402
from tasks.execute.sandbox.privileges import FIRST_UID, UIDS  # noqa: E402
from tasks.measure.anchors import SEED  # noqa: E402

# Shares of each kind. Starting VVC's ffmpeg in its lock takes a second, so it comes rarely.
SHARES: Final = {"loud": 70, "quiet": 5, "raw": 14, "x264": 5, "av1": 5, "vvc": 1}
HONEST: Final = ("raw", "x264", "av1", "vvc")
CODECS: Final = {"x264": "ultrafast", "av1": "10", "vvc": "faster"}
# Once a kill is sent, the kernel frees what was held in its own time.
SETTLE_SECONDS: Final = 5.0
STEP: Final = 100
# Allocators keep some of what they were given. More than this for each STEP, once warm, is a leak.
GROWTH_MB: Final = 8.0
PR_SET_CHILD_SUBREAPER: Final = 36


@dataclass(frozen=True)
class Trial:
    """One candidate, and what has to come of it: a status, and a reason as a regular expression."""

    name: str
    candidate: Candidate
    clip: LoadedClip
    status: str = "measured"
    reason: str = ""
    limits: Limits = LIMITS


Score = tuple[int, float, str, str]  # bytes, PSNR-YUV, hashes of the bitstream and of what was decoded


@dataclass
class Tally:
    """What has come of the candidates so far; `memory` is of this process and of the fork server, in MB."""

    statuses: Counter[str] = field(default_factory=Counter)
    problems: list[str] = field(default_factory=list)
    memory: list[tuple[float, float]] = field(default_factory=list)
    slowest: tuple[float, str] = (0.0, "")


def main() -> int:
    arguments = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    arguments.add_argument("--count", type=int, default=500)
    arguments.add_argument("--seed", type=int, default=random.SystemRandom().randrange(2**32))
    chosen = arguments.parse_args()
    # What leaves its family then becomes a child of this process, where it is found.
    if ctypes.CDLL(None).prctl(PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0) != 0:
        sys.exit("soak: this kernel has no subreapers: needs Linux 3.4 or newer")
    user = "root" if os.geteuid() == 0 else f"user {os.geteuid()}"
    print(f"{platform.machine()}, Linux {platform.release()}, {os.cpu_count()} cores, as {user}; seed {chosen.seed}")
    with tempfile.TemporaryDirectory(prefix="evocodec-soak-") as name, open_folder() as shared:
        Path(name).chmod(0o755)
        tempfile.tempdir = name
        try:
            return soak(chosen.count, random.Random(chosen.seed), all_trials(shared), [Path(name), shared])
        finally:
            tempfile.tempdir = None


def soak(count: int, order: random.Random, trials: dict[str, list[Trial]], folders: list[Path]) -> int:
    alone: dict[str, Score | None] = {}
    for kind in HONEST:
        wrong, alone[kind] = outcome(trials[kind][0])
        if wrong:
            sys.exit(f"soak: {kind} alone: {wrong}")
    before, tally, clock = state(folders), Tally(), time.monotonic()
    tally.memory.append(memory_mb())
    for index in range(count):
        (kind,) = order.choices(list(SHARES), list(SHARES.values()))
        trial, began = order.choice(trials[kind]), time.monotonic()
        wrong, score = outcome(trial)
        tally.slowest = max(tally.slowest, (time.monotonic() - began, trial.name))
        tally.statuses[f"{'honest' if kind in HONEST else 'hostile'}, {trial.status}"] += 1
        if not wrong and kind in HONEST and score != alone[kind]:
            wrong = f"scored {score}, and alone {alone[kind]}"
        for text in filter(None, (wrong, *differences(before, folders))):
            tally.problems.append(f"{index} ({trial.name}): {text}")
            print(tally.problems[-1], flush=True)
        if (index + 1) % STEP == 0:
            tally.memory.append(memory_mb())
    report(count, tally, time.monotonic() - clock, before)
    return 1 if tally.problems or leaks_memory(tally.memory) else 0


def all_trials(shared: Path) -> dict[str, list[Trial]]:
    """By kind. `shared` is a folder that every user may write to."""
    noise = clip()
    probes = {"names": [probe.name for probe in PROBES], "sources": [probe.source for probe in PROBES]}
    quiet = candidate_of(ENCODER, DECODER, folder=str(shared), project=str(ROOT), **probes)
    luma = (np.arange(64)[:, None] + 2 * np.arange(64) + np.arange(4)[:, None, None]).astype(np.uint8)
    ramp = LoadedClip.of("ramp", VideoFormat(64, 64, Fraction(25)), Frames(luma, luma[:, ::2, ::2], luma[:, ::2, ::2]))
    own = Candidate.load(SEED)
    return {
        "loud": [Trial(loud.name, loud.candidate(), noise, loud.status, loud.reason, loud.limits) for loud in LOUD],
        "quiet": [Trial("all quiet attacks", quiet, noise)],
        "raw": [Trial("raw", candidate_of(), noise)],
    } | {
        strategy: [Trial(strategy, own.model_copy(update={"config": {"strategy": strategy, "preset": preset}}), ramp)]
        for strategy, preset in CODECS.items()
    }


def outcome(trial: Trial) -> tuple[str, Score | None]:
    """What is wrong with what came of it, and its score where it has one."""
    found = run(trial.candidate, SandboxIsolation(trial.limits), trial.limits, trial.clip)
    if found.status != trial.status or not re.search(trial.reason, found.reason):
        return f"{found.status} ({found.reason}), not {trial.status} ({trial.reason})", None
    if "|worked|" in found.log:
        return f"worked: {found.log}", None
    scores = [(point.bytes_total, point.psnr_yuv, point.bitstream_hash, point.decoded_hash) for point in found.points]
    return "", scores[0] if scores else None


def state(folders: list[Path]) -> dict[str, set[str]]:
    """What a candidate could leave behind, by kind. Of what all users share, only what is a candidate's."""
    server = below(os.getpid())
    return {
        "processes": {str(pid) for pid in server},
        "descriptors": descriptors(os.getpid()),
        "descriptors of the fork server": {f"{pid}: {found}" for pid in server for found in descriptors(pid)},
        "files": {f"{path} {path.stat().st_size}" for folder in folders for path in folder.rglob("*")},
        "files in memory": {str(path) for path in Path("/dev/shm").rglob("*") if is_candidates(path.stat().st_uid)},
        "message queues": {str(path) for path in Path("/dev/mqueue").glob("*") if is_candidates(path.stat().st_uid)},
        "SysV objects": {line for path in Path("/proc/sysvipc").iterdir() for line in sysv_lines(path)},
        "keys": set(filter(is_candidates_key, Path("/proc/key-users").read_text().splitlines())),
    }


def descriptors(pid: int) -> set[str]:
    found = set()
    for path in Path(f"/proc/{pid}/fd").iterdir():
        try:
            found.add(f"{path.name} -> {path.readlink()}")
        except OSError:  # the one that lists the others
            continue
    return {link for link in found if not link.endswith("/fd")}


def sysv_lines(path: Path) -> Iterator[str]:
    header, *lines = path.read_text().splitlines()
    column = header.split().index("cuid")
    yield from (line for line in lines if is_candidates(int(line.split()[column])))


def is_candidates_key(line: str) -> bool:
    return is_candidates(int(line.split(":")[0])) and os.geteuid() == 0


def is_candidates(uid: int) -> bool:
    return uid in range(FIRST_UID, FIRST_UID + UIDS) if os.geteuid() == 0 else uid == os.geteuid()


def differences(before: dict[str, set[str]], folders: list[Path]) -> list[str]:
    """What is still not as before after the kernel had its time. Escaped processes are ended."""
    deadline = time.monotonic() + SETTLE_SECONDS
    while True:
        try:
            now = state(folders)
        except FileNotFoundError:  # it went while it was looked at
            continue
        if now == before or time.monotonic() > deadline:
            break
        time.sleep(0.02)
    for pid in now["processes"] - before["processes"]:
        os.kill(int(pid), signal.SIGKILL)
    return [
        f"{kind}: left {sorted(now[kind] - before[kind])}, gone {sorted(before[kind] - now[kind])}"
        for kind in before
        if now[kind] != before[kind]
    ]


def memory_mb() -> tuple[float, float]:
    """Of this process and of the fork server; not what is shared with a file."""
    found = []
    for pid in (os.getpid(), below(os.getpid())[0]):
        fields = dict(line.split(":", 1) for line in Path(f"/proc/{pid}/status").read_text().splitlines())
        found.append(int(fields["RssAnon"].split()[0]) / 1024)
    return found[0], found[1]


def leaks_memory(memory: list[tuple[float, float]]) -> bool:
    """The first STEP warms caches and allocators."""
    steps = [(after[place] - before[place]) for before, after in pairwise(memory[1:]) for place in range(2)]
    return max(steps, default=0.0) > GROWTH_MB


def report(count: int, tally: Tally, seconds: float, before: dict[str, set[str]]) -> None:
    print(f"{'candidates':<40}{count:>8}")
    for status, number in sorted(tally.statuses.items()):
        print(f"  {status:<38}{number:>8}")
    for kind in before:
        print(f"{'left: ' + kind:<40}{sum(f'): {kind}: ' in text for text in tally.problems):>8}")
    kept = tuple(f"): {kind}: " for kind in before)
    wrong = sum(not any(mark in text for mark in kept) for text in tally.problems)
    print(f"{'wrong status, reason or score':<40}{wrong:>8}")
    for place, name in enumerate(("this process", "fork server")):
        sizes = " ".join(f"{sample[place]:.0f}" for sample in tally.memory)
        print(f"memory of {name}, MB, at the start and after each {STEP}: {sizes}")
    print(f"seconds a candidate: {seconds / count:.2f}; slowest {tally.slowest[0]:.1f} ({tally.slowest[1]})")


if __name__ == "__main__":
    sys.exit(main())
