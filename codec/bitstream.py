"""The .evc container: its syntax as one declarative table, one writer and one reader that both follow it.

Owns the syntax, its limits and the integrity checks. What a payload means is the strategy's; which scenes
there are is `codec.encoding_agent`'s.

    file  = HEADER scene* audio?
    scene = SCENE payload
    audio = AUDIO payload

Integers are little-endian; a varint is LEB128 in its shortest form. A scene can be skipped without reading
its payload, so a reader reaches any scene by reading the scene headers before it. A scene's CRC covers its
header and its payload: damage to a payload costs that scene only. Version 1 files stay readable by all later
versions.
"""

from __future__ import annotations

import hashlib
import io
import zlib
from collections.abc import Iterator
from dataclasses import dataclass
from fractions import Fraction
from typing import Any, BinaryIO, Literal

from codec.errors import BadInputError, BitstreamError, LimitError
from codec.frames import ColorDescription, Frames, VideoFormat
from codec.varint import decode_varint, encode_varint

MAGIC = int.from_bytes(b"EVC\x00", "little")
VERSION = 1
MAX_SIDE = 16384
MAX_SCENE_FRAMES = 65536
# Frames times width times height: readers hold a scene whole, and a few bytes can claim any number of frames.
MAX_SCENE_SAMPLES = 2**30
U31, U32, U64 = 2**31 - 1, 2**32 - 1, 2**64 - 1
FIXED_BYTES = {"u8": 1, "u32": 4, "u64": 8}


@dataclass(frozen=True)
class Element:
    """One syntax element: what it is called, how it is written, which values are legal, what it means."""

    name: str
    kind: Literal["varint", "u8", "u32", "u64"]
    low: int
    high: int
    meaning: str


HEADER = (
    Element("magic", "u32", MAGIC, MAGIC, "the letters EVC and a zero"),
    Element("version", "u8", VERSION, VERSION, "version of this syntax"),
    Element("width", "varint", 1, MAX_SIDE, "luma samples per row"),
    Element("height", "varint", 1, MAX_SIDE, "luma rows"),
    Element("rate_numerator", "varint", 1, U31, "frames …"),
    Element("rate_denominator", "varint", 1, U31, "… in so many seconds"),
    Element("primaries", "u8", 0, 255, "ColourPrimaries of ITU-T H.273"),
    Element("transfer", "u8", 0, 255, "TransferCharacteristics of ITU-T H.273"),
    Element("matrix", "u8", 0, 255, "MatrixCoefficients of ITU-T H.273"),
    Element("full_range", "u8", 0, 1, "VideoFullRangeFlag of ITU-T H.273"),
    Element("frame_count", "u32", 0, U32, "frames of all scenes; 0 in a file that was never finished"),
    Element("crc32", "u32", 0, U32, "CRC-32 of the header up to here"),
)
SCENE = (
    Element("frame_count", "varint", 1, MAX_SCENE_FRAMES, "frames of the scene"),
    Element("strategy", "u8", 0, 255, "code of the strategy that made the payload"),
    Element("payload_bytes", "varint", 0, U31, "length of the payload"),
    Element("frames_hash", "u64", 0, U64, "BLAKE2b-64 of the decoded frames: all of Y, then U, then V"),
    Element("crc32", "u32", 0, U32, "CRC-32 of the scene header up to here and the payload"),
)
AUDIO_TAG = int.from_bytes(b"AUD\x00", "little")
AUDIO = (
    Element("tag", "u32", AUDIO_TAG, AUDIO_TAG, "the letters AUD and a zero"),
    Element("payload_bytes", "varint", 1, U31, "length of the payload: Matroska with audio streams alone"),
    Element("crc32", "u32", 0, U32, "CRC-32 of the payload"),
)
COPY_BYTES = 2**20


def most_scene_frames(video: VideoFormat) -> int:
    """How many frames a scene may have at this size; at least 4, which is as many as fit of the largest."""
    return min(MAX_SCENE_FRAMES, MAX_SCENE_SAMPLES // (video.width * video.height))


def frames_hash(frames: Frames) -> int:
    """What `frames_hash` in a scene header holds for these decoded frames."""
    digest = hashlib.blake2b(digest_size=8)
    for plane in frames.planes():
        digest.update(plane.tobytes())
    return int.from_bytes(digest.digest(), "little")


@dataclass(frozen=True)
class Header:
    """`frame_count` is None in a file whose writing was interrupted."""

    video: VideoFormat
    frame_count: int | None


@dataclass(frozen=True)
class SceneEntry:
    """Where a scene lies and what its header says. `payload_offset` counts from the start of the file."""

    index: int
    first_frame: int
    frame_count: int
    strategy: int
    payload_offset: int
    payload_bytes: int
    frames_hash: int
    crc32: int
    header_crc32: int


@dataclass(frozen=True)
class AudioEntry:
    """Where the sound lies. `payload_offset` counts from the start of the file."""

    payload_offset: int
    payload_bytes: int
    crc32: int


class EvcWriter:
    """Writes scenes one by one into a seekable sink; `close` completes the header and leaves the sink open."""

    def __init__(self, sink: BinaryIO, video: VideoFormat) -> None:
        self._sink = sink
        self._start = sink.tell()
        self._video = video
        self._frame_count = 0
        sink.write(_header_bytes(video, 0))

    def add_scene(self, frame_count: int, strategy: int, payload: bytes, decoded_hash: int) -> None:
        """Append one scene. `decoded_hash` is `frames_hash` of what a decoder makes of `payload`.

        Raises BadInputError where the scene has more frames than `most_scene_frames`.
        """
        if frame_count > most_scene_frames(self._video):
            raise BadInputError(f"an .evc file cannot hold {_too_many(frame_count, self._video)}: split the scene")
        values = {
            "frame_count": frame_count,
            "strategy": strategy,
            "payload_bytes": len(payload),
            "frames_hash": decoded_hash,
        }
        head = _pack(SCENE[:-1], values)
        self._sink.write(head + _pack(SCENE[-1:], {"crc32": zlib.crc32(payload, zlib.crc32(head))}))
        self._sink.write(payload)
        self._frame_count += frame_count

    def close(self) -> None:
        """Put the frame count into the header, which says that the file is complete."""
        end = self._sink.tell()
        self._sink.seek(self._start)
        self._sink.write(_header_bytes(self._video, self._frame_count))
        self._sink.seek(end)


def append_audio(sink: BinaryIO, audio: BinaryIO) -> int:
    """Append what `codec.audio.take_audio` wrote to a finished file; how many bytes that took."""
    size = audio.seek(0, io.SEEK_END)
    crc = 0
    for piece in _pieces(audio, 0, size):
        crc = zlib.crc32(piece, crc)
    start = sink.seek(0, io.SEEK_END)
    sink.write(_pack(AUDIO, {"tag": AUDIO_TAG, "payload_bytes": size, "crc32": crc}))
    for piece in _pieces(audio, 0, size):
        sink.write(piece)
    return sink.tell() - start


class EvcReader:
    """Reads a seekable source that starts at the header. Raises BitstreamError on anything malformed."""

    def __init__(self, source: BinaryIO) -> None:
        self._source = source
        self._size = source.seek(0, io.SEEK_END)
        source.seek(0)
        values, raw = self._read(HEADER)
        if zlib.crc32(raw[:-4]) != values["crc32"]:
            raise BitstreamError("the .evc header at offset 0 is damaged: its CRC does not match")
        color = ColorDescription(values["primaries"], values["transfer"], values["matrix"], bool(values["full_range"]))
        rate = Fraction(values["rate_numerator"], values["rate_denominator"])
        video = VideoFormat(values["width"], values["height"], rate, color)
        self.header = Header(video, values["frame_count"] or None)
        self._first_scene = source.tell()

    def scenes(self) -> Iterator[SceneEntry]:
        """The scene headers in order, payloads skipped.

        A file that ends early first gives every complete scene, then raises BitstreamError. A scene that is larger than
        the format allows, and not because it is damaged, raises LimitError.
        """
        offset, index, first_frame = self._first_scene, 0, 0
        while first_frame != self.header.frame_count and offset < self._size:
            self._source.seek(offset)
            values, raw = self._read(SCENE)
            payload_offset = self._source.tell()
            offset = payload_offset + values["payload_bytes"]
            if offset > self._size:
                missing = offset - self._size
                raise BitstreamError(f"scene {index} at offset {payload_offset} lacks its last {missing} bytes")
            if self.header.frame_count is not None and first_frame + values["frame_count"] > self.header.frame_count:
                raise BitstreamError(
                    f"scene {index} before offset {payload_offset} has more frames than the header counts: "
                    f"{first_frame} + {values['frame_count']} > {self.header.frame_count}"
                )
            entry = SceneEntry(
                index=index,
                first_frame=first_frame,
                payload_offset=payload_offset,
                header_crc32=zlib.crc32(raw[:-4]),
                **values,
            )
            if entry.frame_count > most_scene_frames(self.header.video):
                told = _too_many(entry.frame_count, self.header.video)
                kind = LimitError if self.crc_matches(entry) else BitstreamError
                raise kind(f"the .evc file claims, before offset {payload_offset}, {told}")
            index, first_frame = index + 1, first_frame + entry.frame_count
            yield entry
        if self.header.frame_count is None:
            raise BitstreamError(f"the file was never finished: it ends after {index} scenes, {first_frame} frames")
        if first_frame != self.header.frame_count:
            raise BitstreamError(
                f"the file ends at offset {offset} after {first_frame} of {self.header.frame_count} frames"
            )
        if offset != self._size:
            self._audio_at(offset)

    def audio(self) -> AudioEntry | None:
        """Where the sound lies, None where there is none. Raises BitstreamError as `scenes` does."""
        offset = self._first_scene
        for entry in self.scenes():
            offset = entry.payload_offset + entry.payload_bytes
        return self._audio_at(offset) if offset != self._size else None

    def copy_audio(self, entry: AudioEntry, sink: BinaryIO) -> None:
        """Write the sound into `sink`. Raises BitstreamError where the CRC does not match."""
        crc = 0
        for piece in _pieces(self._source, entry.payload_offset, entry.payload_bytes):
            crc = zlib.crc32(piece, crc)
            sink.write(piece)
        if crc != entry.crc32:
            raise BitstreamError(f"the audio at offset {entry.payload_offset} is damaged: its CRC does not match")

    def _audio_at(self, offset: int) -> AudioEntry:
        self._source.seek(offset)
        values, _ = self._read(AUDIO)
        payload_offset = self._source.tell()
        if payload_offset + values["payload_bytes"] != self._size:
            raise BitstreamError(
                f"the audio at offset {payload_offset} has {self._size - payload_offset} bytes, "
                f"not the {values['payload_bytes']} that it should have"
            )
        return AudioEntry(payload_offset, values["payload_bytes"], values["crc32"])

    def payload(self, entry: SceneEntry) -> bytes:
        """The payload of one scene. Raises BitstreamError where the CRC does not match."""
        payload = self._payload_bytes(entry)
        if zlib.crc32(payload, entry.header_crc32) != entry.crc32:
            raise BitstreamError(
                f"scene {entry.index} (frames {entry.first_frame} to {entry.first_frame + entry.frame_count - 1}, "
                f"offset {entry.payload_offset}) is damaged: its CRC does not match"
            )
        return payload

    def crc_matches(self, entry: SceneEntry) -> bool:
        """Whether the scene's header and payload are what was written."""
        return zlib.crc32(self._payload_bytes(entry), entry.header_crc32) == entry.crc32

    def _payload_bytes(self, entry: SceneEntry) -> bytes:
        self._source.seek(entry.payload_offset)
        return self._source.read(entry.payload_bytes)

    def _read(self, elements: tuple[Element, ...]) -> tuple[dict[str, int], bytes]:
        """Values of the elements at the current offset, each in its range, and their bytes."""
        values: dict[str, int] = {}
        raw = bytearray()
        for element in elements:
            offset = self._source.tell()
            piece = self._read_element(element, offset)
            value = decode_varint(piece)[0] if element.kind == "varint" else int.from_bytes(piece, "little")
            if element.name == "magic" and value != MAGIC:
                raise BitstreamError("this is not an .evc file: it does not start with EVC and a zero")
            if element.name == "tag" and value != AUDIO_TAG:
                raise BitstreamError(f"{self._size - offset} bytes at offset {offset} follow the last scene")
            if not element.low <= value <= element.high:
                raise BitstreamError(
                    f"{element.name} at offset {offset} is {value}, not in {element.low} to {element.high}"
                )
            values[element.name] = value
            raw += piece
        return values, bytes(raw)

    def _read_element(self, element: Element, offset: int) -> bytes:
        piece = b""
        while not piece or (element.kind == "varint" and piece[-1] & 0x80):
            more = self._source.read(FIXED_BYTES.get(element.kind, 1))
            if len(more) < FIXED_BYTES.get(element.kind, 1):
                raise BitstreamError(f"the file ends within {element.name} at offset {offset}")
            piece += more
            if element.kind == "varint" and len(piece) > 5:
                raise BitstreamError(f"{element.name} at offset {offset} is longer than 5 bytes")
        if element.kind == "varint" and len(piece) > 1 and piece[-1] == 0:
            raise BitstreamError(f"{element.name} at offset {offset} is not in its shortest form")
        return piece


def _too_many(frame_count: int, video: VideoFormat) -> str:
    return (
        f"a scene of {frame_count} frames of {video.width}x{video.height}; "
        f"{most_scene_frames(video)} of that size are the most"
    )


def _pieces(source: BinaryIO, offset: int, size: int) -> Iterator[bytes]:
    source.seek(offset)
    while size:
        piece = source.read(min(size, COPY_BYTES))
        if not piece:
            return
        size -= len(piece)
        yield piece


def describe(source: BinaryIO) -> dict[str, Any]:
    """What the file says of itself, ready for JSON: format, scenes, and the error where it ends badly."""
    from codec.strategies import name_of

    reader = EvcReader(source)
    video = reader.header.video
    scenes: list[dict[str, Any]] = []
    error = audio = None
    try:
        for entry in reader.scenes():
            scenes.append(
                {
                    "first_frame": entry.first_frame,
                    "frames": entry.frame_count,
                    "strategy": name_of(entry.strategy),
                    "payload_bytes": entry.payload_bytes,
                    "frames_hash": f"{entry.frames_hash:016x}",
                    "crc_ok": reader.crc_matches(entry),
                }
            )
        audio = reader.audio()
    except BitstreamError as damage:
        error = str(damage)
    return {
        "version": VERSION,
        "width": video.width,
        "height": video.height,
        "frame_rate": str(video.frame_rate),
        "frame_count": reader.header.frame_count,
        "color": {
            "primaries": video.color.primaries,
            "transfer": video.color.transfer,
            "matrix": video.color.matrix,
            "full_range": video.color.full_range,
        },
        "bytes": source.seek(0, io.SEEK_END),
        "scenes": scenes,
        "audio_bytes": audio.payload_bytes if audio else 0,
        "error": error,
    }


def _header_bytes(video: VideoFormat, frame_count: int) -> bytes:
    values = {
        "magic": MAGIC,
        "version": VERSION,
        "width": video.width,
        "height": video.height,
        "rate_numerator": video.frame_rate.numerator,
        "rate_denominator": video.frame_rate.denominator,
        "primaries": video.color.primaries,
        "transfer": video.color.transfer,
        "matrix": video.color.matrix,
        "full_range": int(video.color.full_range),
        "frame_count": frame_count,
    }
    head = _pack(HEADER[:-1], values)
    return head + _pack(HEADER[-1:], {"crc32": zlib.crc32(head)})


def _pack(elements: tuple[Element, ...], values: dict[str, int]) -> bytes:
    """The bytes of the elements. Raises BadInputError for a value that a reader would refuse."""
    out = bytearray()
    for element in elements:
        value = values[element.name]
        if not element.low <= value <= element.high:
            raise BadInputError(
                f"an .evc file cannot hold {element.name} {value} ({element.meaning}): "
                f"it must be in {element.low} to {element.high}"
            )
        if element.kind == "varint":
            out += encode_varint(value)
        else:
            out += value.to_bytes(FIXED_BYTES[element.kind], "little")
    return bytes(out)
