"""Frames in and out of video files, with PyAV.

Owns opening whatever FFmpeg reads, bringing it to a constant frame rate, and writing lossless files. Every change made
to the source on the way is told in `VideoReader.warnings`; 8-bit 4:2:0 at a constant rate comes through bit for bit.
Pixel formats are `codec.pixels`'s, sound is `codec.audio`'s, the .evc container is `codec.bitstream`'s.
"""

from __future__ import annotations

import re
import stat
from collections.abc import Iterable, Iterator
from fractions import Fraction
from itertools import chain, islice, pairwise
from pathlib import Path
from types import TracebackType
from typing import BinaryIO, Self

import av
import av.logging

from codec.audio import OWN_CLOCK, AudioTrack
from codec.errors import BadInputError
from codec.frames import UNSPECIFIED_COLOR, ColorDescription, Frames, Plane, VideoFormat
from codec.pixels import frame_planes, planar_layout, planes_to_frame
from codec.whole_file import whole_file

MAX_SIDE = 16384  # what H.264, HEVC and AV1 encoders take; above it a header is damaged or hostile
WRITABLE_SUFFIXES = (".y4m", ".mkv", ".mp4")

_UNTIMED_CONTAINERS = {
    "yuv4mpegpipe",
    "rawvideo",
}  # one rate in the header; scanning them would read the whole file
_TEXT_DEMUXERS = {"tty"}  # FFmpeg renders a .txt file as ANSI art; nobody who names one means that
_MAX_GUESSED_RATE = 240  # above it FFmpeg's guess is the resolution of the timestamps, not a frame rate
_MAX_GAP_SECONDS = 600  # a longer hole in the timestamps is damage, and filling it would never end
_DEFAULT_RATE = Fraction(25)


def open_video(path: str | Path) -> VideoReader:
    """Open `path` for one pass over its frames, as 8-bit 4:2:0 at a constant rate.

    Takes the first video stream that is not cover art. Raises BadInputError where there is nothing to read.
    """
    path = Path(path)
    _require_readable_file(path)
    container = open_container(path)
    try:
        return VideoReader(path, container)
    except BaseException:
        container.close()
        raise


class VideoReader:
    """The frames of one file, once, in order. Made by `open_video`; closes its file as a context manager.

    format       size, rate and colour of the frames it gives
    warnings     one sentence for each way in which the frames differ from the source; complete after the last
    frame_count  what the container says, None where it does not; not a promise
    start        when the first frame is shown, in seconds on the file's own clock

    Damage that the decoder cannot step over raises BadInputError at that frame. Damage that it conceals
    and a file that ends early become warnings.
    """

    def __init__(self, path: Path, container: av.container.InputContainer) -> None:
        self._path = path
        self._container = container
        self._stream = _video_stream(path, container)
        self._decoded = 0
        self._damaged: list[int] = []
        self._frames = self._decode()
        first = next(self._frames, None)
        if first is None:
            raise BadInputError(f"{path}: its video stream has no frames; check the file with ffprobe")
        self.warnings: list[str] = []
        rate, self._repeats = self._timing()
        self.format = VideoFormat(first.width, first.height, rate, _color(first))
        self.frame_count: int | None = self._stream.frames or None
        self.start = Fraction(first.pts or 0) * (first.time_base or 0)
        self.warnings.extend(_conversions(first, self._stream))
        self._frames = chain([first], self._frames)
        self._output = self._resampled()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    @property
    def expected_frames(self) -> int | None:
        """About how many frames there will be, for progress: Matroska and YUV4MPEG count none, but tell a duration."""
        if self.frame_count or not self._container.duration:
            return self.frame_count
        return round(self._container.duration * self.format.frame_rate / av.time_base) or None

    def close(self) -> None:
        self._container.close()

    def __iter__(self) -> Iterator[Frames]:
        """Frames of length 1. There is one pass: a second loop goes on where the first one stopped."""
        return self._output

    def read(self, max_frames: int | None = None) -> Frames:
        """The next `max_frames` frames, or all that are left, stacked; possibly none."""
        parts = list(islice(self._output, max_frames))
        return Frames.concatenate(parts) if parts else _no_frames(self.format)

    def _decode(self) -> Iterator[av.VideoFrame]:
        """Decoded frames as they come; errors translated, concealed damage noted.

        FFmpeg conceals a damaged FFV1 slice or H.264 macroblock without an error and without a flag that PyAV
        shows: only its log tells, so each step listens to it. Slice threads, PyAV's default, end within a
        step; frame threads would log outside it.
        """
        frames = self._container.decode(self._stream)
        names = {self._container.format.name, self._stream.codec_context.name}
        while True:
            with av.logging.Capture(local=False) as log:
                av.logging.set_level(av.logging.ERROR)
                av.logging.set_skip_repeated(False)  # or the second damaged file with the same message passes
                try:
                    frame = next(frames, None)
                except av.FFmpegError as error:
                    raise BadInputError(
                        f"{self._path}: decoding fails after {self._decoded} frames ({_reason(error)}); "
                        "the file is damaged: get a whole copy, or cut it before that place"
                    ) from error
                finally:
                    av.logging.set_level(None)
            if any(name in names for _, name, _ in log) or (frame is not None and frame.is_corrupt):
                self._damaged.append(self._decoded)
            if frame is None:
                return
            self._decoded += 1
            yield frame

    def _resampled(self) -> Iterator[Frames]:
        size = (self.format.width, self.format.height)
        for frame in self._frames:
            if (frame.width, frame.height) != size:
                raise BadInputError(
                    f"{self._path}: frame {self._decoded - 1} is {frame.width}x{frame.height}, "
                    f"those before it {size[0]}x{size[1]}; cut the file there and code the parts apart"
                )
            repeats = 1 if self._repeats is None or frame.pts is None else self._repeats.pop(frame.pts, 0)
            if repeats:
                planes = Frames(*(plane[None] for plane in frame_planes(frame)))
                for _ in range(repeats):
                    yield planes
        self._report_damage()

    def _report_damage(self) -> None:
        if self._damaged:
            self.warnings.append(
                f"the file is damaged: FFmpeg concealed or skipped data {len(self._damaged)} times, "
                f"first near frame {self._damaged[0]}"
            )
        if self.frame_count is not None and self._decoded < self.frame_count:
            self.warnings.append(f"the file ends early: {self._decoded} of {self.frame_count} frames could be read")

    def _timing(self) -> tuple[Fraction, dict[int, int] | None]:
        """The output rate and, for a variable source, how often the frame of each timestamp is shown."""
        guessed, average = self._stream.guessed_rate, self._stream.average_rate
        if guessed and guessed > _MAX_GUESSED_RATE and average:
            guessed = average
        rate = _snap_to_ntsc(Fraction(guessed or average or 0))
        timestamps = [] if self._container.format.name in _UNTIMED_CONTAINERS else _timestamps(self._path)
        if len(timestamps) < 2 or self._stream.time_base is None:
            if not rate:
                self.warnings.append(f"the file has no frame rate; {_DEFAULT_RATE} frames a second is assumed")
            return rate or _DEFAULT_RATE, None
        tick = self._stream.time_base
        mean = (timestamps[-1] - timestamps[0]) * tick / (len(timestamps) - 1)
        if _evenly_spaced(timestamps, tick):
            # FFmpeg can take the field rate or the codec's own header for the frame rate; timestamps decide.
            return (rate if rate and abs(rate * mean - 1) < Fraction(1, 20) else _simple_rate(mean)), None
        rate = rate or _simple_rate(mean)
        longest = max(after - before for before, after in pairwise(timestamps)) * tick
        if longest > _MAX_GAP_SECONDS:
            raise BadInputError(
                f"{self._path}: its timestamps have a hole of {float(longest):.0f} s; "
                "remux it (ffmpeg -i IN -c copy OUT) or cut it there"
            )
        repeats = nearest_repeats([timestamp * tick for timestamp in timestamps], rate)
        if all(count == 1 for count in repeats):
            return rate, None
        duplicated = sum(count - 1 for count in repeats if count > 1)
        self.warnings.append(
            f"variable frame rate resampled to {float(rate):.6g} frames a second: "
            f"{duplicated} frames duplicated, {repeats.count(0)} dropped"
        )
        return rate, dict(zip(timestamps, repeats, strict=True))


def nearest_repeats(seconds: list[Fraction], rate: Fraction) -> list[int]:
    """How often each frame is shown when sampled at `rate` from the first frame on, by nearest timestamp.

    `seconds`: increasing times of the frames. A sample halfway between two frames shows the earlier one.
    """
    repeats, shown = [], 0
    for now, after in pairwise(seconds):
        last_sample = int(((now + after) / 2 - seconds[0]) * rate)
        repeats.append(last_sample + 1 - shown)
        shown = last_sample + 1
    repeats.append(max(0, round((seconds[-1] - seconds[0]) * rate) + 1 - shown))
    return repeats


def write_video(path: str | Path, video: VideoFormat, frames: Iterable[Frames], audio: AudioTrack | None = None) -> int:
    """Write frames without loss, with `audio` beside them, and return how many there were.

    The suffix chooses: .y4m (raw), .mkv (FFV1), .mp4 (H.264 at QP 0; even sizes only). Colour is carried; y4m
    has room for the range alone. The file appears under its name only when it is whole. Raises BadInputError
    where `path` cannot be written or has no place for the audio, where there are no frames, or where they are not of
    the size of `video`.
    """
    path = Path(path)
    suffix = path.suffix.lower()
    if suffix not in WRITABLE_SUFFIXES:
        raise BadInputError(f"{path}: cannot write {suffix or 'a file without suffix'}; use .y4m, .mkv or .mp4")
    if suffix == ".mp4" and (video.width % 2 or video.height % 2):
        raise BadInputError(f"{path}: .mp4 cannot hold the odd size {video.width}x{video.height}; use .mkv or .y4m")
    if suffix == ".y4m" and audio:
        raise BadInputError(f"{path}: .y4m has no place for audio; use .mkv or .mp4")
    pictures = _pictures(path, video, frames)
    with whole_file(path) as partial:
        try:
            raw = suffix == ".y4m"
            count = _write_y4m(partial, video, pictures) if raw else _mux(partial, video, pictures, audio)
        except av.FFmpegError as error:
            raise BadInputError(f"{path}: cannot be written ({_reason(error)})") from error
        if not count:
            raise BadInputError(f"{path}: there are no frames to write")
    return count


def _pictures(path: Path, video: VideoFormat, parts: Iterable[Frames]) -> Iterator[tuple[Plane, Plane, Plane]]:
    chroma = (video.chroma_height, video.chroma_width)
    expected = ((video.height, video.width), chroma, chroma)
    for part in parts:
        sizes = tuple(plane.shape[1:] for plane in part.planes())
        if sizes != expected:
            raise BadInputError(f"{path}: frames of size {sizes} do not fit a {video.width}x{video.height} video")
        yield from zip(*part.planes(), strict=True)


def _write_y4m(partial: Path, video: VideoFormat, pictures: Iterable[tuple[Plane, Plane, Plane]]) -> int:
    rate, color_range = video.frame_rate, "FULL" if video.color.full_range else "LIMITED"
    header = (
        f"YUV4MPEG2 W{video.width} H{video.height} F{rate.numerator}:{rate.denominator} Ip A1:1 "
        f"C420jpeg XYSCSS=420JPEG XCOLORRANGE={color_range}\n"
    )
    file: BinaryIO
    with partial.open("xb") as file:
        file.write(header.encode("ascii"))
        count = 0
        for picture in pictures:
            file.write(b"FRAME\n")
            for plane in picture:
                file.write(plane.tobytes())
            count += 1
    return count


def _mux(
    partial: Path, video: VideoFormat, pictures: Iterable[tuple[Plane, Plane, Plane]], audio: AudioTrack | None
) -> int:
    muxer = "mp4" if partial.suffix == ".mp4" else "matroska"
    with av.open(str(partial), "w", format=muxer, container_options=OWN_CLOCK) as container:
        if partial.suffix == ".mp4":
            stream = container.add_stream("libx264", rate=video.frame_rate, options={"qp": "0", "preset": "fast"})
        else:
            stream = container.add_stream("ffv1", rate=video.frame_rate, options={"level": "3", "slicecrc": "1"})
        stream.width, stream.height, stream.pix_fmt = video.width, video.height, "yuv420p"
        context = stream.codec_context
        context.color_primaries = video.color.primaries
        context.color_trc = video.color.transfer
        context.colorspace = video.color.matrix
        context.color_range = 2 if video.color.full_range else 1
        if audio:
            audio.place(container)
        count = 0
        for picture in pictures:
            if audio:
                audio.mux_until(container, count / video.frame_rate)
            frame = planes_to_frame(*picture)
            frame.pts, frame.time_base = count, 1 / video.frame_rate
            frame.color_range = context.color_range
            container.mux(stream.encode(frame))
            count += 1
        container.mux(stream.encode(None))
        if audio:
            audio.mux_until(container, None)
    return count


def _require_readable_file(path: Path) -> None:
    try:
        status = path.stat()
        if stat.S_ISDIR(status.st_mode):
            raise BadInputError(f"{path}: is a folder; name a video file in it")
        if not stat.S_ISREG(status.st_mode):
            raise BadInputError(f"{path}: is not a regular file; save the video to a file first")
        path.open("rb").close()
    except FileNotFoundError as error:
        raise BadInputError(f"{path}: no such file; check the path") from error
    except PermissionError as error:
        raise BadInputError(f"{path}: permission denied; make it readable (chmod +r) or run as its owner") from error
    except (OSError, ValueError) as error:  # ValueError: a NUL byte in the name
        raise BadInputError(f"{path!r}: cannot be opened ({_reason(error)}); check the path") from error
    if status.st_size == 0:
        raise BadInputError(f"{path}: is empty; get a whole copy of it")


def open_container(path: Path) -> av.container.InputContainer:
    """The file as FFmpeg sees it. Raises BadInputError where FFmpeg cannot read it."""
    try:
        # A playlist may name other files, never the network. Titles need not be UTF-8.
        container = av.open(f"file:{path}", options={"protocol_whitelist": "file"}, metadata_errors="replace")
    except av.FFmpegError as error:
        raise BadInputError(
            f"{path}: is not a video that FFmpeg can read ({_reason(error)}); check it with ffprobe"
        ) from error
    if container.format.name in _TEXT_DEMUXERS:
        container.close()
        raise BadInputError(f"{path}: is a text file; name a video file")
    return container


def _video_stream(path: Path, container: av.container.InputContainer) -> av.VideoStream:
    streams = [s for s in container.streams.video if not s.disposition & av.stream.Disposition.attached_pic]
    if not streams:
        kinds = " and ".join(sorted({stream.type for stream in container.streams})) or "nothing"
        raise BadInputError(f"{path}: has no video stream, only {kinds}; name a file with video")
    stream = streams[0]
    context = stream.codec_context
    if context is None:
        raise BadInputError(f"{path}: FFmpeg has no decoder for its video stream; convert it first")
    if max(context.width, context.height) > MAX_SIDE:
        raise BadInputError(
            f"{path}: {context.width}x{context.height} has a side above {MAX_SIDE}; scale it down first"
        )
    return stream


def _timestamps(path: Path) -> list[int]:
    """Distinct presentation times of the shown packets in increasing ticks; empty where a packet has none."""
    found: set[int] = set()
    with open_container(path) as container:
        try:
            for packet in container.demux(_video_stream(path, container)):
                if packet.size == 0 or packet.is_discard:
                    continue
                if packet.pts is None:
                    return []
                found.add(packet.pts)
        except av.FFmpegError:
            return sorted(found)  # decoding comes to the same place and reports it there
    return sorted(found)


def _evenly_spaced(timestamps: list[int], tick: Fraction) -> bool:
    """Whether all steps are the mean step up to the rounding of timestamps (Matroska's are milliseconds)."""
    mean = Fraction(timestamps[-1] - timestamps[0], len(timestamps) - 1)
    slack = min(Fraction(1), mean / 4)
    return all(abs(after - before - mean) <= slack for before, after in pairwise(timestamps))


def _snap_to_ntsc(rate: Fraction) -> Fraction:
    """k·1000/1001 where `rate` is that up to rounding: Matroska's nanoseconds give 19001/317 for 59.94."""
    ntsc = Fraction(round(rate * 1001 / 1000) * 1000, 1001)
    return ntsc if abs(rate - ntsc) < rate * Fraction(2, 10_000_000) else rate


def _simple_rate(mean_seconds: Fraction) -> Fraction:
    return _snap_to_ntsc((1 / mean_seconds).limit_denominator(1001))


def _color(frame: av.VideoFrame) -> ColorDescription:
    """H.273 code points of the frames given out. What the source does not say stays unsaid, but for a limited range:
    a tag that the source lacks makes players and ffmpeg's own filters convert between the two."""

    def known(value: int) -> int:
        return UNSPECIFIED_COLOR if int(value) in (0, 3) else int(value)  # both are reserved

    primaries, transfer = known(frame.color_primaries), known(frame.color_trc)
    if planar_layout(frame.format)[1]:
        return ColorDescription(primaries, transfer, full_range=False)  # RGB was converted by BT.709
    full_range = int(frame.color_range) == 2 or frame.format.name.startswith("yuvj")
    return ColorDescription(primaries, transfer, known(frame.colorspace), full_range)


def _conversions(frame: av.VideoFrame, stream: av.VideoStream) -> Iterator[str]:
    """One sentence for each property of the source that its 8-bit 4:2:0 frames do not keep."""
    layout, is_rgb = planar_layout(frame.format)
    bits = max(component.bits for component in frame.format.components)
    subsampling = re.search(r"4(20|22|44|40|11|10)", layout)
    kind = "RGB" if is_rgb else ":".join(subsampling[0]) if subsampling else "gray"
    if (bits, kind) != (8, "4:2:0"):
        yield f"{bits}-bit {kind} converted to 8-bit 4:2:0" + (" BT.709 limited range" if is_rgb else "")
    if re.match(r"yuva|rgba|argb|bgra|abgr|gbrap|ya\d|ayuv|vuya", frame.format.name):
        yield "the alpha channel is dropped"
    if frame.interlaced_frame:
        yield "interlaced frames are coded as they are, both fields woven together"
    if frame.rotation:
        yield f"the rotation of {frame.rotation} degrees is not kept"
    aspect = stream.sample_aspect_ratio
    if aspect and aspect != 1:
        yield f"the pixel aspect ratio {aspect.numerator}:{aspect.denominator} is not kept"


def _no_frames(video: VideoFormat) -> Frames:
    return Frames.from_bytes(b"", video)


def _reason(error: Exception) -> str:
    return getattr(error, "strerror", None) or str(error)
