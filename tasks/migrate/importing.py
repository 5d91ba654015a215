"""Keeps what the older generation left: each experiment once, its code as a candidate where it can be one.

Owns what is new and what is not. Reading rows is `tasks.migrate.rows`', adapting code `tasks.migrate.adapter`'s.

Invariants:
- nothing that was measured elsewhere becomes an experiment record: it lands in the table of imports, as a claim;
- importing the same twice adds nothing; a row that has changed since is kept beside its earlier version;
- blobs come first and the records last: whoever reads a record finds what it names.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Final

from tasks.candidate import Candidate
from tasks.migrate.adapter import Knob, RefusedError, adapt
from tasks.migrate.rows import OlderExperiment
from tasks.store.records import ImportedRecord
from tasks.store.store import Store

MAX_NAME_CHARS: Final = 60


@dataclass
class Report:
    """`unreadable` is what stays outside, (which, why); `refused` what came in with code that cannot be measured."""

    seen: int = 0
    imported: int = 0
    known: int = 0
    without_code: int = 0
    candidates: dict[str, Candidate] = field(default_factory=dict)
    refused: list[tuple[str, str]] = field(default_factory=list)
    unreadable: list[tuple[str, str]] = field(default_factory=list)


@dataclass(frozen=True)
class Importer:
    """Brings experiments of one origin into one campaign of one store. `frames` and `knob` are the adapter's."""

    store: Store
    campaign: str
    origin: str
    frames: str | None = None
    knob: Knob | None = None

    def keep(self, experiments: Sequence[OlderExperiment], report: Report) -> None:
        """All of them, in one file. Raises StoreError, and then none is on record."""
        latest = {record.experiment_id: record for record in self.store.imported(self.campaign)}
        new: list[ImportedRecord] = []
        for experiment in experiments:
            candidate, problem = self._candidate_or_problem(experiment, report)
            record = self._record(experiment, candidate, problem, latest.get(self.name(experiment)))
            if record is None:
                report.known += 1
                continue
            latest[record.experiment_id] = record
            new.append(record)
        self.store.write_imported(new)
        report.imported += len(new)

    def candidate(self, experiment: OlderExperiment, report: Report) -> Candidate | None:
        """Its code behind today's contract, in the report; None where no code is kept with it. Raises RefusedError."""
        if experiment.code is None:
            return None
        name = self.name(experiment)
        if name not in report.candidates:
            report.candidates[name] = adapt(
                experiment.code,
                experiment.config,
                name,
                hypothesis=experiment.hypothesis,
                frames=self.frames,
                knob=self.knob,
            )
        return report.candidates[name]

    def name(self, experiment: OlderExperiment) -> str:
        """The same for the same key in the same place. The old id alone may name no file, and several rows."""
        key = [self.origin, experiment.older_id, experiment.timestamp]
        if not experiment.timestamp:  # a job: nothing but its content tells it from another
            key.append(hashlib.sha256(experiment.row_bytes).hexdigest())
        readable = re.sub(r"[^A-Za-z0-9._-]+", "-", experiment.older_id).strip("-._")[:MAX_NAME_CHARS] or "experiment"
        return f"{readable}-{hashlib.sha256(json.dumps(key).encode()).hexdigest()[:8]}"

    def _candidate_or_problem(self, experiment: OlderExperiment, report: Report) -> tuple[Candidate | None, str]:
        try:
            candidate = self.candidate(experiment, report)
        except RefusedError as refused:
            report.refused.append((experiment.older_id, str(refused)))
            return None, str(refused)
        if candidate is None:
            report.without_code += 1
            return None, "no code is kept with it"
        return candidate, ""

    def _record(
        self,
        experiment: OlderExperiment,
        candidate: Candidate | None,
        problem: str,
        before: ImportedRecord | None,
    ) -> ImportedRecord | None:
        """None where this very row with this very candidate is on record."""
        row_hash = hashlib.sha256(experiment.row_bytes).hexdigest()
        candidate_hash = candidate.candidate_hash if candidate is not None else ""
        if before is not None and (before.row_hash, before.candidate_hash) == (row_hash, candidate_hash):
            return None
        self.store.put_blob(experiment.row_bytes)
        if candidate is not None:
            self.store.put_blob(candidate.to_json_bytes())
        return ImportedRecord(
            campaign=self.campaign,
            experiment_id=self.name(experiment),
            attempt=before.attempt + 1 if before is not None else 1,
            origin=self.origin,
            older_id=experiment.older_id,
            older_timestamp=experiment.timestamp,
            older_status=experiment.status,
            clip=experiment.clip,
            claimed_json=json.dumps(experiment.results, sort_keys=True),
            row_hash=row_hash,
            candidate_hash=candidate_hash,
            code_problem=problem,
            older_started_at=experiment.started_at,
            imported_at=datetime.now(UTC),
        )
