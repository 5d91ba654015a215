"""What the strict sandbox costs: entering it, and a convolution inside it, beside a process without it.

    python benchmarks/sandbox_overhead.py

Each run is a fresh process on one thread; the two kinds take turns, and the medians are shown. "a job" is what the
evaluator does: a process forked from one that has imported torch, from the request to the end of a decoder that returns
at once.
"""

from __future__ import annotations

import json
import os
import platform
import statistics
import subprocess
import sys
import time

from tasks.campaign import Limits
from tasks.execute.isolation import Isolation, Job, ProcessIsolation, SandboxIsolation

RUNS = 7
CHILD = """
import json, os, sys, time
inside, parent = sys.argv[1] == "sandbox", int(sys.argv[2])
from tasks.execute import sandbox
from tasks.execute.sandbox import limits
limits.bound(4 << 30, 600, 256, strict=inside)
clock = time.perf_counter()
if inside:
    sandbox.enter("cpu", parent)
entered = time.perf_counter() - clock
clock = time.perf_counter()
import torch
imported = time.perf_counter() - clock
torch.set_num_threads(1)
network, frames = torch.nn.Conv2d(32, 32, 3, padding=1), torch.zeros(1, 32, 180, 320)
seconds = []
with torch.no_grad():
    for _ in range(12):
        clock = time.perf_counter()
        network(frames)
        seconds.append(time.perf_counter() - clock)
print(json.dumps({"enter": entered, "import torch": imported, "convolution": sorted(seconds)[len(seconds) // 2]}))
"""


DECODER = """
import torch
def decompress_video_tensor(data, config, device):
    return {"reconstructed_frames": torch.zeros(1, 1, 3, 16, 16, dtype=torch.uint8)}
"""


def seconds_of_a_job(isolation: Isolation) -> float:
    job = Job("decode", {"decoder.py": DECODER}, b"", {"config": {}}, 60, 10_000)
    clock = time.perf_counter()
    outcome = isolation.run(job)
    assert outcome.status == "ok", outcome.reason
    return time.perf_counter() - clock


def main() -> None:
    found: dict[str, list[dict[str, float]]] = {"process": [], "sandbox": []}
    isolations: dict[str, Isolation] = {"process": ProcessIsolation(Limits()), "sandbox": SandboxIsolation(Limits())}
    seconds_of_a_job(isolations["process"])  # starts the fork server
    for _ in range(RUNS):
        for kind, results in found.items():
            command = [sys.executable, "-I", "-c", CHILD, kind, str(os.getpid())]
            results.append(json.loads(subprocess.run(command, capture_output=True, text=True, check=True).stdout))
            results[-1]["a job"] = seconds_of_a_job(isolations[kind])
    print(f"{platform.machine()}, Linux {platform.release()}, {os.cpu_count()} cores; medians of {RUNS} runs, ms")
    print(f"{'':<14}{'process':>10}{'sandbox':>10}")
    for what in ("enter", "import torch", "convolution", "a job"):
        medians = [statistics.median(result[what] for result in results) * 1000 for results in found.values()]
        print(f"{what:<14}{medians[0]:>10.1f}{medians[1]:>10.1f}")


if __name__ == "__main__":
    main()
