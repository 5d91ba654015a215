"""`evocodec measure`: one file against its original."""

from __future__ import annotations

from collections.abc import Callable
from fractions import Fraction
from pathlib import Path

from codec.decoding_agent import decode_bytes
from codec.errors import BadInputError
from codec.frames import Frames, VideoFormat
from codec.quality import measure_quality
from codec.video import open_video


def measure_files(reference: Path, distorted: Path, warn: Callable[[str], None]) -> dict[str, float | int | None]:
    """kbps is the length of the distorted file; quality is on 8-bit 4:2:0 planes, formulas as in `codec.quality`.

    Raises BadInputError where the two differ in size, number of frames or frame rate.
    """
    video, original = _read(reference, warn)
    other, decoded = _read(distorted, warn)
    if (other.width, other.height) != (video.width, video.height):
        raise BadInputError(
            f"{distorted} is {other.width}×{other.height} but {reference} is {video.width}×{video.height}"
        )
    if len(decoded) != len(original):
        raise BadInputError(f"{distorted} has {len(decoded)} frames but {reference} has {len(original)}")
    quality = measure_quality(original, decoded, video)
    size = distorted.stat().st_size
    return {
        "kbps": kbps(size, len(original), video.frame_rate),
        "psnr_y": quality.psnr_y,
        "psnr_u": quality.psnr_u,
        "psnr_v": quality.psnr_v,
        "psnr_yuv": quality.psnr_yuv,
        "ssim_y": quality.ssim_y,
        "ms_ssim_y": quality.ms_ssim_y,
        "vmaf": quality.vmaf,
        "frames": quality.frames,
        "bytes": size,
    }


def kbps(size: int, frames: int, frame_rate: Fraction) -> float:
    """Kilobits (1000) a second of `size` bytes shown for `frames` at `frame_rate`."""
    return float(size * 8 * frame_rate / frames / 1000)


def _read(path: Path, warn: Callable[[str], None]) -> tuple[VideoFormat, Frames]:
    try:
        data = path.read_bytes() if _is_evc(path) else None
    except OSError as error:
        raise BadInputError(f"{path}: cannot be read: {error.strerror}") from error
    if data is not None:
        return decode_bytes(data)
    with open_video(path) as reader:
        for warning in reader.warnings:
            warn(f"{path}: {warning}")
        return reader.format, reader.read()


def _is_evc(path: Path) -> bool:
    with path.open("rb") as file:
        return file.read(4) == b"EVC\x00"
