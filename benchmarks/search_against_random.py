"""How fast the search designer finds good settings, against random settings from the same space.

Runs on a made-up objective (tests/tasks/sample_search.py), so it says how the search searches, not how codecs compare.

    python benchmarks/search_against_random.py
"""

from __future__ import annotations

import platform
import sys
import time
from itertools import product
from pathlib import Path
from statistics import mean

# The objective is shared with the tests, which are no package.
sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "tests" / "tasks"))

from sample_search import random_bests, rate_factor, search_bests

from tasks.design.search import SCALES, SHIFTS, SPACE, to_config

SEARCH_SEEDS = range(5)
# Drawing costs nothing, and with few seeds the luck of the draw is larger than the difference looked for.
RANDOM_SEEDS = range(200)
EXPERIMENTS = 24
BATCH = 3


def optimum() -> float:
    """The best BD-rate of the whole space, in percent."""
    return min(
        100 * (rate_factor(to_config(point | {"strategy": strategy, f"{strategy}.preset": preset})) - 1)
        for strategy, space in SPACE.items()
        for preset, scale, cuts, shift in product(space.presets, SCALES, (True, False), SHIFTS)
        for point in ({"scale": scale, "scene_cuts": cuts, "shift": shift},)
    )


def main() -> None:
    began = time.perf_counter()
    searched = [search_bests(seed, EXPERIMENTS, BATCH) for seed in SEARCH_SEEDS]
    drawn = [random_bests(seed, EXPERIMENTS) for seed in RANDOM_SEEDS]
    print(f"best BD-rate in percent so far; the optimum of the space is {optimum():.1f}")
    print(f"means over {len(SEARCH_SEEDS)} seeds of search, {len(RANDOM_SEEDS)} of random")
    print(f"{'experiments':>11}  {'search':>7}  {'random':>7}")
    for count in range(BATCH, EXPERIMENTS + 1, BATCH):
        search, chance = (mean(bests[count - 1] for bests in runs) for runs in (searched, drawn))
        print(f"{count:>11}  {search:>7.1f}  {chance:>7.1f}")
    print(f"{time.perf_counter() - began:.1f} s on {platform.machine()}, Python {platform.python_version()}")


if __name__ == "__main__":
    main()
