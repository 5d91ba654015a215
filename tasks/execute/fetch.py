"""Brings a clip to where FFmpeg can read it: a local path stays what it is, s3://bucket/key becomes a temporary file.

Reading the file is `codec.video`'s, which opens local paths and nothing else.
"""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import PurePosixPath

from codec.errors import BadInputError


@contextmanager
def fetched(name: str) -> Iterator[str]:
    """A path of the clip `name`, for as long as the context lasts.

    Raises BadInputError where there is no such object, or it may not be read, or no protocol but s3 is asked for.
    """
    protocol, found, _ = name.partition("://")
    if not found:
        yield name
        return
    if protocol != "s3":
        raise BadInputError(f"{name}: a clip is a file or s3://bucket/key")
    from botocore.exceptions import BotoCoreError, ClientError  # type: ignore[import-untyped]
    from s3fs import S3FileSystem

    # The suffix tells FFmpeg what some formats do not say themselves.
    with tempfile.NamedTemporaryFile(prefix="evocodec-clip-", suffix=PurePosixPath(name).suffix) as file:
        try:
            S3FileSystem(skip_instance_cache=True).get_file(name, file.name)
        except FileNotFoundError as error:
            raise BadInputError(f"{name}: no such object; check bucket and key") from error
        except (OSError, BotoCoreError, ClientError) as error:
            why = (str(error) or type(error).__name__).splitlines()[0]
            raise BadInputError(f"{name}: cannot be fetched: {why}; a GPU task on AWS may read clips/ alone") from error
        yield file.name
