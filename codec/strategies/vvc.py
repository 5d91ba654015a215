"""VVC by VVenC in imageio-ffmpeg's ffmpeg, where it comes without a system package; decoded in process.

VVenC takes 10-bit pictures only: samples are widened by two bits before it and rounded back after decoding, so
that no scaler dithers them. Starting ffmpeg, and what may be asked of it, is `codec.strategies.vvc_encoder`'s.
"""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial

from codec.frames import Frames, VideoFormat
from codec.strategies import vvc_encoder
from codec.strategies.annex_b import nal_units, with_start_codes
from codec.strategies.elementary import ElementaryStrategy, color_options, join_options
from codec.strategies.packing import Packing

PARAMETER_NAL_TYPES = range(12, 17)  # of decoding, video, sequence and picture; slices come before


def encode_stream(frames: Frames, video: VideoFormat, rate: float, preset: str, options: Mapping[str, str]) -> bytes:
    """VVC Annex B at QP `rate`. `options` are VVenC's own: whole numbers, by names from `vvc_encoder.OPTIONS`."""
    join_options("vvc", options)
    tags = color_options(video)
    settings = vvc_encoder.Settings(
        width=video.width,
        height=video.height,
        frames=len(frames),
        frame_rate=video.frame_rate,
        qp=round(rate),
        preset=preset,
        color=(int(tags["color_primaries"]), int(tags["color_trc"]), int(tags["colorspace"])),
        full_range=video.color.full_range,
        options=vvc_encoder.parse_options(options),
    )
    planes = (plane[index].tobytes() for index in range(len(frames)) for plane in frames.planes())
    return vvc_encoder.encode(settings, planes)


def is_slice(unit: bytes) -> bool:
    """Whether a NAL unit is of samples: H.266, 7.4.2.2."""
    return unit[1] >> 3 < PARAMETER_NAL_TYPES.start


PACKING = Packing(
    name="vvc",
    split=nal_units,
    join=partial(with_start_codes, is_slice=is_slice),
    kind_bytes=2,
    modelled_bytes=12,
    is_parameters=lambda unit: unit[1] >> 3 in PARAMETER_NAL_TYPES,
)

STRATEGY = ElementaryStrategy(
    name="vvc",
    code=8,
    decoder="vvc",
    bit_depth=10,
    presets=vvc_encoder.PRESETS,
    default_preset="faster",
    default_quality_range=(43, 14),
    rate_step=1,
    minimum_side=vvc_encoder.MINIMUM_SIDE,
    encode_stream=encode_stream,
    packing=PACKING,
)
