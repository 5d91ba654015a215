"""The command line as a user meets it: what works, and one clear line with the right exit code for what cannot."""

from __future__ import annotations

import json
import re
import signal
import socket
import subprocess
import sys
import time
from fractions import Fraction
from itertools import pairwise
from pathlib import Path

import av
import numpy as np
import pytest
from running import EVOCODEC, Evocodec, clean_environment

from codec.demo_clip import demo_clip
from codec.video import write_video
from tests.codec.test_audio import clip_with_a_click

PROGRESS = ("evocodec: encoding", "evocodec: decoding")  # where the machine is slow


def one_line(result: subprocess.CompletedProcess[str], code: int, *words: str) -> None:
    """The contract of every error: the exit code, one line on stderr that says what and where, no traceback."""
    assert result.returncode == code, result.stderr + result.stdout
    lines = [line for line in result.stderr.splitlines() if not line.startswith(("evocodec: warning:", *PROGRESS))]
    assert len(lines) == 1, result.stderr
    assert "Traceback" not in result.stderr
    for word in words:
        assert word in lines[0], lines[0]


def write_clip(
    path: Path, width: int, height: int, frames: int, pixel_format: str = "yuv420p", codec: str = "ffv1"
) -> Path:
    """A small moving gradient, written with PyAV."""
    with av.open(str(path), "w") as container:
        stream = container.add_stream(codec, rate=Fraction(25))
        stream.width, stream.height, stream.pix_fmt = width, height, pixel_format
        rows, columns = np.mgrid[0:height, 0:width]
        for number in range(frames):
            luma = ((rows + columns * 2 + number * 3) % 256).astype(np.uint8)
            frame = av.VideoFrame.from_ndarray(np.dstack([luma] * 3), format="rgb24").reformat(
                format=pixel_format, threads=1
            )
            frame.pts = number
            container.mux(stream.encode(frame))
        container.mux(stream.encode(None))
    return path


@pytest.fixture
def clip(tmp_path: Path) -> Path:
    return write_clip(tmp_path / "clip.mkv", 96, 64, 8)


@pytest.fixture
def evc(evocodec: Evocodec, clip: Path, tmp_path: Path) -> Path:
    out = tmp_path / "clip.evc"
    result = evocodec("encode", clip, out, "--strategy", "x264")
    assert result.returncode == 0, result.stderr
    return out


def test_help_lists_every_command_quickly(evocodec: Evocodec) -> None:
    text = evocodec("--help").stdout
    for command in (
        "run",
        "up",
        "demo-clip",
        "encode",
        "decode",
        "info",
        "measure",
        "try",
        "results",
        "report",
        "seed",
        "import-code",
        "import-dynamodb",
        "import-sqs",
        "doctor",
    ):
        assert re.search(rf"^\s+{command}\s", text, re.MULTILINE), command
    assert len(text.splitlines()) < 30


def test_a_cap_of_nothing_is_bad_input(evocodec: Evocodec, tmp_path: Path) -> None:
    one_line(evocodec("run", "--max-usd", 0, "--home", tmp_path), 2, "--max-usd", "greater than 0")
    one_line(evocodec("run", "--max-experiments", 0, "--home", tmp_path), 2, "--max-experiments")


def test_help_imports_nothing_heavy(tmp_path: Path) -> None:
    code = (
        "import sys; sys.argv = ['evocodec', '--help']\n"
        "import flows.cli\n"
        "try: flows.cli.main()\n"
        "except SystemExit: pass\n"
        "heavy = {'torch', 'prefect', 'av', 'cv2', 'numpy', 'pandas', 'pydantic', 'rich'} & set(sys.modules)\n"
        "assert not heavy, heavy"
    )
    subprocess.run([sys.executable, "-c", code], check=True, stdout=subprocess.DEVNULL, timeout=30)


@pytest.mark.parametrize("strategy", ["x264", "x265", "av1", "vvc"])
def test_encode_decode_measure_round_trip(evocodec: Evocodec, clip: Path, tmp_path: Path, strategy: str) -> None:
    evc, out = tmp_path / "a.evc", tmp_path / "a.y4m"
    assert evocodec("encode", clip, evc, "--strategy", strategy, "--quality", "0.8").returncode == 0
    decoded = evocodec("decode", evc, out, "--verify")
    assert decoded.returncode == 0, decoded.stderr
    assert "verified" in decoded.stdout
    from_evc = json.loads(evocodec("measure", clip, evc, "--json").stdout)
    from_y4m = json.loads(evocodec("measure", clip, out, "--json").stdout)
    assert set(from_evc) >= {"kbps", "psnr_y", "psnr_u", "psnr_v", "psnr_yuv", "ssim_y", "vmaf", "frames"}
    assert from_evc["psnr_y"] == from_y4m["psnr_y"] > 30
    assert from_evc["kbps"] == pytest.approx(evc.stat().st_size * 8 * 25 / 8 / 1000)


def test_info_tells_scenes_and_strategies(evocodec: Evocodec, evc: Path) -> None:
    facts = json.loads(evocodec("info", evc, "--json").stdout)
    assert facts["width"] == 96
    assert facts["frame_count"] == 8
    assert [scene["strategy"] for scene in facts["scenes"]] == ["x264"]
    assert "x264" in evocodec("info", evc).stdout


def test_missing_file(evocodec: Evocodec) -> None:
    one_line(evocodec("encode", "absent.mp4", "out.evc"), 2, "absent.mp4")
    one_line(evocodec("decode", "absent.evc", "out.y4m"), 2, "absent.evc")
    one_line(evocodec("info", "absent.evc"), 2, "absent.evc")
    one_line(evocodec("measure", "absent.mp4", "absent.evc"), 2, "absent.mp4")
    one_line(evocodec("run", "--clip", "absent.mp4"), 2, "absent.mp4")
    one_line(evocodec("try", "absent"), 2, "absent")


def test_text_file_named_mp4(evocodec: Evocodec, tmp_path: Path) -> None:
    fake = tmp_path / "notes.mp4"
    fake.write_text("these are notes, not a film\n" * 50)
    one_line(evocodec("encode", fake, "out.evc"), 2, "notes.mp4")
    one_line(evocodec("run", "--clip", fake), 2, "notes.mp4")


def test_audio_only_file(evocodec: Evocodec, tmp_path: Path) -> None:
    sound = tmp_path / "sound.wav"
    with av.open(str(sound), "w") as container:
        stream = container.add_stream("pcm_s16le", rate=8000)
        frame = av.AudioFrame.from_ndarray(np.zeros((1, 8000), dtype=np.int16), format="s16", layout="mono")
        frame.sample_rate = 8000
        container.mux(stream.encode(frame))
        container.mux(stream.encode(None))
    one_line(evocodec("encode", sound, "out.evc"), 2, "sound.wav")


def test_file_with_no_frames(evocodec: Evocodec, tmp_path: Path) -> None:
    empty = tmp_path / "empty.y4m"
    empty.write_bytes(b"YUV4MPEG2 W64 H64 F25:1 Ip A1:1 C420jpeg\n")
    one_line(evocodec("encode", empty, "out.evc"), 2, "empty.y4m")
    assert not (tmp_path / "out.evc").exists()


@pytest.mark.parametrize(("width", "height", "frames"), [(96, 64, 1), (95, 63, 5), (16, 16, 5)])
def test_one_frame_odd_size_and_tiny_clips_work(
    evocodec: Evocodec, tmp_path: Path, width: int, height: int, frames: int
) -> None:
    clip = write_clip(tmp_path / "odd.mkv", width, height, frames)
    for strategy in ("x264", "av1"):
        assert evocodec("encode", clip, "odd.evc", "--strategy", strategy).returncode == 0
        assert evocodec("decode", "odd.evc", "odd.y4m", "--verify").returncode == 0
        facts = json.loads(evocodec("measure", clip, "odd.evc", "--json").stdout)
        assert facts["frames"] == frames
        assert facts["psnr_y"] > 20


@pytest.mark.parametrize(("pixel_format", "said"), [("yuv420p10le", "10-bit"), ("yuv444p", "4:4:4")])
def test_deeper_or_denser_input_is_converted_with_a_warning(
    evocodec: Evocodec, tmp_path: Path, pixel_format: str, said: str
) -> None:
    clip = write_clip(tmp_path / "deep.mkv", 64, 64, 4, pixel_format)
    result = evocodec("encode", clip, "deep.evc", "--strategy", "x264")
    assert result.returncode == 0, result.stderr
    assert "warning" in result.stderr
    assert said in result.stderr


def test_variable_frame_rate_is_resampled_with_a_warning(evocodec: Evocodec, tmp_path: Path) -> None:
    path = tmp_path / "vfr.mkv"
    with av.open(str(path), "w") as container:
        stream = container.add_stream("ffv1", rate=Fraction(25))
        stream.width, stream.height, stream.pix_fmt = 64, 64, "yuv420p"
        stream.codec_context.time_base = Fraction(1, 1000)
        for number, milliseconds in enumerate((0, 40, 80, 400, 440, 480, 900, 940)):
            frame = av.VideoFrame.from_ndarray(np.full((96, 64), 20 * number, dtype=np.uint8), format="yuv420p")
            frame.pts, frame.time_base = milliseconds, Fraction(1, 1000)
            container.mux(stream.encode(frame))
        container.mux(stream.encode(None))
    result = evocodec("encode", path, "vfr.evc", "--strategy", "x264")
    assert result.returncode == 0, result.stderr
    assert "variable frame rate" in result.stderr.lower()


def test_truncated_evc(evocodec: Evocodec, evc: Path, tmp_path: Path) -> None:
    cut = tmp_path / "cut.evc"
    cut.write_bytes(evc.read_bytes()[:-40])
    one_line(evocodec("decode", cut, "out.y4m"), 2)
    assert not (tmp_path / "out.y4m").exists()
    cut.write_bytes(evc.read_bytes()[:7])
    one_line(evocodec("info", cut), 2, "cut.evc")


@pytest.mark.skipif(Path("/dev/nvidiactl").exists(), reason="needs a machine without a GPU")
def test_a_device_that_is_not_there_is_bad_input(evocodec: Evocodec, evc: Path, tmp_path: Path) -> None:
    one_line(evocodec("decode", evc, "out.y4m", "--device", "cuda"), 2, "cannot compute on 'cuda'")
    assert not (tmp_path / "out.y4m").exists()


def test_damaged_evc_is_noticed(evocodec: Evocodec, evc: Path, tmp_path: Path) -> None:
    data = bytearray(evc.read_bytes())
    data[-30] ^= 0xFF
    damaged = tmp_path / "damaged.evc"
    damaged.write_bytes(data)
    one_line(evocodec("decode", damaged, "out.y4m"), 2, "scene")


def test_a_damaged_scene_costs_only_itself(evocodec: Evocodec, tmp_path: Path) -> None:
    assert evocodec("demo-clip", "demo.y4m").returncode == 0
    assert evocodec("encode", "demo.y4m", "demo.evc", "--strategy", "x264", "--quality", "0.2").returncode == 0
    scenes = json.loads(evocodec("info", "demo.evc", "--json").stdout)["scenes"]
    data = bytearray((tmp_path / "demo.evc").read_bytes())
    data[-scenes[3]["payload_bytes"] - 100] ^= 0xFF  # in the payload of the third of four scenes
    (tmp_path / "damaged.evc").write_bytes(data)
    one_line(evocodec("info", "damaged.evc"), 2, "damaged.evc", "scene 2")
    concealed = evocodec("decode", "damaged.evc", "out.mkv", "--conceal")
    assert concealed.returncode == 1
    assert "96 frames, 1 scene lost" in concealed.stdout
    assert "scene 2" in concealed.stderr


def test_the_input_is_never_overwritten(evocodec: Evocodec, clip: Path, evc: Path) -> None:
    before = clip.read_bytes()
    one_line(evocodec("encode", clip, clip), 2, ".evc")
    one_line(evocodec("encode", clip, clip.with_suffix(".mp4")), 2, ".evc")
    evc_before = evc.read_bytes()
    one_line(evocodec("encode", evc, evc), 2, "is the input itself")
    assert (clip.read_bytes(), evc.read_bytes()) == (before, evc_before)


def test_a_cut_source_is_encoded_with_a_warning(evocodec: Evocodec, tmp_path: Path) -> None:
    whole = write_clip(tmp_path / "whole.mkv", 96, 64, 40)
    cut = tmp_path / "cut.mkv"
    cut.write_bytes(whole.read_bytes()[: whole.stat().st_size * 6 // 10])
    result = evocodec("encode", cut, "cut.evc", "--strategy", "x264")
    assert result.returncode == 0
    assert "warning" in result.stderr
    assert "the file is damaged" in result.stderr


@pytest.mark.parametrize("number", [signal.SIGINT, pytest.param(signal.SIGTERM, marks=pytest.mark.slow)])
def test_an_interrupted_encode_stops_at_once_and_leaves_nothing(
    clips: Path, tmp_path: Path, number: signal.Signals
) -> None:
    process = subprocess.Popen(
        [EVOCODEC, "encode", clips / "bunny1080.mkv", "out.evc", "--strategy", "av1"],
        cwd=tmp_path,
        env=clean_environment(),
        stderr=subprocess.PIPE,
        text=True,
    )
    deadline = time.monotonic() + 30
    while not list(tmp_path.glob(".*.partial.evc")) and time.monotonic() < deadline:
        time.sleep(0.05)
    time.sleep(2)  # into the encoder's own code, which Python cannot interrupt
    process.send_signal(number)
    _, said = process.communicate(timeout=10)
    assert process.returncode == 130
    assert said == "evocodec: interrupted\n"
    assert list(tmp_path.iterdir()) == []


def test_the_candidate_of_the_docs_works_as_printed(evocodec: Evocodec, tmp_path: Path) -> None:
    page = (Path(__file__).parents[2] / "docs" / "candidates.md").read_text()
    sources = re.findall(r"```python\n# (\w+\.py)\n(.*?)```", page, re.DOTALL)
    assert [name for name, _ in sources] == ["encoder.py", "decoder.py"]
    for name, text in sources:
        (tmp_path / name).write_text(text)
    (tmp_path / "config.json").write_text("{}")
    result = evocodec("try", tmp_path, "--max-frames", "2", "--json")
    assert result.returncode == 0, result.stdout + result.stderr
    facts = json.loads(result.stdout)
    assert facts["status"] == "measured"
    rates = [(point["kbps"], point["psnr_y"]) for point in facts["points"]]
    assert rates == sorted(rates)
    assert all(later > earlier for (_, earlier), (_, later) in pairwise(rates))


def test_the_command_never_calls_home(evocodec: Evocodec, tmp_path: Path) -> None:
    code = (
        "import sys; sys.argv = ['evocodec', 'results']\n"
        "import flows.cli\n"
        "try: flows.cli.main()\n"
        "except SystemExit: pass\n"
        "import flows.follow\n"
        "from prefect._internal.analytics import is_telemetry_enabled\n"
        "assert not is_telemetry_enabled()"
    )
    environment = {name: value for name, value in clean_environment().items() if name not in ("CI", "DO_NOT_TRACK")}
    subprocess.run([sys.executable, "-c", code], cwd=tmp_path, env=environment, check=True, capture_output=True)


def test_unknown_strategy_preset_and_output(evocodec: Evocodec, clip: Path, evc: Path) -> None:
    one_line(evocodec("encode", clip, "out.evc", "--strategy", "theora"), 2, "theora", "x264")
    one_line(evocodec("encode", clip, "out.evc", "--strategy", "av1", "--preset", "fastest"), 2, "fastest")
    one_line(evocodec("encode", clip, "out.evc", "--quality", "7"), 2, "quality")
    one_line(evocodec("decode", evc, "out.avi"), 2, "out.avi", ".mkv")


def test_measuring_files_that_do_not_match(evocodec: Evocodec, clip: Path, tmp_path: Path) -> None:
    one_line(evocodec("measure", clip, write_clip(tmp_path / "b.mkv", 64, 64, 8)), 2, "96×64")
    one_line(evocodec("measure", clip, write_clip(tmp_path / "c.mkv", 96, 64, 7)), 2, "7 frames")


def test_unwritable_store_and_output(evocodec: Evocodec, clip: Path, tmp_path: Path) -> None:
    # A file in the way stops root as well, which a permission bit does not.
    (tmp_path / "taken").write_text("")
    one_line(evocodec("run", "--store", tmp_path / "taken" / "store"), 2, "taken")
    one_line(evocodec("encode", clip, tmp_path / "taken" / "out.evc"), 2, "taken")
    one_line(evocodec("demo-clip", tmp_path / "taken" / "demo.y4m"), 2, "taken")


def test_results_of_an_empty_store(evocodec: Evocodec) -> None:
    assert "no campaign yet" in evocodec("results").stdout
    assert json.loads(evocodec("results", "--json").stdout) == []
    one_line(evocodec("results", "--campaign", "absent"), 2, "absent")


def test_port_in_use(evocodec: Evocodec) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = str(taken.getsockname()[1])
        one_line(evocodec("run", "--port", port), 2, port)
        one_line(evocodec("up", "--port", port), 2, port)


def test_no_server_at_the_given_url(evocodec: Evocodec) -> None:
    one_line(evocodec("run", "--server", "http://127.0.0.1:9/api"), 2, "127.0.0.1:9")


def test_campaign_settings_out_of_bounds(evocodec: Evocodec) -> None:
    assert evocodec("run", "--candidates", "9").returncode == 2
    assert evocodec("up", "--port", "70000").returncode == 2
    one_line(evocodec("run", "--campaign", "a/b"), 2, "--campaign a/b")
    one_line(evocodec("run", "--clip", "a.mp4", "--clip", "a.mp4"), 2, "twice")
    one_line(evocodec("run", "--designer", "oracle"), 2, "designer")


def test_demo_clip_is_a_y4m_of_the_promised_form(evocodec: Evocodec, tmp_path: Path) -> None:
    result = evocodec("demo-clip", "demo.y4m")
    assert result.returncode == 0, result.stderr
    header = (tmp_path / "demo.y4m").read_bytes()[:60]
    assert header.startswith(b"YUV4MPEG2 W320 H180 F25:1")


def test_doctor_has_a_line_for_each_part_and_fails_with_a_remedy(evocodec: Evocodec, tmp_path: Path) -> None:
    good = evocodec("doctor")
    assert good.returncode == 0, good.stdout
    for part in (
        "python",
        "codecs",
        "ffmpeg",
        "vvc encoder",
        "vmaf",
        "torch",
        "prefect",
        "store",
        "ANTHROPIC_API_KEY",
    ):
        assert re.search(rf"^\w+\s+{part}", good.stdout, re.MULTILINE), part
    (tmp_path / "taken").write_text("")
    bad = evocodec("doctor", "--store", tmp_path / "taken" / "store", PREFECT_API_URL="http://127.0.0.1:9/api")
    assert bad.returncode == 1
    assert re.search(r"^FAIL\s+store", bad.stdout, re.MULTILINE)
    assert re.search(r"^FAIL\s+prefect.*start it", bad.stdout, re.MULTILINE)


def test_keys_are_not_printed(evocodec: Evocodec) -> None:
    result = evocodec("doctor", ANTHROPIC_API_KEY="sk-very-secret")
    assert "sk-very-secret" not in result.stdout + result.stderr


def test_encode_chooses_hits_a_target_and_tells_why(evocodec: Evocodec, tmp_path: Path) -> None:
    clip, out, told = (tmp_path / name for name in ("clip.y4m", "a.evc", "a.json"))
    video, frames = demo_clip()
    write_video(clip, video, [frames[48:60]])
    result = evocodec("encode", clip, out, "--psnr", "36", "--effort", "1", "--workers", "2", "--report", told)
    assert result.returncode == 0, result.stderr
    assert json.loads(evocodec("measure", clip, out, "--json").stdout)["psnr_y"] == pytest.approx(36, abs=0.1)
    facts = json.loads(told.read_text())
    assert facts["config"]["strategy"] == "auto"
    assert facts["target"]["figure"] == pytest.approx(36, abs=0.1)
    assert facts["bytes"] == out.stat().st_size
    (scene,) = facts["scenes"]
    assert scene["chosen"] in scene["trials"]
    assert scene["chosen"]["bytes"] == scene["payload_bytes"]
    assert {"strategy", "preset", "scale", "rate", "bytes", "distortion", "failure"} <= set(scene["trials"][0])
    assert "lowest D" in scene["why"]
    assert set(scene["features"]) >= {"motion", "noise"}


def test_an_unreachable_bitrate_is_told_in_one_line(evocodec: Evocodec, clip: Path, tmp_path: Path) -> None:
    result = evocodec("encode", clip, tmp_path / "a.evc", "--bitrate", "0.1", "--strategy", "x264")
    assert result.returncode == 0
    assert "kbps is what quality 0 gives, where the quality knob ends" in result.stderr
    assert (tmp_path / "a.evc").exists()


def test_a_quality_beyond_the_knob_is_told_where_it_ends(evocodec: Evocodec, clip: Path, tmp_path: Path) -> None:
    result = evocodec("encode", clip, tmp_path / "a.evc", "--psnr", "99", "--strategy", "x264")
    assert result.returncode == 0
    assert "dB PSNR-Y is what quality 1 gives, where the quality knob ends" in result.stderr


def test_between_two_steps_a_quality_gets_no_less_and_a_bitrate_no_more(evocodec: Evocodec, tmp_path: Path) -> None:
    """VVenC takes whole QPs: the targets lie between two of them, nearer to the one that does not serve."""
    clip, steps = tmp_path / "clip.y4m", []
    video, frames = demo_clip()
    write_video(clip, video, [frames[48:52]])
    for quality in (15 / 29, 16 / 29):  # QP 28 and 27
        assert evocodec("encode", clip, "step.evc", "--strategy", "vvc", "--quality", quality).returncode == 0
        steps.append(json.loads(evocodec("measure", clip, "step.evc", "--json").stdout))
    coarse, fine = steps
    for option, name, share, kept, word in (
        ("--psnr", "psnr_y", 0.4, fine, "higher"),
        ("--bitrate", "kbps", 0.6, coarse, "lower"),
    ):
        value = coarse[name] + share * (fine[name] - coarse[name])
        done = evocodec("encode", clip, "a.evc", "--strategy", "vvc", option, value)
        assert f"and the {word} is taken" in done.stderr, done.stderr
        assert json.loads(evocodec("measure", clip, "a.evc", "--json").stdout)[name] == kept[name]
        passes = re.search(r"in (\d+) passes", done.stdout)
        assert passes
        assert int(passes[1]) <= 6


def test_what_encode_cannot_be_asked(evocodec: Evocodec, clip: Path) -> None:
    for words, told in (
        (("--bitrate", "100", "--psnr", "36"), "--bitrate and --psnr exclude each other"),
        (("--effort", "2", "--strategy", "av1"), "--effort is auto's"),
        (("--preset", "4"), "auto chooses preset itself"),
        (("--ssim", "1.5"), "the target of 1.5 SSIM-Y"),
        (("--effort", "11"), "effort: 11 is not in the range 0 to 10"),
    ):
        one_line(evocodec("encode", clip, "out.evc", *words), 2, told)


def test_an_interrupted_vvc_encode_leaves_no_ffmpeg(clips: Path, tmp_path: Path) -> None:
    """The signal goes to one process only, so that what it started must be ended by it."""
    process = subprocess.Popen(
        [EVOCODEC, "encode", clips / "bunny1080.mkv", "out.evc", "--strategy", "vvc"],
        cwd=tmp_path,
        env=clean_environment(),
        stderr=subprocess.PIPE,
        text=True,
    )
    children: list[int] = []
    deadline = time.monotonic() + 60
    while not children and time.monotonic() < deadline:
        time.sleep(0.1)
        tasks = Path(f"/proc/{process.pid}/task").glob("*/children")
        children = [int(child) for task in tasks for child in task.read_text().split()]
    assert children
    process.send_signal(signal.SIGINT)
    _, said = process.communicate(timeout=10)
    assert (process.returncode, said) == (130, "evocodec: interrupted\n")
    deadline = time.monotonic() + 5
    while any(Path(f"/proc/{child}").exists() for child in children) and time.monotonic() < deadline:
        time.sleep(0.05)
    assert not [child for child in children if Path(f"/proc/{child}").exists()]
    assert list(tmp_path.iterdir()) == []


def test_sound_is_copied_where_it_is_asked_for(evocodec: Evocodec, tmp_path: Path) -> None:
    clip_with_a_click(tmp_path / "in.mp4", "aac", 0)
    done = evocodec("encode", "in.mp4", "out.evc", "--effort", "0", "--audio", "copy")
    assert done.returncode == 0
    assert "bytes of aac audio" in done.stdout
    assert evocodec("decode", "out.evc", "out.mkv").returncode == 0
    silent = evocodec("decode", "out.evc", "out.y4m")
    assert (silent.returncode, "no place for audio" in silent.stderr) == (0, True)
    with av.open(str(tmp_path / "out.mkv")) as container:
        assert [stream.codec_context.name for stream in container.streams] == ["ffv1", "aac"]


def test_sound_counts_in_no_bitrate(evocodec: Evocodec, tmp_path: Path) -> None:
    clip_with_a_click(tmp_path / "in.mp4", "aac", 0)
    told = evocodec("encode", "in.mp4", "out.evc", "--strategy", "x264", "--audio", "copy").stdout
    pictures, kbps, sound = re.findall(r"([\d.]+) (?:bytes|kbps)", told)
    measured = json.loads(evocodec("measure", "in.mp4", "out.evc", "--json").stdout)
    assert (measured["bytes"], measured["audio_bytes"]) == (int(pictures), int(sound))
    assert int(pictures) + int(sound) == (tmp_path / "out.evc").stat().st_size
    assert measured["kbps"] == pytest.approx(int(pictures) * 8 * 25 / measured["frames"] / 1000)
    assert f"{measured['kbps']:.1f}" == kbps
    assert re.search(rf"^audio_bytes {sound}$", evocodec("measure", "in.mp4", "out.evc").stdout, re.MULTILINE)
    assert evocodec("encode", "in.mp4", "mute.evc", "--strategy", "x264").returncode == 0
    mute = json.loads(evocodec("measure", "in.mp4", "mute.evc", "--json").stdout)
    assert (mute["kbps"], "audio_bytes" in mute) == (measured["kbps"], False)


def test_a_strategy_that_refuses_a_scene_names_its_frames(evocodec: Evocodec, tmp_path: Path) -> None:
    video, frames = demo_clip()
    write_video(tmp_path / "two.mkv", video, [frames[0:12], frames[72:80]])  # a still, then a sweep
    refused = evocodec("encode", "two.mkv", "out.evc", "--strategy", "procedural")
    one_line(refused, 1, "two.mkv, frames 12 to 19: procedural: ", "--strategy auto")
    assert not (tmp_path / "out.evc").exists()


def test_one_of_a_thing_is_told_as_one(evocodec: Evocodec, tmp_path: Path) -> None:
    clip = write_clip(tmp_path / "one.mkv", 64, 64, 1)
    assert "1 frame in 1 scene, " in evocodec("encode", clip, "one.evc", "--strategy", "x264").stdout


# No line is too soon, so that a test need not wait for one.
TALKATIVE = "import flows.commands.coding as coding, flows.cli; coding.LOG_SECONDS = 0.0; flows.cli.main()"


def test_a_log_tells_how_far_the_work_is_and_a_terminal_has_its_bar(evocodec: Evocodec, tmp_path: Path) -> None:
    video, frames = demo_clip()
    write_video(tmp_path / "in.mkv", video, [frames])
    encode = ("encode", "in.mkv", "out.evc", "--strategy", "x264", "--preset", "ultrafast")

    def run(*command: str, **environment: str) -> str:
        talkative = [sys.executable, "-c", TALKATIVE, *command]
        environment = clean_environment() | environment
        return subprocess.run(talkative, cwd=tmp_path, env=environment, capture_output=True, text=True).stderr

    for command, words in ((encode, "encoding"), (("decode", "out.evc", "out.y4m"), "decoding")):
        lines = run(*command).splitlines()
        assert [line.split(", ")[0] for line in lines] == [f"evocodec: {words}: {share}%" for share in (25, 50, 75)]
        assert all(re.search(r"%, \d:\d\d:\d\d left$", line) for line in lines)
    assert evocodec(*encode).stderr == ""  # over too soon for a line
    bar = run(*encode, FORCE_COLOR="1")  # which makes rich take a pipe for a terminal
    assert "encoding" in bar
    assert "evocodec: encoding" not in bar
