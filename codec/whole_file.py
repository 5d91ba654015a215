"""Files that appear under their name only when they are whole: no reader ever sees half of one."""

from __future__ import annotations

import contextlib
import secrets
from collections.abc import Iterator
from pathlib import Path

from codec.errors import BadInputError


@contextlib.contextmanager
def whole_file(path: Path) -> Iterator[Path]:
    """A name beside `path`, of the same suffix, to write to; it becomes `path` at the end and is removed on an error.

    Raises BadInputError where `path` is a folder or the operating system refuses.
    """
    if path.is_dir():
        raise BadInputError(f"{path}: is a folder; name a file in it")
    partial = path.with_name(f".{secrets.token_hex(6)}.partial{path.suffix}")
    try:
        yield partial
        partial.replace(path)
    except OSError as error:
        reason = error.strerror or type(error).__name__
        raise BadInputError(f"{path}: cannot be written ({reason}); check the folder and the free space") from error
    finally:
        # Where the folder is none, there is nothing to remove either.
        with contextlib.suppress(OSError):
            partial.unlink(missing_ok=True)
