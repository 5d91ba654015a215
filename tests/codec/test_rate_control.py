from __future__ import annotations

import io
from collections.abc import Callable, Iterable

import pytest

from codec.coding import Coding
from codec.config import CodecConfig
from codec.decoding_agent import decode_bytes
from codec.encoding_agent import EncodeReport
from codec.errors import BadInputError
from codec.frames import Frames, VideoFormat
from codec.quality import measure_quality
from codec.rate_control import (
    MAX_PASSES,
    Metric,
    Pass,
    Reached,
    Target,
    encode_to_target,
    nearest,
    nothing_between,
    search,
)
from tests.codec.conftest import MovingPicture
from tests.codec.test_procedural import editor

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


def searched(target: Target, curve: Callable[[float], float]) -> list[Pass]:
    """The passes of a search in which nothing is encoded."""
    return search(target, lambda quality: Pass(quality, curve(quality), EncodeReport((), 0)))


@pytest.mark.parametrize("metric", CURVES)
@pytest.mark.parametrize("place", [0.02, 0.3, 0.55, 0.81, 0.99])
@pytest.mark.parametrize("step", [0.0, 1 / 300])
def test_the_search_meets_any_target_on_the_curve(metric: Metric, place: float, step: float) -> None:
    def figure_at(quality: float) -> float:
        return CURVES[metric](round(quality / step) * step if step else quality)

    target = Target(metric, CURVES[metric](place))
    passes = searched(target, figure_at)
    assert target.reached_by(passes[-1].figure)
    assert nearest(target, passes) is passes[-1]
    assert len(passes) <= 8


@pytest.mark.parametrize(
    ("metric", "value", "end"), [("kbps", 3, 0), ("kbps", 9000, 1), ("psnr_y", 60, 1), ("ssim_y", 0.5, 0)]
)
def test_a_target_off_the_curve_gets_its_end(metric: Metric, value: float, end: float) -> None:
    target = Target(metric, value)
    passes = searched(target, CURVES[metric])
    assert nearest(target, passes).quality == end
    assert len(passes) <= 4


@pytest.mark.parametrize(
    ("metric", "steps", "value", "kept"),
    [
        ("kbps", (100, 200, 400, 800), 390 / 1.03 - 1, 200),
        ("kbps", (100, 200, 400, 800), 210, 200),
        ("psnr_y", (40, 40.6, 41.5, 42.1), 41.3, 41.5),
        ("psnr_y", (40, 40.6, 41.5, 42.1), 40.75, 41.5),
        ("ssim_y", (0.9, 0.95, 0.97, 0.99), 0.952, 0.97),
    ],
)
def test_of_two_steps_around_the_target_the_one_that_serves_is_kept(
    metric: Metric, steps: tuple[float, ...], value: float, kept: float
) -> None:
    """Who asks for a quality gets no less, who asks for a bitrate no more."""
    target = Target(metric, value)
    passes = searched(target, lambda quality: steps[min(3, int(quality * 4))])
    assert nearest(target, passes).figure == kept
    assert len(passes) <= MAX_PASSES


def test_of_equal_figures_the_coarsest_is_kept() -> None:
    target = Target("psnr_y", 41)
    passes = searched(target, lambda quality: 42.0 if quality > 0.4 else 38.0)
    assert nearest(target, passes).quality == min(known.quality for known in passes if known.figure == 42)


def test_a_figure_that_is_not_monotone_ends_the_search() -> None:
    passes = searched(Target("psnr_y", 40), lambda quality: 38.0 + (round(quality * 1000) % 7) / 10)
    assert len(passes) <= MAX_PASSES
    assert len({known.quality for known in passes}) == len(passes)


def test_between_neighbouring_rates_of_one_scene_there_is_nothing() -> None:
    auto, fixed = CodecConfig(strategy="auto"), CodecConfig(strategy="vvc")
    av1, vvc, drawn = Coding("av1"), Coding("vvc"), Coding("procedural")
    layered = Coding("hybrid_semantic", options=(("base", "vvc"),))
    assert nothing_between((av1.at(30), vvc.at(32)), (av1.at(30), vvc.at(31.5)), auto)
    assert nothing_between((drawn.at(0.478),), (drawn.at(0.479),), auto)
    assert nothing_between((layered.at(32),), (layered.at(31.5),), auto)
    assert nothing_between((vvc.at(32),), (vvc.at(31),), fixed)  # which has no half steps
    assert not nothing_between((vvc.at(32),), (vvc.at(31),), auto)
    assert not nothing_between((drawn.at(0.478),), (drawn.at(0.481),), auto)
    assert not nothing_between((av1.at(30), vvc.at(32)), (av1.at(29.75), vvc.at(31.5)), auto)
    assert not nothing_between((av1.at(30),), (vvc.at(30),), auto)
    by_quality = Coding("hybrid_semantic", quality=0.4), Coding("hybrid_semantic", quality=0.6)
    assert not nothing_between(by_quality[:1], by_quality[1:], CodecConfig(strategy="hybrid_semantic"))


def test_a_drawn_screen_that_steps_over_the_target_is_searched_once_and_kept_above_it() -> None:
    frames, video = editor(96, 64, 3)
    data, reached, _, reads = run(CodecConfig(strategy="auto", effort=2), Target("psnr_y", 44), frames, video)
    assert "and the higher is taken" in str(reached.miss)
    assert figure("psnr_y", data, frames, video) == pytest.approx(reached.figure, rel=1e-9)
    assert reached.figure > 44
    assert reached.passes <= MAX_PASSES
    assert len(reads) == reached.passes + 1


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
    # The file is compared with the source: for SSIM after each pass, for PSNR at the end.
    assert len(reads) == reached.passes + {"kbps": 0, "psnr_y": 1, "ssim_y": reached.passes}[metric]


def test_an_impossible_bitrate_leaves_the_smallest_file(moving_picture: MovingPicture) -> None:
    frames, video = moving_picture(128, 96, 12)
    data, reached, _, _ = run(QUICK, Target("kbps", 0.5), frames, video)
    assert "kbps is what quality 0 gives, where the quality knob ends" in str(reached.miss)
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
    _, reached, last_trials, _ = run(CodecConfig(strategy="auto", effort=1), Target("psnr_y", 37.0), frames, video)
    assert reached.passes > 1
    full = run(CodecConfig(strategy="auto", effort=1), Target("psnr_y", reached.figure), frames, video)
    assert last_trials < full[2] or full[1].passes > 1


def test_targets_out_of_range_are_refused() -> None:
    for metric, value in (("kbps", 0), ("kbps", -5), ("psnr_y", 100), ("ssim_y", 1), ("ssim_y", float("nan"))):
        with pytest.raises(BadInputError, match="the target of"):
            Target(metric, value)  # type: ignore[arg-type]
