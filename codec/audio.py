"""Sound beside the pictures: copied packet for packet, never decoded.

Owns taking the audio streams out of a file, on a clock that starts with the first frame, and giving them back between
the pictures of another. The chunk that carries them is `codec.bitstream`'s.
"""

from __future__ import annotations

from collections.abc import Iterator
from fractions import Fraction
from typing import Any, BinaryIO

import av

from codec.errors import BadInputError, BitstreamError

FORMAT = "matroska"  # takes nearly every codec, and says when each packet is heard
# A packet may begin before the first frame. FFmpeg would shift all others to bring it to zero, and with it the sound.
OWN_CLOCK = {"avoid_negative_ts": "disabled"}


def take_audio(container: av.container.InputContainer, start: Fraction, sink: BinaryIO) -> tuple[str, ...]:
    """Write the audio streams of an open file into `sink` as Matroska; the names of their codecs, none where none is.

    `start` is when the file's first frame is shown, in seconds: what is heard before it is left out. Raises
    BadInputError where Matroska has no place for a codec.
    """
    streams = [stream for stream in container.streams.audio if stream.codec_context is not None]
    if not streams:
        return ()
    with av.open(sink, "w", format=FORMAT, container_options=OWN_CLOCK) as out:
        placed = {stream.index: _place(out, stream) for stream in streams}
        for packet in container.demux(*streams):
            if packet.pts is None or packet.dts is None or packet.size == 0:
                continue
            if packet.time_base * (packet.pts + (packet.duration or 1)) <= start:
                continue
            shift = round(start / packet.time_base)
            packet.pts, packet.dts = packet.pts - shift, packet.dts - shift
            packet.stream = placed[packet.stream_index]
            out.mux(packet)
    return tuple(stream.codec_context.name for stream in streams)


class AudioTrack:
    """What `take_audio` wrote, to be muxed beside pictures that come later. Closes its file as a context manager."""

    def __init__(self, source: BinaryIO) -> None:
        try:
            self._container = av.open(source, format=FORMAT)
        except av.FFmpegError as error:
            raise BitstreamError(f"the audio of the .evc file cannot be read: {error.strerror}") from error
        if not self._container.streams.audio:
            self._container.close()
            raise BitstreamError("the audio chunk of the .evc file has no audio in it")
        self._packets: Iterator[Any] = iter(())
        self._next: Any = None
        self._placed: dict[int, Any] = {}

    def __enter__(self) -> AudioTrack:
        return self

    def __exit__(self, *_: object) -> None:
        self._container.close()

    def place(self, out: av.container.OutputContainer) -> None:
        """Add its streams to `out`. Raises BadInputError where that kind of file has no place for them."""
        self._placed = {stream.index: _place(out, stream) for stream in self._container.streams.audio}
        self._packets = (packet for packet in self._container.demux(*self._container.streams.audio) if packet.size)
        self._advance()

    def mux_until(self, out: av.container.OutputContainer, seconds: Fraction | None) -> None:
        """Mux what is heard before `seconds`, or all that is left. Raises BitstreamError where it is damaged."""
        while self._next is not None and (seconds is None or self._next.dts * self._next.time_base <= seconds):
            self._next.stream = self._placed[self._next.stream_index]
            out.mux(self._next)
            self._advance()

    def _advance(self) -> None:
        try:
            self._next = next((packet for packet in self._packets if packet.dts is not None), None)
        except av.FFmpegError as error:
            raise BitstreamError(f"the audio of the .evc file is damaged: {error.strerror}") from error


def _place(out: av.container.OutputContainer, stream: Any) -> Any:
    try:
        return out.add_stream_from_template(stream)
    except (av.FFmpegError, ValueError) as error:
        name = stream.codec_context.name
        raise BadInputError(
            f"a .{'mkv' if out.format.name == FORMAT else out.format.name} file cannot hold {name} audio: "
            "leave it out with --audio none, or write .mkv"
        ) from error
