"""`evocodec import-code`, `import-dynamodb`, `import-sqs`: moving in from the older generation."""

from __future__ import annotations

import json
import re
import sys
from pathlib import Path
from typing import Any

from codec.errors import BadInputError
from tasks.campaign import CAMPAIGN_NAME
from tasks.migrate.adapter import Knob, OlderCode, RefusedError, adapt
from tasks.migrate.importing import Importer, Report
from tasks.migrate.rows import OlderExperiment, UnreadableError, read_job, read_row
from tasks.migrate.sources import Message, Queue, Table
from tasks.store.store import Store


def import_code(source: Path, out: Path, config: Path | None, *, frames: str | None, knob: str | None) -> None:
    """Write old code as a candidate's folder. Raises BadInputError, also where `out` is one already."""
    if out.exists() and any(out.iterdir()):
        raise BadInputError(f"{out} is not empty: name a new folder")
    code = OlderCode.read(source)
    if config is None and source.is_dir() and (source / "config.json").is_file():
        config = source / "config.json"
    candidate = adapt(code, _object(config), out.name, frames=frames, knob=_knob(knob))
    candidate.write(out)


def import_dynamodb(importer: Importer, table: Table, folder: Path | None, batch: int = 500) -> bool:
    """Take over every row that can be read. Returns whether all could be."""
    report = Report()
    experiments: list[OlderExperiment] = []
    for row in table.rows():
        report.seen += 1
        try:
            experiments.append(read_row(row))
        except UnreadableError as error:
            report.unreadable.append((f"{row.get('experiment_id')!s} at {row.get('timestamp')!s}", str(error)))
        if len(experiments) == batch:
            importer.keep(experiments, report)
            experiments = []
    importer.keep(experiments, report)
    _write_folders(report, folder)
    _print(report, "rows")
    return not report.unreadable


def import_sqs(importer: Importer, queue: Queue, folder: Path | None) -> bool:
    """Take over every job whose code can be a candidate, and delete those alone. Returns whether all could be."""
    report = Report()
    try:
        for messages in queue.batches():
            report.seen += len(messages)
            jobs = [(message, job) for message in messages if (job := _job(message, importer, report)) is not None]
            importer.keep([job for _, job in jobs], report)
            for message, _ in jobs:
                queue.delete(message)
    finally:
        queue.release()
    _write_folders(report, folder)
    _print(report, "jobs")
    return not report.unreadable


def _job(message: Message, importer: Importer, report: Report) -> OlderExperiment | None:
    """What a message says; None, and a line of the report, where that cannot be kept as a candidate."""
    try:
        job = read_job(message.body)
        importer.candidate(job, report)
    except (UnreadableError, RefusedError) as error:
        report.unreadable.append((f"message {message.identity}", str(error)))
        return None
    return job


def open_importer(uri: str, campaign: str, origin: str, *, frames: str | None, knob: str | None) -> Importer:
    """Raises BadInputError and StoreError."""
    if not re.fullmatch(CAMPAIGN_NAME, campaign):
        raise BadInputError(f"--campaign {campaign}: use letters, digits, dots, dashes and underscores, at most 64")
    return Importer(Store.open(uri, create=True), campaign, origin, frames, _knob(knob))


def _knob(text: str | None) -> Knob | None:
    return None if text is None else Knob.parse(text)


def _write_folders(report: Report, folder: Path | None) -> None:
    if folder is None:
        return
    for name, candidate in report.candidates.items():
        try:
            candidate.write(folder / name)
        except OSError as error:
            raise BadInputError(
                f"{folder}: cannot be written: {error.strerror}; choose another --candidates"
            ) from error


def _print(report: Report, what: str) -> None:
    for which, why in report.unreadable:
        print(f"not read: {_line(which)}: {_line(why)}", file=sys.stderr)
    for which, why in report.refused:
        print(f"no candidate: {_line(which)}: {_line(why)}", file=sys.stderr)
    print(
        f"{report.seen} {what}: {report.imported} imported, {report.known} on record already, "
        f"{len(report.unreadable)} not read; code: {len(report.candidates)} can be measured, "
        f"{len(report.refused)} refused, {report.without_code} none"
    )


def _line(text: str) -> str:
    return " ".join(text.split())[:300]


def _object(path: Path | None) -> dict[str, Any]:
    if path is None:
        return {}
    try:
        value = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise BadInputError(f"{path}: not a readable config: {error}") from error
    if not isinstance(value, dict):
        raise BadInputError(f"{path}: a config is a JSON object")
    return value
