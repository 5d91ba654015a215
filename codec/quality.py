"""How close decoded frames are to the original: PSNR, SSIM, MS-SSIM and VMAF, all on 8-bit 4:2:0 planes.

Owns the formulas. Rates, BD-rate and verdicts are others'; so is choosing which frames to compare: a scene is
measured by handing in its slice. Frames are taken one at a time, so memory does not grow with the clip.

    PSNR      from the MSE pooled over all frames of a plane, exact integer sums (as ffmpeg's psnr filter pools)
    SSIM      luma, Gaussian window of sigma 1.5 and 11 samples, population covariance, mean over the frames
              (Wang et al., IEEE TIP 2004; equal to scikit-image's structural_similarity)
    MS-SSIM   luma, five scales (Wang et al., Asilomar 2003), mean over the frames
    VMAF      libvmaf's default model in ffmpeg, mean over the frames
"""

from __future__ import annotations

import contextlib
import json
import math
import subprocess
import tempfile
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np
import numpy.typing as npt

from codec.errors import BadInputError, MeasurementError
from codec.frames import Frames, Plane, VideoFormat

PSNR_CAP_DB = 100.0
MS_SSIM_MIN_SIDE = 161  # four halvings leave 11 samples, one window
VMAF_MIN_SIDE = 17  # libvmaf refuses 16 and fewer

_WINDOW = 11  # sigma 1.5 truncated at 3.5 sigma
_C1, _C2 = (0.01 * 255) ** 2, (0.03 * 255) ** 2
_MS_SSIM_WEIGHTS = (0.0448, 0.2856, 0.3001, 0.2363, 0.1333)

_Image = npt.NDArray[np.float64]


@dataclass(frozen=True)
class Quality:
    """Quality of one run of frames. PSNR in dB, at most 100; SSIM and MS-SSIM at most 1; VMAF in [0, 100].

    psnr_y, psnr_u, psnr_v  from the MSE pooled over the frames
    psnr_yuv                (6·Y + U + V) / 8 of these three
    psnr_y_frame_mean       mean of the frames' own PSNR-Y: never below psnr_y, up to 1 dB above on real clips
    psnr_y_worst            the lowest PSNR-Y of a frame
    ms_ssim_y               None where a side is below 161 samples, or not asked for
    vmaf                    None where a side is below 17 samples, or not asked for
    """

    frames: int
    psnr_y: float
    psnr_u: float
    psnr_v: float
    psnr_yuv: float
    psnr_y_frame_mean: float
    psnr_y_worst: float
    ssim_y: float
    ms_ssim_y: float | None
    vmaf: float | None


def measure_quality(
    reference: Frames,
    distorted: Frames,
    video: VideoFormat,
    *,
    with_vmaf: bool = True,
    with_ms_ssim: bool = True,
    vmaf_threads: int = 2,
) -> Quality:
    """Compare two runs of frames of `video`'s size.

    Raises BadInputError where sizes or counts differ or there are no frames, and MeasurementError where VMAF was
    asked for and ffmpeg fails.
    """
    if len(reference) != len(distorted):
        raise BadInputError(
            f"quality: {len(reference)} original frames against {len(distorted)} decoded; give the same frames"
        )
    pairs = ((reference[i : i + 1], distorted[i : i + 1]) for i in range(len(reference)))
    return measure_pairs(pairs, video, with_vmaf=with_vmaf, with_ms_ssim=with_ms_ssim, vmaf_threads=vmaf_threads)


def measure_pairs(
    pairs: Iterable[tuple[Frames, Frames]],
    video: VideoFormat,
    *,
    with_vmaf: bool = True,
    with_ms_ssim: bool = True,
    vmaf_threads: int = 2,
) -> Quality:
    """The same for (original, decoded) runs of one frame each that come one by one; no frame is kept."""
    small = min(video.width, video.height)
    multiscale = with_ms_ssim and small >= MS_SSIM_MIN_SIDE
    errors: list[tuple[int, int, int]] = []
    similarity: list[tuple[float, float]] = []
    with contextlib.ExitStack() as stack:
        vmaf = stack.enter_context(_Vmaf(video, vmaf_threads)) if with_vmaf and small >= VMAF_MIN_SIDE else None
        for original, decoded in pairs:
            _require_alike(original, decoded, video)
            y, u, v = (squared_error(a[0], b[0]) for a, b in zip(original.planes(), decoded.planes(), strict=True))
            errors.append((y, u, v))
            similarity.append(_similarity(original.y[0], decoded.y[0], multiscale))
            if vmaf:
                vmaf.feed(original, decoded)
        count = len(errors)
        if not count:
            raise BadInputError("quality: there are no frames to compare; give at least one")
        vmaf_score = vmaf.score(count) if vmaf else None
    luma, chroma = video.width * video.height, video.chroma_width * video.chroma_height
    y_db, u_db, v_db = (
        psnr(sum(plane) / (size * count))
        for plane, size in zip(zip(*errors, strict=True), (luma, chroma, chroma), strict=True)
    )
    frame_psnr = [psnr(error / luma) for error, _, _ in errors]
    return Quality(
        frames=count,
        psnr_y=y_db,
        psnr_u=u_db,
        psnr_v=v_db,
        psnr_yuv=(6 * y_db + u_db + v_db) / 8,
        psnr_y_frame_mean=sum(frame_psnr) / count,
        psnr_y_worst=min(frame_psnr),
        ssim_y=sum(ssim for ssim, _ in similarity) / count,
        ms_ssim_y=sum(ms_ssim for _, ms_ssim in similarity) / count if multiscale else None,
        vmaf=vmaf_score,
    )


def psnr(mse: float) -> float:
    """PSNR in dB of 8-bit samples, capped at 100.0, which identical samples get, so that every score is finite."""
    if mse <= 0:
        return PSNR_CAP_DB
    return min(PSNR_CAP_DB, 10 * math.log10(255**2 / mse))


def squared_error(a: Plane, b: Plane) -> int:
    """The exact sum of squared differences of two uint8 planes of one shape."""
    return round(
        cv2.norm(a, b, cv2.NORM_L2SQR)
    )  # it squares a root again, and so comes out a little off a whole number


def ssim(a: Plane, b: Plane) -> float:
    """Mean SSIM of two uint8 planes of one shape.

    The border of 5 samples, where the window does not fit, is left out, as scikit-image does. A plane smaller than
    the window is reflected at its edges and loses the border of the largest odd window that fits: what
    scikit-image gives with `win_size` set to that window.
    """
    return _ssim_and_contrast(a.astype(np.float64), b.astype(np.float64))[0]


def _require_alike(original: Frames, decoded: Frames, video: VideoFormat) -> None:
    luma, chroma = (video.height, video.width), (video.chroma_height, video.chroma_width)
    for name, frames in (("original", original), ("decoded", decoded)):
        sizes = [plane.shape for plane in frames.planes()]
        if sizes != [(1, *luma), (1, *chroma), (1, *chroma)]:
            raise BadInputError(f"quality: the {name} planes are {sizes}, not those of {video.width}x{video.height}")


def _similarity(a: Plane, b: Plane, multiscale: bool) -> tuple[float, float]:
    """SSIM and, where asked for, MS-SSIM (else 0) of one frame; the first scale serves both."""
    x, y = a.astype(np.float64), b.astype(np.float64)
    single, contrast = _ssim_and_contrast(x, y)
    if not multiscale:
        return single, 0.0
    product, structural = 1.0, single
    for scale, weight in enumerate(_MS_SSIM_WEIGHTS):
        if scale:
            x, y = _halve(x), _halve(y)
            structural, contrast = _ssim_and_contrast(x, y)
        last = scale == len(_MS_SSIM_WEIGHTS) - 1
        product *= max(0.0, structural if last else contrast) ** weight
    return single, product


def _ssim_and_contrast(x: _Image, y: _Image) -> tuple[float, float]:
    """Means of the SSIM map and of its contrast-structure factor. Double precision: variances cancel in single."""
    mean_x, mean_y = _blur(x), _blur(y)
    product = mean_x * mean_y
    power = mean_x * mean_x + mean_y * mean_y
    contrast = (2 * (_blur(x * y) - product) + _C2) / (_blur(x * x + y * y) - power + _C2)
    similarity = contrast * (2 * product + _C1) / (power + _C1)
    small = min(x.shape)
    border = min(_WINDOW, small if small % 2 else small - 1) // 2
    inner = (slice(border, x.shape[0] - border), slice(border, x.shape[1] - border))
    return float(similarity[inner].mean()), float(contrast[inner].mean())


def _blur(image: _Image) -> _Image:
    kernel = cv2.getGaussianKernel(_WINDOW, 1.5, cv2.CV_64F)
    blurred: _Image = cv2.sepFilter2D(image, cv2.CV_64F, kernel, kernel, borderType=cv2.BORDER_REFLECT)
    return blurred


def _halve(image: _Image) -> _Image:
    """Mean of 2x2 samples; an odd last row or column counts twice."""
    even = np.pad(image, ((0, image.shape[0] % 2), (0, image.shape[1] % 2)), mode="edge")
    half: _Image = (even[0::2, 0::2] + even[0::2, 1::2] + even[1::2, 0::2] + even[1::2, 1::2]) / 4
    return half


class _Vmaf:
    """ffmpeg with libvmaf, which gets the frames of both runs in turn on its stdin: only the log touches the disk."""

    def __init__(self, video: VideoFormat, threads: int) -> None:
        self._video = video
        self._threads = threads

    def __enter__(self) -> _Vmaf:
        import imageio_ffmpeg

        graph = (  # the frame rate plays no part: frames meet by their number
            "split[a][b];[a]select=not(mod(n\\,2)),setpts=N[decoded];[b]select=mod(n\\,2),setpts=N[original];"
            f"[decoded][original]libvmaf=n_threads={self._threads}:log_fmt=json:log_path=vmaf.json"
        )
        command = [
            *(imageio_ffmpeg.get_ffmpeg_exe(), "-v", "error"),
            *("-f", "rawvideo", "-pix_fmt", "yuv420p", "-s", f"{self._video.width}x{self._video.height}"),
            *("-i", "pipe:0", "-lavfi", graph, "-f", "null", "-"),
        ]
        with contextlib.ExitStack() as stack:
            folder = tempfile.TemporaryDirectory(prefix="evocodec-vmaf-")
            self._folder = Path(stack.enter_context(folder))
            stderr = stack.enter_context((self._folder / "stderr").open("wb"))
            self._process = subprocess.Popen(
                command, cwd=self._folder, stdin=subprocess.PIPE, stdout=subprocess.DEVNULL, stderr=stderr
            )
            self._stack = stack.pop_all()
        return self

    def __exit__(self, *exception: object) -> None:
        if self._process.poll() is None:  # an exception on the way, such as Ctrl-C
            self._process.kill()
        with contextlib.suppress(BrokenPipeError):
            self._process.communicate()
        self._stack.close()

    def feed(self, original: Frames, decoded: Frames) -> None:
        pipe = self._process.stdin
        if pipe is None:
            raise MeasurementError("VMAF: ffmpeg was started without a stdin to feed")
        with contextlib.suppress(BrokenPipeError):  # it ended early: its exit code tells
            pipe.write(decoded.to_bytes())
            pipe.write(original.to_bytes())

    def score(self, expected: int) -> float:
        """The mean over the frames, when all have been fed. Raises MeasurementError."""
        with contextlib.suppress(BrokenPipeError):
            self._process.communicate()
        exit_code = self._process.returncode
        said = (self._folder / "stderr").read_text(encoding="utf-8", errors="replace").strip()[-500:] or "nothing"
        try:
            log = json.loads((self._folder / "vmaf.json").read_text(encoding="utf-8"))
            frames, score = len(log["frames"]), float(log["pooled_metrics"]["vmaf"]["mean"])
        except (OSError, ValueError, KeyError) as error:
            raise MeasurementError(f"VMAF: ffmpeg ended with {exit_code} and no usable log; it said: {said}") from error
        if exit_code or frames != expected:
            raise MeasurementError(
                f"VMAF: ffmpeg ended with {exit_code} after {frames} of {expected} frames; it said: {said}"
            )
        return score
