"""Old code behind today's contract: measured honestly where it is honest, refused with what to change where not."""

from __future__ import annotations

import math
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from older_code import CHEAT, V1, V1_ENCODER, V2

from codec import older
from codec.errors import BadInputError, BitstreamError, EncodeError
from codec.frames import Frames
from tasks.campaign import Campaign, CandidateRef
from tasks.candidate import Candidate
from tasks.execute.attempt import Attempt, run_attempt
from tasks.execute.clips import LoadedClip, load_clip
from tasks.lint import lint
from tasks.migrate.adapter import Knob, OlderCode, RefusedError, adapt


def both(source: str) -> OlderCode:
    return OlderCode(source, source)


@pytest.fixture(scope="module")
def face(clips: Path) -> LoadedClip:
    """The middle of a real clip: 128x128, two frames."""
    whole = load_clip(str(clips / "talk512.mkv"), 2)
    middle, half = slice(192, 320), slice(96, 160)
    planes = (whole.frames.y[:, middle, middle], whole.frames.u[:, half, half], whole.frames.v[:, half, half])
    return LoadedClip.of("face", replace(whole.video, width=128, height=128), Frames(*planes))


def measured(candidate: Candidate, clip: LoadedClip) -> Attempt:
    """Through the real cascade, in the sandbox."""
    campaign = Campaign(name="moved", clips=(clip.name,), qualities=(0.2, 0.8))
    ref = CandidateRef(experiment_id="moved-1", candidate_hash=candidate.candidate_hash)
    return run_attempt(candidate, ref, campaign, [clip])


def test_v2_code_is_measured_from_its_real_bytes(face: LoadedClip) -> None:
    candidate = adapt(both(V2), {"step": 99}, "old-v2", knob=Knob("step", 40, 4))
    assert lint(candidate) == []
    attempt = measured(candidate, face)
    assert attempt.record.status == "measured", attempt.record.reason + attempt.record.log
    assert attempt.record.isolation == "sandbox"
    assert [stage.name for stage in attempt.record.stages if stage.passed][-1] == "canaries"
    low, high = attempt.points
    assert low.psnr_y + 3 < high.psnr_y
    assert 28 < high.psnr_y < 45
    assert '"older_bitrate_mbps": 0.3' in high.claimed_json
    for point in (low, high):  # the claim of 300 kbps is far from what the bytes say
        assert point.kbps == pytest.approx(8 * point.bytes_total * point.frames_per_second / point.frames / 1000)


def test_v1_code_with_a_decoder_is_measured_frame_by_frame(face: LoadedClip) -> None:
    candidate = adapt(both(V1), {"jpeg_quality": 0}, "old-v1", frames="bgr_uint8", knob=Knob("jpeg_quality", 20, 95))
    attempt = measured(candidate, face)
    assert attempt.record.status == "measured", attempt.record.reason + attempt.record.log
    low, high = attempt.points
    assert low.bytes_total < high.bytes_total / 1.5
    assert low.psnr_y + 2 < high.psnr_y
    assert high.psnr_y > 35


def test_frames_kept_in_a_global_score_nothing(face: LoadedClip) -> None:
    attempt = measured(adapt(both(CHEAT), {}, "old-cheat"), face)
    assert attempt.record.status == "crashed"
    assert "IndexError" in attempt.record.reason
    assert attempt.points == ()


@pytest.mark.parametrize(
    ("encoder", "decoder", "said"),
    [
        (V1_ENCODER, V1_ENCODER, "add decompress_video_frame(data, frame_index, config)"),
        (V2, "def other():\n    pass\n", "decoder's source does not define decompress_video_tensor()"),
        ("def f():\n    pass\n", "", "defines neither compress_video_tensor() nor compress_video_frame()"),
        ("def f(:\n", "", "the encoder, line 1"),
        (V2.replace("frames, config, device", "frames, config"), V2, "must take 3 arguments"),
        ("import socket\n" + V2, V2, "import socket: there is no network"),
        (
            V2 + "\nclass Net:\n    pass\n",
            "def decompress_video_tensor(data, config, device):\n    return Net()(data)\n",
            "line 2: Net is defined by the encoder's source alone",
        ),
        (V2, "def decompress_video_tensor(data, config, device):\n    return sess.run(data)\n", "sess is not defined"),
        (
            V2.replace("    b, t, c", "    global SEEN\n    SEEN = frames\n    b, t, c").replace(
                "small = torch", "SEEN\n    small = torch"
            ),
            None,
            "reads SEEN, which compress_video_tensor() fills",
        ),
    ],
)
def test_a_refusal_says_what_to_change(encoder: str, decoder: str | None, said: str) -> None:
    with pytest.raises(RefusedError, match=said.replace("(", r"\(").replace(")", r"\)")) as refused:
        adapt(OlderCode(encoder, encoder if decoder is None else decoder), {}, "old")
    assert "\n" not in str(refused.value)


def test_a_config_that_could_hold_a_clip_is_refused() -> None:
    with pytest.raises(RefusedError, match="config has"):
        adapt(both(V2), {"frames": "ab" * 5000}, "old")


def test_recursion_and_missing_imports_survive() -> None:
    source = (
        '"""Doc."""\nfrom __future__ import annotations\n'
        "def compress_video_tensor(frames, config, device):\n"
        "    return compress_video_tensor(frames[:, :1], config, device) if len(frames) else np.zeros(1)\n"
        "def decompress_video_tensor(d, config, device):\n    return d\n"
    )
    files = adapt(both(source), {}, "old").files
    assert "return older_compress_video_tensor(frames[:, :1]" in files["encoder.py"]
    assert files["encoder.py"].splitlines()[2] == "import numpy as np"
    compile(files["encoder.py"], "encoder.py", "exec")
    assert files["decoder.py"].count("def decompress_video_tensor") == 1


def test_a_knob_is_read_or_explained() -> None:
    assert Knob.parse("crf=45:15") == Knob("crf", 45, 15)
    assert Knob.parse("rate=0.1:2") == Knob("rate", 0.1, 2)
    with pytest.raises(BadInputError, match="NAME=LOW:HIGH"):
        Knob.parse("crf")


def test_what_was_packed_comes_back() -> None:
    value = {
        "numbers": [0, 1, -1, 300, -(2**70), 0.1, math.inf, True, None],
        "text": "ä漢",
        3: (b"\x00\xff", bytearray(b"x")),
        "half": torch.arange(6, dtype=torch.bfloat16).reshape(2, 3),
        "none": torch.zeros(0, 4),
        "scalar": torch.tensor(7),
        "array": np.arange(4, dtype=">i2"),
        "float": np.float32(0.5),
    }
    back = older.unpack(older.pack(value))
    assert back["numbers"] == value["numbers"]
    assert [type(item) for item in back["numbers"]] == [type(item) for item in value["numbers"]]
    assert (back["text"], back[3]) == (value["text"], (b"\x00\xff", b"x"))
    for name in ("half", "none", "scalar"):
        assert back[name].dtype == value[name].dtype
        assert torch.equal(back[name], value[name])
    assert back["array"].tolist() == [0, 1, 2, 3]
    assert back["float"] == np.float32(0.5)
    assert isinstance(back["float"], np.float32)
    # The bytes are the content and little else.
    assert len(older.pack({"latents": torch.zeros(1000)})) < 4000 + 32


def test_damaged_bytes_are_an_error_and_never_more() -> None:
    data = older.pack({"latents": torch.arange(20.0), "list": [1, "two", np.float64(3)]})
    for cut in range(len(data)):
        with pytest.raises(BitstreamError):
            older.unpack(data[:cut])
    generator = np.random.default_rng(5)
    for _ in range(2000):
        bent = bytearray(data)
        bent[generator.integers(len(data))] = generator.integers(256)
        try:
            older.unpack(bytes(bent))
        except BitstreamError as error:
            assert str(error)  # noqa: PT017 - most changes are noticed, one inside a number cannot be


def test_what_cannot_travel_is_named() -> None:
    with pytest.raises(EncodeError, match=r"\['model'\] is a Conv2d, .* state_dict"):
        older.pack({"model": torch.nn.Conv2d(1, 1, 1)})


@pytest.mark.parametrize("kind", older.FRAMES)
def test_pictures_come_back_as_the_frames_they_were(kind: str) -> None:
    """Colours that RGB can show, as in any clip that was RGB once."""
    source = np.random.default_rng(3).integers(0, 256, (1, 2, 3, 6, 8), dtype=np.uint8)
    frames = older.from_pictures(torch.from_numpy(source), "rgb_uint8")
    back = older.from_pictures(older.to_pictures(frames, kind), kind)
    assert int((back.int() - frames.int()).abs().max()) <= (1 if "uint8" in kind and kind[0] != "y" else 0)


def test_pictures_are_those_of_bt709() -> None:
    from codec.pixels import rgb_to_planes

    rgb = np.random.default_rng(4).integers(0, 256, (2, 2, 3), dtype=np.uint8)
    flat = np.repeat(np.repeat(rgb, 2, 0), 2, 1)
    planes = rgb_to_planes(flat)
    frames = older.from_pictures(torch.from_numpy(flat).permute(2, 0, 1)[None, None], "rgb_uint8")[0, 0].numpy()
    assert np.array_equal(frames[0], planes[0])
