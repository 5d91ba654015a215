"""What all strategies that carry one raw elementary stream share: scale, padding, PyAV encoding and decoding.

Owns the payload layout and everything that must hold whatever the encoder: one scale byte and the stream, packed where
that gives every byte back, sizes derived and never stored, the frame count checked after every encode, a decoder that
trusts nothing. Which encoder is called with which settings is each strategy's own file.

    source size --shrink--> scaled size --repeat edges--> coded size (even, at least the encoder's minimum)
    source size <-enlarge-- scaled size <-----crop------- decoded pictures
"""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path
from typing import Any, TypeVar

import av
import numpy as np
import numpy.typing as npt

from codec.errors import BadInputError, BitstreamError, EncodeError
from codec.frames import REMAINDER_BITS, UNSPECIFIED_COLOR, Frames, Plane, Remainders, VideoFormat
from codec.resample import SCALES, enlarge, enlarge_finely, scaled_format, shrink
from codec.strategies.packing import Packing
from codec.strategies.protocol import EncodeSettings

# Values that every one of the encoders accepts; the .evc header carries the exact description in any case.
PRIMARIES = frozenset({1, 2, 4, 5, 6, 7, 8, 9, 10, 11, 12})
TRANSFERS = frozenset({1, 2, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15, 16, 17, 18})
MATRICES = frozenset({1, 2, 4, 5, 6, 7, 9, 10, 12, 13, 14})
ENCODER_RATES = (1, 240)
FALLBACK_RATE = Fraction(25)
# Decoders round a picture's size up to whole blocks before they allocate it.
BLOCK_MARGIN = 128
PACKED = 0x80  # beside the scale's code

Part = TypeVar("Part")
Samples = npt.NDArray[Any]  # uint8, or uint16 of 10-bit pictures
Picture = tuple[Samples, ...]

EncodeStream = Callable[[Frames, VideoFormat, float, str, Mapping[str, str]], bytes]
SplitStream = Callable[[bytes], Iterable[bytes]]


@dataclass
class ElementaryStrategy:
    """A `Strategy` around one encoder.

    decoder                FFmpeg's name of the decoder
    bit_depth              8 or 10: of the coded pictures; 10-bit ones are rounded back to 8
    presets                the encoder's names, fastest first
    default_quality_range  the rate parameter at quality 0 and at quality 1
    rate_step              the rate parameter is rounded to a multiple of this
    minimum_side           luma samples: smaller pictures are padded to it
    encode_stream          (coded frames, their format, rate parameter, preset, options) -> raw elementary stream
    packing                how its streams are written smaller
    split_stream           cuts a stream into packets where FFmpeg's parser does not
    """

    name: str
    code: int
    decoder: str
    bit_depth: int
    presets: tuple[str, ...]
    default_preset: str
    default_quality_range: tuple[float, float]
    rate_step: float
    minimum_side: int
    encode_stream: EncodeStream
    packing: Packing
    split_stream: SplitStream | None = None

    def encode(self, frames: Frames, video: VideoFormat, settings: EncodeSettings) -> bytes:
        """One scale byte and the stream. The same frames and settings always give the same bytes."""
        if settings.scale not in SCALES:
            raise BadInputError(f"unknown scale {settings.scale!r}: choose one of {', '.join(SCALES)}")
        preset = settings.preset or self.default_preset
        if preset not in self.presets:
            raise BadInputError(f"{self.name} has no preset {preset!r}: choose one of {', '.join(self.presets)}")
        coded = self._coded_format(video, settings.scale)
        small = shrink(frames, video, settings.scale)
        padded = Frames(
            _pad(small.y, coded.height, coded.width),
            _pad(small.u, coded.chroma_height, coded.chroma_width),
            _pad(small.v, coded.chroma_height, coded.chroma_width),
        )
        stream = self.encode_stream(padded, coded, self.rate(settings), preset, settings.options)
        decoded = self.count_frames(stream, coded, len(frames))
        if decoded != len(frames):
            raise EncodeError(f"{self.name} coded {decoded} of {len(frames)} frames at {coded.width}×{coded.height}")
        code, packed = list(SCALES).index(settings.scale), self.packing.pack(stream, len(frames))
        return bytes([code]) + stream if packed is None else bytes([code | PACKED]) + packed

    def stream_of(self, payload: bytes, frame_count: int) -> bytes:
        """The elementary stream in a payload, byte for byte as the encoder wrote it. Raises BitstreamError."""
        if not payload or payload[0] & ~PACKED >= len(SCALES):
            raise BitstreamError(f"the {self.name} payload does not start with a known scale code")
        return self.packing.unpack(payload[1:], frame_count) if payload[0] & PACKED else payload[1:]

    def decode(self, payload: bytes, video: VideoFormat, frame_count: int) -> Frames:
        """Exactly `frame_count` frames at the size of `video`; decoding stops at the first picture too many."""
        scale, small, pictures = self._small_pictures(payload, video, frame_count)
        frames = [enlarge(self._rounded(picture, small), video, scale) for picture in pictures]
        return Frames.concatenate(self._complete(frames, frame_count))

    def decode_finely(self, payload: bytes, video: VideoFormat, frame_count: int) -> tuple[Frames, Remainders]:
        """As `decode`, and what its last rounding took: from 10-bit samples, or from enlarged ones."""
        scale, small, pictures = self._small_pictures(payload, video, frame_count)
        parts = []
        for picture in pictures:
            frame = self._rounded(picture, small)
            whole = frame, self._remainders(picture, frame)
            parts.append(whole if scale == "1" else enlarge_finely(frame, video, scale))
        frames, remainders = zip(*self._complete(parts, frame_count), strict=True)
        return Frames.concatenate(frames), Remainders.concatenate(remainders)

    def rate(self, settings: EncodeSettings) -> float:
        """The encoder's CRF or QP for these settings."""
        low, high = settings.quality_range or self.default_quality_range
        return round((low + settings.quality * (high - low)) / self.rate_step) * self.rate_step

    def count_frames(self, stream: bytes, coded: VideoFormat, expected: int) -> int:
        """How many pictures a decoder makes of a stream just encoded. Raises EncodeError where it cannot."""
        try:
            return sum(1 for _ in self._pictures(stream, coded, expected))
        except BitstreamError as error:
            raise EncodeError(f"{self.name} wrote a stream that does not decode: {error}") from error

    def _coded_format(self, video: VideoFormat, scale: str) -> VideoFormat:
        small = scaled_format(video, scale)
        width, height = (max(self.minimum_side, side + side % 2) for side in (small.width, small.height))
        return VideoFormat(width, height, encoder_rate(video.frame_rate), video.color)

    def _small_pictures(
        self, payload: bytes, video: VideoFormat, frame_count: int
    ) -> tuple[str, VideoFormat, Iterator[Picture]]:
        """The scale, what the pictures are to be cropped to, and the pictures as decoded."""
        stream = self.stream_of(payload, frame_count)
        scale = list(SCALES)[payload[0] & ~PACKED]
        pictures = self._pictures(stream, self._coded_format(video, scale), frame_count)
        return scale, scaled_format(video, scale), pictures

    def _complete(self, parts: list[Part], frame_count: int) -> list[Part]:
        if len(parts) != frame_count:
            raise BitstreamError(f"the {self.name} payload holds {len(parts)} of {frame_count} frames")
        return parts

    def _pictures(self, stream: bytes, coded: VideoFormat, frame_count: int) -> Iterator[Picture]:
        """The decoded planes of each picture, in order of output."""
        formats = ("yuv420p", "yuvj420p") if self.bit_depth == 8 else ("yuv420p10le",)
        count = 0
        try:
            for picture in self._decoded(stream, coded):
                count += 1
                if count > frame_count:
                    raise BitstreamError(f"the {self.name} payload holds more than {frame_count} frames")
                if (picture.width, picture.height) != (coded.width, coded.height):
                    raise BitstreamError(
                        f"the {self.name} payload is {picture.width}×{picture.height}, not {coded.width}×{coded.height}"
                    )
                if picture.format.name not in formats:
                    raise BitstreamError(f"the {self.name} payload is {picture.format.name}, not {formats[0]}")
                yield tuple(self._samples(plane) for plane in picture.planes)
        except av.FFmpegError as error:
            raise BitstreamError(f"the {self.name} payload does not decode: {error.strerror}") from error

    def _decoded(self, stream: bytes, coded: VideoFormat) -> Iterator[Any]:
        context = av.CodecContext.create(self.decoder, "r")
        context.thread_count = 1
        limit = (coded.width + BLOCK_MARGIN) * (coded.height + BLOCK_MARGIN)
        context.options = {"max_pixels": str(limit), "err_detect": "explode"}
        if self.split_stream:
            packets: Iterable[Any] = (av.Packet(piece) for piece in self.split_stream(stream))
        else:
            packets = [*context.parse(stream), *context.parse(None)] if stream else []
        for packet in packets:
            yield from context.decode(packet)
        yield from context.decode(None)

    def _samples(self, plane: Any) -> Samples:
        rows = np.frombuffer(plane, dtype=np.uint8).reshape(-1, plane.line_size)[: plane.height]
        if self.bit_depth == 8:
            return rows[:, : plane.width].copy()
        return rows[:, : 2 * plane.width].copy().view("<u2")

    def _rounded(self, picture: Picture, size: VideoFormat) -> Frames:
        """One frame of 8 bits, cropped to `size`."""
        if self.bit_depth == 10:
            picture = tuple(np.minimum((plane + 2) >> 2, 255).astype(np.uint8) for plane in picture)
        y, u, v = picture
        return Frames(
            y[None, : size.height, : size.width],
            u[None, : size.chroma_height, : size.chroma_width],
            v[None, : size.chroma_height, : size.chroma_width],
        )

    def _remainders(self, picture: Picture, frame: Frames) -> Remainders:
        """What rounding the picture to this frame took."""
        remainders = []
        shift = 8 + REMAINDER_BITS - self.bit_depth
        for samples, plane in zip(picture, frame.planes(), strict=True):
            sixteenths = samples[None, : plane.shape[1], : plane.shape[2]].astype(np.int16) << shift
            remainders.append(np.clip(sixteenths - (plane.astype(np.int16) << REMAINDER_BITS), -8, 7).astype(np.int8))
        return Remainders(*remainders)


def encoder_rate(rate: Fraction) -> Fraction:
    """The frame rate an encoder is told: near enough for its rate control, and one that it accepts.

    The exact rate is the container's.
    """
    near = rate.limit_denominator(1001)
    return near if ENCODER_RATES[0] <= near <= ENCODER_RATES[1] else FALLBACK_RATE


def color_options(video: VideoFormat) -> dict[str, str]:
    """FFmpeg's codec options that put the colour description into the stream."""
    color = video.color
    return {
        "color_primaries": str(color.primaries if color.primaries in PRIMARIES else UNSPECIFIED_COLOR),
        "color_trc": str(color.transfer if color.transfer in TRANSFERS else UNSPECIFIED_COLOR),
        "colorspace": str(color.matrix if color.matrix in MATRICES else UNSPECIFIED_COLOR),
        "color_range": "2" if color.full_range else "1",
    }


def join_options(name: str, options: Mapping[str, str], separator: str = ":") -> str:
    """`key=value:key=value`. Raises BadInputError where a key or value would break that syntax."""
    for key, value in options.items():
        if not key or not value or set(key) & {separator, "="} or separator in value:
            raise BadInputError(f"{name}: option {key}={value} is empty or contains {separator!r} or '='")
    return separator.join(f"{key}={value}" for key, value in options.items())


def encode_with_pyav(encoder: str, frames: Frames, video: VideoFormat, options: Mapping[str, str]) -> list[bytes]:
    """The packets that FFmpeg's `encoder` makes of `frames`, whose sides must be even.

    Raises EncodeError where the encoder refuses an option or fails.
    """
    shown = " ".join(f"{key}={value}" for key, value in options.items())
    try:
        context = av.CodecContext.create(encoder, "w")
        context.width, context.height, context.pix_fmt = video.width, video.height, "yuv420p"
        context.framerate, context.time_base = video.frame_rate, 1 / video.frame_rate
        context.options = {**color_options(video), **options}
        with _scheduling_kept():
            context.open()
        if context.options:
            raise EncodeError(f"{encoder} does not know the option {', '.join(context.options)}")
        packets = [packet for frame in _av_frames(frames, context) for packet in context.encode(frame)]
        return [bytes(packet) for packet in (*packets, *context.encode(None))]
    except av.FFmpegError as error:
        size = f"{video.width}×{video.height}"
        raise EncodeError(f"{encoder} failed at {size} with {shown}: {error.strerror}") from error


@contextmanager
def _scheduling_kept() -> Iterator[None]:
    """SVT-AV1 opened by root makes its threads, and the one that opens it, real-time ones of the highest priority.

    They starve the machine, and what the opening thread starts later (torch, x265, ffmpeg) inherits it.
    """
    ordinary = sys.platform == "linux" and os.geteuid() == 0 and os.sched_getscheduler(0) == os.SCHED_OTHER
    yield
    if not ordinary:
        return
    for task in Path("/proc/self/task").iterdir():
        with suppress(ProcessLookupError):
            if os.sched_getscheduler(int(task.name)) == os.SCHED_FIFO:
                os.sched_setscheduler(int(task.name), os.SCHED_OTHER, os.sched_param(0))


def _av_frames(frames: Frames, context: Any) -> Iterator[Any]:
    for index in range(len(frames)):
        frame = av.VideoFrame(context.width, context.height, "yuv420p")
        for target, source in zip(frame.planes, frames.planes(), strict=True):
            rows = np.frombuffer(target, dtype=np.uint8).reshape(-1, target.line_size)
            rows[: source.shape[1], : source.shape[2]] = source[index]
        frame.pts, frame.time_base = index, context.time_base
        yield frame


def _pad(plane: Plane, height: int, width: int) -> Plane:
    """Repeat the last row and column until the plane has this size."""
    rows, columns = height - plane.shape[1], width - plane.shape[2]
    return np.pad(plane, ((0, 0), (0, rows), (0, columns)), mode="edge") if rows or columns else plane
