"""Whether memory stays bounded on ten minutes of film and on 4K: peak memory and time of encoding and decoding.

The clips are made from a real one: played over and over to ten minutes of 640×360, and enlarged to 3840×2160. Each
command runs as a user would run it, in a process of its own; decoding checks every scene's hash.

    python benchmarks/long_and_large.py /tmp/large --effort 0
"""

from __future__ import annotations

import argparse
import os
import platform
import subprocess
import sys
import time
from pathlib import Path

import imageio_ffmpeg

CLIPS = Path(__file__).resolve().parents[2] / "shared" / "clips"
MADE = {
    # ten minutes at 25 frames a second: four scenes of 30 frames, 125 times
    "long": ("mixed360", ("-stream_loop", "124"), ()),
    "large": ("bunny1080", (), ("-vf", "scale=3840:2160:flags=lanczos")),
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path, help="for the clips that are made, up to 1 GB")
    parser.add_argument("--clip-folder", type=Path, default=CLIPS)
    parser.add_argument("--effort", type=int, default=0)
    parser.add_argument("--workers", type=int, default=1)
    parser.add_argument("--only", choices=list(MADE))
    order = parser.parse_args()
    order.folder.mkdir(parents=True, exist_ok=True)
    print(f"effort {order.effort}, {order.workers} workers, {platform.machine()}")
    for name in [order.only] if order.only else MADE:
        source, coded = make(name, order), order.folder / f"{name}.evc"
        for words in (
            ("encode", str(source), str(coded), "--effort", str(order.effort), "--workers", str(order.workers)),
            ("decode", str(coded), str(order.folder / f"{name}.out.mkv"), "--verify"),
        ):
            seconds, peak = run(words)
            print(
                f"{name:<6} {words[0]} {seconds:7.0f} s, at most {peak:5.0f} MB"
                f"   {source.stat().st_size} bytes in, {coded.stat().st_size} coded",
                flush=True,
            )
        (order.folder / f"{name}.out.mkv").unlink()


def make(name: str, order: argparse.Namespace) -> Path:
    made = order.folder / f"{name}.mkv"
    if not made.exists():
        source, before, after = MADE[name]
        clip = str(order.clip_folder / f"{source}.mkv")
        ffmpeg = [imageio_ffmpeg.get_ffmpeg_exe(), "-y", "-loglevel", "error", *before, "-i", clip, *after]
        partial = made.with_suffix(".partial.mkv")
        subprocess.run([*ffmpeg, "-c:v", "libx264", "-preset", "ultrafast", "-crf", "12", str(partial)], check=True)
        partial.rename(made)
    return made


def run(words: tuple[str, ...]) -> tuple[float, float]:
    """Seconds and peak resident MB of one evocodec command; its own largest process, not their sum."""
    began = time.perf_counter()
    process = subprocess.Popen([sys.executable, "-m", "flows.cli", *words], stdout=subprocess.DEVNULL)
    _, status, usage = os.wait4(process.pid, 0)
    if status:
        raise SystemExit(f"evocodec {' '.join(words)} ended with {os.waitstatus_to_exitcode(status)}")
    return time.perf_counter() - began, usage.ru_maxrss / 1024


if __name__ == "__main__":
    main()
