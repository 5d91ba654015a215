"""How fast the search designer finds good settings, against random settings of the same space, on real encodes.

Two scenes of the demo clip (8 frames each, the middle 160×96 samples) at four rate points, coded and decoded in this
process. Each setting is measured once and kept in a folder under its candidate's hash, so that all seeds share it.

    python benchmarks/search_against_random.py [--cache FOLDER] [--seeds 5] [--experiments 12]
"""

from __future__ import annotations

import argparse
import json
import math
import platform
import random
import sys
import time
from collections.abc import Mapping, Sequence
from itertools import accumulate
from pathlib import Path
from statistics import mean
from typing import Any

# Records are made as the tests make them, which are no package.
sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "tests" / "tasks"))

from sample_records import anchor, experiment, point
from sample_search import Chance

from codec.config import CodecConfig
from codec.decoding_agent import decode_bytes
from codec.demo_clip import demo_clip
from codec.encoding_agent import EncodingAgent
from codec.errors import EvocodecError
from codec.frames import Frames, VideoFormat
from codec.quality import squared_error
from tasks.campaign import Campaign
from tasks.candidate import Candidate, Lineage
from tasks.design.designer import Past
from tasks.design.search import SEED_FOLDER, SearchDesigner, bd_rates, suggest, to_config
from tasks.measure.anchors import ANCHOR_QUALITIES, ANCHORS
from tasks.store.records import ExperimentRecord, PointRecord

BATCH = 3
QUALITIES = (0.2, 0.4, 0.6, 0.8)
FRAMES = slice(40, 56)  # the end of the talking head, the beginning of the zoom
REFERENCE = "x265-medium"
Measured = list[dict[str, float]]  # of each rate point, or nothing where coding failed


class Bench:
    """Measures candidates, each once. `cache` keeps what was measured from one run to the next."""

    def __init__(self, cache: Path) -> None:
        self.cache = cache
        cache.mkdir(parents=True, exist_ok=True)
        video, frames = demo_clip()
        self.frames = Frames(*(_middle(plane, size) for plane, size in zip(frames.planes(), (96, 48, 48), strict=True)))
        self.video = VideoFormat(160, 96, video.frame_rate, video.color)
        self.encoded = 0

    def past(self, seed: int) -> Past:
        campaign = Campaign(name="night", seed=seed, candidates=BATCH, qualities=QUALITIES)
        record = anchor(REFERENCE, "x265", "medium")
        points = self._points(record.experiment_id, self.measured(ANCHORS[REFERENCE], ANCHOR_QUALITIES))
        return Past(campaign, 1, (record,), tuple(points))

    def after(self, past: Past, candidates: Sequence[Candidate]) -> Past:
        records: list[ExperimentRecord] = list(past.experiments)
        points: list[PointRecord] = list(past.points)
        for candidate in candidates:
            found = self.measured(candidate.config, QUALITIES)
            records.append(
                experiment(
                    candidate.lineage.id,
                    minutes=len(records),
                    config=candidate.config,
                    code_hash=candidate.code_hash,
                    iteration=past.iteration,
                    parents=candidate.lineage.parents,
                    change_class=candidate.lineage.change_class,
                    status="measured" if found else "crashed",
                )
            )
            points += self._points(candidate.lineage.id, found)
        return Past(past.campaign, past.iteration + 1, tuple(records), tuple(points))

    def measured(self, config: Mapping[str, Any], qualities: Sequence[float]) -> Measured:
        kept = self.cache / f"{candidate_of(config).code_hash[:32]}.json"
        if not kept.exists():
            self.encoded += 1
            try:
                found = [self._measure(config, quality) for quality in qualities]
            except EvocodecError as error:
                print(f"{config}: {error}", file=sys.stderr)
                found = []
            kept.write_text(json.dumps(found))
        found = json.loads(kept.read_text())
        return list(found)

    def _measure(self, config: Mapping[str, Any], quality: float) -> dict[str, float]:
        agent = EncodingAgent(CodecConfig.parse({**config, "quality": quality}))
        data, _ = agent.encode_bytes(self.frames, self.video)
        began = time.process_time()
        _, decoded = decode_bytes(data)
        seconds = time.process_time() - began
        error = mean(squared_error(a, b) for a, b in zip(self.frames.y, decoded.y, strict=True))
        psnr = 10 * math.log10(255**2 * self.frames.y[0].size / max(error, 1))
        kbps = len(data) * 8 * float(self.video.frame_rate) / len(self.frames) / 1000
        return {"quality": quality, "kbps": kbps, "psnr_y": psnr, "decode_fps": len(self.frames) / seconds}

    def _points(self, experiment_id: str, found: Measured) -> list[PointRecord]:
        return [point(experiment_id, "demo", **dict(values)) for values in found]  # type: ignore[arg-type]


def _middle(plane: Any, rows: int) -> Any:
    top, left = (plane.shape[1] - rows) // 2, (plane.shape[2] - rows * 5 // 3) // 2
    return plane[FRAMES, top : top + rows, left : left + rows * 5 // 3].copy()


def candidate_of(config: Mapping[str, Any], name: str = "-") -> Candidate:
    return Candidate(files=Candidate.load(SEED_FOLDER).files, config=dict(config), lineage=Lineage(id=name))


def search(bench: Bench, seed: int, count: int) -> list[float]:
    """The best BD-rate in percent after each experiment of the search designer."""
    past, designer = bench.past(seed), SearchDesigner(seed)
    while (left := count + 1 - len(past.experiments)) > 0:
        past = bench.after(past, designer.propose(past, min(BATCH, left)))
    return _bests(past)


def chance(bench: Bench, seed: int, count: int) -> list[float]:
    """The same of settings drawn at random, none twice."""
    source = Chance(random.Random(seed))
    drawn: dict[str, Candidate] = {}
    while len(drawn) < count:
        candidate = candidate_of(to_config(suggest(source)), f"random-{len(drawn)}")
        drawn.setdefault(candidate.code_hash, candidate)
    return _bests(bench.after(bench.past(seed), list(drawn.values())))


def _bests(past: Past) -> list[float]:
    scores = bd_rates(past)
    # Where nothing has a BD-rate yet, the anchor is the best there is.
    return list(accumulate((scores.get(record.experiment_id, 0.0) for record in past.experiments[1:]), min))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--cache", type=Path, default=Path(".evocodec/search_against_random"))
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--experiments", type=int, default=12)
    arguments = parser.parse_args()
    began, bench = time.process_time(), Bench(arguments.cache)
    seeds = range(arguments.seeds)
    searched = [search(bench, seed, arguments.experiments) for seed in seeds]
    drawn = [chance(bench, seed, arguments.experiments) for seed in seeds]
    print(f"best BD-rate in percent so far against {REFERENCE}, mean and range over {len(seeds)} seeds")
    print(f"{'experiments':>11}  {'search':>24}  {'random':>24}")
    for count in range(1, arguments.experiments + 1):
        shown = (_shown([bests[count - 1] for bests in runs]) for runs in (searched, drawn))
        print(f"{count:>11}  {'  '.join(f'{text:>24}' for text in shown)}")
    seconds = time.process_time() - began
    print(f"{bench.encoded} settings measured anew, {seconds:.0f} s of one core on {platform.machine()}")


def _shown(values: Sequence[float]) -> str:
    return f"{mean(values):.1f} ({min(values):.1f} … {max(values):.1f})"


if __name__ == "__main__":
    main()
