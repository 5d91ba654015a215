"""H.264 by x264, in process through PyAV: the quickest of the strategies; every device decodes it."""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial

from av.bitstream import BitStreamFilterContext
from av.packet import Packet

from codec.frames import Frames, VideoFormat
from codec.strategies.annex_b import nal_units, with_start_codes
from codec.strategies.elementary import ElementaryStrategy, encode_with_pyav, join_options
from codec.strategies.packing import Packing

PRESETS = (
    "ultrafast",
    "superfast",
    "veryfast",
    "faster",
    "fast",
    "medium",
    "slow",
    "slower",
    "veryslow",
    "placebo",
)
SEI_NAL_TYPE = 6
SLICE_NAL_TYPES, PARAMETER_NAL_TYPES = range(1, 6), range(7, 9)


def encode_stream(frames: Frames, video: VideoFormat, rate: float, preset: str, options: Mapping[str, str]) -> bytes:
    """H.264 Annex B at CRF `rate`. `options` are x264's own, besides `tune`.

    One thread, since x264's frame threads change its bytes.
    """
    own = {key: value for key, value in options.items() if key != "tune"}
    settings = {"preset": preset, "crf": f"{rate:g}", "threads": "1", "tune": options.get("tune", "psnr")}
    settings["x264opts"] = join_options("x264", {"keyint": "infinite", **own})
    return _without_sei(encode_with_pyav("libx264", frames, video, settings))


def _without_sei(packets: list[bytes]) -> bytes:
    """x264 cannot be told to leave out the 700 bytes of settings that it writes into a SEI message."""
    drop = BitStreamFilterContext(f"filter_units=remove_types={SEI_NAL_TYPE}", "h264")
    kept = [piece for packet in packets for piece in drop.filter(Packet(packet))]
    return b"".join(bytes(piece) for piece in (*kept, *drop.filter(None)))


def is_slice(unit: bytes) -> bool:
    """Whether a NAL unit is of samples: H.264, 7.4.1."""
    return unit[0] & 0x1F in SLICE_NAL_TYPES


PACKING = Packing(
    name="x264",
    split=nal_units,
    join=partial(with_start_codes, is_slice=is_slice),
    kind_bytes=1,
    modelled_bytes=8,
    is_parameters=lambda unit: unit[0] & 0x1F in PARAMETER_NAL_TYPES,
)

STRATEGY = ElementaryStrategy(
    name="x264",
    code=5,
    decoder="h264",
    bit_depth=8,
    presets=PRESETS,
    default_preset="slow",
    default_quality_range=(40, 15),
    rate_step=0.25,
    minimum_side=16,
    encode_stream=encode_stream,
    packing=PACKING,
)
