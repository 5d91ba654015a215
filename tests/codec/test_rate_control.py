from __future__ import annotations

import io
from collections.abc import Callable, Iterable

import pytest

from codec.config import CodecConfig
from codec.decoding_agent import decode_bytes
from codec.errors import BadInputError
from codec.frames import Frames, VideoFormat
from codec.quality import measure_quality
from codec.rate_control import MAX_PASSES, Metric, Reached, Target, encode_to_target, search
from tests.codec.conftest import MovingPicture

QUICK = CodecConfig(strategy="x264", preset="veryfast")
AUTO = CodecConfig(strategy="auto", effort=0)
CURVES: dict[Metric, Callable[[float], float]] = {
    "kbps": lambda quality: 20 * 200**quality,
    "psnr_y": lambda quality: 26 + 25 * quality - 6 * quality**2,
    "ssim_y": lambda quality: 1 - 0.3 * 0.01**quality,
}


def run(
    config: CodecConfig, target: Target, frames: Frames, video: VideoFormat
) -> tuple[bytes, Reached, int, list[Iterable[Frames]]]:
    sink = io.BytesIO()
    reads: list[Iterable[Frames]] = []

    def source() -> Iterable[Frames]:
        reads.append([frames[:5], frames[5:]])
        return reads[-1]

    report, reached = encode_to_target(config, target, source, video, sink)
    assert report.bytes == len(sink.getvalue())
    return sink.getvalue(), reached, sum(len(scene.trials) for scene in report.scenes), reads


def figure(metric: Metric, data: bytes, frames: Frames, video: VideoFormat) -> float:
    """The figure of a file as anybody would measure it."""
    told, decoded = decode_bytes(data)
    assert told == video
    if metric == "kbps":
        return len(data) * 8 * float(video.frame_rate) / len(frames) / 1000
    return float(getattr(measure_quality(frames, decoded, video, with_vmaf=False, with_ms_ssim=False), metric))


@pytest.mark.parametrize("metric", CURVES)
@pytest.mark.parametrize("place", [0.02, 0.3, 0.55, 0.81, 0.99])
@pytest.mark.parametrize("step", [0.0, 1 / 300])
def test_the_search_meets_any_target_on_the_curve(metric: Metric, place: float, step: float) -> None:
    def encode(quality: float) -> float:
        return CURVES[metric](round(quality / step) * step if step else quality)

    target = Target(metric, CURVES[metric](place))
    reached = search(target, encode)
    assert reached.miss is None
    assert target.reached_by(encode(reached.quality))
    assert reached.passes <= 8


@pytest.mark.parametrize(
    ("metric", "value", "words"),
    [
        ("kbps", 3, "20 kbps is the coarsest"),
        ("kbps", 9000, "4000 kbps is the finest"),
        ("psnr_y", 60, "45 dB PSNR-Y is the finest"),
        ("ssim_y", 0.5, "0.7 SSIM-Y is the coarsest"),
    ],
)
def test_a_target_off_the_curve_gets_its_end_and_one_line(metric: Metric, value: float, words: str) -> None:
    reached = search(Target(metric, value), CURVES[metric])
    assert reached.quality in (0, 1)
    assert words in str(reached.miss)
    assert "\n" not in str(reached.miss)
    assert reached.passes <= 4


def test_steps_that_straddle_the_target_are_told() -> None:
    def stairs(quality: float) -> float:
        return 100.0 * 2 ** int(quality * 5)

    reached = search(Target("kbps", 300), stairs)
    assert reached.figure in (200, 400)
    assert "steps go from 200 to 400 kbps" in str(reached.miss)
    assert reached.passes <= MAX_PASSES


def test_a_figure_that_is_not_monotone_ends_the_search_with_the_nearest() -> None:
    reached = search(Target("psnr_y", 40), lambda quality: 38.0 + (round(quality * 1000) % 7) / 10)
    assert reached.passes <= MAX_PASSES
    assert 38 <= reached.figure <= 38.6


@pytest.mark.parametrize(("metric", "value"), [("kbps", 130), ("psnr_y", 36.0), ("ssim_y", 0.95)])
@pytest.mark.parametrize(
    "config", [QUICK, AUTO, pytest.param(AUTO.model_copy(update={"effort": 4}), marks=pytest.mark.slow)]
)
def test_the_file_has_what_was_asked_for(
    metric: Metric, value: float, config: CodecConfig, moving_picture: MovingPicture
) -> None:
    frames, video = moving_picture(128, 96, 24)
    target = Target(metric, value)
    config = config.model_copy(update={"max_scene_frames": 10})
    data, reached, _, reads = run(config, target, frames, video)
    measured = figure(metric, data, frames, video)
    assert reached.miss is None
    assert target.reached_by(measured)
    assert measured == pytest.approx(reached.figure, rel=1e-9)
    assert len(reads) == reached.passes * (2 if metric == "ssim_y" else 1)


def test_an_impossible_bitrate_leaves_the_smallest_file(moving_picture: MovingPicture) -> None:
    frames, video = moving_picture(128, 96, 12)
    data, reached, _, _ = run(QUICK, Target("kbps", 0.5), frames, video)
    assert "is the coarsest" in str(reached.miss)
    assert figure("kbps", data, frames, video) == pytest.approx(reached.figure)


def test_the_nearest_pass_is_the_one_in_the_file(moving_picture: MovingPicture) -> None:
    """VVenC has whole and half steps only; here the pass that came nearest is seldom the last."""
    frames, video = moving_picture(64, 64, 4)
    config = CodecConfig(strategy="vvc")
    for value in (300.0, 333.0):
        data, reached, _, _ = run(config, Target("kbps", value), frames, video)
        assert figure("kbps", data, frames, video) == pytest.approx(reached.figure)


def test_later_passes_encode_little(moving_picture: MovingPicture) -> None:
    frames, video = moving_picture(128, 96, 12)
    _, reached, last_trials, _ = run(CodecConfig(strategy="auto", effort=2), Target("psnr_y", 37.0), frames, video)
    assert reached.passes > 1
    full = run(CodecConfig(strategy="auto", effort=2), Target("psnr_y", reached.figure), frames, video)
    assert last_trials < full[2] or full[1].passes > 1


def test_targets_out_of_range_are_refused() -> None:
    for metric, value in (("kbps", 0), ("kbps", -5), ("psnr_y", 100), ("ssim_y", 1), ("ssim_y", float("nan"))):
        with pytest.raises(BadInputError, match="the target of"):
            Target(metric, value)  # type: ignore[arg-type]
