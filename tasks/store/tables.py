"""How the records become parquet: one explicit arrow schema per table, generated from the pydantic models.

Owns the mapping of types and the bytes of one file; which file lies where is `tasks.store.store`'s. The mapping:

    str, Literal          string            tuple[str, ...]   list<string>
    int                   int64             dict              string holding JSON: reads the same in every tool
    float                 double            datetime          timestamp[us, UTC]
    X | None              the type of X, nullable       tuple[Row, ...]   string holding JSON

The `campaign` is not a column of a file but the hive partition it lies in, as readers of such folders expect. `points`
and `scenes` carry one column more than their models, `attempt`: a row hangs on the experiment row with the same two.
"""

from __future__ import annotations

import io
import json
import typing
from collections.abc import Mapping, Sequence
from datetime import datetime
from types import UnionType
from typing import Any, Final

from pydantic import ValidationError

from codec.errors import StoreError
from tasks.store.records import ExperimentRecord, ImportedRecord, PointRecord, SceneRecord

if typing.TYPE_CHECKING:
    import pyarrow as pa

Record = ExperimentRecord | PointRecord | SceneRecord | ImportedRecord
Key = tuple[str, int]

MODELS: Final[Mapping[str, type[Record]]] = {
    "experiments": ExperimentRecord,
    "points": PointRecord,
    "scenes": SceneRecord,
    "imported": ImportedRecord,
}
PARTITION: Final = "campaign"
ATTEMPT: Final = "attempt"


class Entry(typing.NamedTuple):
    """A record and the attempt it belongs to; the two say which experiment row it hangs on."""

    attempt: int
    record: Record

    @property
    def key(self) -> Key:
        return self.record.experiment_id, self.attempt


def arrow_schema(table: str) -> pa.Schema:
    """The columns of `table`, in the order of its model."""
    import pyarrow as pa

    model = MODELS[table]
    columns = [
        pa.field(name, _arrow_type(field.annotation), nullable=_is_optional(field.annotation))
        for name, field in model.model_fields.items()
        if name != PARTITION
    ]
    if ATTEMPT not in model.model_fields:
        columns.append(pa.field(ATTEMPT, pa.int64(), nullable=False))
    return pa.schema(columns)


def to_parquet(table: str, entries: Sequence[Entry]) -> bytes:
    """One whole parquet file."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    rows = [_to_row(entry.record) | {ATTEMPT: entry.attempt} for entry in entries]
    sink = io.BytesIO()
    pq.write_table(pa.Table.from_pylist(rows, schema=arrow_schema(table)), sink, compression="zstd")
    return sink.getvalue()


def from_parquet(table: str, campaign: str, data: bytes, where: str) -> list[Entry]:
    """The rows of one file. Raises StoreError naming the file `where` they should have come from."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    try:
        rows = pq.ParquetFile(io.BytesIO(data)).read().to_pylist()
    except (pa.ArrowException, OSError, ValueError) as error:
        raise StoreError(f"{where}: not a readable parquet file ({_first_line(error)}); move it away") from error
    return [_to_entry(table, campaign, row, where) for row in rows]


def _to_entry(table: str, campaign: str, row: dict[str, Any], where: str) -> Entry:
    model = MODELS[table]
    values = {PARTITION: campaign, **row}
    try:
        attempt = int(row[ATTEMPT])
        if ATTEMPT not in model.model_fields:
            del values[ATTEMPT]
        for name, field in model.model_fields.items():
            if name in values and _is_json(field.annotation):
                values[name] = json.loads(values[name])
        return Entry(attempt, model.model_validate(values))
    except (KeyError, TypeError, ValueError) as error:
        raise StoreError(f"{where}: not a row of {table} ({_first_line(error)}); move the file away") from error


def _to_row(record: Record) -> dict[str, Any]:
    row = record.model_dump(exclude={PARTITION})
    for name, field in type(record).model_fields.items():
        if _is_json(field.annotation):
            row[name] = json.dumps(row[name], sort_keys=True)
    return row


def _arrow_type(annotation: Any) -> pa.DataType:
    import pyarrow as pa

    if _is_optional(annotation):
        (annotation,) = (kind for kind in typing.get_args(annotation) if kind is not type(None))
    origin = typing.get_origin(annotation)
    if origin is typing.Literal or _is_json(annotation):
        return pa.string()
    if origin is tuple:
        return pa.list_(pa.string())
    plain = {
        str: pa.string(),
        int: pa.int64(),
        float: pa.float64(),
        datetime: pa.timestamp("us", tz="UTC"),
    }
    return plain[annotation]


def _is_optional(annotation: Any) -> bool:
    return typing.get_origin(annotation) in (UnionType, typing.Union) and type(None) in typing.get_args(annotation)


def _is_json(annotation: Any) -> bool:
    origin = typing.get_origin(annotation)
    return origin is dict or (origin is tuple and typing.get_args(annotation)[0] is not str)


def _first_line(error: Exception) -> str:
    if isinstance(error, ValidationError):
        first = error.errors()[0]
        return f"{'.'.join(map(str, first['loc']))}: {first['msg']}"
    if isinstance(error, KeyError):
        return f"no column {error}"
    return (str(error) or type(error).__name__).splitlines()[0]
