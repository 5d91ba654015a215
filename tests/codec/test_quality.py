"""Every formula against another implementation: ffmpeg's psnr filter, scikit-image, or numbers worked out by hand."""

from __future__ import annotations

import re
import subprocess
from fractions import Fraction
from pathlib import Path

import cv2
import imageio_ffmpeg
import numpy as np
import pytest
from skimage import data
from skimage.metrics import structural_similarity

from codec.errors import BadInputError, MeasurementError
from codec.frames import Frames, Plane, VideoFormat
from codec.quality import measure_quality, psnr, squared_error, ssim
from codec.video import write_video


def natural(width: int, height: int, count: int) -> tuple[VideoFormat, Frames]:
    """A photograph that slides by two samples a frame, as luma and as (halved) chroma."""
    photo = data.camera()
    luma = np.stack([photo[60 : 60 + height, 2 * index : 2 * index + width] for index in range(count)])
    chroma = np.ascontiguousarray(luma[:, ::2, ::2])
    return VideoFormat(width, height, Fraction(25)), Frames(luma, chroma, 255 - chroma)


def degraded(frames: Frames, deviation: float, seed: int = 5) -> Frames:
    rng = np.random.default_rng(seed)

    def noisy(plane: Plane) -> Plane:
        return np.clip(plane + rng.normal(0, deviation, plane.shape), 0, 255).astype(np.uint8)

    return Frames(noisy(frames.y), noisy(frames.u), noisy(frames.v))


def blurred(frames: Frames, deviation: float) -> Frames:
    y = np.stack([cv2.GaussianBlur(luma, (0, 0), deviation) for luma in frames.y])
    return Frames(y, frames.u, frames.v)


@pytest.mark.parametrize("size", [(176, 144), (63, 47)])
def test_psnr_is_that_of_ffmpegs_filter(tmp_path: Path, size: tuple[int, int]) -> None:
    video, frames = natural(*size, count=6)
    # errors that grow along the clip, so that pooling and averaging differ
    parts = [degraded(frames[index : index + 1], 1 + 3 * index, seed=index) for index in range(6)]
    decoded = Frames.concatenate(parts)
    for name, content in (("a", frames), ("b", decoded)):
        write_video(tmp_path / f"{name}.y4m", video, [content])
    command = [
        imageio_ffmpeg.get_ffmpeg_exe(),
        "-i",
        "b.y4m",
        "-i",
        "a.y4m",
        "-lavfi",
        "psnr=stats.log",
        "-f",
        "null",
        "-",
    ]
    said = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=True, timeout=60).stderr
    pooled = re.search(r"PSNR y:([\d.]+) u:([\d.]+) v:([\d.]+) average:([\d.]+)", said)
    assert pooled is not None
    quality = measure_quality(frames, decoded, video, with_vmaf=False)
    assert (quality.psnr_y, quality.psnr_u, quality.psnr_v) == pytest.approx(
        tuple(float(pooled[index]) for index in (1, 2, 3)), abs=0.01
    )
    errors = [squared_error(a, b) for a, b in zip(frames.planes(), decoded.planes(), strict=True)]
    samples = sum(plane.size for plane in frames.planes())
    assert psnr(sum(errors) / samples) == pytest.approx(float(pooled[4]), abs=0.01)
    of_frames = [float(value) for value in re.findall(r"psnr_y:([\d.]+)", (tmp_path / "stats.log").read_text())]
    assert len(of_frames) == 6
    assert quality.psnr_y_frame_mean == pytest.approx(sum(of_frames) / 6, abs=0.01)
    assert quality.psnr_y_worst == pytest.approx(min(of_frames), abs=0.01)
    assert quality.psnr_y_frame_mean > quality.psnr_y + 1
    assert quality.psnr_yuv == pytest.approx((6 * quality.psnr_y + quality.psnr_u + quality.psnr_v) / 8)


def test_psnr_by_hand() -> None:
    assert psnr(1.0) == pytest.approx(48.1308, abs=1e-4)
    assert psnr(255**2) == 0
    assert psnr(0) == 100
    assert psnr(1e-9) == 100
    black = np.zeros((1080, 1920), np.uint8)
    assert squared_error(black, black + np.uint8(255)) == 255**2 * 1920 * 1080
    assert squared_error(black + np.uint8(255), black) == 255**2 * 1920 * 1080


@pytest.mark.parametrize("shape", [(144, 176), (47, 63), (11, 11), (10, 40), (7, 8), (3, 3), (2, 9), (1, 1)])
@pytest.mark.parametrize("kind", ["random", "blurred", "noisy", "bright", "flat"])
def test_ssim_is_that_of_scikit_image(shape: tuple[int, int], kind: str) -> None:
    rng = np.random.default_rng(7)
    photo = np.ascontiguousarray(data.camera()[100 : 100 + shape[0], 100 : 100 + shape[1]])
    a, b = {
        "random": tuple(rng.integers(0, 256, (2, *shape), dtype=np.uint8)),
        "blurred": (photo, cv2.GaussianBlur(photo, (0, 0), 2)),
        "noisy": (photo, np.clip(photo + rng.normal(0, 9, shape), 0, 255).astype(np.uint8)),
        "bright": (photo, np.clip(photo.astype(int) + 20, 0, 255).astype(np.uint8)),
        "flat": (np.full(shape, 255, np.uint8), np.full(shape, 254, np.uint8)),
    }[kind]
    side = min(shape)
    expected = structural_similarity(
        a,
        b,
        gaussian_weights=True,
        sigma=1.5,
        use_sample_covariance=False,
        data_range=255,
        win_size=min(11, side if side % 2 else side - 1),
    )
    assert ssim(a, b) == pytest.approx(expected, abs=1e-9)


def test_a_clips_ssim_is_the_mean_of_its_frames() -> None:
    video, frames = natural(64, 48, count=3)
    decoded = Frames.concatenate([degraded(frames[index : index + 1], 4 * index) for index in range(3)])
    of_frames = [ssim(a, b) for a, b in zip(frames.y, decoded.y, strict=True)]
    assert measure_quality(frames, decoded, video, with_vmaf=False).ssim_y == pytest.approx(sum(of_frames) / 3)
    assert of_frames[0] == 1


def ms_ssim_by_definition(a: Plane, b: Plane) -> float:
    """Wang, Simoncelli and Bovik 2003, on scikit-image's full SSIM map and plain sums over shifted windows."""
    weights, product = (0.0448, 0.2856, 0.3001, 0.2363, 0.1333), 1.0
    offsets = np.arange(-5, 6)
    kernel = np.exp(-(offsets**2) / 4.5)
    kernel /= kernel.sum()
    x, y = a.astype(float), b.astype(float)

    def blur(image: np.ndarray) -> np.ndarray:
        rows = sum(weight * image[index : image.shape[0] - 10 + index] for index, weight in enumerate(kernel))
        return sum(weight * rows[:, index : rows.shape[1] - 10 + index] for index, weight in enumerate(kernel))

    for scale, weight in enumerate(weights):
        mx, my = blur(x), blur(y)
        vx, vy, cov = blur(x * x) - mx**2, blur(y * y) - my**2, blur(x * y) - mx * my
        contrast = (2 * cov + 58.5225) / (vx + vy + 58.5225)
        luminance = (2 * mx * my + 6.5025) / (mx**2 + my**2 + 6.5025)
        product *= float((contrast * luminance if scale == 4 else contrast).mean()) ** weight
        x, y = (
            (image.reshape(image.shape[0] // 2, 2, -1, 2).mean(axis=(1, 3)) for image in (x, y))
            if scale < 4
            else (x, y)
        )
    return product


def test_ms_ssim_follows_its_definition() -> None:
    video, frames = natural(256, 192, count=2)
    decoded = degraded(frames, 12)
    expected = [ms_ssim_by_definition(a, b) for a, b in zip(frames.y, decoded.y, strict=True)]
    quality = measure_quality(frames, decoded, video, with_vmaf=False)
    assert quality.ms_ssim_y == pytest.approx(sum(expected) / 2, abs=1e-9)
    assert quality.ms_ssim_y is not None
    assert quality.ssim_y < quality.ms_ssim_y < 1
    assert measure_quality(frames, decoded, video, with_vmaf=False, with_ms_ssim=False).ms_ssim_y is None


@pytest.mark.parametrize(("height", "given"), [(160, False), (161, True)])
def test_ms_ssim_needs_161_samples(height: int, given: bool) -> None:
    video, frames = natural(200, height, count=1)
    assert (measure_quality(frames, frames, video, with_vmaf=False).ms_ssim_y == 1.0) is given


@pytest.mark.parametrize("size", [(176, 144), (63, 47)])
def test_vmaf_falls_with_damage_and_covers_every_frame(size: tuple[int, int]) -> None:
    video, frames = natural(*size, count=5)
    scores = [measure_quality(frames, other, video).vmaf for other in (frames, blurred(frames, 1), blurred(frames, 3))]
    assert all(score is not None for score in scores)
    same, worse, worst = (score or 0.0 for score in scores)
    assert same > 95
    assert same > worse > worst


def test_vmaf_is_that_of_two_files(tmp_path: Path) -> None:
    """The frames go to ffmpeg in turn on one pipe; two files and the plain filter give the same score."""
    video, frames = natural(96, 64, count=4)
    decoded = degraded(frames, 15)
    write_video(tmp_path / "a.y4m", video, [frames])
    write_video(tmp_path / "b.y4m", video, [decoded])
    command = [imageio_ffmpeg.get_ffmpeg_exe(), "-i", "b.y4m", "-i", "a.y4m", "-lavfi", "libvmaf", "-f", "null", "-"]
    said = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=True, timeout=60).stderr
    score = re.search(r"VMAF score: ([\d.]+)", said)
    assert score is not None
    assert measure_quality(frames, decoded, video).vmaf == pytest.approx(float(score[1]), abs=1e-4)


def test_vmaf_is_absent_where_frames_are_too_small_or_nobody_asked() -> None:
    video, frames = natural(64, 16, count=1)
    assert measure_quality(frames, frames, video).vmaf is None
    video, frames = natural(64, 48, count=1)
    assert measure_quality(frames, frames, video, with_vmaf=False).vmaf is None
    assert measure_quality(frames, frames, video).vmaf is not None


def test_an_ffmpeg_that_fails_is_a_measurement_error(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    broken = tmp_path / "ffmpeg"
    broken.write_text("#!/bin/sh\necho no libvmaf in this build >&2\nexit 3\n", encoding="ascii")
    broken.chmod(0o755)
    monkeypatch.setenv("IMAGEIO_FFMPEG_EXE", str(broken))
    video, frames = natural(176, 144, count=8)
    with pytest.raises(MeasurementError, match=r"ended with 3.*no libvmaf in this build"):
        measure_quality(frames, frames, video)


def test_identical_frames_are_finite() -> None:
    video, frames = natural(32, 32, count=2)
    quality = measure_quality(frames, frames, video, with_vmaf=False)
    assert (quality.psnr_y, quality.psnr_yuv, quality.psnr_y_frame_mean, quality.psnr_y_worst) == (100,) * 4
    assert (quality.ssim_y, quality.frames) == (1.0, 2)


def test_a_slice_is_measured_by_itself() -> None:
    video, frames = natural(64, 48, count=6)
    decoded = Frames.concatenate([frames[:3], degraded(frames[3:], 10)])
    first = measure_quality(frames[:3], decoded[:3], video, with_vmaf=False)
    second = measure_quality(frames[3:], decoded[3:], video, with_vmaf=False)
    assert first.psnr_y == 100
    assert 20 < second.psnr_y < 35


def test_what_cannot_be_compared_is_refused() -> None:
    video, frames = natural(64, 48, count=2)
    _, other = natural(48, 48, count=2)
    for reference, decoded, message in (
        (frames, frames[:1], "2 original frames against 1 decoded"),
        (frames[:0], frames[:0], "no frames"),
        (frames, other, "the decoded planes are"),
        (other, frames, "the original planes are"),
    ):
        with pytest.raises(BadInputError, match=message):
            measure_quality(reference, decoded, video)
