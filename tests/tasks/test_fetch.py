"""Clips that lie on S3: read as the same frames as the file, and one clear line where they cannot be."""

from __future__ import annotations

from collections.abc import Iterator
from fractions import Fraction
from pathlib import Path

import numpy as np
import pytest
from running import aws_stand_in

from codec.errors import BadInputError
from codec.frames import Frames, VideoFormat
from codec.video import write_video
from tasks.execute.clips import load_clip


@pytest.fixture(scope="module")
def s3() -> Iterator[str]:
    with aws_stand_in() as url, pytest.MonkeyPatch.context() as environment:
        environment.setenv("AWS_ENDPOINT_URL", url)
        environment.setenv("AWS_ACCESS_KEY_ID", "testing")
        environment.setenv("AWS_SECRET_ACCESS_KEY", "testing")
        environment.setenv("AWS_DEFAULT_REGION", "us-east-1")
        yield "s3://films/clips"


def test_a_clip_on_s3_is_the_clip_on_disk_and_leaves_nothing_behind(
    s3: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import s3fs

    film = tmp_path / "film.y4m"
    luma = np.random.default_rng(3).integers(0, 256, (3, 48, 64), np.uint8)
    chroma = np.full((3, 24, 32), 128, np.uint8)
    write_video(film, VideoFormat(64, 48, Fraction(25)), [Frames(luma, chroma, chroma)])
    filesystem = s3fs.S3FileSystem(skip_instance_cache=True)
    filesystem.mkdir("films")
    filesystem.put_file(str(film), f"{s3}/film.y4m")
    temporary = tmp_path / "tmp"
    temporary.mkdir()
    monkeypatch.setattr("tempfile.tempdir", str(temporary))
    clip = load_clip(f"{s3}/film.y4m", 2)
    assert clip.name == f"{s3}/film.y4m"
    assert clip.content_hash == load_clip(str(film), 2).content_hash
    assert list(temporary.iterdir()) == []
    with pytest.raises(BadInputError, match=r"^s3://films/clips/other\.y4m: no such object"):
        load_clip(f"{s3}/other.y4m", 2)


def test_only_s3_is_fetched() -> None:
    with pytest.raises(BadInputError, match=r"^https://example\.org/a\.mp4: a clip is a file or s3://bucket/key$"):
        load_clip("https://example.org/a.mp4", 2)
