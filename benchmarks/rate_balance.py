"""What one encode tells of how far its rate is from the best one: log2 of D over lambda·R against octaves of lambda.

For each scene, quality and encoder all rates around the predicted one are encoded. What `codec.selector` makes of it,
OCTAVES_OFF, is the slope of the fit.

    python benchmarks/rate_balance.py calendar:17 talk512:17 coffee720:13 parkjoy:10 bunny1080:9 demo:17 --size 480 270
"""

from __future__ import annotations

import argparse
import platform
from math import log2
from pathlib import Path

import cv2
import numpy as np
from auto_against_encoders import CLIPS, read
from encoder_options import middle

from codec.coding import Coding, run_coding
from codec.rate_distortion import KNOBS, lambda_of_quality

QUALITIES = (0.03, 0.1, 0.2, 0.4, 0.6)
FAMILIES = (
    (Coding("vvc", "faster", options=(("gopsize", "16"),)), range(-7, 5)),
    (Coding("av1", "6"), range(-10, 9, 2)),
    (Coding("x265", "medium"), range(-6, 5)),
)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("clips", nargs="+", help="NAME:FRAMES; demo is the demo clip")
    parser.add_argument("--clip-folder", type=Path, default=CLIPS)
    parser.add_argument("--size", nargs=2, type=int, default=[480, 270], help="at most, in luma samples")
    order = parser.parse_args()
    cv2.setNumThreads(1)
    print(
        f"{platform.machine()}; octaves off: of the best rate found, finer is positive; loss: of cost at the predicted"
    )
    found: dict[str, list[tuple[float, float, float]]] = {}
    for words in order.clips:
        name, _, count = words.partition(":")
        frames, video = middle(*read(name, int(count or 17), order.clip_folder), *order.size)
        for quality in QUALITIES:
            lambda_rd = lambda_of_quality(quality)
            for family, offsets in FAMILIES:
                knob = KNOBS[family.strategy]
                predicted = round(knob.at(lambda_rd))
                rates = [predicted + offset for offset in offsets if knob.low <= predicted + offset <= knob.high]
                trials = {rate: run_coding(family.at(rate), frames, video)[1] for rate in rates}
                costs = {rate: trial.cost(lambda_rd) for rate, trial in trials.items()}
                best, here = min(costs, key=costs.__getitem__), trials[predicted]
                off = log2(knob.lambda_at(predicted) / knob.lambda_at(best))
                told = log2(here.distortion / (lambda_rd * 8 * here.bytes))
                loss = costs[predicted] / costs[best] - 1
                found.setdefault(family.strategy, []).append((told, off, loss))
                print(
                    f"{name:<10} quality {quality:<4} {family.strategy:<5} predicted {predicted}, best {best}: "
                    f"{off:+.2f} octaves off, log2(D / lambda R) {told:+.2f}, loss {loss:.1%}",
                    flush=True,
                )
    for strategy, rows in found.items():
        told, off, loss = np.array(rows).T
        slope, offset = np.polyfit(told, off, 1)
        print(
            f"{strategy:<5} octaves off = {slope:.2f} · log2(D / lambda R) {offset:+.2f}, correlation "
            f"{np.corrcoef(told, off)[0, 1]:.2f}; loss {loss.mean():.1%} in the mean, {loss.max():.1%} at most"
        )


if __name__ == "__main__":
    main()
