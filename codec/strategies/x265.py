"""HEVC by x265, in process through PyAV."""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial

import av
import av.logging

from codec.errors import EncodeError
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
# No settings SEI (2.3 kB a stream); frame threads and pools would change the bytes from machine to machine.
DEFAULTS = {
    "info": "0",
    "frame-threads": "1",
    "pools": "none",
    "keyint": "-1",
    "log-level": "error",
}
PARAMETER_NAL_TYPES = range(32, 35)  # of video, sequence and picture; slices come before


def encode_stream(frames: Frames, video: VideoFormat, rate: float, preset: str, options: Mapping[str, str]) -> bytes:
    """HEVC Annex B at CRF `rate`. `options` are x265's own, besides `tune`."""
    own = {key: value for key, value in options.items() if key != "tune"}
    if own:
        _refuse_unknown(own)
    settings = {"preset": preset, "crf": f"{rate:g}", "tune": options.get("tune", "psnr")}
    settings["x265-params"] = join_options("x265", {**DEFAULTS, **own})
    return b"".join(encode_with_pyav("libx265", frames, video, settings))


def _refuse_unknown(options: Mapping[str, str]) -> None:
    """FFmpeg only logs what x265 does not know, so an encoder is opened with that log in view."""
    before = av.logging.get_level()
    av.logging.set_level(av.logging.WARNING)
    try:
        with av.logging.Capture() as log:
            context = av.CodecContext.create("libx265", "w")
            context.width, context.height, context.pix_fmt = 64, 64, "yuv420p"
            context.time_base = 1
            context.options = {"x265-params": join_options("x265", {**DEFAULTS, **options})}
            context.open()
    except av.FFmpegError as error:
        raise EncodeError(f"x265 refuses {join_options('x265', options)}: {error.strerror}") from error
    finally:
        av.logging.set_level(before)
    complaints = [message.strip() for _, name, message in log if name == "libx265"]
    if complaints:
        raise EncodeError(f"x265: {' '.join(complaints)}")


def is_slice(unit: bytes) -> bool:
    """Whether a NAL unit is of samples: H.265, 7.4.2.2."""
    return unit[0] >> 1 & 0x3F < PARAMETER_NAL_TYPES.start


PACKING = Packing(
    name="x265",
    split=nal_units,
    join=partial(with_start_codes, is_slice=is_slice),
    kind_bytes=2,
    modelled_bytes=12,
    is_parameters=lambda unit: unit[0] >> 1 & 0x3F in PARAMETER_NAL_TYPES,
)

STRATEGY = ElementaryStrategy(
    name="x265",
    code=6,
    decoder="hevc",
    bit_depth=8,
    presets=PRESETS,
    default_preset="slow",
    default_quality_range=(40, 14),
    rate_step=0.25,
    # Pictures that are lower and narrower than one 64×64 block make x265 4.2 write beyond its memory.
    minimum_side=64,
    encode_stream=encode_stream,
    packing=PACKING,
)
