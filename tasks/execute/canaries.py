"""Canaries: what no honest codec can fail, whatever its quality, run before a candidate may enter the leaderboard.

Owns the tests and the line between weak and impossible. A decoder that knows a clip beforehand, gets it by a way around
the bitstream, or makes it up, fails one of them:

    again       the same bytes decode twice to the same frames, in two processes
    cross       the bytes of one unseen clip do not decode to another
    empty       no bytes decode to nothing that resembles a clip
    truncated   half of the bytes do not decode to all of the frames
    mirrored    a clip that it was tuned on costs about the same in a mirror

Unseen clips are random textures, made anew in each run. Weak codecs pass: the lines lie where only knowledge that did
not come through the bitstream can lead.
"""

from __future__ import annotations

import secrets
from collections.abc import Callable, Sequence
from typing import Final

from tasks.execute.agents import Agents, Failed
from tasks.execute.clips import LoadedClip, luma_psnr, mirrored, tiny_clip
from tasks.store.records import PointRecord

FRAMES: Final = 4
# An unseen texture's samples have a standard deviation of about 55: grey, or any guess, lies at 13 dB.
RESEMBLES_DB: Final = 20.0
# Mirrored, real codecs cost within a tenth of what they cost before. Memory of a clip costs next to nothing.
MIRRORED_RATIO: Final = 1.5
# So many decibels are worth about a factor of two in bits, for every codec at every rate.
DB_PER_DOUBLING: Final = 4.0


class Cheat(Exception):  # noqa: N818 - a verdict, not an error
    """A canary died. The message says which, with the figures."""


def run_canaries(agents: Agents, tuned_on: Sequence[LoadedClip], points: Sequence[PointRecord]) -> str:
    """One line of what was found. `points` are what was measured on the clips of `tuned_on`.

    Raises Cheat, and Failed where an agent fails on an honest demand.
    """
    seed = secrets.randbits(32)
    quality = max(point.quality for point in points)
    ours, other = tiny_clip(seed, FRAMES), tiny_clip(seed + 1, FRAMES)
    bitstream, foreign = (agents.encode(clip, quality).bitstream for clip in (ours, other))
    decoded = agents.decode(bitstream, ours.shape, quality).planar
    if agents.decode(bitstream, ours.shape, quality).planar != decoded:
        raise Cheat("again: decoding the same bytes twice gives different frames")
    _must_not_resemble("cross: the bytes of another clip", agents, foreign, ours, quality, decoded)
    _must_not_resemble("empty: no bytes at all", agents, b"", ours, quality, decoded)
    halved = _decoded_or_none(lambda: agents.decode(bitstream[: len(bitstream) // 2], ours.shape, quality).planar)
    if halved == decoded:
        raise Cheat("truncated: half of the bytes decode to all of the frames, so the rest comes from elsewhere")
    ratio = _mirrored_ratio(agents, tuned_on[seed % len(tuned_on)], points)
    return f"textures {seed}: {luma_psnr(decoded, ours):.1f} dB; mirrored: {ratio:.2f} times the bits"


def _must_not_resemble(
    what: str, agents: Agents, bitstream: bytes, clip: LoadedClip, quality: float, decoded: bytes
) -> None:
    frames = _decoded_or_none(lambda: agents.decode(bitstream, clip.shape, quality).planar)
    if frames is None:
        return
    if frames == decoded:
        raise Cheat(f"{what} decode to the same frames as its own: the decoder ignores what it gets")
    if (psnr := luma_psnr(frames, clip)) >= RESEMBLES_DB:
        raise Cheat(f"{what} decode to the clip at {psnr:.1f} dB: the decoder knows it by another way")


def _mirrored_ratio(agents: Agents, clip: LoadedClip, points: Sequence[PointRecord]) -> float:
    """Bits of the mirrored clip over bits of the clip, at equal quality, at a rate point that nobody could foresee."""
    before = secrets.choice([point for point in points if point.clip == clip.name])
    image = mirrored(clip)
    bitstream = agents.encode(image, before.quality).bitstream
    psnr = luma_psnr(agents.decode(bitstream, image.shape, before.quality).planar, image)
    ratio = max(1, len(bitstream)) / max(1, before.bytes_total) * 2 ** ((before.psnr_y - psnr) / DB_PER_DOUBLING)
    if ratio > MIRRORED_RATIO:
        raise Cheat(
            f"mirrored: {clip.name} takes {ratio:.1f} times the bits of the same clip unmirrored: the codec knows it "
            f"({before.bytes_total} bytes at {before.psnr_y:.1f} dB, then {len(bitstream)} at {psnr:.1f})"
        )
    return float(ratio)


def _decoded_or_none(decode: Callable[[], bytes]) -> bytes | None:
    """None where the decoder fails, which is what damaged bytes deserve. Raises Failed for what is not its doing."""
    try:
        return decode()
    except Failed as failure:
        if failure.status == "infrastructure":
            raise
        return None
