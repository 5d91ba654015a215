"""Whole files under one root, a local folder or an S3 prefix: a file is there complete, or it is not there.

Invariants:
- locally a file is written under a hidden temporary name beside its place, then linked or renamed; on S3 it is
  one put;
- `create` never replaces: of two writers of one name exactly one succeeds;
- every failure of the storage leaves as a StoreError that names the place and the remedy.
What the files mean is `tasks.store.store`'s.
"""

from __future__ import annotations

import uuid
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Final

from codec.errors import StoreError

REMEDY: Final = "use a folder you may write to, or s3://bucket/prefix"
# Readers of parquet folders (arrow, pandas, DuckDB) skip names that begin with a dot.
TEMPORARY: Final = ".tmp-"
WRITER: Final = "writer"  # S3 metadata of a file that was not to replace another: who wrote it


class NameTakenError(Exception):
    """A new file was to be written where there is one."""


class NameMissingError(Exception):
    """There is no file of that name."""


class Files:
    """Paths are relative to the root and use forward slashes."""

    def __init__(self, uri: str) -> None:
        from fsspec.core import split_protocol

        protocol, _ = split_protocol(uri)
        if protocol not in (None, "file", "local", "s3", "s3a"):
            raise StoreError(f"{uri}: a store cannot be kept at {protocol}://; {REMEDY}")
        self.uri = uri
        self._local = protocol not in ("s3", "s3a")
        with self._explained():
            self._fs, root = _filesystem(uri, self._local)
        self._root = root.rstrip("/")
        if not self._root and not self._local:
            raise StoreError(f"{uri}: names no bucket; {REMEDY}")

    def check_writable(self) -> None:
        """Make the root where it is missing, and write, list and remove a probe there. Raises StoreError."""
        probe = f"{TEMPORARY}probe-{uuid.uuid4().hex}"
        if self._local:
            with self._explained():
                self._fs.makedirs(self._root, exist_ok=True)
        self.create(probe, b"probe")
        self.names("")
        self.remove(probe)

    def read(self, paths: Sequence[str]) -> list[bytes]:
        """The content of each file. Raises NameMissingError where one is not there."""
        if not paths:
            return []
        with self._explained():
            try:
                if self._local:
                    return [Path(self._at(path)).read_bytes() for path in paths]
                # In one call S3 serves them side by side.
                content: dict[str, bytes] = self._fs.cat([self._at(path) for path in paths])
                return [content[self._at(path)] for path in paths]
            except FileNotFoundError as error:
                raise NameMissingError(str(error)) from error

    def exists(self, path: str) -> bool:
        with self._explained():
            return bool(self._fs.exists(self._at(path)))

    def names(self, folder: str) -> list[str]:
        """Names of the files and folders in `folder`, sorted; none where there is no such folder, no hidden ones."""
        with self._explained():
            try:
                entries = self._fs.ls(self._at(folder), detail=False)
            except FileNotFoundError:
                self._refuse_a_missing_bucket()
                return []
        paths = {str(entry).rstrip("/") for entry in entries} - {self._at(folder)}
        names = {path.rsplit("/", 1)[-1] for path in paths}
        return sorted(name for name in names if not name.startswith("."))

    def put(self, path: str, data: bytes) -> None:
        """Write or replace a whole file."""
        with self._explained():
            if self._local:
                with self._temporary(path, data) as written:
                    written.replace(self._at(path))
            else:
                self._fs.pipe_file(self._at(path), data)

    def create(self, path: str, data: bytes) -> None:
        """Write a whole new file. Raises NameTakenError where there is one of that name."""
        with self._explained():
            if self._local:
                with self._temporary(path, data) as written:
                    try:
                        # A link fails where the name exists, which a rename does not.
                        Path(self._at(path)).hardlink_to(written)
                    except FileExistsError as error:
                        raise NameTakenError(path) from error
                return
            writer = uuid.uuid4().hex
            try:
                self._fs.pipe_file(self._at(path), data, mode="create", Metadata={WRITER: writer})
            except FileExistsError as error:
                # An answer that got lost makes the client send again what was written: then the name is taken by us.
                if self._fs.metadata(self._at(path)).get(WRITER) != writer:
                    raise NameTakenError(path) from error

    def remove(self, path: str) -> None:
        """Remove a file; one that is gone already is no error."""
        with self._explained():
            try:
                self._fs.rm_file(self._at(path))
            except FileNotFoundError:
                return

    def where(self, path: str) -> str:
        """The file's full address, for messages."""
        return f"{'' if self._local else 's3://'}{self._at(path)}"

    def _at(self, path: str) -> str:
        return f"{self._root}/{path}" if path else self._root

    @contextmanager
    def _temporary(self, path: str, data: bytes) -> Iterator[Path]:
        folder = Path(self._at(path)).parent
        folder.mkdir(parents=True, exist_ok=True)
        temporary = folder / f"{TEMPORARY}{uuid.uuid4().hex}"
        try:
            temporary.write_bytes(data)
            yield temporary
        finally:
            temporary.unlink(missing_ok=True)

    def _refuse_a_missing_bucket(self) -> None:
        """A prefix that nobody wrote to is empty; a bucket that does not exist is a mistake in the address."""
        if not self._local and not self._fs.exists(self._root.split("/", 1)[0]):
            raise StoreError(f"{self.uri}: no such bucket; create it, or {REMEDY}")

    @contextmanager
    def _explained(self) -> Iterator[None]:
        try:
            yield
        except self._storage_errors() as error:
            raise StoreError(self._told(error)) from error

    def _storage_errors(self) -> tuple[type[Exception], ...]:
        if self._local:
            return (OSError,)
        from botocore.exceptions import BotoCoreError, ClientError  # type: ignore[import-untyped]

        return OSError, BotoCoreError, ClientError

    def _told(self, error: Exception) -> str:
        if self._local and isinstance(error, FileExistsError | NotADirectoryError):
            return f"{self.uri}: a file is in the way of the store's folder; {REMEDY}"
        if isinstance(error, FileNotFoundError):
            return f"{self.uri}: no such {'folder' if self._local else 'bucket'}; create it, or {REMEDY}"
        if type(error).__name__ in ("NoCredentialsError", "PartialCredentialsError", "TokenRetrievalError"):
            return f"{self.uri}: no AWS credentials; set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, or AWS_PROFILE"
        if isinstance(error, PermissionError):
            return f"{self.uri}: may not be used ({_first_line(error)}); {REMEDY}"
        return f"{self.uri}: {_first_line(error)}; {REMEDY}"


def _filesystem(uri: str, local: bool) -> tuple[Any, str]:
    from fsspec.core import url_to_fs

    if local:
        filesystem, root = url_to_fs(uri)
    else:
        # Others write to the same prefix: a remembered listing would hide their records.
        filesystem, root = url_to_fs(uri, use_listings_cache=False, skip_instance_cache=True)
    return filesystem, str(root)


def _first_line(error: BaseException) -> str:
    return (str(error) or type(error).__name__).splitlines()[0]
