"""A candidate survives folder and blob unchanged, is told apart by content, and is refused with a reason."""

from __future__ import annotations

import base64
import json
import random
from pathlib import Path
from typing import Any

import pytest

from codec.errors import BadInputError
from tasks.candidate import Candidate, Lineage, problems

ENCODER = "def compress_video_tensor(frames, config, device):\n    return {'compressed_data': b''}\n"
DECODER = "def decompress_video_tensor(data, config, device):\n    return {'reconstructed_frames': None}\n"


def make(config: dict[str, Any] | None = None, **sources: str) -> Candidate:
    files = {"encoder.py": ENCODER, "decoder.py": DECODER} | {f"{name}.py": text for name, text in sources.items()}
    lineage = Lineage(
        id="c1", parents=("c0",), designer="hand", hypothesis="größer ist besser", predicted_bd_rate_percent=-3.5
    )
    return Candidate(
        files=files, config=config or {"quality": 0.5, "nested": {"b": [1, 2], "a": None}}, lineage=lineage
    )


def test_folder_round_trip(tmp_path: Path) -> None:
    candidate = make(trainer="def train_codec(clips, config, device):\n    return b''\n")
    candidate.write(tmp_path / "c1")
    assert Candidate.load(tmp_path / "c1") == candidate


def test_blob_round_trip_does_not_depend_on_order() -> None:
    candidate = make()
    reordered = Candidate(
        files=dict(reversed(candidate.files.items())),
        config=dict(reversed(candidate.config.items())),
        lineage=candidate.lineage,
    )
    assert Candidate.from_json_bytes(candidate.to_json_bytes()) == candidate
    assert reordered.to_json_bytes() == candidate.to_json_bytes()


def test_duplicates_share_the_code_hash_only() -> None:
    first = make()
    renamed = first.model_copy(update={"lineage": Lineage(id="c2")})
    changed = make(config={"quality": 0.6})
    assert renamed.code_hash == first.code_hash
    assert renamed.candidate_hash != first.candidate_hash
    assert changed.code_hash != first.code_hash


def many_literals(count: int) -> str:
    """Data in pieces, each of them small enough."""
    pieces = (base64.b85encode(random.Random(number).randbytes(800)).decode() for number in range(count))
    return "".join(f"\npiece_{number} = {piece!r}" for number, piece in enumerate(pieces)) + "\n"


@pytest.mark.parametrize("value", ["\ud800", {"\udfff": 1}, [[[[[[[[[[[[[[[[[[1]]]]]]]]]]]]]]]]]]])
def test_a_config_that_could_not_be_shown_is_no_candidate(value: Any, tmp_path: Path) -> None:
    """It would end the report and every leaderboard of its campaign."""
    make().write(tmp_path)
    (tmp_path / "config.json").write_text(json.dumps({"strategy": value}))
    with pytest.raises(BadInputError, match="config"):
        Candidate.load(tmp_path)


def test_a_sound_candidate_has_no_problems() -> None:
    assert problems(make()) == []


@pytest.mark.parametrize(
    ("candidate", "finding"),
    [
        (make(encoder="x = 1\n"), "encoder.py does not define compress_video_tensor()"),
        (make(decoder="def broken(:\n    pass\n"), "decoder.py, line 1: "),
        (make(encoder="x = '\0'"), "encoder.py"),
        (make(decoder=DECODER + "#" * 65536), "decoder.py has 65"),
        (make(decoder=DECODER + f"\nTABLE = {'x' * 1025!r}\n"), "decoder.py, line 4: a literal of 1025 bytes"),
        (make(decoder=DECODER + f"\nTABLE = {list(range(1200))}\n"), "decoder.py, line 4: a literal of"),
        (make(decoder=DECODER + many_literals(60)), "decoder.py has 49516 bytes under LZMA"),
        (make(config={"big": "x" * 65536}), "config has 65"),
        (make(config={"quality": float("nan")}), "config is not JSON"),
        (make(config={"quality": {1, 2}}), "config is not JSON"),
    ],
)
def test_each_problem_is_one_line_that_names_the_place(candidate: Candidate, finding: str) -> None:
    found = problems(candidate)
    assert len(found) == 1
    assert finding in found[0]
    assert "\n" not in found[0]


def test_a_small_literal_and_a_table_are_allowed() -> None:
    assert problems(make(decoder=DECODER + f"\nTABLE = {[i / 8 for i in range(100)]}\nNAME = {'x' * 1024!r}\n")) == []


def test_missing_decoder_is_found() -> None:
    candidate = Candidate(files={"encoder.py": ENCODER}, lineage=Lineage(id="c1"))
    assert problems(candidate) == ["decoder.py is missing: it must define decompress_video_tensor()"]


def test_a_file_name_cannot_leave_the_folder() -> None:
    with pytest.raises(ValueError, match=r"has no file '\.\./evil\.py'"):
        Candidate(files={"../evil.py": ""}, lineage=Lineage(id="c1"))


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("config.json", b"{", "not JSON"),
        ("config.json", b"[1]", "one JSON object"),
        ("config.json", b'{"a": NaN}', "NaN is not JSON"),
        ("candidate.json", b"{}", "id: "),
        ("encoder.py", b"\xff\xfe", "not UTF-8"),
        ("encoder.py", None, "needs encoder.py"),
        ("config.json", None, "No such file"),
    ],
)
def test_a_bad_folder_is_refused_by_name(tmp_path: Path, name: str, content: bytes | None, message: str) -> None:
    make().write(tmp_path)
    if content is None:
        (tmp_path / name).unlink()
    else:
        (tmp_path / name).write_bytes(content)
    with pytest.raises(BadInputError, match=message) as caught:
        Candidate.load(tmp_path)
    assert str(tmp_path) in str(caught.value)


def test_a_folder_without_lineage_is_hand_written(tmp_path: Path) -> None:
    make().write(tmp_path / "mine")
    (tmp_path / "mine" / "candidate.json").unlink()
    assert Candidate.load(tmp_path / "mine").lineage == Lineage(id="mine", designer="hand")


@pytest.mark.parametrize("data", [b"", b"[]", json.dumps({"files": {}}).encode(), b"\xff"])
def test_bytes_of_something_else_are_refused(data: bytes) -> None:
    with pytest.raises(BadInputError, match="are not a candidate"):
        Candidate.from_json_bytes(data)
