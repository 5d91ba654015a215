"""The container images: what they hold, what they do not, and that the loop's does its work when built."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
import time
import tomllib
from collections.abc import Iterable
from dataclasses import replace
from importlib import metadata
from pathlib import Path
from typing import Any

import dockerfile
import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name
from running import clean_environment

ROOT = Path(__file__).resolve().parents[2]
HERE = Path(__file__).resolve().parent
EXTRAS = {"loop": "openai", "gpu": "codec"}
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
CODEC = {canonicalize_name(Requirement(line).name) for line in PROJECT["optional-dependencies"]["codec"]}
LOOP = [*PROJECT["dependencies"], *PROJECT["optional-dependencies"]["openai"]]
# Optuna and bjontegaard bring this one themselves.
SHARED = {"numpy"}


@pytest.mark.parametrize("name", EXTRAS)
def test_an_image_runs_as_nobody_in_particular_and_holds_no_key(name: str) -> None:
    image = dockerfile.read(ROOT / "infra" / f"{name}.Dockerfile")
    assert image.user == "10001:10001"
    assert image.steps[-2].instruction == "USER", "a step after USER could become root again"
    assert not [key for key in image.environment if "KEY" in key or "SECRET" in key or "TOKEN" in key]
    assert "KEY" not in " ".join(image.runs).upper()
    assert f'".[{EXTRAS[name]}]"' in image.runs[0]
    # /tmp is the one place that can be written to in either container.
    assert {image.environment[key].split("/")[1] for key in ("HOME", "PREFECT_HOME", "MPLCONFIGDIR")} == {"tmp"}
    (base,) = image.bases
    assert base.rpartition(":")[2] not in ("", "latest"), "the base has no tag"


def test_nothing_but_sources_travels_to_the_builder(tmp_path: Path) -> None:
    for name in (".env", "key.pem", ".evocodec/prefect.db", "clips/film.mp4", "codec/a.py", "codec/__pycache__/a.pyc"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text("x")
    sent = dockerfile.sent(tmp_path, ROOT / ".dockerignore")
    assert sent == {Path("codec/a.py")}


def test_the_loop_requires_nothing_that_touches_a_frame() -> None:
    required = closure(LOOP)
    assert "prefect-aws" in required
    assert "numpy" in required
    assert required & CODEC <= SHARED
    assert not {name for name in required if name.startswith(("nvidia", "triton", "torch"))}


def test_the_loop_works_without_the_codecs_libraries(tmp_path: Path) -> None:
    """What the loop's image does not have is put out of reach of a process that then does the loop's work."""
    present = closure(LOOP)
    missing = {
        module
        for module, owners in metadata.packages_distributions().items()
        if not {canonicalize_name(owner) for owner in owners} & (present | {"evocodec"})
    }
    assert {"torch", "cv2", "av", "skimage", "thop"} <= missing
    done = loop_at_work(tmp_path, sorted(missing - {"setuptools", "pip", "sitecustomize"}))
    assert done["torch"] is False
    assert done["designed"] == 3
    assert done["bd_rate"] == pytest.approx(-20, abs=0.1)
    assert done["ranked"] == ["night-001-1", "night-x265-medium"]
    assert done["report_bytes"] > 1_000_000  # plotly.js is in it
    assert done["prompt_characters"] > 10_000
    assert "no Prefect server answers" in done["refused"]
    assert "is not installed: pip install 'evocodec[codec]'" in done["needs_the_codec"]
    gpu = dockerfile.read(ROOT / "infra" / "gpu.Dockerfile")
    assert list(gpu.command) == done["ecs_command"], "what the ECS worker starts in a GPU task"


@pytest.mark.slow
def test_the_loops_image_builds_in_a_clean_root_and_works_read_only(tmp_path: Path) -> None:
    """Every step of its Dockerfile, in a fresh Debian of the same release; then the loop's work as the image's user."""
    image = dockerfile.read(ROOT / "infra" / "loop.Dockerfile")
    root = built(image, tmp_path / "root")
    listed = dockerfile.run(root, ["pip", "list", "--format", "json"], image.environment)
    installed = {canonicalize_name(row["name"]) for row in json.loads(listed.splitlines()[0])}
    assert installed & CODEC <= SHARED
    work = root / "srv"
    for script in (HERE / "loop_at_work.py", ROOT / "tests" / "tasks" / "sample_records.py"):
        shutil.copy(script, work)
    argv = "sys.path[:0], sys.argv = ['/srv'], ['', '/tmp']"
    program = f"import runpy, sys; {argv}; runpy.run_path('/srv/loop_at_work.py', {{}}, '__main__')"
    output = as_the_image_runs(root, image, ["python", "-I", "-c", program])
    assert json.loads(output.splitlines()[-1])["designed"] == 3
    with pytest.raises(subprocess.CalledProcessError, match="touch"):
        as_the_image_runs(root, image, ["touch", "/usr/x"])
    subprocess.run(["rm", "-rf", "--one-file-system", root], check=True)  # 1.2 GB


@pytest.mark.slow
def test_the_gpu_workers_image_builds_in_a_clean_root_and_measures_read_only(tmp_path: Path) -> None:
    """The same, with whatever torch the index gives: where that is one without CUDA, the step that asks is left out."""

    image = dockerfile.read(ROOT / "infra" / "gpu.Dockerfile")
    asks = ' && python -c "import torch; assert torch.version.cuda'
    has_cuda = subprocess.run(
        [sys.executable, "-c", "import torch, sys; sys.exit(not torch.version.cuda)"], check=False
    )
    if has_cuda.returncode:
        steps = [replace(step, text=re.sub(re.escape(asks) + r'[^"]*"', "", step.text)) for step in image.steps]
        assert tuple(steps) != image.steps
        image = replace(image, steps=tuple(steps))
    root = built(image, tmp_path / "root")
    program = (
        "from pathlib import Path; import subprocess, sys, tasks.design; "
        "seed = Path(tasks.design.__file__).parent / 'seeds' / 'evocodec'; "
        "sys.exit(subprocess.run(['evocodec', 'try', str(seed), '--max-frames', '4', '--json']).returncode)"
    )
    output = as_the_image_runs(root, image, ["python", "-I", "-c", program])
    measured, _ = json.JSONDecoder().raw_decode(output[output.index("{") :])
    assert (measured["status"], measured["isolation"]) == ("measured", "sandbox")
    subprocess.run(["rm", "-rf", "--one-file-system", root], check=True)


def built(image: dockerfile.Image, folder: Path) -> Path:
    if os.geteuid() != 0 or not shutil.which("debootstrap") or not shutil.which("unshare"):
        pytest.skip("needs root, debootstrap and unshare to make a clean root")
    root = clean_root(folder)
    wheels = Path(os.environ.get("PIP_FIND_LINKS", "").removeprefix("file://"))
    if wheels.is_absolute() and wheels.is_dir():
        shutil.copytree(wheels, root / wheels.relative_to("/"))
    before, started = size_mb(root), time.monotonic()
    dockerfile.build(image, ROOT, ROOT / ".dockerignore", root)
    print(f"built in {time.monotonic() - started:.0f} s: {size_mb(root) - before} MB upon a base of {before} MB")
    return root


def as_the_image_runs(root: Path, image: dockerfile.Image, command: list[str]) -> str:
    return dockerfile.run(root, command, image.environment, workdir=image.workdir, user=image.user, read_only=True)


def closure(lines: Iterable[str]) -> set[str]:
    """The names of what these requirements bring with them, by what is installed here."""
    found: set[str] = set()
    waiting = [(requirement.name, requirement.extras) for requirement in map(Requirement, lines)]
    while waiting:
        name, extras = waiting.pop()
        key = canonicalize_name(name)
        if key in found and not extras:
            continue
        found.add(key)
        for line in metadata.requires(name) or ():
            requirement = Requirement(line)
            environments = [{"extra": extra} for extra in (*extras, "")]
            if requirement.marker is None or any(map(requirement.marker.evaluate, environments)):
                waiting.append((requirement.name, requirement.extras))
    return found


def loop_at_work(folder: Path, out_of_reach: list[str]) -> dict[str, Any]:
    environment = clean_environment() | {
        "PYTHONPATH": os.pathsep.join([str(ROOT), str(ROOT / "tests" / "tasks")]),
        "PREFECT_HOME": str(folder / "prefect"),
    }
    command = [sys.executable, str(HERE / "loop_at_work.py"), str(folder), *out_of_reach]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=120, check=False)
    assert done.returncode == 0, done.stderr[-3000:]
    found: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return found


def clean_root(root: Path) -> Path:
    """What `python:3.11-slim-bookworm` amounts to: Debian's smallest, with Python and pip in /usr/local."""
    mirror = "http://deb.debian.org/debian"
    packages = "--include=python3-venv,ca-certificates"
    subprocess.run(["debootstrap", "--variant=minbase", packages, "bookworm", root, mirror], check=True)
    for name in ("etc/resolv.conf", "etc/hosts", "etc/ssl/certs/ca-certificates.crt"):
        shutil.copy(Path("/") / name, root / name)
    dockerfile.run(root, ["python3", "-m", "venv", "/usr/local"], {})
    return root


def size_mb(root: Path) -> int:
    return int(subprocess.run(["du", "-sm", root], capture_output=True, text=True, check=True).stdout.split()[0])
