"""The noise of a candidate: by how much its curve moves when it encodes the same clips again.

An encoder that trains a network, or races with its own threads, does not make the same bytes twice. A difference
smaller than this is no improvement.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor

from codec.frames import Frames
from tasks.analyze.bd_rate import bd_rate, curve_distance
from tasks.execute.agents import Agents
from tasks.execute.clips import LoadedClip
from tasks.measure.score import CodedClip, score
from tasks.store.records import PointRecord


def encode_again(
    agents: Agents, clips: Sequence[LoadedClip], points: Sequence[PointRecord], workers: int = 2
) -> dict[str, float]:
    """By clip, how far the curve of a second encode of the same frames lies from `points`, in percent of bits.

    Zero where every byte is the same; a clip whose two curves do not compare has no entry. Raises Failed.
    """
    noise: dict[str, float] = {}
    by_name = {clip.name: clip for clip in clips}
    with ThreadPoolExecutor(workers, thread_name_prefix="again") as pool:
        repeated = list(pool.map(lambda point: _again(agents, by_name[point.clip], point), points))
    for clip in clips:
        first = [point for point in points if point.clip == clip.name]
        second = [point for point in repeated if point.clip == clip.name]
        if second == first:
            noise[clip.name] = 0.0
        elif bd_rate(first, second).percent is not None and (distance := curve_distance(first, second)) is not None:
            noise[clip.name] = distance
    return noise


def _again(agents: Agents, clip: LoadedClip, point: PointRecord) -> PointRecord:
    """The same point where the bytes are the same: what they decode to is known then."""
    encoded = agents.encode(clip, point.quality)
    if hashlib.sha256(encoded.bitstream).hexdigest() == point.bitstream_hash:
        return point
    decoded = agents.decode(encoded.bitstream, clip.shape, point.quality)
    coded = CodedClip(
        quality=point.quality,
        bitstream=encoded.bitstream,
        decoded=Frames.from_bytes(decoded.planar, clip.video),
        encode_seconds=encoded.seconds,
        decode_seconds=decoded.seconds,
    )
    scored, _ = score(clip, coded, campaign=point.campaign, experiment_id=point.experiment_id)
    return scored
