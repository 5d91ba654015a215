"""How fast the search designer finds good settings, against random ones of the same space, and what each part adds.

    search         fixed starts, then in each iteration one step from a parent on the front and the sampler's points
    starts + TPE   without the step
    starts + step  with random points in place of the sampler's
    starts         with random points alone
    random         random points from the first experiment on, the same as those that the others are given

Two scenes of the demo clip (4 frames each, the middle 120×72 samples) at four rate points, coded and decoded in this
process by each candidate's own code; one that needs more than 4 s of a core for a point is a timeout. Each setting is
measured once and kept in a folder under its candidate's hash, so that all seeds and parts share it and a benchmark that
is stopped goes on from there.

    python benchmarks/search_against_random.py [--cache FOLDER] [--seeds 5] [--experiments 12]
"""

from __future__ import annotations

import argparse
import json
import math
import platform
import random
import signal
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import astuple
from functools import partial
from itertools import accumulate, islice
from pathlib import Path
from statistics import mean
from types import ModuleType
from typing import Any, Final

import torch

# Records are made as the tests make them, which are no package.
sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "tests" / "tasks"))

from sample_records import anchor, experiment, point
from sample_search import Chance

from codec.demo_clip import demo_clip
from codec.errors import EvocodecError
from codec.frames import Frames, VideoFormat
from codec.quality import squared_error
from tasks.campaign import Campaign
from tasks.candidate import Candidate, Lineage
from tasks.design.archive import Archive
from tasks.design.designer import Past
from tasks.design.population import SEEDS
from tasks.design.search import Idea, SearchDesigner, bd_rates, suggest
from tasks.execute.child import to_planar, to_tensor
from tasks.measure.anchors import ANCHOR_QUALITIES, ANCHORS
from tasks.store.records import ExperimentRecord, PointRecord, Status

BATCH = 3
CLOCK_SECONDS = 0.01  # decoding so little may take no more than a tick
LIMIT_SECONDS = 4.0  # of this process, to encode and decode one point
NOBODY = Lineage(id="-")
QUALITIES = (0.2, 0.4, 0.6, 0.8)
FRAMES = slice(44, 52)  # the end of the talking head, the beginning of the zoom
REFERENCE = "x265-medium"
Measured = tuple[Status, list[dict[str, float]]]  # of each rate point, or nothing where coding failed


class Bench:
    """Measures candidates, each once. `cache` keeps what was measured from one run to the next."""

    def __init__(self, cache: Path) -> None:
        self.cache = cache
        cache.mkdir(parents=True, exist_ok=True)
        video, frames = demo_clip()
        self.frames = Frames(*(_middle(plane, size) for plane, size in zip(frames.planes(), (72, 36, 36), strict=True)))
        self.video = VideoFormat(120, 72, video.frame_rate, video.color)
        self.encoded = 0

    def past(self, seed: int) -> Past:
        campaign = Campaign(name="night", seed=seed, candidates=BATCH, qualities=QUALITIES)
        record = anchor(REFERENCE, "x265", "medium")
        codec = Candidate(files=Candidate.load(SEEDS / "evocodec").files, config=ANCHORS[REFERENCE], lineage=NOBODY)
        points = self._points(record.experiment_id, self.measured(codec, ANCHOR_QUALITIES)[1])
        return Past(campaign, 1, (record,), tuple(points))

    def after(self, past: Past, candidates: Sequence[Candidate]) -> Past:
        records: list[ExperimentRecord] = list(past.experiments)
        points: list[PointRecord] = list(past.points)
        for candidate in candidates:
            status, found = self.measured(candidate, QUALITIES)
            records.append(
                experiment(
                    candidate.lineage.id,
                    minutes=len(records),
                    config=candidate.config,
                    code_hash=candidate.code_hash,
                    iteration=past.iteration,
                    parents=candidate.lineage.parents,
                    change_class=candidate.lineage.change_class,
                    status=status,
                )
            )
            points += self._points(candidate.lineage.id, found)
        return Past(past.campaign, past.iteration + 1, tuple(records), tuple(points))

    def measured(self, candidate: Candidate, qualities: Sequence[float]) -> Measured:
        kept = self.cache / f"{candidate.code_hash[:32]}.json"
        if not kept.exists():
            self.encoded += 1
            kept.write_text(json.dumps(self._measured_anew(candidate, qualities)))
        status, found = json.loads(kept.read_text())
        return status, found

    def _measured_anew(self, candidate: Candidate, qualities: Sequence[float]) -> Measured:
        code = loaded(candidate)
        try:
            return "measured", [self._measure(code, candidate.config, quality) for quality in qualities]
        except EvocodecError as error:
            print(f"{candidate.config}: {error}", file=sys.stderr)
            return "crashed", []
        except TimeoutError:
            return "timeout", []
        finally:
            signal.setitimer(signal.ITIMER_PROF, 0)

    def _measure(self, code: Mapping[str, ModuleType], config: Mapping[str, Any], quality: float) -> dict[str, float]:
        tensor = torch.from_numpy(to_tensor(self.frames.to_bytes(), self.video.width, self.video.height))
        signal.setitimer(signal.ITIMER_PROF, LIMIT_SECONDS)
        chosen = {**config, "quality": quality}
        told = {"frame_rate": str(self.video.frame_rate), "color": list(astuple(self.video.color))}
        data = code["encoder"].compress_video_tensor(tensor, chosen | told, "cpu")["compressed_data"]
        began = time.process_time()
        frames = code["decoder"].decompress_video_tensor(data, chosen, "cpu")["reconstructed_frames"]
        seconds = max(time.process_time() - began, CLOCK_SECONDS)
        decoded = Frames.from_bytes(b"".join(to_planar(frame) for frame in frames[0].numpy()), self.video)
        error = mean(squared_error(a, b) for a, b in zip(self.frames.y, decoded.y, strict=True))
        psnr = 10 * math.log10(255**2 * self.frames.y[0].size / max(error, 1))
        kbps = len(data) * 8 * float(self.video.frame_rate) / len(self.frames) / 1000
        return {"quality": quality, "kbps": kbps, "psnr_y": psnr, "decode_fps": len(self.frames) / seconds}

    def _points(self, experiment_id: str, found: Sequence[dict[str, float]]) -> list[PointRecord]:
        return [point(experiment_id, "demo", **dict(values)) for values in found]  # type: ignore[arg-type]


def _middle(plane: Any, rows: int) -> Any:
    top, left = (plane.shape[1] - rows) // 2, (plane.shape[2] - rows * 5 // 3) // 2
    return plane[FRAMES, top : top + rows, left : left + rows * 5 // 3].copy()


def loaded(candidate: Candidate) -> dict[str, ModuleType]:
    """Both modules of a candidate, as its encoder's process has them."""
    modules = {}
    for name in ("decoder", "encoder"):
        modules[name] = sys.modules[name] = ModuleType(name)
        exec(compile(candidate.files[f"{name}.py"], f"{name}.py", "exec"), modules[name].__dict__)
    return modules


class Ablated(SearchDesigner):
    """The search designer without some of its parts; where the sampler is missing, chance takes its place."""

    def __init__(self, seed: int, starts: bool = True, step: bool = False, sampler: bool = False) -> None:
        super().__init__(seed)
        self._with_starts, self._with_step, self._with_sampler = starts, step, sampler

    def _ideas(self, past: Past, archive: Archive, late: Mapping[str, int]) -> Iterator[Idea]:
        if self._with_starts:
            yield from self._starts(past)
        if self._with_step:
            yield from islice(self._step(past, archive, late), 1)
        if self._with_sampler:
            yield from self._sampled(past, archive)
        source = Chance(random.Random(f"{self._seed}/{past.iteration}"))
        while True:
            yield suggest(source), "", "by chance"


PARTS: Final = {
    "search": SearchDesigner,
    "starts + TPE": partial(Ablated, sampler=True),
    "starts + step": partial(Ablated, step=True),
    "starts": Ablated,
    "random": partial(Ablated, starts=False),
}


def search(bench: Bench, designer: SearchDesigner, seed: int, count: int) -> list[float]:
    """The best BD-rate in percent after each experiment."""
    past = bench.past(seed)
    while (left := count + 1 - len(past.experiments)) > 0:
        past = bench.after(past, designer.propose(past, min(BATCH, left)))
    return _bests(past)


def _bests(past: Past) -> list[float]:
    scores = bd_rates(past)
    # Where nothing has a BD-rate yet, the anchor is the best there is.
    return list(accumulate((scores.get(record.experiment_id, 0.0) for record in past.experiments[1:]), min))


def out_of_time(*_: object) -> None:
    raise TimeoutError


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--cache", type=Path, default=Path(".evocodec/search_against_random"))
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--experiments", type=int, default=12)
    arguments = parser.parse_args()
    began, bench = time.process_time(), Bench(arguments.cache)
    seeds = range(arguments.seeds)
    torch.set_num_threads(1)
    signal.signal(signal.SIGPROF, out_of_time)
    columns = {
        name: [search(bench, make(seed), seed, arguments.experiments) for seed in seeds] for name, make in PARTS.items()
    }
    print(f"best BD-rate in percent so far against {REFERENCE}, mean and range over {len(seeds)} seeds")
    print(f"{'experiments':>11}  {'  '.join(f'{name:>24}' for name in columns)}")
    for count in range(1, arguments.experiments + 1):
        shown = (_shown([bests[count - 1] for bests in runs]) for runs in columns.values())
        print(f"{count:>11}  {'  '.join(f'{text:>24}' for text in shown)}")
    seconds = time.process_time() - began
    print(f"{bench.encoded} settings measured anew, {seconds:.0f} s of one core on {platform.machine()}")


def _shown(values: Sequence[float]) -> str:
    return f"{mean(values):.1f} ({min(values):.1f} … {max(values):.1f})"


if __name__ == "__main__":
    main()
