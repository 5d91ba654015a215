"""Reads a Dockerfile, and carries out its steps in a folder without Docker: what a build would do, as far as it goes.

Owns the instructions that infra/ uses (ARG, FROM, ENV, WORKDIR, COPY, RUN, USER, VOLUME, CMD) and refuses any other.
The folder must hold the base image's files already; layers, caches and platforms are Docker's.
"""

from __future__ import annotations

import json
import os
import re
import shlex
import shutil
import subprocess
from dataclasses import dataclass, field
from fnmatch import fnmatch
from pathlib import Path

KNOWN = ("ARG", "FROM", "ENV", "WORKDIR", "COPY", "RUN", "USER", "VOLUME", "CMD")
# A container's, where an image says nothing else.
PATH = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
# How the builder itself reaches its index; no part of the image.
PASSED_ON = (
    "PIP_INDEX_URL",
    "PIP_EXTRA_INDEX_URL",
    "PIP_FIND_LINKS",
    "PIP_DEFAULT_TIMEOUT",
    "HTTPS_PROXY",
    "https_proxy",
    "NO_PROXY",
)


@dataclass(frozen=True)
class Step:
    instruction: str
    text: str


@dataclass
class Image:
    """What the steps amount to when all are done."""

    steps: tuple[Step, ...]
    environment: dict[str, str] = field(default_factory=dict)
    user: str = "root"
    command: tuple[str, ...] = ()
    volumes: tuple[str, ...] = ()
    workdir: str = "/"
    bases: tuple[str, ...] = ()

    @property
    def runs(self) -> list[str]:
        return [step.text for step in self.steps if step.instruction == "RUN"]


def read(path: Path) -> Image:
    """Raises ValueError at an instruction that is not known here."""
    lines = [line for line in path.read_text().splitlines() if not line.lstrip().startswith("#")]
    joined = re.sub(r"\\\n\s*", "", "\n".join(lines))
    steps = []
    for line in filter(None, map(str.strip, joined.splitlines())):
        instruction, _, text = line.partition(" ")
        if instruction not in KNOWN:
            raise ValueError(f"{path.name}: {instruction} is not carried out by this reader")
        steps.append(Step(instruction, text.strip()))
    image = Image(tuple(steps))
    arguments: dict[str, str] = {}
    for step in steps:
        match step.instruction:
            case "ARG":
                name, _, default = step.text.partition("=")
                arguments[name] = default
            case "FROM":
                image.bases += (re.sub(r"\$\{(\w+)\}", lambda found: arguments[found[1]], step.text),)
            case "ENV":
                image.environment |= dict(pair.split("=", 1) for pair in shlex.split(step.text))
            case "WORKDIR":
                image.workdir = step.text
            case "USER":
                image.user = step.text
            case "CMD":
                image.command = tuple(json.loads(step.text))
            case "VOLUME":
                image.volumes = tuple(json.loads(step.text))
    return image


def build(image: Image, context: Path, ignore: Path, root: Path) -> None:
    """Carry out the steps in `root`, as root. Raises CalledProcessError where one fails."""
    allowed = sent(context, ignore)
    environment: dict[str, str] = {}
    workdir = "/"
    for step in image.steps:
        match step.instruction:
            case "ENV":
                environment |= dict(pair.split("=", 1) for pair in shlex.split(step.text))
            case "WORKDIR":
                workdir = step.text
                (root / workdir.lstrip("/")).mkdir(parents=True, exist_ok=True)
            case "COPY":
                *sources, target = step.text.split()
                _copy(context, allowed, sources, root / workdir.lstrip("/") / target)
            case "RUN":
                passed = {name: os.environ[name] for name in PASSED_ON if name in os.environ}
                run(root, ["sh", "-c", step.text], environment | passed, workdir=workdir)


def run(
    root: Path,
    command: list[str],
    environment: dict[str, str],
    *,
    workdir: str = "/",
    user: str = "root",
    read_only: bool = False,
) -> str:
    """The output of `command` in `root`, in namespaces of its own; with `read_only`, /tmp alone can be written to."""
    inside = ["chroot", f"--userspec={user}", str(root), "env", "-i", f"PATH={PATH}"]
    inside += [f"{name}={value}" for name, value in environment.items()]
    inside += ["sh", "-c", f'cd {shlex.quote(workdir)} && exec "$@"', "sh", *command]
    place = shlex.quote(str(root))
    mounts = [f"mount --bind {place} {place}", f"mount --rbind /dev {place}/dev", f"mount -t proc proc {place}/proc"]
    if read_only:
        mounts += [f"mount -t tmpfs -o mode=1777 tmpfs {place}/tmp", f"mount -o remount,bind,ro {place}"]
    script = " && ".join([*mounts, f"exec {shlex.join(inside)}"])
    done = subprocess.run(
        ["unshare", "--mount", "--pid", "--fork", "--kill-child", "sh", "-c", script],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        check=False,
    )
    if done.returncode:
        raise subprocess.CalledProcessError(done.returncode, command, done.stdout[-4000:])
    return done.stdout


def sent(context: Path, ignore: Path) -> set[Path]:
    """The files of the context that .dockerignore lets through: the last line that names one decides."""
    lines = [line for line in ignore.read_text().splitlines() if line and not line.startswith("#")]
    found = set()
    for folder, names, files in os.walk(context):
        names[:] = [name for name in names if not name.startswith(".")]
        for file in files:
            path = (Path(folder) / file).relative_to(context)
            ignored = False
            for line in lines:
                if _covers(line.removeprefix("!"), path):
                    ignored = not line.startswith("!")
            if not ignored:
                found.add(path)
    return found


def _covers(pattern: str, path: Path) -> bool:
    if pattern.startswith("**/"):
        return pattern[3:] in path.parts
    return any(fnmatch(str(part), pattern) for part in (path, *path.parents) if str(part) != ".")


def _copy(context: Path, allowed: set[Path], sources: list[str], target: Path) -> None:
    for source in sources:
        files = [path for path in allowed if path == Path(source) or Path(source) in path.parents]
        if not files:
            raise ValueError(f"COPY {source}: .dockerignore lets nothing of it through")
        for path in files:
            place = target / path.relative_to(source) if (context / source).is_dir() else target / path.name
            place.parent.mkdir(parents=True, exist_ok=True)
            shutil.copy2(context / path, place)
