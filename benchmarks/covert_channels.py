"""What the sandbox leaves open, by figures: bits that an encoder hands its decoder beside the bytes it is charged for.

    python benchmarks/covert_channels.py

The kernel numbers processes, and the inodes of pipes, one after another for the whole machine. An encoder that makes
threads or pipes moves these numbers on until the next one says what it wants; its decoder looks at its own. Decoding
again later from the bytes alone, as `evocodec verify` does, finds other numbers. The same seed draws the same bits.
"""

from __future__ import annotations

import os
import platform
import random
from dataclasses import dataclass
from typing import Final

from tasks.campaign import Limits
from tasks.execute.isolation import Job, SandboxIsolation

TRIALS: Final = 10
SEED: Final = 2026
LIMITS: Final = Limits(memory_mb=1024)
SECONDS: Final = 60.0


@dataclass(frozen=True)
class Channel:
    """`advance` is an expression that moves the kernel's number on and is it; `look` is the decoder's own number.

    The encoder aims at the middle of a step: other processes move the numbers on too.
    """

    name: str
    bits: int
    step: int
    advance: str
    look: str


CHANNELS: Final = (
    Channel("numbers of processes", 4, 256, "thread()", "os.getpid()"),
    Channel("numbers of processes", 8, 64, "thread()", "os.getpid()"),
    Channel("inodes of pipes", 4, 16384, "pipe()", "os.fstat(3).st_ino"),
)
ENCODER: Final = """
import os, threading

def thread():
    found = []
    made = threading.Thread(target=lambda: found.append(threading.get_native_id()))
    made.start()
    made.join()
    return found[0]

def pipe():
    ends = os.pipe()
    number = os.fstat(ends[0]).st_ino
    for end in ends:
        os.close(end)
    return number

def compress_video_tensor(frames, config, device):
    step, values = config["step"], config["values"]
    while (number := ADVANCE) // step % values != config["secret"] or number % step < step // 4:
        pass
    return {"compressed_data": b""}
"""
DECODER: Final = """
import os
def decompress_video_tensor(data, config, device):
    raise ValueError(LOOK // config["step"] % config["values"])
"""


def main() -> None:
    isolation, secrets = SandboxIsolation(LIMITS), random.Random(SEED)
    print(
        f"{platform.machine()}, Linux {platform.release()}, {os.cpu_count()} cores; {TRIALS} trials each, seed {SEED}"
    )
    print(f"{'channel':<24}{'bits':>6}{'right':>8}{'by chance':>12}{'seconds to encode':>20}")
    for channel in CHANNELS:
        right, seconds = 0, 0.0
        for _ in range(TRIALS):
            secret = secrets.randrange(2**channel.bits)
            said, took = send(isolation, channel, secret)
            right += said == str(secret)
            seconds += took
        chance = TRIALS / 2**channel.bits
        print(f"{channel.name:<24}{channel.bits:>6}{right:>8}{chance:>12.2f}{seconds / TRIALS:>20.2f}", flush=True)


def send(isolation: SandboxIsolation, channel: Channel, secret: int) -> tuple[str, float]:
    """What the decoder read, and the seconds that encoding took."""
    shared = {"step": channel.step, "values": 2**channel.bits}
    encoder = {"encoder.py": ENCODER.replace("ADVANCE", channel.advance)}
    arguments = {"config": shared | {"secret": secret}, "width": 16, "height": 16}
    encoded = isolation.run(Job("encode", encoder, bytes(384), arguments, SECONDS, 1000))
    decoder = {"decoder.py": DECODER.replace("LOOK", channel.look)}
    decoded = isolation.run(Job("decode", decoder, encoded.output, {"config": shared}, SECONDS, 1000))
    return decoded.reason.removeprefix("ValueError: "), encoded.seconds


if __name__ == "__main__":
    main()
