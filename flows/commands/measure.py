"""`evocodec measure`: one file against its original."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from contextlib import ExitStack
from itertools import zip_longest
from pathlib import Path

from codec.bitstream import EvcReader
from codec.decoding_agent import DecodingAgent
from codec.errors import BadInputError
from codec.frames import Frames, VideoFormat
from codec.quality import measure_pairs
from codec.rate_control import kbps
from codec.video import VideoReader, open_video
from flows.commands.coding import open_evc


def measure_files(reference: Path, distorted: Path, warn: Callable[[str], None]) -> dict[str, float | int | None]:
    """kbps is the length of the distorted file; quality is on 8-bit 4:2:0 planes, formulas as in `codec.quality`.

    The sound of an .evc file counts in neither kbps nor bytes; where there is any, `audio_bytes` has it.
    Both files are read frame by frame (an .evc scene by scene). Raises BadInputError where they differ in size or
    number of frames.
    """
    with ExitStack() as stack:
        video, originals = _open(reference, stack, warn)
        other, decoded = _open(distorted, stack, warn)
        if (other.width, other.height) != (video.width, video.height):
            raise BadInputError(
                f"{distorted} is {other.width}×{other.height} but {reference} is {video.width}×{video.height}"
            )
        if abs(other.frame_rate - video.frame_rate) > video.frame_rate / 1000:
            rates = f"{float(other.frame_rate):g} frames a second, not {float(video.frame_rate):g} as {reference}"
            warn(f"{distorted}: plays at {rates}; frames are compared in order, kbps is at the reference's rate")
        quality = measure_pairs(_paired(reference, originals, distorted, decoded), video)
    size = distorted.stat().st_size
    sound = _audio_bytes(distorted) if _is_evc(distorted) else 0
    size -= sound
    return {
        "kbps": kbps(size, quality.frames, video.frame_rate),
        "psnr_y": quality.psnr_y,
        "psnr_u": quality.psnr_u,
        "psnr_v": quality.psnr_v,
        "psnr_yuv": quality.psnr_yuv,
        "ssim_y": quality.ssim_y,
        "ms_ssim_y": quality.ms_ssim_y,
        "vmaf": quality.vmaf,
        "frames": quality.frames,
        "bytes": size,
        **({"audio_bytes": sound} if sound else {}),
    }


def _is_evc(path: Path) -> bool:
    try:
        with path.open("rb") as start:
            return start.read(4) == b"EVC\x00"
    except OSError as error:
        raise BadInputError(f"{path}: cannot be read: {error.strerror}") from error


def _audio_bytes(path: Path) -> int:
    """What lies after the last scene of an .evc file: its sound, with the head of that chunk."""
    with open_evc(path) as file:
        ends = [entry.payload_offset + entry.payload_bytes for entry in EvcReader(file).scenes()]
    return path.stat().st_size - ends[-1]


def _paired(
    reference: Path, originals: Iterable[Frames], distorted: Path, decoded: Iterable[Frames]
) -> Iterator[tuple[Frames, Frames]]:
    for number, (original, other) in enumerate(zip_longest(originals, decoded)):
        if original is None or other is None:
            shorter, longer = (reference, distorted) if original is None else (distorted, reference)
            raise BadInputError(f"{shorter} has {number} frames, {longer} has more: give the same frames")
        yield original, other


def _warn_all(path: Path, reader: VideoReader, warn: Callable[[str], None]) -> None:
    for warning in reader.warnings:
        warn(f"{path}: {warning}")


def _open(path: Path, stack: ExitStack, warn: Callable[[str], None]) -> tuple[VideoFormat, Iterator[Frames]]:
    """The format of a file and its frames one by one."""
    if _is_evc(path):
        file = stack.enter_context(open_evc(path))
        scenes = (scene.frames for scene in DecodingAgent().decode(file) if scene.frames is not None)
        return EvcReader(file).header.video, (scene[i : i + 1] for scene in scenes for i in range(len(scene)))
    reader = stack.enter_context(open_video(path))
    # A reader's warnings are complete once its last frame is read, and `stack` is unwound in the reverse order.
    stack.callback(_warn_all, path, reader, warn)
    return reader.format, iter(reader)
