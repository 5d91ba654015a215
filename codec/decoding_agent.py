"""The light agent: an .evc file in, frames out, scene by scene.

Owns the dispatch by strategy and what damage costs. Syntax is `codec.bitstream`'s, reconstruction
each strategy's.
"""

from __future__ import annotations

import io
from collections.abc import Iterator
from dataclasses import dataclass
from typing import BinaryIO

from codec import strategies
from codec.bitstream import EvcReader, SceneEntry, frames_hash
from codec.complexity import part
from codec.errors import BitstreamError, LimitError
from codec.frames import Frames, VideoFormat


@dataclass(frozen=True)
class LostEnd:
    """All that follows damage that hides where the next scene begins; no frames in a file that was never finished."""

    first_frame: int
    frame_count: int


@dataclass(frozen=True)
class DecodedScene:
    """One scene; `frames` is None and `error` says why where damage was asked to be passed over."""

    entry: SceneEntry | LostEnd
    frames: Frames | None
    error: str | None = None


class DecodingAgent:
    """Decodes .evc files. Holds no state between files."""

    def decode(self, source: BinaryIO, verify: bool = False, conceal: bool = False) -> Iterator[DecodedScene]:
        """The scenes in order, one in memory at a time. `source` is seekable and starts at the header.

        verify   compare the decoded frames with the hash that the encoder stored
        conceal  yield a damaged scene without frames instead of raising, so that it costs only itself, and in the place
                 of all that cannot be read a `LostEnd`

        Raises BitstreamError on a damaged header and, without `conceal`, on a damaged scene and after the last complete
        scene of a file that ends early; LimitError on a file that claims too much.
        """
        reader = EvcReader(source)
        following = 0
        try:
            for entry in reader.scenes():
                yield self._scene(reader, entry, verify, conceal)
                following = entry.first_frame + entry.frame_count
        except BitstreamError as error:
            if not conceal or isinstance(error, LimitError):
                raise
            left = (reader.header.frame_count or following) - following
            yield DecodedScene(LostEnd(following, left), None, str(error))

    def _scene(self, reader: EvcReader, entry: SceneEntry, verify: bool, conceal: bool) -> DecodedScene:
        try:
            return DecodedScene(entry, self.decode_scene(reader, entry, verify))
        except BitstreamError as error:
            if not conceal:
                raise
            return DecodedScene(entry, None, str(error))

    def decode_scene(self, reader: EvcReader, entry: SceneEntry, verify: bool = False) -> Frames:
        """One scene, without those before it."""
        payload = reader.payload(entry)
        strategy = strategies.by_code(entry.strategy)
        with part(strategy.name):
            frames = strategy.decode(payload, reader.header.video, entry.frame_count)
        if verify and frames_hash(frames) != entry.frames_hash:
            raise BitstreamError(
                f"scene {entry.index} (frames {entry.first_frame} to {entry.first_frame + entry.frame_count - 1}) "
                "decodes to other frames than the encoder saw: the decoder libraries differ from the encoder's"
            )
        return frames


def decode_bytes(data: bytes) -> tuple[VideoFormat, Frames]:
    """A whole file in memory to its format and frames. Raises BitstreamError on anything damaged."""
    video = EvcReader(io.BytesIO(data)).header.video
    parts = [scene.frames for scene in DecodingAgent().decode(io.BytesIO(data)) if scene.frames is not None]
    return video, Frames.concatenate(parts)
