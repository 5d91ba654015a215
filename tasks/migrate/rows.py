"""What a row of the old table or a job of the old queue says, read without belief.

Owns the field names of the older generation and what is made of each. Where rows come from is `tasks.migrate.sources`';
keeping them is `tasks.migrate.importing`'s. docs/migration.md has the same lists for people.
"""

from __future__ import annotations

import base64
import json
import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from decimal import Decimal
from typing import Any, Final

from codec.errors import BadInputError
from tasks.migrate.adapter import OlderCode

# Each thing under every name that is accepted for it; the first one present counts.
ENCODER_FIELDS: Final = ("encoding_agent_code", "encoder_code", "encoding_code", "encoder")
DECODER_FIELDS: Final = ("decoding_agent_code", "decoder_code", "decoding_code", "decoder")
# One source for both agents, or v1's only one.
CODE_FIELDS: Final = ("code", "generated_code", "compression_code")
CONFIG_FIELDS: Final = ("config", "configuration")
CLIP_FIELDS: Final = ("video_s3_key", "video_key", "s3_key", "video")
STATUS_FIELDS: Final = ("gpu_status", "status")
RESULT_FIELDS: Final = ("gpu_results", "results")
HYPOTHESIS_FIELDS: Final = ("hypothesis",)
# Fields whose text is read as JSON where it is an object.
NESTED: Final = (*CODE_FIELDS, *CONFIG_FIELDS, *RESULT_FIELDS)
GPU_STATUSES: Final = ("processing", "completed", "failed")

# Larger than any second of this century: what is above counts milliseconds.
MILLISECONDS_FROM: Final = 1e11


class UnreadableError(BadInputError):
    """A row or job that cannot be taken over; the message says why in one line."""


@dataclass(frozen=True)
class OlderExperiment:
    """What one row or job says. `row` is all of it as JSON values; `code` is None where it has none."""

    older_id: str
    timestamp: str
    started_at: datetime | None
    status: str
    clip: str
    results: dict[str, Any]
    config: dict[str, Any]
    hypothesis: str
    code: OlderCode | None
    row: Mapping[str, Any] = field(repr=False)

    @property
    def row_bytes(self) -> bytes:
        """The same for the same row, whatever the order of its fields."""
        return json.dumps(self.row, sort_keys=True, separators=(",", ":"), ensure_ascii=False).encode()


def read_row(item: Mapping[str, Any]) -> OlderExperiment:
    """A row of the table, as boto3 deserializes it. Raises UnreadableError."""
    row = _plain(item)
    experiment = _read(row)
    if "timestamp" not in row:
        raise UnreadableError("it has no timestamp")
    if "gpu_status" in row and experiment.status not in GPU_STATUSES:
        raise UnreadableError(f"gpu_status {experiment.status!r} is none of {', '.join(GPU_STATUSES)}")
    if experiment.status == "completed" and "gpu_status" in row and not experiment.results:
        raise UnreadableError("gpu_status is completed and there are no gpu_results")
    return experiment


def read_job(body: str) -> OlderExperiment:
    """A message of the queue. Raises UnreadableError, also where it holds no code."""
    try:
        row = json.loads(body)
    except (ValueError, RecursionError) as error:
        raise UnreadableError(f"the message is not JSON: {error}") from error
    if not isinstance(row, dict):
        raise UnreadableError("the message is not a JSON object")
    experiment = _read(row)
    if experiment.code is None:
        names = f"neither {ENCODER_FIELDS[0]} and {DECODER_FIELDS[0]} nor {CODE_FIELDS[0]}"
        raise UnreadableError(f"it has no code: {names}")
    return experiment


def _read(row: Mapping[str, Any]) -> OlderExperiment:
    older_id = row.get("experiment_id")
    if not isinstance(older_id, str) or not older_id.strip():
        raise UnreadableError("it has no experiment_id that is text")
    fields = {name: _nested(name, value) if name in NESTED else value for name, value in row.items()}
    code = _first(fields, CODE_FIELDS)
    if isinstance(code, dict):  # both sources in one map
        fields = {**code, **fields}
    timestamp = row.get("timestamp", "")
    if not isinstance(timestamp, str | int | float):
        raise UnreadableError("its timestamp is neither a number nor text")
    return OlderExperiment(
        older_id=older_id.strip(),
        timestamp=str(timestamp),
        started_at=_time(timestamp) if timestamp != "" else None,
        status=_text(fields, STATUS_FIELDS),
        clip=_text(fields, CLIP_FIELDS),
        results=_object(fields, RESULT_FIELDS),
        config=_object(fields, CONFIG_FIELDS),
        hypothesis=_text(fields, HYPOTHESIS_FIELDS)[:1000],
        code=_code(fields),
        row=row,
    )


def _code(fields: Mapping[str, Any]) -> OlderCode | None:
    encoder, decoder = _text(fields, ENCODER_FIELDS), _text(fields, DECODER_FIELDS)
    single = _first(fields, CODE_FIELDS)
    single = single if isinstance(single, str) else ""
    if not (encoder or decoder or single):
        return None
    return OlderCode(encoder or single, decoder or single)


def _first(fields: Mapping[str, Any], names: tuple[str, ...]) -> Any:
    return next((fields[name] for name in names if fields.get(name) not in (None, "")), None)


def _text(fields: Mapping[str, Any], names: tuple[str, ...]) -> str:
    value = _first(fields, names)
    if value is None:
        return ""
    if not isinstance(value, str):
        raise UnreadableError(f"{_named(fields, names)} is not text")
    return value


def _object(fields: Mapping[str, Any], names: tuple[str, ...]) -> dict[str, Any]:
    value = _first(fields, names)
    if value is None:
        return {}
    if not isinstance(value, dict):
        raise UnreadableError(f"{_named(fields, names)} is neither a map nor JSON of one")
    return value


def _named(fields: Mapping[str, Any], names: tuple[str, ...]) -> str:
    return next(name for name in names if fields.get(name) not in (None, ""))


def _nested(name: str, value: Any) -> Any:
    """The object in a text that is one."""
    if not isinstance(value, str) or not value.lstrip().startswith("{"):
        return value
    try:
        return json.loads(value)
    except (ValueError, RecursionError) as error:
        if name in CODE_FIELDS:
            return value  # code may begin with a brace
        raise UnreadableError(f"{name} is damaged JSON: {error}") from error


def _time(value: str | float) -> datetime | None:
    """Seconds or milliseconds since 1970, as a number or as text, or ISO 8601. UTC where no zone is told."""
    try:
        seconds = float(value)
    except ValueError:
        try:
            told = datetime.fromisoformat(str(value))
        except ValueError as error:
            raise UnreadableError(f"its timestamp {str(value)[:40]!r} is no time") from error
        return told if told.tzinfo is not None else told.replace(tzinfo=UTC)
    try:
        return datetime.fromtimestamp(seconds / 1000 if seconds > MILLISECONDS_FROM else seconds, UTC)
    except (ValueError, OverflowError, OSError) as error:
        raise UnreadableError(f"its timestamp {str(value)[:40]} is no time") from error


def _plain(value: Any) -> Any:
    """DynamoDB's values as JSON has them: decimals as numbers, sets as sorted lists, binary as base64 text."""
    if isinstance(value, Mapping):
        return {str(key): _plain(item) for key, item in value.items()}
    if isinstance(value, list):
        return [_plain(item) for item in value]
    if isinstance(value, set | frozenset):
        return sorted((_plain(item) for item in value), key=repr)
    if isinstance(value, Decimal):
        number = float(value)
        if not math.isfinite(number):
            return str(value)
        return int(value) if value == value.to_integral_value() and abs(value) < 2**63 else number
    if hasattr(value, "value"):  # boto3's Binary
        value = value.value
    if isinstance(value, bytes | bytearray):
        return base64.b64encode(value).decode()
    return value
