"""A candidate: a folder of sources, a config and a lineage, identified by the hash of its content.

Owns reading, writing, hashing and the cheap checks of a candidate. Running one is `tasks.execute`'s.

    folder/
      encoder.py      compress_video_tensor(frames, config, device) -> {"compressed_data": bytes, ...}
      decoder.py      decompress_video_tensor(data, config, device) -> {"reconstructed_frames": tensor, ...}
      trainer.py      optional: train_codec(clips, config, device) -> bytes
      config.json     what both functions get; the harness sets `quality` in [0, 1] and, for the encoder only,
                      `frame_rate` as text ("25", "30000/1001") and `color` as [primaries, transfer, matrix,
                      full_range] in code points of ITU-T H.273
      candidate.json  the lineage; a folder without one is a hand-written candidate named like the folder
"""

from __future__ import annotations

import ast
import hashlib
import json
import lzma
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, Final

from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator

from codec.errors import BadInputError
from tasks.normal_form import normal_form
from tasks.parsing import parse
from tasks.store.records import Track

# What each file must define. The names are also the only ones a candidate may write.
FUNCTIONS: Final = {
    "encoder.py": "compress_video_tensor",
    "decoder.py": "decompress_video_tensor",
    "trainer.py": "train_codec",
}
REQUIRED_FILES: Final = ("encoder.py", "decoder.py")

# A decoder is code, not a store of video: the caps leave room for any honest decoder and none for a clip.
MAX_DECODER_SOURCE_BYTES: Final = 64 * 1024
MAX_DECODER_LITERAL_BYTES: Final = 1024
# Many small literals carried 51408 bytes within those two. Code shrinks to a quarter under LZMA, data does not.
MAX_DECODER_COMPRESSED_BYTES: Final = 16 * 1024
# The config reaches the decoder without being counted, so it holds settings and nothing that could be a picture.
MAX_CONFIG_BYTES: Final = 8 * 1024
MAX_CONFIG_DEPTH: Final = 16
# A trainer's weights reach the decoder: what its source could smuggle into them is bounded as a decoder's is.
CAPPED_SOURCES: Final = ("decoder.py", "trainer.py")
MAX_FILE_BYTES: Final = 256 * 1024


class Paid(BaseModel):
    """What a language model's work on one candidate cost, repairs and broken answers included."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    model: str
    input_tokens: int
    output_tokens: int
    usd: float


class Lineage(BaseModel):
    """Where a candidate comes from and what its designer expects of it."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    id: str = Field(min_length=1)
    parents: tuple[str, ...] = ()
    designer: str = ""
    hypothesis: str = ""
    change_class: str = ""
    predicted_bd_rate_percent: float | None = None
    predicted_tera_ops_per_frame: float | None = None
    paid: Paid | None = None


class Candidate(BaseModel):
    """One two-agent codec to be tried."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    files: dict[str, str] = Field(description="Source text by file name; only the names in FUNCTIONS.")
    config: dict[str, Any] = Field(default_factory=dict)
    lineage: Lineage

    @field_validator("files")
    @classmethod
    def _only_known_names(cls, files: dict[str, str]) -> dict[str, str]:
        unknown = sorted(set(files) - set(FUNCTIONS))
        if unknown:
            raise ValueError(f"a candidate has no file {unknown[0]!r}; its files are {', '.join(FUNCTIONS)}")
        for name, text in files.items():
            try:
                text.encode()
            except UnicodeEncodeError as error:
                raise ValueError(f"{name} is not UTF-8 text") from error
        return files

    @field_validator("config")
    @classmethod
    def _writable(cls, config: dict[str, Any]) -> dict[str, Any]:
        """Half a surrogate pair, or a list of a thousand lists, is JSON and could be neither hashed nor shown later."""
        _require_writable(config, MAX_CONFIG_DEPTH)
        return config

    @classmethod
    def load(cls, folder: Path) -> Candidate:
        """Raises BadInputError where the folder is not a candidate's."""
        if not folder.is_dir():
            raise BadInputError(f"{folder}: no such candidate folder")
        files = {name: _read_text(folder / name) for name in FUNCTIONS if (folder / name).is_file()}
        for name in REQUIRED_FILES:
            if name not in files:
                raise BadInputError(f"{folder}: a candidate needs {name}, which defines {FUNCTIONS[name]}()")
        lineage_path = folder / "candidate.json"
        lineage = _read_object(lineage_path) if lineage_path.exists() else {"id": folder.name, "designer": "hand"}
        try:
            return cls(
                files=files,
                config=_read_object(folder / "config.json"),
                lineage=Lineage.model_validate(lineage),
            )
        except ValidationError as error:
            raise BadInputError(f"{lineage_path}: {_first_line(error)}") from error

    def write(self, folder: Path) -> None:
        """One file each; an existing folder is completed, its other files are left alone."""
        folder.mkdir(parents=True, exist_ok=True)
        for name, text in self.files.items():
            (folder / name).write_text(text, encoding="utf-8", newline="\n")
        for name, content in (("config.json", self.config), ("candidate.json", self._lineage_object())):
            (folder / name).write_text(json.dumps(content, indent=2, sort_keys=True) + "\n", encoding="utf-8")

    def to_json_bytes(self) -> bytes:
        """What the store keeps: equal for equal candidates. Raises ValueError where config is not JSON."""
        return _canonical({"files": self.files, "config": self.config, "lineage": self._lineage_object()})

    @classmethod
    def from_json_bytes(cls, data: bytes) -> Candidate:
        """Raises BadInputError where `data` did not come from `to_json_bytes`."""
        try:
            return cls.model_validate(json.loads(data, parse_constant=_refuse_constant))
        except (ValueError, RecursionError) as error:
            raise BadInputError(f"these {len(data)} bytes are not a candidate: {_first_line(error)}") from error

    @property
    def candidate_hash(self) -> str:
        """SHA-256 of everything, lineage included."""
        return hashlib.sha256(self.to_json_bytes()).hexdigest()

    @property
    def code_hash(self) -> str:
        """SHA-256 of what runs: sources and config. Two candidates that share it are duplicates."""
        return hashlib.sha256(_canonical({"files": self.files, "config": self.config})).hexdigest()

    @property
    def ast_hash(self) -> str:
        """SHA-256 of what runs, whatever its names, comments and layout. "" where a source cannot be parsed."""
        try:
            trees = {name: normal_form(source) for name, source in self.files.items()}
            return hashlib.sha256(_canonical({"files": trees, "config": self.config})).hexdigest()
        except (SyntaxError, ValueError, RecursionError, MemoryError):
            return ""

    @property
    def track(self) -> Track:
        """Amortised where a trainer makes weights that are not in the bitstream. Tracks are never compared."""
        return "amortised" if "trainer.py" in self.files else "overfitted"

    @property
    def decoder_source_bytes(self) -> int:
        return len(self.files.get("decoder.py", "").encode())

    @property
    def decoder_compressed_bytes(self) -> int:
        """What the decoder's source would cost in a bitstream: its size under LZMA."""
        return _compressed_bytes(self.files.get("decoder.py", ""))

    @property
    def decoder_hash(self) -> str:
        return hashlib.sha256(self.files.get("decoder.py", "").encode()).hexdigest()

    def _lineage_object(self) -> dict[str, Any]:
        # Left out where there is none: a candidate keeps the hash it had before there was such a field.
        return self.lineage.model_dump(mode="json", exclude={"paid"} if self.lineage.paid is None else set())


def problems(candidate: Candidate) -> list[str]:
    """What keeps a candidate from being run, one friendly line each; empty for a sound one. Runs nothing."""
    return [
        *_source_problems(candidate.files),
        *(problem for name in CAPPED_SOURCES for problem in _size_problems(name, candidate.files.get(name, ""))),
        *config_problems(candidate.config),
    ]


def _source_problems(files: Mapping[str, str]) -> Iterator[str]:
    for name in REQUIRED_FILES:
        if name not in files:
            yield f"{name} is missing: it must define {FUNCTIONS[name]}()"
    for name, source in files.items():
        if len(source.encode()) > MAX_FILE_BYTES:
            yield f"{name} has {len(source.encode())} bytes; at most {MAX_FILE_BYTES} are allowed"
            continue
        try:
            tree = parse(source)
        except SyntaxError as error:
            yield f"{name}, line {error.lineno}: {error.msg}"
        except (ValueError, RecursionError, MemoryError) as error:
            yield f"{name} cannot be parsed: {error or type(error).__name__}"
        else:
            if FUNCTIONS[name] not in _top_level_names(tree):
                yield f"{name} does not define {FUNCTIONS[name]}()"


def _size_problems(name: str, source: str) -> Iterator[str]:
    size = len(source.encode())
    if size > MAX_DECODER_SOURCE_BYTES:
        yield f"{name} has {size} bytes; at most {MAX_DECODER_SOURCE_BYTES}, so code carries no video"
        return
    compressed = _compressed_bytes(source)
    if compressed > MAX_DECODER_COMPRESSED_BYTES:
        yield (
            f"{name} has {compressed} bytes under LZMA; at most {MAX_DECODER_COMPRESSED_BYTES} are allowed: "
            "send data in the bitstream"
        )
        return
    try:
        tree = parse(source)
    except (SyntaxError, ValueError, RecursionError, MemoryError):
        return  # said by _source_problems
    for node in ast.walk(tree):
        literal = _literal_bytes(node)
        if literal > MAX_DECODER_LITERAL_BYTES:
            line = getattr(node, "lineno", 0)
            yield (
                f"{name}, line {line}: a literal of {literal} bytes; "
                f"at most {MAX_DECODER_LITERAL_BYTES} are allowed: send data in the bitstream"
            )
            return


def _compressed_bytes(source: str) -> int:
    return len(lzma.compress(source.encode(), preset=9 | lzma.PRESET_EXTREME))


def config_problems(config: Mapping[str, Any]) -> Iterator[str]:
    """What keeps a config from being kept or passed on, one line each."""
    try:
        size = len(_canonical(config))
    except (TypeError, ValueError, RecursionError) as error:
        yield f"config is not JSON: {_first_line(error)}"
        return
    if size > MAX_CONFIG_BYTES:
        yield f"config has {size} bytes as JSON; at most {MAX_CONFIG_BYTES} are allowed: the decoder gets it uncounted"


def _top_level_names(tree: ast.Module) -> set[str]:
    names: set[str] = set()
    for node in tree.body:
        if isinstance(node, ast.FunctionDef):
            names.add(node.name)
        elif isinstance(node, ast.ImportFrom):
            names.update(alias.asname or alias.name for alias in node.names)
        elif isinstance(node, ast.Assign):
            names.update(target.id for target in node.targets if isinstance(target, ast.Name))
    return names


def _literal_bytes(node: ast.AST) -> int:
    """Information in one literal: a constant, or all constants of a list, tuple, set, dict or f-string."""
    if isinstance(node, ast.List | ast.Tuple | ast.Set | ast.Dict | ast.JoinedStr):
        return sum(_constant_bytes(part.value) for part in ast.walk(node) if isinstance(part, ast.Constant))
    return _constant_bytes(node.value) if isinstance(node, ast.Constant) else 0


def _constant_bytes(value: object) -> int:
    if isinstance(value, str):
        return len(value.encode(errors="surrogatepass"))
    if isinstance(value, bytes):
        return len(value)
    if isinstance(value, int):
        return max(1, (value.bit_length() + 7) // 8)
    return 8 if isinstance(value, float) else 16 if isinstance(value, complex) else 0


def _canonical(content: Mapping[str, Any]) -> bytes:
    return json.dumps(content, sort_keys=True, separators=(",", ":"), allow_nan=False).encode()


def _require_writable(value: object, depth: int) -> None:
    """Raises ValueError."""
    if depth == 0:
        raise ValueError(f"nested more than {MAX_CONFIG_DEPTH} deep")
    if isinstance(value, str):
        try:
            value.encode()
        except UnicodeEncodeError as error:
            raise ValueError("not UTF-8 text") from error
    elif isinstance(value, dict):
        for part in (*value.keys(), *value.values()):
            _require_writable(part, depth - 1)
    elif isinstance(value, list | tuple):
        for part in value:
            _require_writable(part, depth - 1)


def _read_text(path: Path) -> str:
    try:
        if path.stat().st_size > MAX_FILE_BYTES:
            raise BadInputError(f"{path}: larger than the {MAX_FILE_BYTES} bytes a candidate's file may have")
        return path.read_text(encoding="utf-8")
    except OSError as error:
        raise BadInputError(f"{path}: {error.strerror or error}") from error
    except UnicodeDecodeError as error:
        raise BadInputError(f"{path}: not UTF-8 text") from error


def _read_object(path: Path) -> dict[str, Any]:
    try:
        content = json.loads(_read_text(path), parse_constant=_refuse_constant)
    except (ValueError, RecursionError) as error:
        raise BadInputError(f"{path}: not JSON: {_first_line(error)}") from error
    if not isinstance(content, dict):
        raise BadInputError(f"{path}: must hold one JSON object")
    return content


def _refuse_constant(name: str) -> float:
    raise ValueError(f"{name} is not JSON")


def _first_line(error: Exception) -> str:
    if isinstance(error, ValidationError):
        first = error.errors()[0]
        return f"{'.'.join(map(str, first['loc']))}: {first['msg']}"
    return (str(error) or type(error).__name__).splitlines()[0]
