"""What the strict sandbox costs: entering it, and a convolution inside it, beside a process without it.

    python benchmarks/sandbox_overhead.py

Each run is a fresh process on one thread; the two kinds take turns, and the medians are shown.
"""

from __future__ import annotations

import json
import os
import platform
import statistics
import subprocess
import sys

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


def main() -> None:
    found: dict[str, list[dict[str, float]]] = {"process": [], "sandbox": []}
    for _ in range(RUNS):
        for kind, results in found.items():
            command = [sys.executable, "-I", "-c", CHILD, kind, str(os.getpid())]
            results.append(json.loads(subprocess.run(command, capture_output=True, text=True, check=True).stdout))
    print(f"{platform.machine()}, Linux {platform.release()}, {os.cpu_count()} cores; medians of {RUNS} runs, ms")
    print(f"{'':<14}{'process':>10}{'sandbox':>10}")
    for what in ("enter", "import torch", "convolution"):
        medians = [statistics.median(result[what] for result in results) * 1000 for results in found.values()]
        print(f"{what:<14}{medians[0]:>10.1f}{medians[1]:>10.1f}")


if __name__ == "__main__":
    main()
